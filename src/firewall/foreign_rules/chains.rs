//! Reads the chains of other programs from the output of `nft list ruleset`, iptables-save and ip6tables-save.

use crate::search;

/// The output of `nft -t list ruleset`, iptables-save and ip6tables-save.
pub(in crate::firewall) struct Listings {
    pub(in crate::firewall) nft: String,
    pub(in crate::firewall) iptables: Vec<IptablesListing>,
}

/// The output of iptables-save, ip6tables-save, or one of the two of iptables-legacy.
pub(in crate::firewall) struct IptablesListing {
    /// nft's name for the family, and ` (legacy)` if the rules are in other tables than nft's.
    pub(in crate::firewall) family: &'static str,
    /// The program that changes the rules.
    pub(in crate::firewall) program: &'static str,
    pub(in crate::firewall) text: String,
}

/// Identifies our own rules in listings.
pub(in crate::firewall) struct Own {
    /// The name of our table, of family inet.
    pub(in crate::firewall) table: &'static str,
    /// The prefix of the names of our iptables chains.
    pub(in crate::firewall) chains: &'static str,
    /// The priority of our chain at the hook prerouting.
    pub(in crate::firewall) priority: i32,
    /// Whether that chain is the first one in iptables' table mangle. Rules after it do not see what it accepts.
    pub(in crate::firewall) in_iptables: bool,
}

/// A chain and the text of its rules.
pub(super) struct Chain<'a> {
    /// The program that changes the chain: nft, iptables, ip6tables or one of the two with `-legacy`.
    pub(super) program: &'static str,
    /// The table's family and name, such as `inet filter`. The family of iptables' tables is `ip` or `ip6`.
    pub(super) table: (&'a str, &'a str),
    pub(super) name: &'a str,
    /// The hook, if it is one of [`HOOKS`]. Chains that are only jumped to have none.
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<&'a str>,
}

/// The hooks that packets pass on their way to this machine, and those of its replies.
const HOOKS: [&str; 5] = ["ingress", "prerouting", "input", "output", "postrouting"];

/// The hook of a base chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Base {
    /// One of [`HOOKS`].
    pub(super) hook: &'static str,
    /// Whether packets pass this chain before they reach our rules.
    pub(super) before: bool,
    /// Whether the policy is to drop.
    pub(super) drops: bool,
}

impl<'a> Chain<'a> {
    fn new(program: &'static str, table: (&'a str, &'a str), name: &'a str) -> Self {
        Self { program, table, name, base: None, rules: Vec::new() }
    }

    /// Returns whether this is the same chain as `other`.
    pub(super) fn is(&self, other: &Chain<'_>) -> bool {
        self.table == other.table && self.name == other.name
    }

    /// Returns whether replies pass this chain, not packets to this machine.
    pub(super) fn passes_replies(&self) -> bool {
        self.base.is_some_and(|base| ["output", "postrouting"].contains(&base.hook))
    }

    /// Returns the chain's name for a message.
    pub(super) fn place(&self) -> String {
        let Self { table: (family, table), name, .. } = self;
        format!("table {family} {table}, chain {name}")
    }
}

/// Returns all chains that are not ours.
pub(super) fn chains<'a>(listings: &'a Listings, own: &Own) -> Vec<Chain<'a>> {
    let mut chains = Vec::new();
    for listing in &listings.iptables {
        of_iptables(listing, own, &mut chains);
    }
    of_nft(&listings.nft, own, &mut chains);
    chains
}

fn of_iptables<'a>(listing: &'a IptablesListing, own: &Own, chains: &mut Vec<Chain<'a>>) {
    let &IptablesListing { family, program, ref text } = listing;
    let mut table = "";
    for line in text.lines().map(str::trim_ascii_end) {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some((name, policy)) = line.strip_prefix(':').and_then(|line| line.split_once(' ')) {
            if !name.starts_with(own.chains) {
                let mut chain = Chain::new(program, (family, table), name);
                if let Some(hook) = hook(name).filter(|_| !policy.starts_with('-') && table != "nat") {
                    let before = table == "raw" && hook == "prerouting";
                    chain.base = Some(Base { hook, before, drops: policy.starts_with("DROP") });
                }
                chains.push(chain);
            }
        } else if let Some((name, rule)) = line.strip_prefix("-A ").and_then(|line| line.split_once(' ')) {
            let chain = chains.iter_mut().find(|chain| chain.table == (family, table) && chain.name == name);
            if let Some(chain) = chain.filter(|_| !own.in_iptables || (table, name) != ("mangle", "PREROUTING")) {
                chain.rules.push(rule);
            }
        }
    }
}

