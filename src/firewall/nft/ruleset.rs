//! The text of our table, as `nft -f` takes it: table.nft, with values in place of the names in `<…>`.

use crate::firewall::rules::{Rules, fill};
use crate::ports::Ports;

/// The name of our table, of family inet.
pub(in crate::firewall) const TABLE: &str = "knockknock";

/// table.nft without its comments, as build.rs has left it.
const TEMPLATE: &str = include_str!(concat!(env!("OUT_DIR"), "/table.nft"));

/// The table as one transaction that leaves the openings alone. `seed` is that of the hash that sources are
/// counted by.
pub(super) fn script(rules: &Rules, seed: u32) -> String {
    filled(TEMPLATE, [TABLE, "1/day"], rules, seed)
}

/// A template with the values of `rules`, under this name and with this limit of packets in an opening.
fn filled(template: &str, [table, limit]: [&str; 2], rules: &Rules, seed: u32) -> String {
    let ports = |ports: &Ports| if ports.is_empty() { Vec::new() } else { vec![ports.to_string()] };
    // Where the guard applies; knocks are heard everywhere.
    let on = match rules.interfaces.is_empty() {
        true => String::new(),
        false => format!("iifname {{ \"{}\" }} ", rules.interfaces.join("\", \"")),
    };
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("log group {group} snaplen 128 queue-threshold 1"),
        None => "log prefix \"knockknock \" level debug flags tcp sequence,options".to_owned(),
    };
    let values = [
        ("<table>", vec![table.to_owned()]),
        ("<syn>", vec!["tcp flags & (fin | syn | rst | ack) == syn".to_owned()]),
        ("<limit>", vec![limit.to_owned()]),
        ("<knock_ports>", ports(&rules.knock_ports)),
        ("<guarded>", ports(&rules.guard)),
        ("<mark>", vec![format!("{:#010x}", rules.mark)]),
        ("<on>", vec![on]),
        ("<log>", vec![log]),
        ("<seed>", vec![format!("{seed:#010x}")]),
    ];
    fill(template, &values)
}

/// The transaction that makes a table where there may be another.
pub(super) fn anew(script: &str) -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{script}")
}

/// What `nft -c` takes where the kernel can hold the table, and what it refuses where the kernel keeps
/// the limit in a set: one that overflows. Before Linux 5.7 the kernel does not look at a set's limit.
///
/// Under another name, since what stands may have sets of another shape.
pub(super) fn checks(rules: &Rules) -> [String; 2] {
    ["1/day", "18446744073709551615/second"].map(|limit| filled(TEMPLATE, ["knockknock-check", limit], rules, 0))
}

/// How many things in the table have a handle: the table itself, its sets and chains, their rules.
pub(super) const HANDLES: usize = 29;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::count;
    use crate::firewall::rules::tests::{assert_golden, everywhere, on_two_interfaces, unguarded};

    #[test]
    fn the_table_is_the_one_in_the_golden_file() {
        for (name, rules) in
            [("everywhere", everywhere()), ("interfaces", on_two_interfaces()), ("unguarded", unguarded())]
        {
            let commented = filled(include_str!("table.nft"), [TABLE, "1/day"], &rules, 0x1234_5678);
            assert_golden(&format!("{name}.nft"), &commented, &script(&rules, 0x1234_5678));
        }
    }

    #[test]
    fn every_name_has_a_value() {
        assert!(!script(&everywhere(), 0).contains(['<', '>']));
    }

    #[test]
    fn what_has_a_handle_is_counted() {
        let (sets, chains) = TEMPLATE.split_once("flush ").unwrap();
        let ends = [" return", " accept", " drop", "jump knock", "<log>"];
        let rules = chains.lines().filter(|line| ends.iter().any(|end| line.ends_with(end))).count();
        assert_eq!(HANDLES, 1 + count(sets, "set ") + count(chains, "chain ") + rules);
    }
}
