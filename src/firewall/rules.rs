//! The input of both backends: the contents of the rules, and openings.

use crate::config::{self, Log};
use crate::ports::Ports;
use crate::prefix::Prefix;
use crate::{say, search};
use std::net::IpAddr;
use std::time::Instant;

/// The parameters of our rules.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The knock ports of all profiles.
    pub knock_ports: Ports,
    /// The prefixes of links of all profiles, each once.
    pub links: Vec<Prefix>,
    /// The ports that only a knock opens.
    pub guard: Ports,
    /// When the guard ends; `None` if it stays.
    pub end_of_guard: Option<Instant>,
    /// The interfaces that the guard applies to; empty means all but lo.
    pub interfaces: Vec<String>,
    /// The bit of the connection mark that admitted connections carry.
    pub mark: u32,
    /// How long an opening lasts, in seconds.
    pub delay: u16,
    /// The NFLOG group to log knocks to, instead of the kernel log.
    pub group: Option<u16>,
    /// The log level of the log rule, if `group` is `None`.
    pub level: &'static str,
}

impl Rules {
    /// Derives the rules from a configuration.
    pub fn new(config: &config::Config, knock_ports: Ports, links: Vec<Prefix>) -> Self {
        let group = match config.log {
            Log::Nflog(group) => Some(group),
            _ => None,
        };
        // Some syslog daemons do not write level debug to files. Level info is shown on more consoles.
        let level = if matches!(config.log, Log::File(_)) { "info" } else { "debug" };
        let mut prefixes = Vec::new();
        for prefix in links {
            if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        Self {
            knock_ports,
            links: prefixes,
            guard: config.guard.clone(),
            end_of_guard: None,
            interfaces: config.interfaces.clone(),
            mark: config.mark,
            delay: config.delay,
            group,
            level,
        }
    }

    /// Returns the prefixes of links as text.
    pub(super) fn link_texts(&self) -> Vec<String> {
        self.links.iter().map(Prefix::to_string).collect()
    }

    /// Returns the names of the guard's interfaces with `separator` between them.
    pub fn join_interfaces(&self, separator: &str) -> String {
        self.interfaces.iter().map(String::as_str).collect::<Vec<_>>().join(separator)
    }

    /// Returns how many seconds the kernel keeps a guard that ends; 0 if it has ended, `None` if it stays.
    ///
    /// The kernel measures them by a clock that cannot be set.
    pub fn seconds_of_guard(&self) -> Option<u64> {
        let left = self.end_of_guard?.saturating_duration_since(Instant::now());
        Some(if left.is_zero() { 0 } else { left.as_secs() + GRACE })
    }
}

/// How many seconds a running daemon has to end a guard before the kernel does.
const GRACE: u64 = 2;

/// The packet of a connection that uses an opening up, with nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turnstile {
    /// The SYN.
    AtSyn,
    /// The handshake's ACK. It needs connection labels (NF_CONNTRACK_LABELS), the expression "socket"
    /// (NFT_SOCKET) and payloads after the TCP header (Linux 5.16).
    AtAck,
}

/// One connection to admit: from `source` to `port`, within `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The address to admit.
    pub source: IpAddr,
    /// The TCP port.
    pub port: u16,
    /// How long the opening waits for its connection, in seconds.
    pub seconds: u16,
}

/// An opening that waits in the kernel for its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveOpening {
    /// The admitted address.
    pub source: IpAddr,
    /// The TCP port.
    pub port: u16,
    /// The remaining seconds; `None` if unknown, as with iptables.
    pub left: Option<u64>,
}

/// The result of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The kernel has confirmed it.
    Admitted,
    /// The set of openings is full.
    SetFull,
    /// The set of openings is full of used ones, which kernels without commit c92db3030492 keep counting.
    SetLeaks,
    /// The source is one of this machine's own addresses.
    OwnAddress,
    /// Not admitted: the source is link-local, and may be another host on another link.
    SeveralLinks,
    /// The port has no list, because it is not guarded (iptables only).
    PortNotGuarded,
}

