//! Finds rules of other programs that drop knocks or knocked connections.
//!
//! This follows the SYN of a knocked connection and its reply, the SYN/ACK, through the text of the rules. If a rule may or may not match, it is
//! ignored if it drops, and assumed to match if it accepts and names the port or the mark. So this can miss a rule that
//! drops, and a finding may be wrong for an interface or a source that is accepted as a whole. Forwarded connections
//! are not followed.

mod chains;
mod fix;
mod mark;
mod syn;

pub(super) use chains::{IptablesListing, Listings, Own};

use super::rules::{Finding, Rules};
use crate::ports::Ports;
use chains::{Chain, chains};
use syn::{Syn, Verdict, elements, fit, verdicts, words};

/// The greatest depth of jumps, which is nft's limit.
const DEPTH: usize = 16;

/// Replaces the rule in a finding if the chain's policy drops.
const POLICY: &str = "policy drop";

/// What a chain does to knocks or to knocked connections.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    /// Drops packets before they reach our rules.
    DropsKnocks,
    /// Exempts packets from connection tracking, which our rules need.
    Untracks,
    /// Drops knocked connections.
    Drops,
}

/// A chain and one of its rules, or [`POLICY`].
type Place<'a> = (&'a Chain<'a>, &'a str);

/// A rule that stops packets to some ports.
struct Stop<'a> {
    /// The base chain that leads to the rule.
    chain: &'a Chain<'a>,
    harm: Harm,
    place: Place<'a>,
    /// The rule that changes the mark, if the packets would pass with the mark.
    cause: Option<Place<'a>>,
    ports: Ports,
}

impl Stop<'_> {
    fn is(&self, place: Place<'_>, cause: Option<Place<'_>>) -> bool {
        let (chain, rule) = self.place;
        chain.is(place.0) && rule == place.1 && self.cause.is_some() == cause.is_some()
    }
}

/// Returns the rules that drop knocks, or knocked connections to `ports`.
pub(super) fn findings(listings: &Listings, own: &Own, rules: &Rules, ports: &Ports) -> Vec<Finding> {
    let chains = chains(listings, own);
    let mut analysis = Analysis { chains: &chains, rules, change: None };
    let mut found = Vec::new();
    let mut redirects = Vec::new();
    for chain in &chains {
        for &rule in &chain.rules {
            let words = words(rule);
            if analysis.change.is_none() && mark::changed(&words) & rules.mark != 0 {
                analysis.change = Some((chain, rule));
            }
            if is_of_0_8(&words) {
                found.push(Finding {
                    what: format!("{} has a rule that knockknock 0.8 left: {rule}", chain.place()),
                    fix: format!("{} -D {} {rule}", chain.program, chain.name),
                });
            }
            if words.iter().any(|word| ["dnat", "redirect", "DNAT", "REDIRECT"].contains(word)) {
                redirects.push(words);
            }
        }
    }
    // Without ports, use one that no rule names.
    let mut ports = if ports.is_empty() { Ports::from_iter([0]) } else { ports.clone() };
    // Connections to a redirected port reach another port or host.
    ports.retain(&|port| {
        let syn = analysis.syn(port, false, false);
        !redirects.iter().any(|words| fit(words, &syn).is_some_and(|fit| fit.named))
    });
    let mut with_knock_ports = ports.clone();
    with_knock_ports.extend(rules.knock_ports.iter());
    for chain in &chains {
        let Some(base) = chain.base else { continue };
        let harms: &[Harm] = match base.hook {
            "ingress" | "prerouting" if base.before => &[Harm::DropsKnocks, Harm::Untracks],
            "output" => &[Harm::Untracks, Harm::Drops],
            "prerouting" | "input" | "postrouting" => &[Harm::Drops],
            _ => &[],
        };
        for &harm in harms {
            let ports = if harm == Harm::DropsKnocks { &with_knock_ports } else { &ports };
            for stop in &analysis.stops(chain, harm, ports) {
                found.push(analysis.finding(stop));
            }
        }
    }
    found
}

/// Returns whether knockknock 0.8 inserted this rule for a single connection and did not delete it.
fn is_of_0_8(words: &[&str]) -> bool {
    let limits = words.windows(4).any(|words| words == ["--limit", "1/min", "--limit-burst", "1"]);
    limits && words.starts_with(&["-s"]) && words.ends_with(&["-j", "ACCEPT"])
}

