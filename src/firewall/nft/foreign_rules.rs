//! Other people's rules that set our mark's bit.

use super::ruleset::TABLE;
use crate::firewall::rules::CHAIN_ADMIT;

/// A warning for each rule in the listed `ruleset` that sets a bit of `mark` and is not ours.
pub(super) fn warnings(ruleset: &str, mark: u32) -> Vec<String> {
    let (mut table, mut chain) = ("", "");
    let mut warnings = Vec::new();
    for line in ruleset.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.strip_suffix(" {").unwrap_or(name);
        } else if let Some(name) = line.strip_prefix("\tchain ") {
            chain = name.strip_suffix(" {").unwrap_or(name);
        } else if table != format!("inet {TABLE}") && chain != CHAIN_ADMIT && sets_mark(line, mark) {
            warnings.push(format!("table {table} sets our mark's bit: {:?} admits without a knock", line.trim()));
        }
    }
    warnings
}

/// Whether a rule as `nft list` writes it sets a bit of `mark` in the connection's mark.
fn sets_mark(rule: &str, mark: u32) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let set = words.windows(3).position(|words| words == ["ct", "mark", "set"]);
    set.and_then(|set| words.get(set..)).unwrap_or_default().iter().any(|word| {
        let digits = word.strip_prefix("0x");
        let number = digits.map_or_else(|| word.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok());
        number.is_some_and(|number| number & mark != 0 && number != !mark)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_others_that_set_our_bit_are_seen() {
        assert!(sets_mark("ct mark set ct mark | 0x08000000", 0x0800_0000));
        assert!(sets_mark("tcp dport 22 ct mark set 0x0c000000", 0x0800_0000));
        assert!(!sets_mark("ct mark set 0x00000001", 0x0800_0000));
        assert!(!sets_mark("ct mark & 0x08000000 == 0x08000000 accept", 0x0800_0000));
        assert!(!sets_mark("ct mark set ct mark & 0xf7ffffff", 0x0800_0000));
    }
}
