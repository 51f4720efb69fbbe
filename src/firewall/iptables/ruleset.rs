//! The text of our chains, as `iptables-restore` takes it: mangle.rules, with values in place of the names in `<…>`.

use crate::firewall::rules::{Rules, Values};
use crate::ports::Ports;
use crate::search;
use std::path::Path;

/// The prefix of our chains' names.
pub(in crate::firewall) const CHAINS: &str = "KNOCKKNOCK";
/// The priority of table mangle, in which they are.
pub(in crate::firewall) const PRIORITY: i32 = libc::NF_IP_PRI_MANGLE;
/// The prefix of our rules in a listing.
const OURS: &str = "-A KNOCKKNOCK";
/// The prefix of rules in the kernel's chains, and the rest of the first rule of each.
const JUMPS: [(&str, &str); 3] = [
    ("-A PREROUTING ", "-j KNOCKKNOCK\n"),
    ("-A INPUT ", "-j KNOCKKNOCK-INPUT\n"),
    ("-A FORWARD ", "-j KNOCKKNOCK-FORWARD\n"),
];

/// The options of the log rule, as a listing has them too.
pub(super) const LOGGED: &str = "--log-tcp-sequence";

/// iptables or ip6tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        }
    }

    pub(super) fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    /// The unspecified address. With a mask of zeros, a search of a list that has it always succeeds.
    pub(super) fn unspecified(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0",
            Self::V6 => "::",
        }
    }

    /// The suffix of the names of lists: a list has addresses of one version.
    fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "v6",
        }
    }

    /// The file of the list [`START`], [`TRIAL`], or `kk` and a port.
    pub(super) fn list_path(self, list: &str) -> String {
        format!("/proc/net/xt_recent/{list}{}", self.suffix())
    }
}

/// The list whose address lets connections that are older than the rules pass.
pub(super) const START: &str = "kkstart";
/// The list whose address lets the rules of a guard on trial match.
pub(super) const TRIAL: &str = "kktrial";

/// Both versions, or only IPv4 if the kernel has no IPv6.
pub(super) fn versions() -> &'static [IpVersion] {
    if Path::new("/proc/net/if_inet6").exists() { &[IpVersion::V4, IpVersion::V6] } else { &[IpVersion::V4] }
}

/// mangle.rules without its comments, as build.rs writes it.
const TEMPLATE: &str = include_str!(concat!(env!("OUT_DIR"), "/mangle.rules"));
/// Removes our chains. They are flushed first, because they jump to each other.
const REMOVAL: &str = "*mangle
:KNOCKKNOCK - [0:0]
:KNOCKKNOCK-INPUT - [0:0]
:KNOCKKNOCK-FORWARD - [0:0]
:KNOCKKNOCK-KNOCK - [0:0]
:KNOCKKNOCK-ADMIT - [0:0]
-D <jump>
-X KNOCKKNOCK
-X KNOCKKNOCK-INPUT
-X KNOCKKNOCK-FORWARD
-X KNOCKKNOCK-KNOCK
-X KNOCKKNOCK-ADMIT
COMMIT";

/// Returns the rules of table mangle, as `iptables-restore --noflush` takes them: a named chain is flushed first.
/// `listed` is the table as it is.
pub(super) fn script(version: IpVersion, rules: &Rules, listed: &str) -> String {
    filled(TEMPLATE, version, rules, jumps(listed))
}

/// Returns whether our chains are among the listed ones.
pub(super) fn has_chains(listed: &str) -> bool {
    listed.lines().any(|line| line == "-N KNOCKKNOCK")
}

/// Returns the text that removes our chains from the table; `None` if there are none.
pub(super) fn removal(listed: &str) -> Option<String> {
    if !has_chains(listed) {
        return None;
    }
    let (mut values, mut text) = (Values::default(), String::new());
    values.each("<jump>", jumps(listed));
    values.fill(REMOVAL, &mut text);
    Some(text)
}

