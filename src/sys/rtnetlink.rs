//! Route lookups (RTM_GETROUTE of rtnetlink(7)).

use super::links::{self, Link};
use super::netlink::{self, Socket, Writer};
use std::io;
use std::net::IpAddr;

// linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_METRICS: u16 = 8;
/// The size of `struct rtmsg`, in bytes.
const RTMSG: usize = 12;
/// The offset of `rtm_type` in `struct rtmsg`.
const RTM_TYPE: usize = 7;
const RTAX_LOCK: u16 = 1;
const RTAX_MTU: u16 = 2;
const RTAX_WINDOW: u16 = 3;
const RTAX_ADVMSS: u16 = 8;
const RTAX_HOPLIMIT: u16 = 10;
const RTAX_FEATURES: u16 = 12;
const RTAX_INITRWND: u16 = 14;
const RTAX_FEATURE_ECN: u32 = 1;
const RTAX_FEATURE_TCP_USEC_TS: u32 = 1 << 4;

/// An rtnetlink socket.
pub struct RouteSocket(Socket);

/// The result of a route lookup.
#[derive(Clone, Copy, Debug, Default)]
pub struct RouteAnswer {
    /// The type of the route: `RTN_UNICAST`, `RTN_LOCAL`, …
    pub kind: u8,
    /// The metrics of the route.
    pub metrics: RtaMetrics,
}

/// The metrics of a route (`RTA_METRICS`). Metrics that the route does not set are 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct RtaMetrics {
    /// The locked metrics: bit n for metric `RTAX_…` number n.
    pub lock: u32,
    /// The limit for the advertised window, in bytes.
    pub window: u32,
    /// The maximum segment size to advertise, in bytes.
    pub advmss: u32,
    /// The TTL or hop limit.
    pub hop_limit: u32,
    /// The features, as bits `RTAX_FEATURE_…`.
    pub features: u32,
    /// The initial receive window (`initrwnd`), in segments.
    pub first_window: u32,
}

impl RouteSocket {
    /// Opens the socket.
    pub fn open() -> io::Result<Self> {
        Socket::open(libc::NETLINK_ROUTE).map(Self)
    }

    /// Looks up the route to `destination`, from `source` and through the interface with index `interface` if given.
    /// `None` if there is no route.
    pub fn get(
        &self,
        destination: IpAddr,
        source: Option<IpAddr>,
        interface: Option<u32>,
    ) -> io::Result<Option<RouteAnswer>> {
        let family = if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let bits = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
        let mut header = [0; RTMSG];
        header[..3].copy_from_slice(&[family as u8, bits(destination), source.map_or(0, bits)]);
        let (mut request, mut attributes) = (Writer::default(), Writer::default());
        address(&mut attributes, RTA_DST, destination);
        if let Some(source) = source {
            address(&mut attributes, RTA_SRC, source);
        }
        if let Some(index) = interface {
            attributes.attribute(RTA_OIF, &index.to_ne_bytes());
        }
        request.message(libc::RTM_GETROUTE, libc::NLM_F_REQUEST as u16, 1, &header, attributes.bytes());
        self.0.send(request.bytes())?;
        let mut buffer = [0; 4096];
        // The kernel handles the request inside `send`, so the reply is already there.
        let mut answers = netlink::messages(self.0.receive_now(&mut buffer)?);
        Ok(answers.find(|message| message.kind == libc::RTM_NEWROUTE).map(|route| RouteAnswer::read(route.body)))
    }

    /// Returns all network interfaces.
    pub fn links(&self) -> io::Result<Vec<Link>> {
        links::list_with(&self.0)
    }
}

impl RouteAnswer {
    fn read(body: &[u8]) -> Self {
        let mut answer = Self { kind: body.get(RTM_TYPE).copied().unwrap_or(0), ..Self::default() };
        let metrics = &mut answer.metrics;
        let attributes = netlink::attributes(body.get(RTMSG..).unwrap_or_default());
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
        answer
    }
}

impl RtaMetrics {
    /// Whether the route enables explicit congestion notification.
    pub fn asks_for_ecn(&self) -> bool {
        self.features & RTAX_FEATURE_ECN != 0
    }

    /// Whether TCP timestamps are in microseconds (feature `tcp_usec_ts`).
    pub fn counts_microseconds(&self) -> bool {
        self.features & RTAX_FEATURE_TCP_USEC_TS != 0
    }

    /// Whether the route's MTU is locked, which turns off path MTU discovery.
    pub fn locks_mtu(&self) -> bool {
        self.lock & 1 << RTAX_MTU != 0
    }
}

fn address(attributes: &mut Writer, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => attributes.attribute(kind, &v4.octets()),
        IpAddr::V6(v6) => attributes.attribute(kind, &v6.octets()),
    }
}
