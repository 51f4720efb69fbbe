//! The text of our chains, as `iptables-restore` takes it: mangle.rules, with values in place of the names in `<…>`.

use crate::firewall::rules::{Rules, fill};
use crate::ports::Ports;
use std::path::{Path, PathBuf};

/// Our chains in table mangle: what PREROUTING, INPUT and FORWARD jump to, and what those jump to.
pub(super) const CHAIN_PREROUTING: &str = "KNOCKKNOCK";
pub(super) const CHAIN_INPUT: &str = "KNOCKKNOCK-INPUT";
pub(super) const CHAIN_FORWARD: &str = "KNOCKKNOCK-FORWARD";
pub(super) const CHAIN_KNOCK: &str = "KNOCKKNOCK-KNOCK";
pub(super) const CHAIN_ADMIT: &str = "KNOCKKNOCK-ADMIT";
/// The kernel's chains, and ours that each jumps to.
pub(super) const JUMPS: [(&str, &str); 3] =
    [("PREROUTING", CHAIN_PREROUTING), ("INPUT", CHAIN_INPUT), ("FORWARD", CHAIN_FORWARD)];
pub(super) const CHAINS: [&str; 5] = [CHAIN_PREROUTING, CHAIN_INPUT, CHAIN_FORWARD, CHAIN_KNOCK, CHAIN_ADMIT];

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

    pub(super) fn save(self) -> &'static str {
        match self {
            Self::V4 => "iptables-save",
            Self::V6 => "ip6tables-save",
        }
    }

    pub(super) fn restore(self) -> &'static str {
        match self {
            Self::V4 => "iptables-restore",
            Self::V6 => "ip6tables-restore",
        }
    }

    /// The name of a port's list; a list has addresses of one version.
    pub(super) fn list(self, port: u16) -> String {
        match self {
            Self::V4 => format!("kk{port}"),
            Self::V6 => format!("kk{port}v6"),
        }
    }

    pub(super) fn list_path(self, port: u16) -> PathBuf {
        Path::new("/proc/net/xt_recent").join(self.list(port))
    }
}

/// Both versions, or IPv4 alone where the kernel has no IPv6.
pub(super) fn versions() -> &'static [IpVersion] {
    if Path::new("/proc/net/if_inet6").exists() { &[IpVersion::V4, IpVersion::V6] } else { &[IpVersion::V4] }
}

/// mangle.rules without its comments, as build.rs has left it.
const TEMPLATE: &str = include_str!(concat!(env!("OUT_DIR"), "/mangle.rules"));

/// The rules of table mangle, as `iptables-restore --noflush` takes them: a chain that is named is
/// emptied first.
pub(super) fn script(version: IpVersion, rules: &Rules) -> String {
    filled(TEMPLATE, version, rules)
}

fn filled(template: &str, version: IpVersion, rules: &Rules) -> String {
    let v6 = version == IpVersion::V6;
    let one = |value: &str| vec![value.to_owned()];
    let ports = |ports: &Ports| ports.iter().map(|port| port.to_string()).collect();
    // Where the guard applies; knocks are heard everywhere.
    let on = match rules.interfaces.is_empty() {
        true => one(""),
        false => rules.interfaces.iter().map(|name| format!("-i {name} ")).collect(),
    };
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("NFLOG --nflog-group {group} --nflog-size 128 --nflog-threshold 1"),
        None => {
            format!("LOG --log-prefix \"knockknock \" --log-level {} --log-tcp-sequence --log-tcp-options", rules.level)
        }
    };
    let values = [
        ("<on>", on),
        ("<port>", ports(&rules.guard)),
        ("<knock_port>", ports(&rules.knock_ports)),
        ("<mark>", vec![format!("{0:#010x}/{0:#010x}", rules.mark)]),
        ("<bit>", vec![format!("{:#010x}", rules.mark)]),
        ("<delay>", vec![rules.delay.to_string()]),
        ("<log>", vec![log]),
        ("<v6>", one(if v6 { "v6" } else { "" })),
        ("<6>", one(if v6 { "6" } else { "" })),
        ("<network>", one(if v6 { " --hashlimit-srcmask 64" } else { "" })),
    ];
    fill(template, &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::rules::tests::{assert_golden, everywhere, on_two_interfaces, unguarded};

    #[test]
    fn the_rules_are_those_in_the_golden_files() {
        for (version, program) in [(IpVersion::V4, "iptables"), (IpVersion::V6, "ip6tables")] {
            for (name, rules) in
                [("everywhere", everywhere()), ("interfaces", on_two_interfaces()), ("unguarded", unguarded())]
            {
                let commented = filled(include_str!("mangle.rules"), version, &rules);
                assert_golden(&format!("{name}.{program}"), &commented, &script(version, &rules));
            }
        }
    }

    #[test]
    fn every_chain_is_made_and_every_name_has_a_value() {
        let text = script(IpVersion::V4, &everywhere());
        assert!(CHAINS.iter().all(|chain| text.contains(&format!("\n:{chain} - "))));
        assert!(!text.contains('<'));
    }
}
