//! Finds rules of other programs that conflict with our mark.
//!
//! Our own rules work whatever others do to the mark. But if another firewall accepts connections by the mark, and a
//! third rule sets or clears the bit, then knocks open nothing there, or connections are admitted without a knock.

/// The output of `nft list ruleset`, iptables-save and ip6tables-save.
pub(super) struct Listings {
    pub(super) nft: String,
    pub(super) iptables: [(&'static str, String); 2],
}

/// Identifies our own rules in listings.
pub(super) struct Own {
    /// Our table's family and name.
    pub(super) table: &'static str,
    /// The prefix of rules in our chains.
    pub(super) chains: &'static str,
}

/// Returns a warning for each rule that changes a bit of `mark`, if another rule accepts by it.
pub(super) fn warnings(listings: &Listings, own: &Own, mark: u32) -> Vec<String> {
    let rules = rules(listings, own);
    if !rules.iter().any(|(_, rule)| admits(&words(rule), mark)) {
        return Vec::new();
    }
    let changing = rules.iter().filter(|(_, rule)| changed(&words(rule)) & mark != 0);
    changing
        .map(|(table, rule)| {
            let rule = rule.trim();
            format!("{table} changes the mark {mark:#010x}, by which other rules admit knocked connections: {rule:?}")
        })
        .collect()
}

/// Returns the rules that are not ours, each with the name of its table.
fn rules<'a>(listings: &'a Listings, own: &Own) -> Vec<(String, &'a str)> {
    let mut rules = Vec::new();
    for (family, listing) in &listings.iptables {
        let mut table = "";
        for line in listing.lines() {
            match line.strip_prefix('*') {
                Some(name) => table = name,
                None if line.starts_with(own.chains) => {}
                None => rules.push((format!("table {family} {table}"), line)),
            }
        }
    }
    let mut table = "";
    for line in listings.nft.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.strip_suffix(" {").unwrap_or(name);
        }
        // nft also lists the tables of iptables-nft.
        let of_iptables = listings.iptables.iter().any(|(family, listing)| {
            let name = table.strip_prefix(family).and_then(|name| name.strip_prefix(' '));
            name.is_some_and(|name| listing.lines().any(|line| line.strip_prefix('*') == Some(name)))
        });
        if table != own.table && !of_iptables {
            rules.push((format!("table {table}"), line));
        }
    }
    rules
}

fn words(rule: &str) -> Vec<&str> {
    rule.split([' ', '\t', '/']).filter(|word| !word.is_empty()).collect()
}

fn number(word: &str) -> u32 {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    number.unwrap_or(0)
}

/// Returns whether a rule matches a bit of `mark` in the packet's or the connection's mark.
fn admits(words: &[&str], mark: u32) -> bool {
    let has = |word: &str| number(word) & mark != 0;
    (0..words.len()).any(|at| match words.get(at..).unwrap_or_default() {
        ["mark", "&" | "and", mask, "!=", ..] => has(mask),
        ["mark", "&" | "and", mask, "==", value, ..] => has(mask) && has(value),
        ["mark", "==", value, ..] | ["mark" | "--mark", value, ..] => has(value),
        _ => false,
    })
}

