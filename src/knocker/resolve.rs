//! Resolves host names.

use crate::error::{Error, Result};
use crate::sys::resolver;
use std::io;
use std::net::SocketAddr;

/// The address families to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Both.
    Any,
    /// IPv4 addresses.
    V4,
    /// IPv6 addresses.
    V6,
}

impl Family {
    /// Returns whether `address` belongs to this family.
    pub fn has(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Returns the addresses of `host` in `family`, with `port`; at least one.
pub fn resolve(host: &str, port: u16, family: Family) -> Result<Vec<SocketAddr>> {
    let mut addresses =
        addresses(host, port).map_err(|cause| Error::system(format!("find the address of {host:?}"), cause))?;
    addresses.retain(|address| family.has(address));
    if addresses.is_empty() {
        let kind = if family == Family::V4 { "IPv4" } else { "IPv6" };
        return Err(Error::refused(format!("{host:?} has no {kind} address")).advise("leave out -4 or -6"));
    }
    Ok(addresses)
}

/// Moves the IPv4 addresses to the front, in their order, for the daemon of knockknock 0.8, which reads IPv4 only.
pub fn ipv4_first(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (mut sorted, ipv6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
    sorted.extend(ipv6);
    sorted
}

/// Returns all addresses of `host` from the system's resolver.
///
/// It tries the name as given and then in lower case, because musl compares names in /etc/hosts case-sensitively.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lower = host.to_ascii_lowercase();
    resolver::addresses(host, port).or_else(|failure| match lower == host {
        true => Err(failure),
        false => resolver::addresses(&lower, port).map_err(|_| failure),
    })
}
