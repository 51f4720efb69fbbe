//! The route, source port and timestamps that the kernel would use for a new TCP connection, found without sending a
//! packet.

use super::rtnetlink::{RouteSocket, RtaMetrics};
use super::sockopt::{get, set};
use super::tcp_timestamp::{Reading, TimestampClock, Unit};
use super::{sysctl, tcp};
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

/// The route of a connection to one destination.
pub struct Route {
    /// The source address; its port is 0.
    pub source: SocketAddr,
    /// The source port that connect() chose, if the kernel could prepare the connection.
    pub port: Option<u16>,
    /// The path MTU, in bytes.
    pub mtu: u32,
    /// The TTL (IPv4) or hop limit (IPv6).
    pub ttl: u8,
    /// Whether an IPv4 packet has the flag DF (don't fragment).
    pub dont_fragment: bool,
    /// The other metrics of the route.
    pub metrics: RtaMetrics,
    /// `net.core.rmem_max`, in bytes: found by experiment, since a container may hide the setting.
    pub largest_buffer: u32,
    /// The prepared connection, which reserves the port, and a first reading of its timestamps.
    prepared: Option<(TcpStream, Option<Reading>)>,
}

/// The MTU of Ethernet, for kernels and emulators (qemu-user) that do not report one.
const USUAL_MTU: libc::c_int = 1500;
/// The default TTL of Linux, for the same case.
const USUAL_TTL: libc::c_int = 64;

impl Route {
    /// Looks up the route to `destination`, from the address of `source` if given.
    pub fn to(destination: SocketAddr, source: Option<SocketAddr>) -> io::Result<Box<Self>> {
        let source = source.map(without_port);
        if let Some(prepared) = prepare(destination, source) {
            let local = prepared.local_addr()?;
            let mut route = Self::of(prepared.as_fd(), local, destination);
            let unit = if route.metrics.counts_microseconds() { Unit::Microseconds } else { Unit::Milliseconds };
            let reading = Reading::take(&prepared, unit).ok();
            (route.port, route.prepared) = (Some(local.port()), Some((prepared, reading)));
            return Ok(route);
        }
        // Connecting a UDP socket sends nothing either.
        let socket = tcp::socket(libc::SOCK_DGRAM, destination, source)?;
        tcp::begin(&socket, destination)?;
        let socket = UdpSocket::from(socket);
        Ok(Self::of(socket.as_fd(), socket.local_addr()?, destination))
    }

    /// Collects the route's properties from a connected socket.
    fn of(socket: BorrowedFd<'_>, source: SocketAddr, destination: SocketAddr) -> Box<Self> {
        let bound = get(&socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX).unwrap_or(0);
        let metrics = metrics(source, destination, bound).unwrap_or_default();
        let (mtu, ttl) = match destination {
            SocketAddr::V4(_) => {
                (get(&socket, libc::IPPROTO_IP, libc::IP_MTU), get(&socket, libc::IPPROTO_IP, libc::IP_TTL))
            }
            SocketAddr::V6(_) => {
                let hops = get(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS);
                (get(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU), hops)
            }
        };
        let ttl = if metrics.hop_limit == 0 { ttl.unwrap_or(USUAL_TTL) } else { metrics.hop_limit as libc::c_int };
        let discovery = get(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap_or(libc::IP_PMTUDISC_WANT);
        let locked = metrics.locks_mtu();
        // The kernel limits the value to rmem_max, and doubles it (socket(7)).
        let _ = set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, libc::c_int::MAX);
        let buffer = get(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
        Box::new(Self {
            source: without_port(source),
            port: None,
            mtu: mtu.unwrap_or(USUAL_MTU).unsigned_abs(),
            ttl: u8::try_from(ttl).unwrap_or(u8::MAX),
            dont_fragment: discovery == libc::IP_PMTUDISC_DO || discovery == libc::IP_PMTUDISC_WANT && !locked,
            metrics,
            largest_buffer: buffer.unsigned_abs() / 2,
            prepared: None,
        })
    }

    /// Returns the clock of the connection's timestamps; `None` if the kernel could not prepare the connection. Takes
    /// up to 1 ms.
    pub fn timestamp_clock(&self) -> Option<TimestampClock> {
        let (socket, reading) = self.prepared.as_ref()?;
        (*reading)?.clock(socket).ok()
    }
}

/// Prepares a TCP connection up to its SYN, which TCP Fast Open (RFC 7413) defers until the first write. `None` if the
/// kernel would not defer the SYN, or has no route.
fn prepare(destination: SocketAddr, source: Option<SocketAddr>) -> Option<TcpStream> {
    if may_be_disabled() {
        return None;
    }
    let socket = tcp::socket(libc::SOCK_STREAM, destination, source).ok()?;
    // Without this option the kernel would first send a SYN to request a cookie from the server.
    set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, 1).ok()?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1).ok()?;
    tcp::begin(&socket, destination).ok()?;
    Some(socket.into())
}

/// Whether the kernel may have disabled TCP Fast Open for some time because of a broken middlebox. connect() would then
/// send a SYN. The kernel does this only if the blackhole timeout is not 0, and counts each time
/// (`tcp_fastopen_active_should_disable` in net/ipv4/tcp_fastopen.c).
fn may_be_disabled() -> bool {
    sysctl::number("net/ipv4/tcp_fastopen_blackhole_timeout_sec") != Some(0)
        && sysctl::netstat("TCPFastOpenBlackhole") != Some(0)
}

/// Looks up the metrics of the route from `source` to `destination`; `None` if that fails. `bound` is the interface to
/// which `ip vrf exec`, or another program of the control group, has bound the process's sockets, or 0.
fn metrics(source: SocketAddr, destination: SocketAddr, bound: libc::c_int) -> Option<RtaMetrics> {
    let interface = match destination {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => v6.scope_id(),
        _ => bound.unsigned_abs(),
    };
    let interface = Some(interface).filter(|&index| index != 0);
    // If the source of an IPv6 route is given, the kernel takes the interface for a mere preference.
    let source = Some(source.ip()).filter(|source| source.is_ipv4() || bound == 0);
    Some(RouteSocket::open().ok()?.get(destination.ip(), source, interface).ok()??.metrics)
}

fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_to_loopback_is_found() {
        let route = Route::to(SocketAddr::from(([127, 0, 0, 1], 22)), None).unwrap();
        assert_eq!(route.source, SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(route.mtu >= 1280 && route.ttl > 0 && route.dont_fragment);
        let wanted = SocketAddr::from(([127, 0, 0, 9], 7));
        assert_eq!(Route::to(SocketAddr::from(([127, 0, 0, 1], 22)), Some(wanted)).unwrap().source.ip(), wanted.ip());
    }
}
