//! The text of our chains, as `iptables-restore` takes it.

use crate::firewall::rules::{CHAIN_ADMIT, Rules};
use std::path::{Path, PathBuf};

/// Our chains in table mangle: what PREROUTING, INPUT and FORWARD jump to, and what those jump to.
pub(super) const CHAIN_PREROUTING: &str = "KNOCKKNOCK";
pub(super) const CHAIN_INPUT: &str = "KNOCKKNOCK-INPUT";
pub(super) const CHAIN_FORWARD: &str = "KNOCKKNOCK-FORWARD";
pub(super) const CHAIN_KNOCK: &str = "KNOCKKNOCK-KNOCK";
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

/// How many sources are counted apart: when all places are taken, new ones are not heard.
pub(super) const HASHLIMIT_TABLE: &str =
    "--hashlimit-htable-size 4096 --hashlimit-htable-max 65536 --hashlimit-htable-expire 2000";

/// The rules of table mangle, as `iptables-restore --noflush` takes them: a chain that is named is
/// emptied first.
pub(super) fn script(version: IpVersion, rules: &Rules) -> String {
    let mut text = String::from("*mangle\n");
    for chain in CHAINS {
        text.push_str(&format!(":{chain} - [0:0]\n"));
    }
    let mut rule = |chain: &str, rule: &str| text.push_str(&format!("-A {chain} {rule}\n"));
    let mark = format!("{0:#010x}/{0:#010x}", rules.mark);

    for chain in [CHAIN_PREROUTING, CHAIN_INPUT, CHAIN_FORWARD] {
        rule(chain, "! -p tcp -j RETURN");
        rule(chain, "-i lo -j RETURN");
    }
    rule(CHAIN_PREROUTING, "-p tcp ! --syn -m conntrack --ctstate ESTABLISHED -j RETURN");
    rule(CHAIN_PREROUTING, "-m addrtype ! --dst-type LOCAL -j RETURN");
    for port in rules.knock_ports.iter() {
        rule(CHAIN_PREROUTING, &format!("-p tcp --syn --dport {port} -j {CHAIN_KNOCK}"));
    }
    // An admitted SYN, sent again.
    rule(
        CHAIN_PREROUTING,
        &format!("-p tcp --syn -m connmark --mark {mark} -m conntrack ! --ctstatus ASSURED -j {CHAIN_ADMIT}"),
    );
    for port in rules.guard.iter() {
        let list = version.list(port);
        let used =
            format!("-m recent --name {list} --rcheck --seconds {} -m recent --name {list} --remove", rules.delay);
        rule(CHAIN_PREROUTING, &format!("-p tcp --syn --dport {port} {used} -j {CHAIN_ADMIT}"));
    }
    // Where the guard applies.
    let everywhere = [String::new()];
    let interfaces: Vec<String> = rules.interfaces.iter().map(|name| format!("-i {name} ")).collect();
    for on in if interfaces.is_empty() { &everywhere[..] } else { &interfaces } {
        for port in rules.guard.iter() {
            rule(CHAIN_PREROUTING, &format!("{on}-p tcp --dport {port} -j DROP"));
            // What reaches a guarded port by another way: a redirect, a virtual address.
            rule(CHAIN_INPUT, &format!("{on}-p tcp --syn --dport {port} -m connmark ! --mark {mark} -j DROP"));
            // Others may send elsewhere what came for a guarded port at an address that is not ours.
            for chain in [CHAIN_INPUT, CHAIN_FORWARD] {
                let sent_on = format!("-m conntrack --ctstate DNAT --ctorigdstport {port}");
                rule(chain, &format!("{on}-p tcp --syn {sent_on} -m connmark ! --mark {mark} -j DROP"));
            }
        }
    }

    let by_network = if version == IpVersion::V6 { " --hashlimit-srcmask 64" } else { "" };
    rule(
        CHAIN_KNOCK,
        &format!(
            "-m hashlimit --hashlimit-name knockknock{} --hashlimit-mode srcip{by_network} \
             --hashlimit-above 100/second --hashlimit-burst 200 {HASHLIMIT_TABLE} -j RETURN",
            if version == IpVersion::V6 { "6" } else { "" }
        ),
    );
    rule(
        CHAIN_KNOCK,
        &match rules.group {
            Some(group) => format!("-j NFLOG --nflog-group {group} --nflog-size 128 --nflog-threshold 1"),
            None => "-j LOG --log-prefix \"knockknock \" --log-level debug --log-tcp-sequence --log-tcp-options".into(),
        },
    );
    rule(CHAIN_ADMIT, &format!("-j MARK --set-xmark {mark}"));
    rule(CHAIN_ADMIT, &format!("-j CONNMARK --set-xmark {mark}"));
    rule(CHAIN_ADMIT, "-j ACCEPT");
    text.push_str("COMMIT\n");
    text
}
