//! What the kernel's routing says of a way, without a packet sent.

use super::check;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// The way to a destination.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The address that packets leave from.
    pub source: SocketAddr,
    /// The largest packet that the way takes, in bytes.
    pub mtu: u16,
    /// The time to live, or hop limit, that the kernel gives its packets.
    pub ttl: u8,
}

impl Route {
    /// Asks for the way to `destination`, from `source` where one is wanted: a datagram socket is
    /// connected, which sends nothing.
    pub fn to(destination: SocketAddr, source: Option<SocketAddr>) -> io::Result<Self> {
        let any = match destination {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(source.map_or(any, |mut source| {
            source.set_port(0);
            source
        }))?;
        socket.connect(destination)?;
        // Emulators of other processors do not know IP_MTU: Ethernet's, then.
        let (mtu, ttl) = match destination {
            SocketAddr::V4(_) => (
                option(&socket, libc::IPPROTO_IP, libc::IP_MTU).unwrap_or(1500),
                option(&socket, libc::IPPROTO_IP, libc::IP_TTL)?,
            ),
            SocketAddr::V6(_) => (
                option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU)?,
                option(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)?,
            ),
        };
        Ok(Self {
            source: socket.local_addr()?,
            // Loopback's 65536 does not fit into a packet's length either.
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            ttl: u8::try_from(ttl).unwrap_or(64),
        })
    }
}

fn option(socket: &UdpSocket, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: value and size are valid for writes, and size is value's size.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself() {
        let route = Route::to(SocketAddr::from(([127, 0, 0, 1], 22)), None).unwrap();
        assert_eq!(route.source.ip(), Ipv4Addr::LOCALHOST);
        assert!(route.mtu >= 1280 && route.ttl > 0);
    }
}
