//! One-time codes of the stealth wire and of links: HOTP (RFC 4226) over a counter and a port.
//!
//! The code of the stealth wire is the first 6 bytes of HMAC-SHA1(mac key, "knockknock stealth 2" ‖ counter (4) ‖
//! protocol (1; 6 is TCP) ‖ port (2)), numbers big-endian. Bytes 0..2 are the IPv4 identification, or the low
//! 16 bits of the IPv6 flow label, and bytes 2..6 are the TCP sequence number. The acknowledgment number is 0.
//!
//! The code of a link is the last bits of HMAC-SHA1(mac key, "knockknock link 1" ‖ counter (4) ‖ protocol (1) ‖
//! port (2)), as many as the prefix leaves in an IPv6 address.
//!
//! Nothing is encrypted: without the key, a code cannot be distinguished from random bits.

use super::seal::{Fields, Keys};
use crate::prefix::Prefix;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::net::Ipv6Addr;

/// The first bytes that the HMAC covers: they bind a code to its wire.
const STEALTH: &[u8] = b"knockknock stealth 2";
const LINK: &[u8] = b"knockknock link 1";
/// The IP protocol number of TCP, the only protocol that a code can ask for.
const TCP: u8 = 6;

/// A one-time code of 48 bits, as a stealth SYN carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(u64);

impl Keys {
    /// Computes the code that asks for `port` with `counter`.
    pub fn code(&self, counter: u32, port: u16) -> Code {
        truncated(self.request(STEALTH, counter, port))
    }

    /// Computes the address that asks for `port` with `counter`.
    pub fn link(&self, prefix: Prefix, counter: u32, port: u16) -> Ipv6Addr {
        let code = self.request(LINK, counter, port).finalize().into_bytes();
        prefix.address(code.last_chunk().map_or(0, |last| u128::from_be_bytes(*last)))
    }

    /// The HMAC over a request.
    fn request(&self, wire: &[u8], counter: u32, port: u16) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        let ([c0, c1, c2, c3], [p0, p1]) = (counter.to_be_bytes(), port.to_be_bytes());
        mac.update(wire);
        mac.update(&[c0, c1, c2, c3, TCP, p0, p1]);
        mac
    }
}

fn truncated(mac: Hmac<Sha1>) -> Code {
    Code(mac.finalize().into_bytes().iter().take(6).fold(0, |code, &byte| code << 8 | u64::from(byte)))
}

impl Code {
    /// Returns the header fields that carry the code. `None` if the identification is 0, which the sender's kernel
    /// would replace; the sender then skips the counter.
    pub fn fields(self) -> Option<Fields> {
        let (id, seq) = ((self.0 >> 32) as u16, self.0 as u32);
        (id != 0).then_some(Fields { id, seq, ack: 0, win: None })
    }

    /// Reads the code from the fields of a received SYN; `None` if its acknowledgment number is not 0.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        (fields.ack == 0).then_some(Self(u64::from(fields.id) << 32 | u64::from(fields.seq)))
    }

    /// Returns the code as a number below 2^48.
    pub fn to_u64(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmac::KeyInit;

    fn key(hex: &str) -> [u8; 16] {
        u128::from_str_radix(hex, 16).unwrap().to_be_bytes()
    }

    /// RFC 4226, appendix D: HMAC-SHA1(secret, counter (8)) for the counters 0 to 9, its first 6 bytes.
    const RFC_4226: [u64; 10] = [
        0xcc93_cf18_508d,
        0x75a4_8a19_d4cb,
        0x0bac_b7fa_082f,
        0x66c2_8227_d03a,
        0xa904_c900_a64b,
        0xa37e_783d_7b72,
        0xbc9c_d285_6104,
        0xa4fb_960c_0bc0,
        0x1b3c_89f6_5e6c,
        0x1637_4098_09a6,
    ];

    #[test]
    fn the_hmac_part_gives_the_values_of_rfc_4226() {
        for (counter, wanted) in (0u64..).zip(RFC_4226) {
            let mut mac = Hmac::<Sha1>::new_from_slice(b"12345678901234567890").unwrap();
            mac.update(&counter.to_be_bytes());
            assert_eq!(truncated(mac).to_u64(), wanted);
        }
    }

    #[test]
    fn hotp_vectors_of_an_independent_script() {
        let text = include_str!("../../tests/vectors/hotp.tsv");
        let mut rows = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split('\t');
            let keys = Keys::new(&[0; 16], &key(words.next().unwrap()));
            let numbers: Vec<u32> = words.map(|word| word.parse().unwrap()).collect();
            let [counter, port, id, seq] = numbers[..] else { panic!("four numbers: {line}") };
            let code = keys.code(counter, port as u16);
            let fields = Fields { id: id as u16, seq, ack: 0, win: None };
            assert!(Code::from_fields(&fields) == Some(code), "{line}");
            assert!(code.fields() == (id != 0).then_some(fields), "an identification of 0 is not sent: {line}");
            rows += 1;
        }
        assert!(rows >= 80);
    }

    #[test]
    fn link_vectors_of_an_independent_script() {
        let text = include_str!("../../tests/vectors/links.tsv");
        let mut rows = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split('\t').collect();
            let keys = Keys::new(&[0; 16], &key(words[0]));
            let prefix = Prefix::parse(words[3]).unwrap();
            let address = keys.link(prefix, words[1].parse().unwrap(), words[2].parse().unwrap());
            assert_eq!(address.to_string(), words[4], "{line}");
            assert!(prefix.contains(address), "{line}");
            rows += 1;
        }
        assert!(rows >= 80);
    }

    #[test]
    fn every_port_and_counter_comes_back_from_the_fields() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        let counters = [0, 1, 19, 20, 21, 10_019, u32::MAX - 20, u32::MAX - 1, u32::MAX];
        for counter in counters {
            for port in (1..=u16::MAX).step_by(if counter == 0 { 1 } else { 257 }) {
                let code = keys.code(counter, port);
                assert!(code.fields().is_none_or(|fields| Code::from_fields(&fields) == Some(code)));
            }
        }
    }

    #[test]
    fn another_counter_another_port_and_another_key_give_another_code() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        let code = keys.code(1000, 22);
        assert!(code != keys.code(1001, 22) && code != keys.code(1000, 23));
        assert!(code != Keys::new(&[7; 16], &[8; 16]).code(1000, 22));
    }

    #[test]
    fn a_syn_with_an_acknowledgment_number_carries_no_code() {
        let fields = Fields { id: 1, seq: 2, ack: 3, win: None };
        assert!(Code::from_fields(&fields).is_none());
    }
}
