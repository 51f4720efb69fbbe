//! The text of our table, as `nft -f` takes it: the .nft files here, with values in place of the names in `<…>`.

use crate::firewall::rules::{Rules, Turnstile, fill};
use crate::ports::Ports;

/// The name of our table, of family inet.
pub(in crate::firewall) const TABLE: &str = "knockknock";

/// The parts of the table, in the order in which they are loaded.
#[derive(Clone, Copy)]
struct Template {
    sets: &'static str,
    chains: &'static str,
    at_syn: &'static str,
    at_ack: &'static str,
}

/// A file without its comments, as build.rs has left it.
macro_rules! bare {
    ($name:literal) => {
        include_str!(concat!(env!("OUT_DIR"), "/", $name))
    };
}

const TEMPLATE: Template = Template {
    sets: bare!("sets.nft"),
    chains: bare!("chains.nft"),
    at_syn: bare!("at_syn.nft"),
    at_ack: bare!("at_ack.nft"),
};

/// The table as one transaction that leaves the openings alone. `seed` is that of the hash that sources are
/// counted by.
pub(super) fn script(rules: &Rules, turnstile: Turnstile, seed: u32) -> String {
    filled(TEMPLATE, [TABLE, "1/day"], rules, turnstile, seed)
}

/// A template with the values of `rules`, under this name and with this limit of packets in an opening.
fn filled(template: Template, [table, limit]: [&str; 2], rules: &Rules, turnstile: Turnstile, seed: u32) -> String {
    let Template { sets, chains, at_syn, at_ack } = template;
    let mark = format!("{:#010x}", rules.mark);
    let (prerouting, admitted) = match turnstile {
        Turnstile::AtSyn => (at_syn, format!("ct mark & {mark} == {mark}")),
        Turnstile::AtAck => (at_ack, "ct label 60".to_owned()),
    };
    let ports = |ports: &Ports| if ports.is_empty() { Vec::new() } else { vec![ports.to_string()] };
    // Where the guard applies; knocks are heard everywhere.
    let on = match rules.interfaces.is_empty() {
        true => String::new(),
        false => format!("iifname {{ \"{}\" }} ", rules.interfaces.join("\", \"")),
    };
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("log group {group} snaplen 128 queue-threshold 1"),
        None => format!("log prefix \"knockknock \" level {} flags tcp sequence,options", rules.level),
    };
    let values = [
        ("<table>", vec![table.to_owned()]),
        ("<syn>", vec!["tcp flags & (fin | syn | rst | ack) == syn".to_owned()]),
        ("<other>", vec!["tcp flags & (fin | syn | rst | ack) != syn".to_owned()]),
        ("<limit>", vec![limit.to_owned()]),
        ("<knock_ports>", ports(&rules.knock_ports)),
        ("<guarded>", ports(&rules.guard)),
        ("<mark>", vec![mark]),
        ("<unmark>", vec![format!("{:#010x}", !rules.mark)]),
        ("<admitted>", vec![admitted]),
        ("<on>", vec![on]),
        ("<log>", vec![log]),
        ("<seed>", vec![format!("{seed:#010x}")]),
    ];
    [sets, chains, prerouting].map(|part| fill(part, &values)).concat()
}

/// The transaction that makes a table where there may be another.
pub(super) fn anew(script: &str) -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{script}")
}

/// Two scripts for `nft -c`. The first passes if the kernel supports the table. The second has a set with a limit
/// that overflows: a kernel that keeps limits in sets, 5.7 or later, refuses it.
///
/// Under another name, since what stands may have sets of another shape.
pub(super) fn checks(rules: &Rules, turnstile: Turnstile) -> [String; 2] {
    ["1/day", "18446744073709551615/second"]
        .map(|limit| filled(TEMPLATE, ["knockknock-check", limit], rules, turnstile, 0))
}

/// How many things in the table have a handle: the table itself, its sets and chains, their rules.
pub(super) fn handles(turnstile: Turnstile) -> usize {
    match turnstile {
        Turnstile::AtSyn => 39,
        Turnstile::AtAck => 55,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::tests::{assert_golden, everywhere, on_two_interfaces, unguarded};

    const COMMENTED: Template = Template {
        sets: include_str!("sets.nft"),
        chains: include_str!("chains.nft"),
        at_syn: include_str!("at_syn.nft"),
        at_ack: include_str!("at_ack.nft"),
    };

    #[test]
    fn the_tables_are_those_in_the_golden_files() {
        for (name, rules, turnstile) in [
            ("everywhere", everywhere(), Turnstile::AtAck),
            ("at_syn", everywhere(), Turnstile::AtSyn),
            ("interfaces", on_two_interfaces(), Turnstile::AtAck),
            ("unguarded", unguarded(), Turnstile::AtAck),
        ] {
            let commented = filled(COMMENTED, [TABLE, "1/day"], &rules, turnstile, 0x1234_5678);
            assert_golden(&format!("{name}.nft"), &commented, &script(&rules, turnstile, 0x1234_5678));
        }
    }

    #[test]
    fn every_name_has_a_value() {
        for turnstile in [Turnstile::AtSyn, Turnstile::AtAck] {
            assert!(!script(&everywhere(), turnstile, 0).contains('<'));
        }
    }

    #[test]
    fn what_has_a_handle_is_counted() {
        for turnstile in [Turnstile::AtSyn, Turnstile::AtAck] {
            let text = script(&everywhere(), turnstile, 0);
            let (sets, chains) = text.split_once("flush ").unwrap();
            let objects = sets.matches("set ").count() + chains.matches("chain ").count();
            let not_rules = ["table ", "chain ", "type ", "flush ", "add ", "set ", "}"];
            let rules = chains.lines().filter(|line| !not_rules.iter().any(|word| line.starts_with(word)));
            assert_eq!(handles(turnstile), 1 + objects + rules.filter(|line| *line != "table inet knockknock").count());
        }
    }
}
