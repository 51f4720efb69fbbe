//! The text of our table, as `nft -f` takes it: the .nft files here, with values in place of the names in `<…>`.

use crate::firewall::rules::{Rules, Turnstile, Values};
use crate::search;

/// The name of our table, of family inet.
pub(in crate::firewall) const TABLE: &str = "knockknock";

/// The priority of our chains: `mangle - 10`.
pub(in crate::firewall) const PRIORITY: i32 = libc::NF_IP_PRI_MANGLE - 10;

/// The chain whose last rule is the guard.
pub(super) const CHAIN_PREROUTING: &str = "prerouting";

/// The parts of the table, in the order in which they are loaded.
#[derive(Clone, Copy)]
struct Template {
    sets: &'static str,
    chains: &'static str,
    at_syn: &'static str,
    at_ack: &'static str,
}

/// A file without its comments, as build.rs writes it.
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

/// The turnstile's rules in the input chain. Label 63: a packet with label 61 has come this far.
const ENDED: [&str; 2] = ["ct label 63 socket wildcard 1 drop", "ct label 61 ct label set 63"];

/// The values that differ between tables of one template: the name, the limit of an opening, and the table's flags.
type Form = [&'static str; 3];

/// The table as it could be made by hand, for the golden files. The real one is copied from [`DRAFT`].
#[cfg(test)]
const HANDMADE: Form = [TABLE, "1/day", ""];
/// The name of the table that nft makes and we copy.
pub(super) const DRAFT: &str = "knockknock-draft";
/// The name of the table that nft only checks.
const CHECK: &str = "knockknock-check";

/// Returns the script that makes the draft, and replaces an existing one. `seed` is the seed of the hash that assigns
/// sources to buckets.
pub(super) fn draft(rules: &Rules, turnstile: Turnstile, seed: u32) -> String {
    replacing(DRAFT, &filled(TEMPLATE, [DRAFT, "1/day", "flags dormant"], rules, turnstile, seed))
}

/// Returns `text`, which makes `table`, after commands that delete a table of that name.
fn replacing(table: &str, text: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n{text}")
}

/// Returns the number of rules in a script: the lines after the sets, except those that begin, describe or end a chain.
pub(super) fn rules_in(text: &str) -> usize {
    let chains = text.lines().skip_while(|line| !line.starts_with("chain "));
    chains.filter(|line| *line != "}" && !["chain ", "type "].iter().any(|start| line.starts_with(start))).count()
}

fn filled(template: Template, form: Form, rules: &Rules, turnstile: Turnstile, seed: u32) -> String {
    let [table, limit, state] = form;
    let Template { sets, chains, at_syn, at_ack } = template;
    let mark = format!("{:#010x}", rules.mark);
    // The ACK of a SYN cookie belongs to a listener (wildcard 1), so it does not pass as a packet of an older
    // connection.
    let marked = format!("ct mark & {mark} == {mark}");
    let (prerouting, admitted, older, ended) = match turnstile {
        Turnstile::AtSyn => (at_syn, &*marked, "", Vec::new()),
        Turnstile::AtAck => (at_ack, "ct label 60", "socket wildcard 0 ", ENDED.map(str::to_owned).into()),
    };
    let mut guarded = rules.guard.to_string();
    // The kernel ends a guard on trial by itself.
    match rules.seconds_of_guard() {
        Some(0) => guarded.clear(),
        Some(seconds) if !guarded.is_empty() => {
            guarded.push_str(&format!(" timeout {seconds}s"));
            guarded = search::replace(&guarded, ",", &format!(" timeout {seconds}s,"));
        }
        _ => {}
    }
    // The interfaces of the guard. Knocks are logged on all.
    let on = match rules.interfaces.is_empty() {
        true => String::new(),
        false => format!("iifname {{ \"{}\" }} ", rules.join_interfaces("\", \"")),
    };
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("log group {group} snaplen 128 queue-threshold 1"),
        None => format!("log prefix \"knockknock \" level {} flags tcp sequence", rules.level),
    };
    let mut values = Values::default();
    values.one("<table>", table);
    values.one("<syn>", "tcp flags & (fin | syn | rst | ack) == syn");
    values.one("<other>", "tcp flags & (fin | syn | rst | ack) != syn");
    values.optional("<state>", state);
    values.one("<limit>", limit);
    values.optional("<knock_ports>", &rules.knock_ports.to_string());
    // The parts for links.
    values.each("<linked>", rules.links.iter().take(1).map(|_| String::new()).collect());
    values.each("<links>", rules.link_texts());
    values.optional("<guarded>", &guarded);
    values.one("<mark>", &mark);
    values.one("<unmark>", &format!("{:#010x}", !rules.mark));
    values.one("<admitted>", admitted);
    values.one("<older>", older);
    values.each("<ended>", ended);
    values.one("<on>", &on);
    values.one("<log>", &log);
    values.one("<seed>", &format!("{seed:#010x}"));
    let mut text = String::new();
    for part in [sets, prerouting, chains] {
        values.fill(part, &mut text);
    }
    text
}