/// The rules of other programs, and our own settings.
struct Analysis<'a> {
    chains: &'a [Chain<'a>],
    rules: &'a Rules,
    /// A rule that changes the mark.
    change: Option<Place<'a>>,
}

impl<'a> Analysis<'a> {
    fn syn(&self, port: u16, answer: bool, marked: bool) -> Syn<'a> {
        Syn { port, answer, bit: self.rules.mark, marked, interfaces: &self.rules.interfaces }
    }

    /// Returns the rules by which the base chain `chain` harms packets to `ports`.
    fn stops(&self, chain: &'a Chain<'a>, harm: Harm, ports: &Ports) -> Vec<Stop<'a>> {
        let drops = harm == Harm::Drops;
        let change = self.change.filter(|_| drops);
        let mut stops: Vec<Stop<'_>> = Vec::new();
        for port in ports.iter() {
            let rule = |marked| self.stopping_rule(chain, &self.syn(port, chain.passes_replies(), marked), harm);
            let (mut place, mut cause) = (rule(drops), None);
            if place.is_none() && change.is_some() {
                (place, cause) = (rule(false), change);
            }
            let Some(place) = place else { continue };
            match stops.iter_mut().find(|stop| stop.is(place, cause)) {
                Some(stop) => stop.ports.insert(port),
                None => stops.push(Stop { chain, harm, place, cause, ports: Ports::from_iter([port]) }),
            }
        }
        stops
    }

    /// Describes a rule, and how to admit what it stops.
    fn finding(&self, stop: &Stop<'_>) -> Finding {
        let &Stop { chain, harm, place: (place, rule), cause, ref ports } = stop;
        let bit = self.rules.mark;
        let changes = format!("changes the mark {bit:#010x}, by which other rules admit knocked connections");
        let (harms, end) = match harm {
            Harm::DropsKnocks => ("drops packets", " before knockknock sees them"),
            Harm::Untracks => ("exempts connections", " from tracking, so no knock opens them"),
            Harm::Drops if cause.is_some() => (&*changes, ""),
            Harm::Drops => ("blocks knocked connections", ""),
        };
        let to = if ports.contains(0) { String::new() } else { format!(" to {}", ports.describe()) };
        let (at, text) = cause.unwrap_or((place, rule));
        let what = format!("{} {harms}{to}{end}: {text}", at.place());

        let (drops, answer) = (harm == Harm::Drops, chain.passes_replies());
        let by_mark = drops && self.change.is_none();
        let guarded = ports.iter().all(|port| self.rules.guard.contains(port));
        let table = chain.table.1;
        let has = |name| self.chains.iter().any(|other| other.table == chain.table && other.name.starts_with(name));
        let enters = drops && !answer;
        let fix = if enters && (table == "firewalld" || has("INPUT_ZONES")) {
            fix::firewalld(guarded, ports)
        } else if enters && guarded && (place.name.starts_with("ufw") || rule == POLICY && has("ufw")) {
            fix::in_groups(ports, &|ports| format!("ufw allow {ports}/tcp"))
        } else if by_mark && enters && table == "fw4" {
            format!(
                "mkdir -p /usr/share/nftables.d/chain-pre/input && echo 'ct mark and {bit:#010x} != 0 accept' >/usr/share/nftables.d/chain-pre/input/knockknock.nft && fw4 reload"
            )
        } else if by_mark {
            fix::insert(chain, &fix::mark(chain, bit))
        } else if guarded || !drops {
            fix::in_groups(ports, &|ports| fix::insert(chain, &fix::port(chain, answer, ports)))
        } else {
            "choose another bit with \"mark\" in the config, or let that rule leave this one alone".to_owned()
        };
        Finding { what, fix }
    }

    /// Returns the rule by which the base chain `chain` stops the SYN.
    fn stopping_rule(&self, chain: &'a Chain<'a>, syn: &Syn<'_>, harm: Harm) -> Option<Place<'a>> {
        match self.walk(chain, syn, harm, 0) {
            ChainExit::Stopped(place) => Some(place),
            ChainExit::Accepted { .. } => None,
            ChainExit::Left => chain.base.filter(|base| base.drops && harm != Harm::Untracks).map(|_| (chain, POLICY)),
        }
    }

    /// Follows the SYN through a chain.
    fn walk(&self, chain: &'a Chain<'a>, syn: &Syn<'_>, harm: Harm, depth: usize) -> ChainExit<'a> {
        for &rule in &chain.rules {
            for words in &elements(words(rule)) {
                let Some(fit) = fit(words, syn).filter(|_| !is_of_0_8(words)) else { continue };
                let verdicts = verdicts(words);
                let certain = fit.certain && verdicts.len() == 1;
                for &verdict in &verdicts {
                    let end = match verdict {
                        Verdict::Accept => ChainExit::Accepted { named: fit.named },
                        Verdict::Drop if harm == Harm::Untracks => ChainExit::Accepted { named: false },
                        Verdict::Drop => ChainExit::Stopped((chain, rule)),
                        Verdict::Untrack if harm == Harm::Untracks => ChainExit::Stopped((chain, rule)),
                        Verdict::Untrack => continue,
                        Verdict::Return => ChainExit::Left,
                        Verdict::Jump(name) | Verdict::Goto(name) => {
                            let mut chains = self.chains.iter().filter(|other| other.table == chain.table);
                            let Some(next) = chains.find(|other| other.name == name).filter(|_| depth < DEPTH) else {
                                continue;
                            };
                            match self.walk(next, syn, harm, depth + 1) {
                                ChainExit::Left if matches!(verdict, Verdict::Jump(_)) => continue,
                                end => end,
                            }
                        }
                    };
                    if certain || matches!(end, ChainExit::Accepted { named: true }) {
                        return end;
                    }
                }
            }
        }
        ChainExit::Left
    }
}

/// How a SYN leaves a chain.
enum ChainExit<'a> {
    /// No rule decided.
    Left,
    Stopped(Place<'a>),
    /// `named` is whether the rule names the port or the mark.
    Accepted {
        named: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// The findings in a ruleset of tests/rulesets/ for guarded ports, and for ports that are not guarded.
    fn findings_in(name: &str, guard: &str, ports: &str) -> Vec<Finding> {
        let path = |extension| Path::new("tests/rulesets").join(format!("{name}.{extension}"));
        let read = |extension| fs::read_to_string(path(extension)).unwrap_or_default();
        let saved = |family, program| IptablesListing { family, program, text: read(program) };
        let iptables = vec![saved("ip", "iptables"), saved("ip6", "ip6tables")];
        let listings = Listings { nft: read("nft"), iptables };
        assert!(listings.nft.len() + listings.iptables[0].text.len() > 0, "no ruleset is called {name}");
        let own = Own { table: "knockknock", chains: "KNOCKKNOCK", priority: -160, in_iptables: false };
        let guard = Ports::parse(guard).unwrap();
        let ports = guard.iter().chain(Ports::parse(ports).unwrap().iter()).collect();
        let rules = Rules { guard, ..crate::firewall::rules::tests::everywhere() };
        findings(&listings, &own, &rules, &ports)
    }

    #[test]
    fn blocking_rules_are_found_in_saved_rulesets() {
        let mark = "ct mark and 0x08000000 != 0 accept";
        let connmark = "-m connmark --mark 0x08000000/0x08000000 -j ACCEPT";
        let left = "-s 192.0.2.7/32 -p tcp -m limit --limit 1/min --limit-burst 1 -m conntrack --ctstate NEW -m tcp \
            --dport 22 -j ACCEPT";
        let fw4 = "/usr/share/nftables.d/chain-pre/input";
        for (ruleset, guard, found) in [
            (
                "nftables",
                "22,80",
                vec![(
                    "input blocks knocked connections to port 22: counter",
                    format!("nft insert rule inet filter input {mark}"),
                )],
            ),
            ("nftables-router", "22", vec![]),
            (
                "fw4",
                "22",
                vec![(
                    "handle_reject blocks",
                    format!("mkdir -p {fw4} && echo '{mark}' >{fw4}/knockknock.nft && fw4 reload"),
                )],
            ),
            ("firewalld", "22", vec![]),
            (
                "firewalld-closed",
                "22",
                vec![(
                    "filter_IN_public blocks",
                    "firewall-cmd --permanent --add-port=22/tcp && firewall-cmd --reload".into(),
                )],
            ),
            (
                "firewalld-iptables-closed",
                "22",
                vec![
                    (
                        "ip filter, chain IN_public blocks",
                        "firewall-cmd --permanent --add-port=22/tcp && firewall-cmd --reload".into(),
                    ),
                    (
                        "ip6 filter, chain IN_public blocks",
                        "firewall-cmd --permanent --add-port=22/tcp && firewall-cmd --reload".into(),
                    ),
                ],
            ),
            (
                "ufw",
                "22,443",
                vec![
                    (
                        "table ip filter, chain INPUT blocks knocked connections to ports 22,443: policy drop",
                        "ufw allow 22,443/tcp".into(),
                    ),
                    ("table ip6 filter, chain INPUT blocks", "ufw allow 22,443/tcp".into()),
                ],
            ),
            ("ufw-allowed", "22", vec![]),
            ("ufw-limit", "22", vec![]),
            (
                "left-by-0.8",
                "22",
                vec![
                    ("knockknock 0.8 left", format!("iptables -D INPUT {left}")),
                    (
                        "REJECTLOG blocks knocked connections to port 22: -p tcp -j REJECT",
                        format!("iptables -t filter -I INPUT {connmark}"),
                    ),
                ],
            ),
            (
                "iptables-services",
                "22",
                vec![("ip6 filter, chain INPUT blocks", format!("ip6tables -t filter -I INPUT {connmark}"))],
            ),
            (
                "docker",
                "22,8080",
                vec![(
                    "INPUT blocks knocked connections to port 22: policy",
                    format!("iptables -t filter -I INPUT {connmark}"),
                )],
            ),
            (
                "dual-wan",
                "22,443",
                vec![(
                    "table ip mangle, chain PREROUTING changes the mark 0x08000000, by which",
                    "iptables -t filter -I INPUT -p tcp -m multiport --dports 22,443 -j ACCEPT".into(),
                )],
            ),
            (
                "early",
                "22",
                vec![(
                    "netdev edge, chain ingress drops packets to port 20022 before",
                    "nft insert rule netdev edge ingress tcp dport 20022 accept".into(),
                )],
            ),
            (
                "notrack-nft",
                "22",
                vec![
                    (
                        "prerouting exempts connections to port 22",
                        "nft insert rule inet other prerouting tcp dport 22 accept".into(),
                    ),
                    (
                        "output exempts connections to port 22",
                        "nft insert rule inet other output tcp sport 22 accept".into(),
                    ),
                ],
            ),
            (
                "notrack-iptables",
                "22",
                vec![
                    ("PREROUTING exempts", "iptables -t raw -I PREROUTING -p tcp --dport 22 -j ACCEPT".into()),
                    ("OUTPUT exempts", "iptables -t raw -I OUTPUT -p tcp --sport 22 -j ACCEPT".into()),
                    (
                        "ip6 raw, chain PREROUTING exempts",
                        "ip6tables -t raw -I PREROUTING -p tcp --dport 22 -j ACCEPT".into(),
                    ),
                ],
            ),
        ] {
            let findings = findings_in(ruleset, guard, "");
            let same = |(finding, (what, fix)): (&Finding, &(&str, String))| {
                finding.what.contains(what) && finding.fix == *fix
            };
            assert!(
                findings.len() == found.len() && findings.iter().zip(&found).all(same),
                "{ruleset}: {findings:#?} instead of {found:#?}"
            );
        }
    }

    #[test]
    fn a_port_that_is_not_guarded_is_never_accepted_by_its_number() {
        for ruleset in ["nftables", "fw4", "ufw", "left-by-0.8", "docker", "dual-wan"] {
            for Finding { what, fix } in findings_in(ruleset, "", "25").iter().filter(|found| !found.fix.contains("-D"))
            {
                assert!(fix.contains("mark"), "{ruleset}: {what}: {fix}");
            }
        }
        for ruleset in ["firewalld", "firewalld-iptables-closed"] {
            let [found, ..] = &findings_in(ruleset, "", "25")[..] else { panic!("{ruleset}") };
            assert!(found.fix.starts_with("guard these ports, then: firewall-cmd"), "{ruleset}: {found:?}");
        }
    }

    #[test]
    fn where_no_port_is_named_a_rule_that_drops_all_is_found() {
        let [found] = &findings_in("nftables", "", "")[..] else { panic!("one finding") };
        assert!(found.what.contains("chain input blocks knocked connections: counter"), "{found:?}");
    }
}