fn of_nft<'a>(listing: &'a str, own: &Own, chains: &mut Vec<Chain<'a>>) {
    let (mut table, mut ours, mut within) = (("", ""), false, false);
    for line in listing.lines().map(str::trim_ascii) {
        // After the brace of an owned table comes a comment with its owner's name.
        let opened = search::split_once(line, " {").map_or(line, |(opened, _)| opened);
        if let Some(name) = opened.strip_prefix("table ") {
            table = name.split_once(' ').unwrap_or_default();
            // nft also lists the tables of iptables-nft. In a bridge's tables no rule can use the connection mark, and ARP
            // has no ports.
            ours = table == ("inet", own.table)
                || ["bridge", "arp"].contains(&table.0)
                || chains.iter().any(|chain| chain.program != "nft" && chain.table == table);
        } else if let Some(name) = opened.strip_prefix("chain ") {
            within = !ours;
            if within {
                chains.push(Chain::new("nft", table, name));
            }
        } else if line.starts_with('}') {
            within = false;
        } else if let Some(chain) = chains.last_mut().filter(|_| within) {
            match search::split_once(line, " hook ") {
                Some(("type filter", hook)) => chain.base = base(hook, own.priority),
                Some(_) => {}
                None => chain.rules.push(line),
            }
        }
    }
}

/// Parses a chain's hook, such as `input priority filter + 10; policy drop;`.
fn base(text: &str, own: i32) -> Option<Base> {
    let hook = hook(text.split(' ').next()?)?;
    let before = match hook {
        "ingress" => true,
        "prerouting" => priority(search::split_once(text, "priority ")?.1.split(';').next()?) < own,
        _ => false,
    };
    Some(Base { hook, before, drops: text.ends_with("policy drop;") })
}

/// Returns the hook with that name, in letters of any case.
fn hook(name: &str) -> Option<&'static str> {
    HOOKS.into_iter().find(|hook| name.eq_ignore_ascii_case(hook))
}

/// Parses a priority, such as `filter + 10`.
fn priority(text: &str) -> i32 {
    let (name, number) = text.split_once(' ').unwrap_or((text, ""));
    let start = match name {
        "raw" => -300,
        "mangle" => -150,
        "dstnat" => -100,
        number => number.parse().unwrap_or(0),
    };
    start + search::replace(number, " ", "").parse::<i32>().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_are_read_by_name_and_by_number() {
        for (text, number) in
            [("raw", -300), ("mangle - 10", -160), ("filter + 10", 10), ("-500", -500), ("dstnat", -100)]
        {
            assert_eq!(priority(text), number, "{text}");
        }
    }

    #[test]
    fn chains_of_both_programs_are_read_and_ours_are_not() {
        let save = "*mangle\n:PREROUTING ACCEPT [0:0]\n:KNOCKKNOCK - [0:0]\n:other - [0:0]\n-A PREROUTING -j KNOCKKNOCK\n\
            -A KNOCKKNOCK -i lo -j RETURN\n-A other -j DROP\nCOMMIT\n";
        let nft = "table ip mangle {\n\tchain PREROUTING {\n\t\taccept\n\t}\n}\ntable inet knockknock { # progname knockknock\n\tflags owner\n\n\tchain admit {\n\t\tdrop\n\t}\n}\n\
            table inet filter {\n\tset s {\n\t\ttype mark\n\t}\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\t\taccept\n\t}\n}\n";
        let listings = Listings {
            nft: nft.into(),
            iptables: vec![IptablesListing { family: "ip", program: "iptables", text: save.into() }],
        };
        let own = Own { table: "knockknock", chains: "KNOCKKNOCK", priority: -160, in_iptables: false };
        let found = chains(&listings, &own);
        let seen: Vec<_> = found.iter().map(|chain| (chain.program, chain.name, chain.rules.clone())).collect();
        assert_eq!(
            seen,
            [
                ("iptables", "PREROUTING", vec!["-j KNOCKKNOCK"]),
                ("iptables", "other", vec!["-j DROP"]),
                ("nft", "input", vec!["accept"])
            ]
        );
        assert_eq!(found[2].base, Some(Base { hook: "input", before: false, drops: true }));
    }
}
