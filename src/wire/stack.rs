//! What this machine's own kernel would put into the SYN of an ordinary connection.

use super::options::Options;

/// The kernel's settings that shape a SYN (Documentation/networking/ip-sysctl.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `net.ipv4.tcp_rmem`, its second number: the receive buffer of a new socket, in bytes.
    pub receive_buffer: u32,
    /// The largest receive buffer: `net.ipv4.tcp_rmem`, its third number, or `net.core.rmem_max`.
    pub largest_buffer: u32,
    /// `net.ipv4.tcp_window_scaling`.
    pub window_scaling: bool,
    /// `net.ipv4.tcp_sack`.
    pub sack: bool,
    /// `net.ipv4.tcp_timestamps`.
    pub timestamps: bool,
    /// `net.ipv4.tcp_ecn` is 1: asked for on the way out.
    pub ecn: bool,
    /// `net.ipv4.tcp_workaround_signed_windows`.
    pub signed_windows: bool,
}

impl Default for Settings {
    /// Those of a Linux that nobody has tuned.
    fn default() -> Self {
        Self {
            receive_buffer: 131_072,
            largest_buffer: 6_291_456,
            window_scaling: true,
            sack: true,
            timestamps: true,
            ecn: false,
            signed_windows: false,
        }
    }
}

/// All of a SYN that carries no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP win.
    pub win: u16,
    /// Whether it asks for explicit congestion notification (RFC 3168).
    pub ecn: bool,
    /// The TCP options; the timestamp value is the message's, or noise.
    pub options: Options,
}

impl Stack {
    /// What the kernel would send over a way that takes packets of `mtu` bytes, of which `headers`
    /// are those of IP and TCP (`tcp_select_initial_window` in net/ipv4/tcp_output.c).
    pub fn new(settings: &Settings, mtu: u16, headers: u16, ttl: u8, noise: u32) -> Self {
        // 536: the least that anybody must take (RFC 9293, section 3.7.1).
        let mss = mtu.saturating_sub(headers).max(536);
        // Half of a buffer is the kernel's own bookkeeping.
        let space = settings.receive_buffer / 2;
        let whole = if space > u32::from(mss) { space - space % u32::from(mss) } else { space };
        let limit = if settings.signed_windows { 32767 } else { u32::from(u16::MAX) };
        let shift = settings.largest_buffer.max(space).max(1).ilog2().saturating_sub(15).min(14) as u8;
        Self {
            ttl,
            win: whole.min(limit) as u16,
            ecn: settings.ecn,
            options: Options {
                mss,
                sack: settings.sack,
                timestamp: settings.timestamps.then_some(noise),
                window_scale: settings.window_scaling.then_some(shift),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_real_linux() {
        let settings = Settings::default();
        let v4 = Stack::new(&settings, 1500, 40, 64, 0);
        assert_eq!((v4.options.mss, v4.win, v4.options.window_scale), (1460, 64240, Some(7)));
        let v6 = Stack::new(&settings, 1500, 60, 64, 0);
        assert_eq!((v6.options.mss, v6.win), (1440, 64800));
        let pppoe = Stack::new(&settings, 1492, 40, 64, 0);
        assert_eq!((pppoe.options.mss, pppoe.win), (1452, 65340));
        let large = Settings { largest_buffer: 33_554_432, ..settings };
        assert_eq!(Stack::new(&large, 1500, 40, 64, 0).options.window_scale, Some(10));
    }

    #[test]
    fn odd_settings_do_not_matter() {
        let odd = Settings { receive_buffer: 0, largest_buffer: 0, window_scaling: false, ..Settings::default() };
        let stack = Stack::new(&odd, 0, 40, 64, 0);
        assert_eq!((stack.options.mss, stack.win, stack.options.window_scale), (536, 0, None));
        let huge = Settings {
            receive_buffer: u32::MAX,
            largest_buffer: u32::MAX,
            signed_windows: true,
            ..Settings::default()
        };
        let stack = Stack::new(&huge, u16::MAX, 40, 64, 0);
        assert_eq!((stack.win, stack.options.window_scale), (32767, Some(14)));
    }
}
