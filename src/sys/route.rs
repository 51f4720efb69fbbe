//! What the kernel would do with a new TCP connection, without a packet sent.

use super::netlink::{self, Socket, Writer};
use super::sockaddr::family;
use super::sockopt::{get, set};
use super::tcp_timestamp::{Reading, TimestampClock, Unit};
use super::{sysctl, tcp};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
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

/// The metrics of a route (rtnetlink(7), `RTA_METRICS`); 0 where it has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtaMetrics {
    /// Bits of the metrics that are locked, by their numbers.
    pub lock: u32,
    /// The largest win.
    pub window: u32,
    /// The maximum segment size to announce.
    pub advmss: u32,
    /// The time to live.
    pub hop_limit: u32,
    /// Bits of `RTAX_FEATURE_…`.
    pub features: u32,
    /// The first win, in segments.
    pub first_window: u32,
}

// linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_METRICS: u16 = 8;
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
const RTAX_WINDOW: u16 = 3;
const RTAX_ADVMSS: u16 = 8;
const RTAX_HOPLIMIT: u16 = 10;
const RTAX_FEATURES: u16 = 12;
const RTAX_INITRWND: u16 = 14;
const RTAX_FEATURE_ECN: u32 = 1;
const RTAX_FEATURE_TCP_USEC_TS: u32 = 1 << 4;

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
            let microseconds = route.metrics.features & RTAX_FEATURE_TCP_USEC_TS != 0;
            let unit = if microseconds { Unit::Microseconds } else { Unit::Milliseconds };
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
        let metrics = RtaMetrics::of(source, destination).unwrap_or_default();
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
        let locked = metrics.lock & 1 << RTAX_MTU != 0;
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

impl RtaMetrics {
    /// Whether it wants explicit congestion notification.
    pub fn asks_for_ecn(&self) -> bool {
        self.features & RTAX_FEATURE_ECN != 0
    }

    /// Asks for the metrics of the way from `source` to `destination`.
    fn of(source: SocketAddr, destination: SocketAddr) -> io::Result<Self> {
        let (to, from) = (octets(destination.ip()), octets(source.ip()));
        let header = [family(destination) as u8, to.len() as u8 * 8, from.len() as u8 * 8, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut request = Writer::default();
        request.message(libc::RTM_GETROUTE, libc::NLM_F_REQUEST as u16, 1, &header, |body| {
            body.attribute(RTA_DST, &to);
            body.attribute(RTA_SRC, &from);
            if let SocketAddr::V6(v6) = destination {
                if v6.scope_id() != 0 {
                    body.attribute(RTA_OIF, &v6.scope_id().to_ne_bytes());
                }
            }
        });
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        socket.send(request.bytes())?;
        let mut buffer = [0; 4096];
        // The kernel has answered before `send` returns.
        let answer = socket.receive_now(&mut buffer)?;
        let route = netlink::messages(answer).find(|message| message.kind == libc::RTM_NEWROUTE);
        let attributes =
            netlink::attributes(route.and_then(|route| route.body.get(header.len()..)).unwrap_or_default());
        let mut metrics = Self::default();
        for (_, list) in attributes.filter(|(kind, _)| *kind == RTA_METRICS) {
            for (kind, value) in netlink::attributes(list) {
                let Some(value) = value.first_chunk().map(|value| u32::from_ne_bytes(*value)) else { continue };
                match kind {
                    RTAX_LOCK => metrics.lock = value,
                    RTAX_WINDOW => metrics.window = value,
                    RTAX_ADVMSS => metrics.advmss = value,
                    RTAX_HOPLIMIT => metrics.hop_limit = value,
                    RTAX_FEATURES => metrics.features = value,
                    RTAX_INITRWND => metrics.first_window = value,
                    _ => {}
                }
            }
        }
        Ok(metrics)
    }
}

fn without_port(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
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
