//! Decides from a rule's text whether it matches the SYN of a knocked connection, and what it does.
//!
//! It understands conditions on port, protocol, connection state, mark, interface and address type. Any other condition
//! may or may not hold.

/// The properties of the SYN that rules match.
pub(super) struct Syn<'a> {
    pub(super) port: u16,
    /// Whether this is the reply, whose source port is `port`.
    pub(super) answer: bool,
    /// The bit that marks knocked connections.
    pub(super) bit: u32,
    /// Whether the connection has the mark.
    pub(super) marked: bool,
    /// The interfaces that it may arrive on. Empty means any but lo.
    pub(super) interfaces: &'a [String],
}

/// What a rule does with the packets that it matches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Verdict<'a> {
    Accept,
    /// Drop or reject.
    Drop,
    /// Exempt from connection tracking.
    Untrack,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

/// How far a rule's conditions match the SYN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    /// All conditions hold. One on the interface is taken to hold if another condition names the port or the mark.
    pub(super) certain: bool,
    /// A condition names the port or the mark.
    pub(super) named: bool,
}

/// The property that a condition compares with the values after it.
#[derive(Clone, Copy)]
enum Condition {
    /// The destination port, or the source port.
    Port {
        source: bool,
    },
    Protocol,
    State,
    Interface,
    AddressType,
    /// The mark, the packet's or the connection's, under a mask.
    Mark(u32),
}

/// Returns the words of a rule, with `_` instead of its comment and its log prefix.
pub(super) fn words(rule: &str) -> Vec<&str> {
    let mut words: Vec<&str> = Vec::new();
    let mut quoted = false;
    for part in rule.split('"') {
        let of = words.last().copied().unwrap_or_default();
        if quoted && ["comment", "prefix", "--comment", "--log-prefix"].contains(&of) {
            words.push("_");
        } else {
            let trimmed = part.split_ascii_whitespace().map(|word| word.trim_end_matches([',', ';']));
            trimmed.filter(|word| !word.is_empty()).for_each(|word| words.push(word));
        }
        quoted = !quoted;
    }
    words
}

/// Returns the rules that a rule is equivalent to: one for each element of its verdict map, if it has one.
pub(super) fn elements(words: Vec<&str>) -> Vec<Vec<&str>> {
    let map = words.iter().position(|word| *word == "vmap");
    // The keys of a concatenation belong to several conditions.
    let Some((before, map)) = map.filter(|_| !words.contains(&".")).map(|at| words.split_at(at)) else {
        return vec![words];
    };
    let (mut rules, mut rule) = (Vec::new(), before.to_vec());
    let mut rest = map.get(2..).unwrap_or_default();
    while let [word, after @ ..] = rest {
        rest = after;
        if *word != ":" {
            rule.push(word);
            continue;
        }
        let length = if matches!(after.first(), Some(&("jump" | "goto"))) { 2 } else { 1 };
        let (verdict, after) = after.split_at_checked(length).unwrap_or_default();
        rule.extend(verdict);
        rules.push(rule);
        rule = before.to_vec();
        rest = after;
    }
    rules
}

/// Returns the words after one of the spellings, which are separated by `|`, if `words` starts with it.
fn after<'a, 'b>(words: &'b [&'a str], spellings: &str) -> Option<&'b [&'a str]> {
    spellings.split('|').find_map(|spelling| {
        let mut rest = words;
        for wanted in spelling.split(' ') {
            let (word, after) = rest.split_first()?;
            if *word != wanted {
                return None;
            }
            rest = after;
        }
        Some(rest)
    })
}

/// The spellings of verdicts. A chain's name follows those of the last two.
const VERDICTS: [(&str, Verdict<'_>); 6] = [
    ("accept|-j ACCEPT", Verdict::Accept),
    ("drop|reject|-j DROP|-j REJECT", Verdict::Drop),
    ("notrack|-j NOTRACK|-j CT --notrack", Verdict::Untrack),
    ("return|-j RETURN", Verdict::Return),
    ("jump|-j", Verdict::Jump("")),
    ("goto|-g", Verdict::Goto("")),
];

/// Returns what a rule does. A rule with a verdict map has several verdicts.
pub(super) fn verdicts<'a>(words: &[&'a str]) -> Vec<Verdict<'a>> {
    let (mut verdicts, mut rest) = (Vec::new(), words);
    while let [_, after @ ..] = rest {
        if let Some(verdict) = verdict(rest) {
            verdicts.push(verdict);
        }
        rest = after;
    }
    verdicts
}

fn verdict<'a>(words: &[&'a str]) -> Option<Verdict<'a>> {
    for &(spellings, verdict) in &VERDICTS {
        if let Some(rest) = after(words, spellings) {
            return match verdict {
                Verdict::Jump(_) => rest.first().map(|chain| Verdict::Jump(chain)),
                Verdict::Goto(_) => rest.first().map(|chain| Verdict::Goto(chain)),
                _ => Some(verdict),
            };
        }
    }
    None
}

