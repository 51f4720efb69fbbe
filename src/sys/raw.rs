//! Raw sockets (raw(7)), to send packets whose IP and TCP headers we write.

use super::sockaddr::Address;
use super::{check, check_length};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::fchown;

/// A send-only raw socket for IPv4 and one for IPv6; the machine may lack one of the families.
pub struct RawSockets {
    v4: io::Result<OwnedFd>,
    v6: io::Result<OwnedFd>,
}

impl RawSockets {
    /// Opens both sockets. Needs CAP_NET_RAW. Fails only if neither opens, with the error of IPv4.
    pub fn open() -> io::Result<Self> {
        let (v4, v6) = (open(libc::AF_INET), open(libc::AF_INET6));
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self { v4, v6 }),
        }
    }

    /// Changes the owner of both sockets to `uid`, so that the routing rules for that user (`ip rule uidrange`) apply
    /// to their packets. Needs CAP_CHOWN if `uid` is another user.
    pub fn change_owner(&self, uid: u32) -> io::Result<()> {
        [&self.v4, &self.v6].into_iter().flatten().try_for_each(|socket| fchown(socket, Some(uid), None))
    }

    /// Sends `packet`, which includes the IP header, to `destination`, by the route for packets from `source`.
    pub fn send(&self, packet: &[u8], source: IpAddr, destination: SocketAddr) -> io::Result<()> {
        let socket = match destination {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        };
        let socket = match socket {
            Ok(socket) => socket.as_fd(),
            Err(error) => return Err(error.raw_os_error().map_or(error.kind().into(), io::Error::from_raw_os_error)),
        };
        match source {
            IpAddr::V4(source) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
                let from =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } };
                send(socket, packet, destination, Control::new(libc::IPPROTO_IP, libc::IP_PKTINFO, from))
            }
            IpAddr::V6(source) => {
                // A link-local source would need its interface, which is not known here. `::` leaves the choice to the
                // kernel.
                let own = if source.is_unicast_link_local() { Ipv6Addr::UNSPECIFIED } else { source };
                let from = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: own.octets() }, ipi6_ifindex: 0 };
                send(socket, packet, destination, Control::new(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, from))
            }
        }
    }
}

/// A control message (cmsg(3)), laid out as in C: the content directly follows the header.
#[repr(C)]
struct Control<T> {
    header: libc::cmsghdr,
    content: T,
}

impl<T> Control<T> {
    fn new(level: libc::c_int, kind: libc::c_int, content: T) -> Self {
        // SAFETY: all-zero bytes are a valid header.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<T>()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        Self { header, content }
    }
}

fn send<T>(socket: BorrowedFd<'_>, packet: &[u8], mut to: SocketAddr, mut control: Control<T>) -> io::Result<()> {
    // A raw IPv6 socket would take the port for a protocol number (ipv6(7)).
    to.set_port(0);
    let address = Address::from(to);
    let (name, size) = address.parts();
    let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    // SAFETY: all-zero bytes are a valid message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.cast_mut().cast();
    message.msg_namelen = size;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: everything that the message points to lives until the end of this function and has the sizes given.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    check_length(sent).map(drop)
}

fn open(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) })?;
    // SAFETY: `fd` was just opened and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
