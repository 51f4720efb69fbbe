//! Asks the kernel's routing whether an address belongs to this machine or to no single host.

use super::rtnetlink::RouteSocket;
use super::{file, privilege};
use crate::error::{Error, Result};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST` (linux/rtnetlink.h): no other host.
const NO_OTHER_HOST: std::ops::RangeInclusive<u8> = 2..=5;

/// Returns the IPv6 addresses of this machine's interfaces.
pub fn ipv6() -> Vec<Ipv6Addr> {
    let mut addresses = Vec::new();
    for line in file::kernel_text("/proc/net/if_inet6").lines() {
        let digits = line.bytes().map_while(|byte| char::from(byte).to_digit(16));
        addresses.push(Ipv6Addr::from_bits(digits.fold(0, |bits, digit| bits << 4 | u128::from(digit))));
    }
    addresses
}

/// Queries the routing table. The socket is opened without capabilities, so it can change nothing.
pub struct LocalAddresses {
    route_socket: RouteSocket,
}

impl LocalAddresses {
    /// Opens a routing socket.
    pub fn new() -> Result<Self> {
        let route_socket = privilege::without_capabilities(RouteSocket::open).and_then(|opened| opened);
        Ok(Self { route_socket: route_socket.map_err(|cause| Error::system("open a netlink socket", cause))? })
    }

    /// Returns whether the kernel would deliver packets for `address` locally, or to more than one host.
    pub fn is_local(&self, address: IpAddr) -> io::Result<bool> {
        let route = self.route_socket.get(address, None, None)?;
        // No route means another host: a rule that matches a mark may route the answer.
        Ok(route.is_some_and(|route| NO_OTHER_HOST.contains(&route.kind)))
    }

    /// Returns whether `address` may be a different host on each of several links. Openings of neither backend contain
    /// a link.
    pub fn is_ambiguous(&self, address: IpAddr) -> io::Result<bool> {
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Ok(link_local && self.route_socket.links()?.iter().filter(|link| link.receives).count() > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_local() {
        let local_addresses = LocalAddresses::new().unwrap();
        assert!(local_addresses.is_local("127.0.0.1".parse().unwrap()).unwrap());
        assert!(!local_addresses.is_local("192.0.2.1".parse().unwrap()).unwrap());
    }
}
