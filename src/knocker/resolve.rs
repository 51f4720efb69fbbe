//! Resolves host names.

use crate::error::{Error, Result, quoted};
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
        addresses(host, port).map_err(|cause| Error::system(format!("find the address of {}", quoted(host)), cause))?;
    addresses.retain(|address| family.has(address));
    if addresses.is_empty() {
        let kind = if family == Family::V4 { "IPv4" } else { "IPv6" };
        return Err(Error::refused(format!("{} has no {kind} address", quoted(host))).advise("leave out -4 or -6"));
    }
    Ok(addresses)
}

/// Returns an address as text, such as `192.0.2.7:22` or `[fe80::1%2]:22`.
pub fn describe(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    match address {
        SocketAddr::V4(_) => format!("{ip}:{port}"),
        SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("[{ip}%{}]:{port}", v6.scope_id()),
        SocketAddr::V6(_) => format!("[{ip}]:{port}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_described_as_it_is_written() {
        for text in ["192.0.2.7:22", "[2001:db8::7]:443", "[fe80::1%2]:22"] {
            assert_eq!(describe(text.parse().unwrap()), text);
        }
    }
}
