//! Computes the fields that this machine's kernel would put into the SYN of an ordinary connection.

use super::options::TcpOptions;

/// The kernel's settings that shape a SYN (Documentation/networking/ip-sysctl.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// The second number of `net.ipv4.tcp_rmem`: the receive buffer of a new socket, in bytes.
    pub receive_buffer: u32,
    /// The largest receive buffer, in bytes: the third number of `net.ipv4.tcp_rmem` or `net.core.rmem_max`, whichever
    /// is larger.
    pub largest_buffer: u32,
    /// `net.ipv4.tcp_window_scaling`.
    pub window_scaling: bool,
    /// `net.ipv4.tcp_sack`.
    pub sack: bool,
    /// `net.ipv4.tcp_timestamps`.
    pub timestamps: bool,
    /// Whether `net.ipv4.tcp_ecn` is 1: outgoing connections request ECN.
    pub ecn: bool,
    /// `net.ipv4.tcp_workaround_signed_windows`.
    pub signed_windows: bool,
    /// `net.ipv4.route.min_adv_mss`, in bytes.
    pub least_mss_v4: u32,
    /// `net.ipv6.route.min_adv_mss`, in bytes.
    pub least_mss_v6: u32,
}

impl Default for TcpSettings {
    /// The defaults of Linux.
    fn default() -> Self {
        Self {
            receive_buffer: 131_072,
            largest_buffer: 6_291_456,
            window_scaling: true,
            sack: true,
            timestamps: true,
            ecn: false,
            signed_windows: false,
            least_mss_v4: 256,
            least_mss_v6: 1220,
        }
    }
}

/// The metrics of the route to one destination. Metrics that the route does not set are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteMetrics {
    /// Whether the route is for IPv6.
    pub v6: bool,
    /// The path MTU, in bytes.
    pub mtu: u32,
    /// TTL (IPv4) or hop limit (IPv6).
    pub ttl: u8,
    /// Whether an IPv4 packet has the flag DF (don't fragment).
    pub dont_fragment: bool,
    /// The route's `advmss`, in bytes.
    pub advmss: u32,
    /// The route's `window`, in bytes.
    pub window: u32,
    /// The route's `initrwnd`, in segments.
    pub first_window: u32,
    /// The route's `features ecn`.
    pub ecn: bool,
}

/// The fields of a SYN that carry no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynTemplate {
    /// TTL (IPv4) or hop limit (IPv6).
    pub ttl: u8,
    /// Whether an IPv4 packet has the flag DF (don't fragment).
    pub dont_fragment: bool,
    /// TCP window.
    pub win: u16,
    /// Whether the SYN requests explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// The TCP options. The timestamp value is random until the knocker replaces it with the kernel's.
    pub options: TcpOptions,
}

/// IPv4 and TCP header without options, in bytes.
const HEADERS_V4: u32 = 40;
/// IPv6 and TCP header without options, in bytes.
const HEADERS_V6: u32 = 60;
/// Largest window scale (RFC 7323, section 2.3).
const LARGEST_SHIFT: u32 = 14;

impl SynTemplate {
    /// Computes the SYN that the kernel would send over a route with `route_metrics`. `noise` is the timestamp value.
    pub fn new(settings: &TcpSettings, route_metrics: &RouteMetrics, noise: u32) -> Self {
        let mss = mss(settings, route_metrics);
        let (win, shift) = window(settings, route_metrics, u32::from(mss).max(1));
        Self {
            ttl: route_metrics.ttl,
            dont_fragment: route_metrics.dont_fragment,
            win,
            ecn: settings.ecn || route_metrics.ecn,
            options: TcpOptions {
                mss,
                sack: settings.sack,
                timestamp: settings.timestamps.then_some(noise),
                window_scale: settings.window_scaling.then_some(shift),
            },
        }
    }
}

/// Computes the maximum segment size, like `ipv4_default_advmss` in net/ipv4/route.c and `ip6_default_advmss` in
/// net/ipv6/route.c.
fn mss(settings: &TcpSettings, route_metrics: &RouteMetrics) -> u16 {
    let largest = u32::from(u16::MAX);
    let mss = match (route_metrics.advmss, route_metrics.v6) {
        (0, false) => route_metrics.mtu.saturating_sub(HEADERS_V4).max(settings.least_mss_v4).min(largest - HEADERS_V4),
        (0, true) => match route_metrics.mtu.saturating_sub(HEADERS_V6).max(settings.least_mss_v6) {
            // Too large for the length field of IPv6: the kernel sends 65535, which means any size (RFC 2675).
            mss if mss > largest - 20 => largest,
            mss => mss,
        },
        (advmss, _) => advmss,
    };
    u16::try_from(mss).unwrap_or(u16::MAX)
}

