//! Chooses the config of a new profile: its knock port, the ports that it may open, and its wire.

use super::config::MAX_STEALTH_PORTS;
use super::{ProfileConfig, list};
use crate::config;
use crate::error::{Error, Result};
use crate::ports::Ports;
use crate::prefix::Prefix;
use crate::sys::{listeners, local_addresses, random};
use crate::wire::Wire;
use std::path::Path;

/// The properties of a new profile; `None` selects a default.
#[derive(Default)]
pub struct Wanted {
    /// The knock port; by default that of the other stealth profiles, or a free port.
    pub knock_port: Option<u16>,
    /// The ports that it may open; by default the guarded ports of the config.
    pub ports: Option<Ports>,
    /// The prefix of its links, if it is for links instead of knocks.
    pub links: Option<Prefix>,
    /// The format of its knocks; by default stealth, or classic if its ports are unknown or too many.
    pub wire: Option<Wire>,
}

/// Chooses the config of a new profile in `directory`. Refuses an unsuitable knock port.
pub fn choose(directory: &Path, wanted: Wanted) -> Result<ProfileConfig> {
    let allowed = wanted.ports;
    let guard = config::guard(directory)?;
    if let Some(prefix) = wanted.links {
        if wanted.knock_port.or(wanted.wire.map(|_| 0)).is_some() {
            return Err(Error::usage("--links excludes a knock port and --wire"));
        }
        return links(prefix, allowed.or(guard));
    }
    let taken = |port: u16| {
        let is_in = |ports: &Option<Ports>| ports.as_ref().is_some_and(|ports| ports.contains(port));
        if is_in(&guard) {
            Some("it is guarded")
        } else if is_in(&allowed) {
            Some("it is one of the ports to open")
        } else if listeners::listens(port) {
            Some("a program listens there")
        } else {
            None
        }
    };
    let knock_port = match wanted.knock_port {
        Some(knock_port) => knock_port,
        None => shared_port(&directory.join("profiles"))?.map_or_else(|| free_port(&taken), Ok)?,
    };
    if let Some(why) = taken(knock_port) {
        let error = Error::refused(format!("port {knock_port} cannot be a knock port: {why}"));
        return Err(error.advise("choose a port on which nothing listens"));
    }
    let ports = allowed.or(guard);
    let fits_stealth = ports.as_ref().is_some_and(|ports| (1..=MAX_STEALTH_PORTS).contains(&ports.as_slice().len()));
    let wire = wanted.wire.unwrap_or(if fits_stealth { Wire::Stealth } else { Wire::Classic });
    if wire == Wire::Stealth && !fits_stealth {
        let why = format!("a stealth profile must list the ports that it opens, at most {MAX_STEALTH_PORTS}");
        return Err(Error::refused(why).advise("name them with --ports, such as --ports 22, or use --wire classic"));
    }
    Ok(ProfileConfig { knock_port, ports, wire, legacy: false })
}

/// Chooses the config of a new profile for links.
fn links(prefix: Prefix, ports: Option<Ports>) -> Result<ProfileConfig> {
    if let Some(own) = local_addresses::ipv6().into_iter().find(|&address| prefix.contains(address)) {
        return Err(Error::refused(format!("{prefix} cannot be for links: {own} is an address of this machine"))
            .advise("choose a prefix that is routed to this machine and has no hosts"));
    }
    if !ports.as_ref().is_some_and(|ports| (1..=MAX_STEALTH_PORTS).contains(&ports.as_slice().len())) {
        let why = format!("a profile for links must list the ports that it opens, at most {MAX_STEALTH_PORTS}");
        return Err(Error::refused(why).advise("name them with --ports, such as --ports 22"));
    }
    Ok(ProfileConfig { knock_port: 0, ports, wire: Wire::Link(prefix), legacy: false })
}

/// Returns the knock port of the existing stealth profiles.
fn shared_port(profiles: &Path) -> Result<Option<u16>> {
    let found = if profiles.exists() { list(profiles)?.profiles } else { Vec::new() };
    let configs = found.iter().filter_map(|found| ProfileConfig::load(&found.path).ok());
    Ok(configs.filter(|config| config.wire == Wire::Stealth).map(|config| config.knock_port).next())
}

/// Returns a random port above 1024 that is not `taken`.
fn free_port(taken: &dyn Fn(u16) -> Option<&'static str>) -> Result<u16> {
    loop {
        let mut bytes = [0; 2];
        random::fill(&mut bytes)?;
        let port = u16::from_be_bytes(bytes);
        if port > 1024 && taken(port).is_none() {
            return Ok(port);
        }
    }
}
