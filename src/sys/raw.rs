//! Raw sockets (raw(7)): sending a packet whose headers are ours.

use super::{check, check_length};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket for IPv4 and one for IPv6, where the machine has them. They receive nothing.
pub struct RawSockets {
    v4: io::Result<OwnedFd>,
    v6: io::Result<OwnedFd>,
}

impl RawSockets {
    /// Opens both. Needs CAP_NET_RAW; the error is IPv4's where neither can be had.
    pub fn open() -> io::Result<Self> {
        let (v4, v6) = (open(libc::AF_INET), open(libc::AF_INET6));
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self { v4, v6 }),
        }
    }

    /// Sends `packet`, IP header and all, towards `destination`.
    pub fn send(&self, packet: &[u8], destination: SocketAddr) -> io::Result<()> {
        let socket = match destination {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        };
        let socket = socket.as_ref().map_err(|error| io::Error::from(error.kind()))?;
        let flags = libc::MSG_NOSIGNAL;
        let (data, length) = (packet.as_ptr().cast(), packet.len());
        let sent = match destination {
            SocketAddr::V4(v4) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: 0,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                let size = size_of_val(&address) as libc::socklen_t;
                // SAFETY: packet and address are valid for reads of the lengths given.
                unsafe { libc::sendto(socket.as_raw_fd(), data, length, flags, (&raw const address).cast(), size) }
            }
            SocketAddr::V6(v6) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                let size = size_of_val(&address) as libc::socklen_t;
                // SAFETY: packet and address are valid for reads of the lengths given.
                unsafe { libc::sendto(socket.as_raw_fd(), data, length, flags, (&raw const address).cast(), size) }
            }
        };
        check_length(sent).map(drop)
    }
}

fn open(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) })?;
    // SAFETY: `fd` was just opened and is owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
