//! The firewall, the only part that the privileged processes act on. It never sees a key.
//!
//! It has two parts. The supervisor *makes* the rules: a guard that drops, a log rule for knocks, and empty sets. The
//! opener *admits*: it adds one element to a kernel set. The kernel removes the element when a connection has used it
//! or its time is up.

mod foreign_rules;
mod installed;
mod interfaces;
mod iptables;
mod nft;
mod rules;
mod watch;

pub use installed::InstalledRules;
pub use interfaces::{is_called, vrf_warnings, with_further_names};
pub use rules::{Admission, Finding, LiveOpening, Opening, Rules, Turnstile};
pub use watch::RuleWatch;

use crate::config;
use crate::error::{Error, Result, reason};
use crate::ports::Ports;
use crate::sys::local_addresses::LocalAddresses;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The firewall that holds our rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nftables.
    Nft(Turnstile),
    /// iptables and ip6tables.
    Iptables,
}

impl Backend {
    /// Returns the name used in the config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nft(_) => "nft",
            Self::Iptables => "iptables",
        }
    }

    /// Returns the backend with that name. Openings do not depend on the turnstile.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Nft(Turnstile::AtSyn), Self::Iptables].into_iter().find(|backend| backend.name() == name)
    }

    /// Chooses the backend for `rules`: the configured one, or with `auto` the first that works here.
    pub fn choose(wanted: config::Firewall, rules: &Rules) -> Result<Self> {
        let mut why = "no usable firewall".to_owned();
        if wanted != config::Firewall::Iptables {
            match nft::works(rules) {
                Ok(turnstile) => return Ok(Self::Nft(turnstile)),
                Err(cause) => why += &format!(": nft: {}", reason(&cause)),
            }
        }
        if wanted != config::Firewall::Nft {
            match iptables::works() {
                Ok(()) => return Ok(Self::Iptables),
                Err(cause) => {
                    let and = if wanted == config::Firewall::Auto { ';' } else { ':' };
                    why += &format!("{and} iptables: {}", reason(&cause));
                }
            }
        }
        Err(Error::refused(why)
            .advise("install nftables (or iptables) with the kernel's modules for it, and run as root"))
    }

    /// Describes which packet of a connection uses the opening up.
    pub fn turnstile(self) -> &'static str {
        match self {
            Self::Nft(Turnstile::AtAck) => "the handshake's ACK uses an opening",
            Self::Nft(Turnstile::AtSyn) => {
                "the SYN uses an opening (nft or the kernel is too old for the handshake's ACK)"
            }
            Self::Iptables => "the SYN uses an opening (with nftables it can be the handshake's ACK)",
        }
    }

    /// Returns how other programs' rules affect knocks, and knocked connections to `ports`, judged by their text.
    pub fn foreign_findings(self, rules: &Rules, ports: &Ports) -> Vec<Finding> {
        let listings = foreign_rules::Listings { nft: nft::list_all(), iptables: iptables::list_all() };
        let in_iptables = self == Self::Iptables;
        let priority = if in_iptables { iptables::PRIORITY } else { nft::PRIORITY };
        let own = foreign_rules::Own { table: nft::TABLE, chains: iptables::CHAINS, priority, in_iptables };
        foreign_rules::findings(&listings, &own, rules, ports)
    }

    /// Returns whether rules like ours exist, made by another process: as many of them, for the same ports.
    pub fn has_rules(self, rules: &Rules) -> bool {
        match self {
            Self::Nft(turnstile) => nft::has_rules(rules, turnstile),
            Self::Iptables => iptables::has_rules(rules),
        }
    }

    /// Returns how many packets the log rule and the guard have matched since they were made.
    pub fn packet_counts(self) -> io::Result<[u64; 2]> {
        match self {
            Self::Nft(_) => nft::packet_counts(),
            Self::Iptables => iptables::packet_counts(),
        }
    }

    /// Returns whether every port can be opened. With iptables only guarded ports have a list.
    pub fn can_open_any(self) -> bool {
        self != Self::Iptables
    }

    /// Returns whether `port` can be opened.
    pub fn can_open(self, rules: &Rules, port: u16) -> bool {
        self.can_open_any() || rules.guard.contains(port)
    }

    /// Describes what a profile opens that lists `ports`, or none.
    pub fn opens(self, rules: &Rules, ports: Option<&Ports>) -> String {
        match ports {
            Some(ports) => ports.describe(),
            None if self.can_open_any() => "any port".to_owned(),
            None => rules.guard.describe(),
        }
    }
}

/// Returns the name of the firewall that holds our rules, and the openings in it; `None` if there are no rules.
pub fn live_openings(guard: &Ports) -> Option<(&'static str, Vec<LiveOpening>)> {
    if let Ok(openings) = nft::live_openings() {
        return Some(("nft", openings));
    }
    iptables::exist().then(|| ("iptables", iptables::live_openings(guard)))
}

/// Removes our rules from both backends.
pub fn unguard() -> Result<()> {
    let (nft, iptables) = (nft::remove(), iptables::remove());
    nft.and(iptables).map_err(|cause| Error::system("remove the rules", cause))
}

/// The opener's part. It opens the sockets and files that it needs while the process is root.
pub struct Admitter {
    writer: BackendWriter,
    local_addresses: LocalAddresses,
}

enum BackendWriter {
    Nft(nft::SetWriter),
    Iptables(iptables::ListWriter),
}

impl Admitter {
    /// Opens the sockets or files that admitting needs. The rules must exist; `owner` is the socket that owns them.
    pub fn new(backend: Backend, guard: &Ports, owner: Option<OwnedFd>) -> Result<Self> {
        let writer = match backend {
            Backend::Nft(_) => BackendWriter::Nft(nft::SetWriter::new(owner)?),
            Backend::Iptables => BackendWriter::Iptables(iptables::ListWriter::new(guard)?),
        };
        Ok(Self { writer, local_addresses: LocalAddresses::new()? })
    }

    /// Admits one connection. An error means that our rules can no longer be relied on.
    pub fn admit(&mut self, opening: &Opening) -> io::Result<Admission> {
        if self.local_addresses.is_local(opening.source)? {
            return Ok(Admission::OwnAddress);
        }
        if self.local_addresses.is_ambiguous(opening.source)? {
            return Ok(Admission::SeveralLinks);
        }
        match &mut self.writer {
            BackendWriter::Nft(sets) => sets.admit(opening),
            BackendWriter::Iptables(lists) => lists.admit(opening),
        }
    }

    /// Returns the age at which to check whether an opening was used. With nftables that is shortly before it expires,
    /// because the kernel then forgets it.
    pub fn time_to_check(&self, opening: &Opening) -> Duration {
        let time = Duration::from_secs(opening.seconds.into());
        match &self.writer {
            BackendWriter::Nft(_) => time - Duration::from_millis(100),
            BackendWriter::Iptables(_) => time + Duration::from_secs(1),
        }
    }

    /// Removes an opening. Returns whether it still existed, so that no connection has used it.
    pub fn withdraw(&self, opening: &Opening) -> io::Result<bool> {
        match &self.writer {
            BackendWriter::Nft(sets) => sets.withdraw(opening),
            BackendWriter::Iptables(lists) => lists.is_listed(opening),
        }
    }
}
