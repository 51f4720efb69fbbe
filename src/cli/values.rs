//! Reads the values of options and operands. Each error names the value.

use crate::error::{Error, Result, not_a_port, not_a_prefix, quoted};
use crate::knocker::Family;
use crate::ports::{self, Ports};
use crate::prefix::Prefix;
use crate::wire::Wire;
use std::net::IpAddr;
use std::time::Duration;

/// Reads a port.
pub(super) fn port(typed: &str) -> std::result::Result<u16, String> {
    ports::port(typed).ok_or_else(|| not_a_port(typed))
}

/// Reads a list of ports, which has at least one.
pub(super) fn port_list(typed: &str) -> std::result::Result<Ports, String> {
    let ports = Ports::parse(typed).map_err(not_a_port)?;
    if ports.is_empty() { Err(format!("{} lists no port", quoted(typed))) } else { Ok(ports) }
}

/// Reads a duration such as `90s`, `10m` or `1h`.
pub(super) fn duration(typed: &str) -> Result<Duration> {
    let unit = [("s", 1), ("m", 60), ("h", 3600)].into_iter();
    let read = |(unit, seconds): (&str, u64)| Some(typed.strip_suffix(unit)?.parse::<u32>().ok()? as u64 * seconds);
    let seconds = unit.filter_map(read).next().filter(|seconds| (1..=86_400).contains(seconds));
    let wrong = || Error::usage(format!("option --trial: {} is not a time up to 24h, such as 10m", quoted(typed)));
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// Reads how many links to print.
pub(super) fn link_count(typed: &str) -> Result<u16> {
    let wrong = || Error::usage(format!("option -n: {} is not a number from 1 to 1000", quoted(typed)));
    typed.parse().ok().filter(|number| (1..=1000).contains(number)).ok_or_else(wrong)
}

/// Reads a prefix of links.
pub(super) fn prefix(typed: &str) -> Result<Prefix> {
    Prefix::parse(typed).ok_or_else(|| Error::usage(not_a_prefix(typed)))
}

/// Reads an IP address.
pub(super) fn address(typed: &str) -> std::result::Result<IpAddr, String> {
    typed.parse().map_err(|_| format!("{} is not an IP address", quoted(typed)))
}

/// Reads the name of a wire.
pub(super) fn wire(typed: &str) -> std::result::Result<Wire, String> {
    Wire::named(typed).ok_or_else(|| format!("{} is not a wire: use classic or stealth", quoted(typed)))
}

/// Returns the address families that -4 and -6 allow.
pub(super) fn family(v4: bool, v6: bool) -> Result<Family> {
    match (v4, v6) {
        (false, false) => Ok(Family::Any),
        (true, false) => Ok(Family::V4),
        (false, true) => Ok(Family::V6),
        (true, true) => Err(Error::usage("-4 and -6 exclude each other")),
    }
}
