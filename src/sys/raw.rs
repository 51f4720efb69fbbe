//! Raw sockets (raw(7)), to send packets whose IP and TCP headers we write.

use super::sockaddr::Address;
use super::{check, check_length};
use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::fchown;

/// linux/in.h.
const IP_PROTOCOL: libc::c_int = 52;

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
        let none = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        let (v4, v6) = match source {
            IpAddr::V4(v4) => (v4, none.1),
            // A link-local source would need its interface, which is not known here. `::` leaves the choice to the
            // kernel.
            IpAddr::V6(v6) if v6.is_unicast_link_local() => none,
            IpAddr::V6(v6) => (none.0, v6),
        };
        let address = |octets| libc::in_addr { s_addr: u32::from_ne_bytes(octets) };
        let v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address(v4.octets()), ipi_addr: address([0; 4]) };
        let v6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: v6.octets() }, ipi6_ifindex: 0 };
        send(
            socket,
            packet,
            destination,
            &mut Controls {
                v4: Control::new(libc::IPPROTO_IP, libc::IP_PKTINFO, v4),
                v6: Control::new(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, v6),
                protocol: Control::new(libc::IPPROTO_IP, IP_PROTOCOL, libc::IPPROTO_TCP),
            },
        )
    }
}

/// A control message (cmsg(3)), laid out as in C: the content directly follows the header, and the next message begins at
/// a multiple of the size of a `long`. The headers of musl are less aligned.
#[repr(C, align(8))]
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

/// The control messages of a packet. A socket ignores that of the other family.
#[repr(C)]
struct Controls {
    v4: Control<libc::in_pktinfo>,
    v6: Control<libc::in6_pktinfo>,
    /// TCP, for the rules and IPsec policies that select routes by protocol. Kernels before Linux 6.4 take raw packets
    /// for another protocol, and refuse this message.
    protocol: Control<libc::c_int>,
}

/// The messages are where the kernel looks for them (CMSG_NXTHDR), with the headers of each C library.
const _: () = {
    const fn space<T>() -> usize {
        (size_of::<libc::cmsghdr>() + size_of::<T>()).next_multiple_of(size_of::<libc::c_long>())
    }
    assert!(offset_of!(Controls, v6) == space::<libc::in_pktinfo>());
    assert!(offset_of!(Controls, protocol) == offset_of!(Controls, v6) + space::<libc::in6_pktinfo>());
};

fn send(socket: BorrowedFd<'_>, packet: &[u8], to: SocketAddr, controls: &mut Controls) -> io::Result<()> {
    // A raw IPv6 socket takes the port for the protocol (ipv6(7)); one for IPv4 ignores it.
    let sent = send_as(libc::IPPROTO_TCP as u16, socket, packet, to, controls, size_of::<Controls>());
    match sent {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            send_as(0, socket, packet, to, controls, offset_of!(Controls, protocol))
        }
        sent => sent,
    }
}

/// Sends with the first `length` bytes of `controls`.
fn send_as(
    protocol: u16,
    socket: BorrowedFd<'_>,
    packet: &[u8],
    mut to: SocketAddr,
    controls: &mut Controls,
    length: usize,
) -> io::Result<()> {
    to.set_port(protocol);
    let address = Address::from(to);
    let (name, size) = address.parts();
    let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    // SAFETY: all-zero bytes are a valid message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.cast_mut().cast();
    message.msg_namelen = size;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut *controls).cast();
    message.msg_controllen = length as _;
    // SAFETY: everything that the message points to lives until the end of this function and has at least the sizes given.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    check_length(sent).map(drop)
}

fn open(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes three numbers and returns a new descriptor.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) })?;
    // SAFETY: `fd` was just opened and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
