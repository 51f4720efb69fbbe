//! Finds rules that change the connection mark.

use super::syn::number;

/// Returns the bits that a rule changes in the connection's mark.
pub(super) fn changed(words: &[&str]) -> u32 {
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
        ["--set-xmark", value, ..] => value.split('/').fold(0, |bits, part| bits | number(part)),
        ["--save-mark", .., "--ctmask", mask] => number(mask),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::foreign_rules::syn::words;

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
}
