//! Whether an address is one of this machine's own, or no host's at all: the kernel's routing knows.

use crate::error::{Error, Result};
use crate::sys::netlink::{self, Socket, Writer};
use std::io;
use std::net::IpAddr;

/// `RTA_DST` (linux/rtnetlink.h).
const DESTINATION: u16 = 1;
/// Where `struct rtmsg` has the type of a route.
const TYPE: usize = 7;
/// `RTN_LOCAL`, `RTN_BROADCAST`, `RTN_ANYCAST`, `RTN_MULTICAST`: all that is not another host.
const NO_OTHER_HOST: std::ops::RangeInclusive<u8> = 2..=5;

/// A netlink socket to the kernel's routing.
pub struct LocalAddresses {
    socket: Socket,
}

impl LocalAddresses {
    /// Opens the socket.
    pub fn new() -> Result<Self> {
        let socket = Socket::open(libc::NETLINK_ROUTE);
        Ok(Self { socket: socket.map_err(|cause| Error::system("open a netlink socket", cause))? })
    }

    /// Whether the kernel would take packets for `address` itself, or send them to nobody.
    pub fn is_local(&self, address: IpAddr) -> io::Result<bool> {
        let (family, octets, bits) = match address {
            IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec(), 32),
            IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec(), 128),
        };
        let header = [family as u8, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut writer = Writer::default();
        writer.message(libc::RTM_GETROUTE, libc::NLM_F_REQUEST as u16, 1, &header, |body| {
            body.attribute(DESTINATION, &octets);
        });
        self.socket.send(writer.bytes())?;
        let mut buffer = [0; 4096];
        let answer = netlink::messages(self.socket.receive(&mut buffer)?).next();
        // No way to it is no reason: the answer may leave by a rule that depends on a mark.
        let route = answer.filter(|message| message.kind == libc::RTM_NEWROUTE);
        Ok(route.is_some_and(|route| route.body.get(TYPE).is_some_and(|kind| NO_OTHER_HOST.contains(kind))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_ours() {
        let local_addresses = LocalAddresses::new().unwrap();
        assert!(local_addresses.is_local("127.0.0.1".parse().unwrap()).unwrap());
        assert!(!local_addresses.is_local("192.0.2.1".parse().unwrap()).unwrap());
    }
}
