//! The fingerprint of this machine's ordinary SYNs, which knocks imitate.

use crate::error::{Error, Result};
use crate::sys::route::Route;
use crate::sys::{random, sysctl};
use crate::wire::SynTemplate;
use crate::wire::syn_template::{RouteMetrics, TcpSettings};
use std::net::SocketAddr;

/// The default of `net.ipv4.ip_local_port_range`, for when it cannot be read.
const EPHEMERAL: (u16, u16) = (32768, 60999);

/// Computes the SYN that the kernel would send over `route`.
pub(super) fn template(route: &Route, noise: &Noise) -> SynTemplate {
    let route_metrics = RouteMetrics {
        v6: route.source.is_ipv6(),
        mtu: route.mtu,
        ttl: route.ttl,
        dont_fragment: route.dont_fragment,
        advmss: route.metrics.advmss,
        window: route.metrics.window,
        first_window: route.metrics.first_window,
        ecn: route.metrics.asks_for_ecn(),
    };
    SynTemplate::new(&settings(route.largest_buffer), &route_metrics, noise.timestamp)
}

fn settings(largest_buffer: u32) -> TcpSettings {
    let usual = TcpSettings::default();
    let rmem = sysctl::numbers("net/ipv4/tcp_rmem");
    let number = |name: &str, usual| sysctl::number(name).unwrap_or(usual);
    let flag = |name: &str, usual| sysctl::number(name).map_or(usual, |number| number != 0);
    TcpSettings {
        receive_buffer: rmem.get(1).copied().unwrap_or(usual.receive_buffer),
        largest_buffer: rmem.get(2).copied().unwrap_or(usual.largest_buffer).max(largest_buffer),
        window_scaling: flag("net/ipv4/tcp_window_scaling", usual.window_scaling),
        sack: flag("net/ipv4/tcp_sack", usual.sack),
        timestamps: flag("net/ipv4/tcp_timestamps", usual.timestamps),
        ecn: sysctl::number("net/ipv4/tcp_ecn") == Some(1),
        signed_windows: flag("net/ipv4/tcp_workaround_signed_windows", usual.signed_windows),
        least_mss_v4: number("net/ipv4/route/min_adv_mss", usual.least_mss_v4),
        least_mss_v6: number("net/ipv6/route/min_adv_mss", usual.least_mss_v6),
    }
}

/// Refuses the stealth wire to an IPv6 address if this machine sends no flow labels.
pub(super) fn require_flow_labels(destination: SocketAddr) -> Result<()> {
    // With 1 and 3 every connection gets a label (linux/ipv6.h, IP6_AUTO_FLOW_LABEL_…).
    let labels = sysctl::number("net/ipv6/auto_flowlabels").is_none_or(|number| matches!(number, 1 | 3));
    if destination.is_ipv6() && !labels {
        let why = "the stealth wire needs IPv6 flow labels, and this machine sends none";
        return Err(Error::refused(why).advise("sysctl net.ipv6.auto_flowlabels=1, or knock with -4"));
    }
    Ok(())
}

/// Random values for the fields of a SYN that carry no message and differ from one SYN to the next.
pub(super) struct Noise {
    port: u16,
    timestamp: u32,
    flow: u8,
}

impl Noise {
    pub(super) fn new() -> Result<Self> {
        let mut bytes = [0; 7];
        random::fill(&mut bytes)?;
        let [p0, p1, t0, t1, t2, t3, flow] = bytes;
        Ok(Self {
            port: u16::from_be_bytes([p0, p1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            flow: flow & 0x0f,
        })
    }

    /// Returns the top 4 bits of a flow label. If `net.ipv6.flowlabel_state_ranges` is on, the first bit is 1, as in
    /// every label that the kernel generates (`ip6_make_flowlabel` in include/net/ipv6.h).
    pub(super) fn flow_high(&self) -> u8 {
        let split = sysctl::number("net/ipv6/flowlabel_state_ranges").is_some_and(|number| number != 0);
        if split { self.flow | 8 } else { self.flow }
    }

    /// Returns a random source port from the ephemeral range. Its parity is the one that connect() tries first
    /// (`__inet_hash_connect` in net/ipv4/inet_hashtables.c).
    pub(super) fn port(&self) -> u16 {
        let range = sysctl::numbers("net/ipv4/ip_local_port_range");
        let (low, high) = match range[..] {
            [low, high] => (u16::try_from(low).unwrap_or(EPHEMERAL.0), u16::try_from(high).unwrap_or(EPHEMERAL.1)),
            _ => EPHEMERAL,
        };
        let pairs = u32::from(high.saturating_sub(low)).div_ceil(2);
        low.saturating_add((u32::from(self.port) % pairs.max(1) * 2) as u16)
    }
}