/// Returns the bits that a rule changes in the connection's mark.
fn changed(words: &[&str]) -> u32 {
    let at = |start: &[&str]| words.windows(start.len()).position(|words| words == start);
    if let Some(at) = at(&["ct", "mark", "set"]) {
        return match words.get(at + 3..).unwrap_or_default() {
            // Operations on the old mark. Any other expression replaces the mark.
            ["ct", "mark", operations @ ..] => operations.chunks(2).fold(0, |bits, operation| match operation {
                ["&" | "and", mask] => bits | !number(mask),
                ["|" | "or" | "^" | "xor", value] => bits | number(value),
                _ => bits,
            }),
            _ => u32::MAX,
        };
    }
    match at(&["-j", "CONNMARK"]).and_then(|at| words.get(at + 2..)).unwrap_or_default() {
        ["--set-xmark", value, mask, ..] => number(value) | number(mask),
        ["--save-mark", .., "--ctmask", mask] => number(mask),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIT: u32 = 0x0800_0000;

    fn changes(rule: &str) -> bool {
        changed(&words(rule)) & BIT != 0
    }

    #[test]
    fn rules_that_change_our_bit_are_seen_and_masked_ones_are_not() {
        for rule in [
            "ct mark set 0x00000002",
            "ct state new ct mark set 0x2",
            "ct mark set ct mark | 0x08000000",
            "ct mark set ct mark & 0xf7ffffff",
            "ct mark set ct mark & 0x0000ffff | 0x00010000",
            "ct mark set meta mark",
            "ct mark set meta mark & 0x000000ff",
            "ct mark set tcp dport map { 21 : 0x1, 22 : 0x08000000 }",
            "ct mark set tcp dport map @marks",
            "-A PREROUTING -i eth0 -m conntrack --ctstate NEW -j CONNMARK --set-xmark 0x2/0xffffffff",
            "-A PREROUTING -j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff",
        ] {
            assert!(changes(rule), "{rule}");
        }
        for rule in [
            "ct mark set ct mark & 0xffff00ff | 0x00000100",
            "ct mark set ct mark xor 0x100 and 0xffff00ff",
            "ct mark & 0x08000000 == 0x08000000 accept",
            "meta mark set ct mark",
            "meta mark set 0x08000000",
            "-A PREROUTING -j CONNMARK --set-xmark 0x100/0xff00",
            "-A PREROUTING -j CONNMARK --save-mark --nfmask 0x3f00 --ctmask 0x3f00",
            "-A PREROUTING -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "-A PREROUTING -j MARK --set-xmark 0x2/0xffffffff",
        ] {
            assert!(!changes(rule), "{rule}");
        }
    }

    #[test]
    fn rules_that_admit_by_our_bit_are_seen() {
        for rule in [
            "ct mark & 0x08000000 != 0x00000000 accept",
            "ct mark and 0x8000000 == 0x8000000 counter packets 0 bytes 0 accept",
            "ct mark 0x08000000 accept",
            "-A INPUT -m connmark --mark 0x8000000/0x8000000 -j ACCEPT",
        ] {
            assert!(admits(&words(rule), BIT), "{rule}");
        }
        for rule in ["ct mark & 0xff000000 == 0x00000000 accept", "ct mark set 0x08000000", "meta mark 0x1 accept"] {
            assert!(!admits(&words(rule), BIT), "{rule}");
        }
    }

    #[test]
    fn the_warning_is_for_other_peoples_rules_where_it_matters() {
        let save = "*mangle\n-A PREROUTING -j KNOCKKNOCK\n-A KNOCKKNOCK-ADMIT -j CONNMARK --set-xmark 0x8000000/0x8000000\n\
            -A PREROUTING -j CONNMARK --set-xmark 0x2/0xffffffff\nCOMMIT\n";
        let own = "table ip mangle {\n\tchain PREROUTING {\n\t\tct mark set 0x2\n\t}\n}\n\
            table inet knockknock {\n\tchain door {\n\t\tct mark set ct mark | 0x08000000\n\t}\n}\n";
        let other = "table inet filter {\n\tchain input {\n\t\tct mark & 0x08000000 != 0x00000000 accept\n\t}\n}\n";
        let seen = |nft: String| {
            let iptables = [("ip", save.to_owned()), ("ip6", String::new())];
            warnings(&Listings { nft, iptables }, &Own { table: "inet knockknock", chains: "-A KNOCKKNOCK" }, BIT)
        };
        assert!(seen(own.to_owned()).is_empty(), "nobody needs the mark");
        let [warning] = &seen(own.to_owned() + other)[..] else { panic!("one warning") };
        assert!(warning.starts_with("table ip mangle changes the mark 0x08000000"), "{warning}");
    }
}