/// A rule that blocks knocks or knocked connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A description of the rule and its place.
    pub what: String,
    /// The command that corrects it, or advice.
    pub fix: String,
}

impl Finding {
    /// Logs it as a warning.
    pub fn log(&self) {
        say::warn(&self.what);
        say::warn(format_args!("to fix it: {}", self.fix));
    }
}

/// The values of the names in a template, such as `<mark>`.
#[derive(Default)]
pub(super) struct Values(Vec<(&'static str, Vec<String>)>);

impl Values {
    /// Adds a name with several values, or none.
    pub(super) fn each(&mut self, name: &'static str, values: Vec<String>) {
        self.0.push((name, values));
    }

    /// Adds a name with one value, which may be empty.
    pub(super) fn one(&mut self, name: &'static str, value: &str) {
        self.each(name, vec![value.to_owned()]);
    }

    /// Adds a name with one value, or with none if it is empty.
    pub(super) fn optional(&mut self, name: &'static str, value: &str) {
        if value.is_empty() { self.each(name, Vec::new()) } else { self.one(name, value) }
    }

    /// Adds `template` with the values in place of the names to `text`. A line whose name has several values is
    /// repeated for each of them; a line whose name has none is left out.
    pub(super) fn fill(&self, template: &str, text: &mut String) {
        template.lines().for_each(|line| self.fill_line(line, text));
    }

    fn fill_line(&self, line: &str, text: &mut String) {
        match self.0.iter().find(|(name, _)| search::contains(line.as_bytes(), name.as_bytes())) {
            Some((name, each)) => {
                each.iter().for_each(|value| self.fill_line(&search::replace(line, name, value), text))
            }
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Rules for every interface, and the kernel's log.
    pub(in crate::firewall) fn everywhere() -> Rules {
        Rules {
            knock_ports: Ports::parse("20022").unwrap(),
            links: Vec::new(),
            guard: Ports::parse("22").unwrap(),
            end_of_guard: None,
            interfaces: Vec::new(),
            mark: 0x0800_0000,
            delay: 15,
            group: None,
            level: "debug",
        }
    }

    /// Rules for two interfaces, two ports and prefixes of each kind, another mark and an NFLOG group.
    pub(in crate::firewall) fn on_two_interfaces() -> Rules {
        Rules {
            knock_ports: Ports::parse("20022,20443").unwrap(),
            links: ["2001:db8:0:ff::/64", "fd00:1:2::/48"].map(|text| Prefix::parse(text).unwrap()).into(),
            guard: Ports::parse("22,443").unwrap(),
            end_of_guard: None,
            interfaces: vec!["eth0".into(), "wan".into()],
            mark: 0x10,
            delay: 30,
            group: Some(7),
            level: "debug",
        }
    }

    /// Rules without guarded ports: a knock opens a port only if rules of other programs accept the mark.
    pub(in crate::firewall) fn unguarded() -> Rules {
        Rules { guard: Ports::default(), level: "info", ..everywhere() }
    }

    /// Compares `commented` with a file of tests/golden/, byte for byte, and `sent` with the same file without its
    /// comments, blank lines and indentation. With `GOLDEN=write` it first writes the file.
    pub(in crate::firewall) fn assert_golden(name: &str, commented: &str, sent: &str) {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        if std::env::var_os("GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(&path, commented).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        let bare: Vec<&str> =
            golden.lines().map(str::trim_ascii).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        assert!(sent.lines().eq(bare), "the sent rules differ from {name}:\n{sent}");
        let differs = golden.lines().zip(commented.lines()).find(|(golden, line)| golden != line);
        assert!(golden == commented, "{name} differs: {differs:#?}; to write it: GOLDEN=write cargo test firewall");
    }
}
