//! Whether an address belongs to this machine or to no host at all, as the kernel's routing has it.

use crate::error::{Error, Result};
use crate::sys::privilege;
use crate::sys::rtnetlink::Routing;
use std::io;
use std::net::IpAddr;

/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST` (linux/rtnetlink.h): no other host.
const NO_OTHER_HOST: std::ops::RangeInclusive<u8> = 2..=5;

/// Answers without any privilege, and can do nothing else: its socket was opened without any.
pub struct LocalAddresses {
    routing: Routing,
}

impl LocalAddresses {
    /// Opens a socket to the kernel's routing.
    pub fn new() -> Result<Self> {
        let routing = privilege::without_capabilities(Routing::open).and_then(|opened| opened);
        Ok(Self { routing: routing.map_err(|cause| Error::system("open a netlink socket", cause))? })
    }

    /// Whether the kernel would take packets for `address` itself, or send them to no single host.
    pub fn is_local(&self, address: IpAddr) -> io::Result<bool> {
        let route = self.routing.get(address, None, None)?;
        // Without a route the address is foreign: the answer may leave by a rule that looks at a mark.
        Ok(route.is_some_and(|route| NO_OTHER_HOST.contains(&route.kind)))
    }

    /// Whether `address` may be another host on each of several links. Neither backend's openings know links.
    pub fn is_ambiguous(&self, address: IpAddr) -> io::Result<bool> {
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        Ok(link_local && self.routing.links()?.iter().filter(|link| link.receives).count() > 1)
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