/// Returns two scripts for `nft -c`. The first passes if the kernel supports the table. The second has a set with a
/// limit that overflows: a kernel that keeps limits in sets, 5.7 or later, refuses it.
///
/// The table to check has a name of its own, because our real table may have sets of another type. So may a table that
/// another program left under this name; it is replaced.
pub(super) fn checks(rules: &Rules, turnstile: Turnstile) -> [String; 2] {
    let check = |limit| replacing(CHECK, &filled(TEMPLATE, [CHECK, limit, ""], rules, turnstile, 0));
    [check("1/day"), check("18446744073709551615/second")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::tests::{assert_golden, everywhere, on_two_interfaces, unguarded};
    use std::time::{Duration, Instant};

    const COMMENTED: Template = Template {
        sets: include_str!("sets.nft"),
        chains: include_str!("chains.nft"),
        at_syn: include_str!("at_syn.nft"),
        at_ack: include_str!("at_ack.nft"),
    };

    #[test]
    fn all_chains_have_the_same_priority() {
        for text in [TEMPLATE.at_syn, TEMPLATE.at_ack, TEMPLATE.chains] {
            let mut hooks = text.lines().filter_map(|line| line.split_once(" priority "));
            assert!(hooks.clone().count() > 0 && hooks.all(|(_, rest)| rest.starts_with("mangle - 10;")), "{text}");
        }
    }

    #[test]
    fn the_tables_are_those_in_the_golden_files() {
        for (name, rules, turnstile) in [
            ("everywhere", everywhere(), Turnstile::AtAck),
            ("at_syn", everywhere(), Turnstile::AtSyn),
            ("interfaces", on_two_interfaces(), Turnstile::AtAck),
            ("unguarded", unguarded(), Turnstile::AtAck),
        ] {
            let made = |template| filled(template, HANDMADE, &rules, turnstile, 0x1234_5678);
            assert_golden(&format!("{name}.nft"), &made(COMMENTED), &made(TEMPLATE));
        }
    }

    #[test]
    fn every_chain_that_is_jumped_to_exists() {
        for turnstile in [Turnstile::AtSyn, Turnstile::AtAck] {
            let text = draft(&everywhere(), turnstile, 0);
            for (_, rest) in
                ["jump ", "goto "].iter().flat_map(|verb| text.match_indices(verb).map(|(at, _)| text.split_at(at + 5)))
            {
                let chain = rest.lines().next().unwrap();
                assert!(text.contains(&format!("\nchain {chain} {{\n")), "{chain}");
            }
        }
    }

    #[test]
    fn ports_on_trial_have_a_timeout() {
        let guarded = |seconds| {
            let end_of_guard = Some(Instant::now() + Duration::from_secs(seconds));
            let text = draft(&Rules { end_of_guard, ..on_two_interfaces() }, Turnstile::AtAck, 0);
            text.lines().filter(|line| line.starts_with("elements")).map(str::to_owned).collect::<Vec<_>>()
        };
        let knock_ports = "elements = { 20022,20443 }";
        assert_eq!(guarded(600), [knock_ports, "elements = { 22 timeout 601s,443 timeout 601s }"]);
        assert_eq!(guarded(0), [knock_ports], "it is over");
    }

    #[test]
    fn every_name_has_a_value_and_rules_are_counted() {
        for (turnstile, rules) in [(Turnstile::AtSyn, 34), (Turnstile::AtAck, 49)] {
            let text = draft(&everywhere(), turnstile, 0);
            assert!(!text.replace("<= ", "").contains('<'), "{text}");
            assert_eq!(rules_in(&text), rules, "{text}");
        }
    }
}
