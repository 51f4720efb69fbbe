//! The TCP options of a SYN, in the order of Linux.

/// Option kinds (RFC 9293, 7323, 2018).
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMPS: u8 = 8;

/// Longest list, in bytes: a TCP header has at most 60, of which 20 are fixed.
pub const LONGEST: usize = 40;

/// The options of a SYN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Maximum segment size, in bytes.
    pub mss: u16,
    /// Whether selective acknowledgments are permitted (RFC 2018).
    pub sack: bool,
    /// The timestamp value (TSval). The echo (TSecr) of a SYN is 0.
    pub timestamp: Option<u32>,
    /// The window scale, in bits.
    pub window_scale: Option<u8>,
}

impl TcpOptions {
    /// Appends the list to `out`, in the order and with the padding of Linux (`tcp_options_write` in
    /// net/ipv4/tcp_output.c): at most 20 bytes.
    pub fn emit(&self, out: &mut Vec<u8>) {
        out.extend([MSS, 4]);
        out.extend(self.mss.to_be_bytes());
        match (self.timestamp, self.sack) {
            (Some(_), true) => out.extend([SACK_PERMITTED, 2]),
            (Some(_), false) => out.extend([NOP, NOP]),
            (None, true) => out.extend([NOP, NOP, SACK_PERMITTED, 2]),
            (None, false) => {}
        }
        if let Some(value) = self.timestamp {
            out.extend([TIMESTAMPS, 10]);
            out.extend(value.to_be_bytes());
            out.extend([0; 4]);
        }
        if let Some(shift) = self.window_scale {
            out.extend([NOP, WINDOW_SCALE, 3, shift]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(options: TcpOptions) -> Vec<u8> {
        let mut out = Vec::new();
        options.emit(&mut out);
        out
    }

    #[test]
    fn the_list_of_a_linux_syn() {
        let mut options = TcpOptions { mss: 1460, sack: true, timestamp: Some(0x11223344), window_scale: Some(7) };
        assert_eq!(emitted(options), b"\x02\x04\x05\xb4\x04\x02\x08\x0a\x11\x22\x33\x44\0\0\0\0\x01\x03\x03\x07");
        options.sack = false;
        assert_eq!(&emitted(options)[4..8], b"\x01\x01\x08\x0a");
        options.timestamp = None;
        assert_eq!(emitted(options), b"\x02\x04\x05\xb4\x01\x03\x03\x07");
        options.sack = true;
        assert_eq!(emitted(options), b"\x02\x04\x05\xb4\x01\x01\x04\x02\x01\x03\x03\x07");
    }
}