/// Returns the listed rules of other chains that jump to ours.
fn jumps(listed: &str) -> Vec<String> {
    let mut jumps = Vec::new();
    for line in listed.lines().filter(|line| !line.starts_with(OURS)) {
        if let Some(rule) = line.strip_prefix("-A ").filter(|rule| search::contains(rule.as_bytes(), b" -j KNOCKKNOCK"))
        {
            jumps.push(rule.to_owned());
        }
    }
    jumps
}

/// Returns our part of a listed table: the rules of our chains, and the jumps to them that come first.
pub(super) fn own(listed: &str) -> String {
    let mut own = String::new();
    for line in listed.split_inclusive('\n').filter(|line| line.starts_with(OURS)) {
        own.push_str(line);
    }
    for (chain, jump) in &JUMPS {
        if search::split_once(listed, chain).is_some_and(|(_, rest)| rest.starts_with(jump)) {
            own.push_str(jump);
        }
    }
    own
}

/// Adds the packets of the log rule and of the guards in PREROUTING, as `-v -S` lists them: `… -c PACKETS BYTES …`.
pub(super) fn add_packets(listed: &str, packets: &mut [u64; 2]) {
    let [logged, dropped] = packets;
    for line in listed.lines() {
        let number =
            search::split_once(line, " -c ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
        if line.starts_with("-A KNOCKKNOCK-KNOCK ") && search::contains(line.as_bytes(), b"LOG ") {
            *logged += number;
        } else if line.starts_with("-A KNOCKKNOCK ")
            && line.ends_with(" -j DROP")
            && !line.starts_with("-A KNOCKKNOCK -d ")
        {
            *dropped += number;
        }
    }
}

/// Returns the number of lines of [`own`] after a script has been loaded.
pub(super) fn lines_in(script: &str) -> usize {
    script.lines().filter(|line| line.starts_with("-A") || line.starts_with("-I")).count()
}

/// Returns each port as text.
fn texts(ports: &Ports) -> Vec<String> {
    let mut texts = Vec::new();
    for port in ports.iter() {
        texts.push(port.to_string());
    }
    texts
}

fn filled(template: &str, version: IpVersion, rules: &Rules, jumps: Vec<String>) -> String {
    let v6 = version == IpVersion::V6;
    // The interfaces of the guard. Knocks are logged on all.
    let mut on = Vec::new();
    for name in &rules.interfaces {
        on.push(format!("-i {name} "));
    }
    if on.is_empty() {
        on.push(String::new());
    }
    // The kernel ends a guard on trial by itself.
    match rules.seconds_of_guard() {
        None => {}
        Some(0) => on.clear(),
        Some(seconds) => {
            let (suffix, any) = (version.suffix(), version.unspecified());
            let name = format!("-m recent --name {TRIAL}{suffix} --rcheck --seconds {seconds} --mask {any} ");
            on.iter_mut().for_each(|on| on.push_str(&name));
        }
    }
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("NFLOG --nflog-group {group} --nflog-size 128 --nflog-threshold 1"),
        None => {
            format!("LOG --log-prefix \"knockknock \" --log-level {} {LOGGED}", rules.level)
        }
    };
    let mut values = Values::default();
    values.each("<jump>", jumps);
    values.each("<on>", on);
    values.each("<port>", texts(&rules.guard));
    values.each("<knock_port>", texts(&rules.knock_ports));
    values.each("<link>", if v6 { rules.link_texts() } else { Vec::new() });
    let bit = format!("{:#010x}", rules.mark);
    values.one("<mark>", &format!("{bit}/{bit}"));
    values.one("<bit>", &bit);
    values.one("<delay>", &rules.delay.to_string());
    values.one("<log>", &log);
    values.one("<none>", version.unspecified());
    values.one("<v6>", version.suffix());
    values.one("<6>", if v6 { "6" } else { "" });
    values.one("<network>", if v6 { " --hashlimit-srcmask 64" } else { "" });
    let mut text = String::new();
    values.fill(template, &mut text);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::tests::{assert_golden, everywhere, on_two_interfaces, unguarded};
    use std::time::{Duration, Instant};

    #[test]
    fn the_rules_are_those_in_the_golden_files() {
        for (version, program) in [(IpVersion::V4, "iptables"), (IpVersion::V6, "ip6tables")] {
            for (name, rules) in
                [("everywhere", everywhere()), ("interfaces", on_two_interfaces()), ("unguarded", unguarded())]
            {
                let made = |template| filled(template, version, &rules, Vec::new());
                assert_golden(&format!("{name}.{program}"), &made(include_str!("mangle.rules")), &made(TEMPLATE));
            }
        }
    }

    #[test]
    fn every_name_has_a_value() {
        assert!(!script(IpVersion::V4, &everywhere(), "").contains('<'));
    }

    #[test]
    fn our_chains_are_known_by_their_names() {
        let mut lines = TEMPLATE.lines().filter_map(|line| line.strip_prefix([':', '*']));
        assert_eq!(lines.next(), Some("mangle"));
        assert!(lines.clone().count() > 0 && lines.all(|name| name.starts_with(CHAINS)));
        assert_eq!(OURS, format!("-A {CHAINS}"));
    }

    #[test]
    fn every_chain_that_is_made_is_removed() {
        let named = |text: &str, start| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(start));
            lines.map(|line| line.strip_suffix(" - [0:0]").unwrap_or(line).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(named(TEMPLATE, ":"), named(REMOVAL, ":"));
        assert_eq!(named(TEMPLATE, ":"), named(REMOVAL, "-X "));
        assert_eq!(removal("-N OTHER\n-A PREROUTING -j OTHER\n"), None);
    }

    #[test]
    fn jumps_to_our_chains_come_first_and_once() {
        let jump = "-A INPUT -j KNOCKKNOCK-INPUT\n";
        let text = script(IpVersion::V4, &everywhere(), &format!("-A INPUT -j ACCEPT\n{jump}{jump}"));
        let about: Vec<_> = text.lines().filter(|line| line.contains(" INPUT ")).collect();
        let gone = "-D INPUT -j KNOCKKNOCK-INPUT";
        assert_eq!(about, [gone, gone, "-I INPUT -j KNOCKKNOCK-INPUT"]);
    }

    #[test]
    fn rules_of_other_programs_are_not_ours() {
        let (ours, jump) = ("-A KNOCKKNOCK -i lo -j RETURN\n", "-A PREROUTING -j KNOCKKNOCK\n");
        let others = "-P PREROUTING ACCEPT\n-N OTHER\n-A OTHER -j ACCEPT\n";
        assert_eq!(own(&format!("{others}{ours}{jump}-A PREROUTING -j OTHER\n")), format!("{ours}-j KNOCKKNOCK\n"));
        assert_eq!(own(&format!("{others}{ours}-A PREROUTING -j OTHER\n{jump}")), ours, "the jump is not the first");
    }

    #[test]
    fn packets_are_counted_by_rule() {
        let mut packets = [1, 0];
        let log = "-A KNOCKKNOCK-KNOCK -c 3 180 -j NFLOG --nflog-group 7\n-A KNOCKKNOCK-KNOCK -m hashlimit -c 9 9 -j RETURN\n";
        let guard = "-A KNOCKKNOCK -p tcp -m tcp --dport 22 -c 4 240 -j DROP\n-A KNOCKKNOCK -p tcp --dport 443 -c 5 5 -j DROP\n-A KNOCKKNOCK -d 2001:db8::/64 -c 6 6 -j DROP\n";
        add_packets(&format!("-P INPUT ACCEPT -c 7 7\n{log}{guard}-A KNOCKKNOCK-INPUT -c 8 8 -j DROP\n"), &mut packets);
        assert_eq!(packets, [4, 9]);
    }

    #[test]
    fn a_guard_on_trial_ends_by_itself() {
        let drops = |seconds| {
            let end_of_guard = Some(Instant::now() + Duration::from_secs(seconds));
            let text = script(IpVersion::V6, &Rules { end_of_guard, ..on_two_interfaces() }, "");
            text.lines()
                .filter(|line| line.ends_with("-j DROP") && !line.contains(" -d "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let condition = " -m recent --name kktrialv6 --rcheck --seconds 601 --mask :: ";
        assert!(!drops(600).is_empty() && drops(600).iter().all(|line| line.contains(condition)));
        assert!(drops(0).is_empty(), "it is over");
    }
}