/// Computes the window and its scale, like `tcp_select_initial_window` in net/ipv4/tcp_output.c.
fn window(settings: &TcpSettings, route_metrics: &RouteMetrics, mss: u32) -> (u16, u8) {
    let clamp = if route_metrics.window == 0 { u32::from(u16::MAX) << LARGEST_SHIFT } else { route_metrics.window };
    // The kernel reserves half of a receive buffer for its own data structures.
    let space = clamp.min(settings.receive_buffer / 2);
    let space = if space > mss { space - space % mss } else { space };
    let mut win = if settings.signed_windows { space.min(32767) } else { space };
    if route_metrics.first_window != 0 {
        win = win.min(route_metrics.first_window.saturating_mul(mss));
    }
    let largest = space.max(settings.largest_buffer).min(clamp);
    let shift = largest.max(1).ilog2().saturating_sub(15).min(LARGEST_SHIFT);
    (u16::try_from(win).unwrap_or(u16::MAX), shift as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: RouteMetrics = RouteMetrics {
        v6: false,
        mtu: 1500,
        ttl: 64,
        dont_fragment: true,
        advmss: 0,
        window: 0,
        first_window: 0,
        ecn: false,
    };
    const V6: RouteMetrics = RouteMetrics { v6: true, ..V4 };

    fn numbers(settings: TcpSettings, route_metrics: RouteMetrics) -> (u16, u16, Option<u8>) {
        let template = SynTemplate::new(&settings, &route_metrics, 0);
        (template.options.mss, template.win, template.options.window_scale)
    }

    #[test]
    fn the_template_matches_a_real_linux() {
        let usual = TcpSettings::default();
        assert_eq!(numbers(usual, V4), (1460, 64240, Some(7)));
        assert_eq!(numbers(usual, V6), (1440, 64800, Some(7)));
        assert_eq!(numbers(usual, RouteMetrics { mtu: 1492, ..V4 }), (1452, 65340, Some(7)));
        assert_eq!(numbers(TcpSettings { largest_buffer: 33_554_432, ..usual }, V4), (1460, 64240, Some(10)));
        assert_eq!(numbers(usual, RouteMetrics { mtu: 65535, ..V4 }), (65495, 65495, Some(7)), "loopback");
        assert_eq!(numbers(usual, RouteMetrics { mtu: 65536, ..V6 }), (65476, 65476, Some(7)), "loopback");
    }

    #[test]
    fn the_metrics_of_a_route_matter() {
        let usual = TcpSettings::default();
        assert_eq!(numbers(usual, RouteMetrics { advmss: 1000, ..V4 }), (1000, 65000, Some(7)));
        assert_eq!(numbers(usual, RouteMetrics { window: 20_000, ..V4 }), (1460, 18_980, Some(0)));
        assert_eq!(numbers(usual, RouteMetrics { first_window: 10, ..V4 }), (1460, 14_600, Some(7)));
        assert!(SynTemplate::new(&usual, &RouteMetrics { ecn: true, ..V4 }, 0).ecn);
        assert!(!SynTemplate::new(&usual, &V4, 0).ecn);
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let usual = TcpSettings::default();
        let odd = TcpSettings { receive_buffer: 0, largest_buffer: 0, window_scaling: false, ..usual };
        assert_eq!(numbers(odd, RouteMetrics { mtu: 0, ..V4 }), (256, 0, None));
        let odd = TcpSettings { least_mss_v4: 0, receive_buffer: u32::MAX, largest_buffer: u32::MAX, ..usual };
        assert_eq!(numbers(odd, RouteMetrics { mtu: 0, ..V4 }), (0, 65535, Some(14)));
        let huge = TcpSettings { least_mss_v6: u32::MAX, signed_windows: true, ..usual };
        assert_eq!(
            numbers(huge, RouteMetrics { mtu: u32::MAX, first_window: u32::MAX, ..V6 }),
            (65535, 32767, Some(7))
        );
        assert_eq!(numbers(usual, RouteMetrics { advmss: u32::MAX, ..V4 }).0, 65535);
    }
}
