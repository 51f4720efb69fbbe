//! What the kernel would do with a new TCP connection, without a packet sent.

use super::rtnetlink::{Routing, RtaMetrics};
use super::sockopt::{get, set};
use super::tcp_timestamp::{Reading, TimestampClock, Unit};
use super::{sysctl, tcp};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

/// The way of a connection to one destination.
pub struct Route {
    /// The address that it leaves from.
    pub source: SocketAddr,
    /// The port that it leaves from, where the kernel tells.
    pub port: Option<u16>,
    /// The largest packet that the way takes, in bytes.
    pub mtu: u32,
    /// The time to live, or hop limit.
    pub ttl: u8,
    /// Whether an IPv4 packet forbids fragments.
    pub dont_fragment: bool,
    /// What the route says besides.
    pub metrics: RtaMetrics,
    /// `net.core.rmem_max`, which a container may not show.
    pub largest_buffer: u32,
    /// The prepared connection: it holds the port, and knows the timestamps that its SYN would carry.
    prepared: Option<(TcpStream, Option<Reading>)>,
}

/// Where a kernel does not say, or an emulator of another processor: Ethernet's, and what a Linux does.
const USUAL_MTU: libc::c_int = 1500;
const USUAL_TTL: libc::c_int = 64;

impl Route {
    /// Asks for the way to `destination`, from `source` where one is wanted.
    pub fn to(destination: SocketAddr, source: Option<SocketAddr>) -> io::Result<Self> {
        let source = source.map(without_port);
        if let Some(prepared) = prepare(destination, source) {
            let local = prepared.local_addr()?;
            let mut route = Self::of(&prepared, local, destination);
            let unit = if route.metrics.counts_microseconds() { Unit::Microseconds } else { Unit::Milliseconds };
            let reading = Reading::take(&prepared, unit).ok();
            (route.port, route.prepared) = (Some(local.port()), Some((prepared, reading)));
            return Ok(route);
        }
        // Connecting a datagram socket sends nothing either.
        let any = match destination {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(source.unwrap_or(any))?;
        socket.connect(destination)?;
        Ok(Self::of(&socket, socket.local_addr()?, destination))
    }

    /// What the kernel says of a connected socket's way.
    fn of(socket: &impl AsRawFd, source: SocketAddr, destination: SocketAddr) -> Self {
        let metrics = metrics(source, destination).unwrap_or_default();
        let (mtu, ttl) = match destination {
            SocketAddr::V4(_) => {
                (get(socket, libc::IPPROTO_IP, libc::IP_MTU), get(socket, libc::IPPROTO_IP, libc::IP_TTL))
            }
            SocketAddr::V6(_) => {
                let hops = get(socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS);
                (get(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU), hops)
            }
        };
        let ttl = if metrics.hop_limit == 0 { ttl.unwrap_or(USUAL_TTL) } else { metrics.hop_limit as libc::c_int };
        let discovery = get(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER).unwrap_or(libc::IP_PMTUDISC_WANT);
        let locked = metrics.locks_mtu();
        // The kernel takes what it can of this, and counts it twice.
        let _ = set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, libc::c_int::MAX);
        let buffer = get(socket, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap_or(0);
        Self {
            source: without_port(source),
            port: None,
            mtu: mtu.unwrap_or(USUAL_MTU).unsigned_abs(),
            ttl: u8::try_from(ttl).unwrap_or(u8::MAX),
            dont_fragment: discovery == libc::IP_PMTUDISC_DO || discovery == libc::IP_PMTUDISC_WANT && !locked,
            metrics,
            largest_buffer: buffer.unsigned_abs() / 2,
            prepared: None,
        }
    }

    /// The clock of the connection's timestamps, where the kernel could prepare the connection. Takes up
    /// to a millisecond: call it as late as possible.
    pub fn timestamp_clock(&self) -> Option<TimestampClock> {
        let (socket, reading) = self.prepared.as_ref()?;
        (*reading)?.clock(socket).ok()
    }
}

/// A TCP socket whose connection is ready up to its SYN: fast open (RFC 7413) keeps that back until
/// there are bytes to send along. `None` where the kernel would not keep it back, or has no way.
fn prepare(destination: SocketAddr, source: Option<SocketAddr>) -> Option<TcpStream> {
    if may_be_disabled() {
        return None;
    }
    let socket = tcp::socket(destination, source).ok()?;
    // Without a cookie: else the kernel would ask the server for one first, by a SYN.
    set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, 1).ok()?;
    set(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1).ok()?;
    tcp::begin(&socket, destination).ok()?;
    Some(socket.into())
}

/// Whether the kernel may have disabled fast open for a while, because middleboxes broke it: then connect()
/// would send a SYN. It does so only where the blackhole timeout is set, and counts each time
/// (`tcp_fastopen_active_should_disable` in net/ipv4/tcp_fastopen.c).
fn may_be_disabled() -> bool {
    sysctl::number("net/ipv4/tcp_fastopen_blackhole_timeout_sec") != Some(0)
        && sysctl::netstat("TCPFastOpenBlackhole") != Some(0)
}

/// The metrics of the route from `source` to `destination`.
fn metrics(source: SocketAddr, destination: SocketAddr) -> io::Result<RtaMetrics> {
    let interface = match destination {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => Some(v6.scope_id()),
        _ => None,
    };
    let answer = Routing::open()?.get(destination.ip(), Some(source.ip()), interface)?;
    Ok(answer.unwrap_or_default().metrics)
}

fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself() {
        let route = Route::to(SocketAddr::from(([127, 0, 0, 1], 22)), None).unwrap();
        assert_eq!(route.source, SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(route.mtu >= 1280 && route.ttl > 0 && route.dont_fragment);
        let wanted = SocketAddr::from(([127, 0, 0, 9], 7));
        assert_eq!(Route::to(SocketAddr::from(([127, 0, 0, 1], 22)), Some(wanted)).unwrap().source.ip(), wanted.ip());
    }
}