/// The spellings of the words before a condition's values.
const CONDITIONS: [(&str, Condition); 7] = [
    ("tcp dport|th dport|--dport|--dports", Condition::Port { source: false }),
    ("tcp sport|th sport|--sport|--sports", Condition::Port { source: true }),
    ("meta l4proto|ip protocol|-p", Condition::Protocol),
    ("ct state|--ctstate|--state", Condition::State),
    ("iif|iifname|oif|oifname|-i|-o", Condition::Interface),
    ("fib daddr type|--dst-type", Condition::AddressType),
    ("ct mark|meta mark|--mark", Condition::Mark(u32::MAX)),
];

/// Returns the condition that `words` starts with, and the words after it.
fn condition<'a, 'b>(words: &'b [&'a str]) -> Option<(Condition, &'b [&'a str])> {
    let found = |&(spellings, condition): &(&str, Condition)| Some((condition, after(words, spellings)?));
    match CONDITIONS.iter().find_map(found)? {
        (Condition::Mark(_), ["&" | "and", mask, rest @ ..]) => Some((Condition::Mark(number(mask)), rest)),
        (Condition::Mark(_), ["set", ..]) => None,
        found => Some(found),
    }
}

/// Returns how far the conditions of a rule match, or `None` if one of them does not hold.
pub(super) fn fit(words: &[&str], syn: &Syn<'_>) -> Option<Fit> {
    use Condition::{Interface, Mark, Port};
    let (mut certain, mut named, mut by_interface, mut negated) = (true, false, false, false);
    let mut rest = words;
    while let ([word, unknown @ ..], None) = (rest, verdict(rest)) {
        let Some((condition, after_condition)) = condition(rest) else {
            // Words that are not conditions. All others are unknown.
            let nothing = match rest {
                _ if after(rest, "udp|icmp|icmpv6|sctp|igmp").is_some() => return None,
                ["--tcp-flags", _, "SYN", ..] if negated && !syn.answer => return None,
                ["--tcp-flags", _, "SYN", rest @ ..] if !syn.answer => Some(rest),
                _ => after(rest, "!|counter|log")
                    .or_else(|| after(rest, "packets|bytes|prefix|level|flags|-m|--comment")?.get(1..)),
            };
            negated = *word == "!";
            certain &= nothing.is_some();
            rest = nothing.unwrap_or(unknown);
            continue;
        };
        let (is_not, values);
        (is_not, values, rest) = split_values(after_condition);
        let (mut holds, mut unknown) = (false, false);
        for word in values {
            for value in word.split([',', '{', '}']).filter(|value| !value.is_empty()) {
                match asks_for(condition, value, syn) {
                    Some(asked) => holds |= asked,
                    None => unknown = true,
                }
            }
        }
        if holds == (negated || is_not) && (holds || !unknown) {
            return None;
        }
        let known = holds || !unknown;
        by_interface |= !known && matches!(condition, Interface);
        certain &= known || matches!(condition, Interface);
        named |= match condition {
            Port { source } => source == syn.answer,
            Mark(mask) => mask & syn.bit != 0,
            _ => false,
        };
        negated = false;
    }
    Some(Fit { certain: certain && (named || !by_interface), named })
}

/// Returns whether a condition is negated, its values, and the words after them.
fn split_values<'a, 'b>(words: &'b [&'a str]) -> (bool, &'b [&'a str], &'b [&'a str]) {
    let (negated, words) = match words {
        ["!=", words @ ..] => (true, words),
        ["==" | "vmap", words @ ..] => (false, words),
        words => (false, words),
    };
    let end = if words.first() == Some(&"{") { words.iter().position(|word| *word == "}") } else { None };
    let (values, rest) = words.split_at_checked(end.map_or(1, |end| end + 1)).unwrap_or_default();
    (negated, values, rest)
}

/// Returns whether a condition with this value holds, or `None` if that is unknown.
fn asks_for(condition: Condition, value: &str, syn: &Syn<'_>) -> Option<bool> {
    match condition {
        // A concatenation.
        _ if value == "." => None,
        Condition::Port { source } if source == syn.answer => {
            let (from, to) = value.split_once(['-', ':']).unwrap_or((value, value));
            Some((from.parse().ok()?..=to.parse().ok()?).contains(&syn.port))
        }
        // The other end's port.
        Condition::Port { .. } => None,
        Condition::Protocol => Some(["tcp", "6", "all"].contains(&value)),
        Condition::State => Some(value.eq_ignore_ascii_case(if syn.answer { "established" } else { "new" })),
        // The reply's destination is the client.
        Condition::AddressType if syn.answer => None,
        Condition::AddressType => Some(value.eq_ignore_ascii_case("local")),
        Condition::Interface if value == "lo" => Some(false),
        Condition::Interface if syn.interfaces.is_empty() => None,
        Condition::Interface => Some(syn.interfaces.iter().any(|name| name == value)),
        Condition::Mark(mask) => {
            let (value, mask) = value.split_once('/').map_or((value, mask), |(value, mask)| (value, number(mask)));
            let (value, bit) = (number(value), if syn.marked { syn.bit } else { 0 });
            // The other bits are unknown, and usually 0.
            if value & syn.bit != mask & bit { Some(false) } else { (value & !syn.bit == 0).then_some(true) }
        }
    }
}

/// Parses a decimal or hexadecimal number. Anything else is 0.
pub(super) fn number(word: &str) -> u32 {
    let number = match word.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    number.unwrap_or(0)
}
