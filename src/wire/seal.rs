//! Seal and unseal: a port becomes a [`Ciphertext`], and a ciphertext an [`Unsealed`] port.
//!
//! | wire | message | counter block | tag |
//! |---|---|---|---|
//! | classic | port (2) ‖ tag (10) | 12 zero bytes ‖ counter (4) | HMAC-SHA1(mac key, port (2)) |
//! | stealth | port (2) ‖ tag (8) | 0x01 ‖ 11 zero bytes ‖ counter (4) | HMAC-SHA1(mac key, "knockknock stealth 1" ‖ counter (4) ‖ knock port (2) ‖ port (2)) |
//!
//! All numbers are big-endian, tags are cut to their first bytes, and the message is encrypted with
//! AES-128 in CTR mode (NIST SP 800-38A). The counter block's first byte differs between the wires, so
//! one profile's counter serves both and no keystream is ever shared.

use super::Wire;
use crate::ports::Ports;
use aes::Aes128;
use aes::cipher::{Block, InnerIvInit, KeyInit, StreamCipherCore};
use ctr::{CtrCore, flavors::Ctr32BE};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::ops::RangeInclusive;
use zeroize::Zeroizing;

/// What a stealth tag covers before the numbers: it binds a tag to its wire.
const STEALTH: &[u8] = b"knockknock stealth 1";

/// How many counters' blocks are encrypted together: as many as AES instructions work on side by side.
const AT_ONCE: usize = 8;

/// A profile's two keys, expanded. Without `Debug`: no key is printed anywhere.
pub struct Keys {
    cipher: Aes128,
    /// The HMAC's midstate; cloned for each message.
    pub(super) mac: Hmac<Sha1>,
}

/// An encrypted message, as it rides in a SYN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ciphertext {
    /// Port and a tag of 10 bytes.
    Classic([u8; 12]),
    /// Port and a tag of 8 bytes.
    Stealth([u8; 10]),
}

/// A port that somebody who holds the keys asked for. Only [`Keys::unseal`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsealed {
    port: u16,
    counter: u32,
}

impl Unsealed {
    /// The port to open, never 0.
    pub fn port(self) -> u16 {
        self.port
    }

    /// The counter that it was sealed with.
    pub fn counter(self) -> u32 {
        self.counter
    }
}

/// The header fields that carry a ciphertext. What a wire does not use is 0 or `None`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// IPv4 identification, or the low 16 bits of the IPv6 flow label.
    pub id: u16,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgment number; 0 says stealth.
    pub ack: u32,
    /// TCP win, where the wire sets it.
    pub win: Option<u16>,
    /// Value of the TCP timestamps option, where the wire sets it.
    pub timestamp: Option<u32>,
}

impl Keys {
    /// Expands the two 16-byte keys.
    pub fn new(cipher: &[u8; 16], mac: &[u8; 16]) -> Self {
        // HMAC pads a key to a block of zeros (RFC 2104); a whole block cannot be of a wrong length.
        let mut block = Zeroizing::new([0; 64]);
        block.iter_mut().zip(mac).for_each(|(to, from)| *to = *from);
        Self { cipher: Aes128::new(cipher.into()), mac: Hmac::new((&*block).into()) }
    }

    /// Encrypts a request for `port`, to be sent to `knock_port` once.
    pub fn seal(&self, wire: Wire, counter: u32, knock_port: u16, port: u16) -> Ciphertext {
        let tag = self.tag(wire, counter, knock_port, port).finalize().into_bytes();
        let mut message = [0; 12];
        let bytes = port.to_be_bytes().into_iter().chain(tag);
        message.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        let mut keystream = Block::<Aes128>::default();
        self.keystream(wire, counter).write_keystream_block(&mut keystream);
        apply(&mut message, &keystream);
        match wire {
            Wire::Classic => Ciphertext::Classic(message),
            Wire::Stealth => {
                let [message @ .., _, _] = message;
                Ciphertext::Stealth(message)
            }
        }
    }

    /// Decrypts `ciphertext` with each of `counters` in turn and verifies the tags in constant time;
    /// the first that is right is it.
    ///
    /// `only`, where given, are the ports worth a tag: another port is passed over without the cost of
    /// an HMAC. Port 0 is never unsealed.
    pub fn unseal(
        &self,
        ciphertext: &Ciphertext,
        counters: RangeInclusive<u32>,
        knock_port: u16,
        only: Option<&Ports>,
    ) -> Option<Unsealed> {
        match ciphertext {
            Ciphertext::Classic(bytes) => self.open(Wire::Classic, bytes, counters, knock_port, only),
            Ciphertext::Stealth(bytes) => self.open(Wire::Stealth, bytes, counters, knock_port, only),
        }
    }

    fn open<const N: usize>(
        &self,
        wire: Wire,
        ciphertext: &[u8; N],
        mut counters: RangeInclusive<u32>,
        knock_port: u16,
        only: Option<&Ports>,
    ) -> Option<Unsealed> {
        let mut keystream = self.keystream(wire, *counters.start());
        loop {
            let mut blocks = [Block::<Aes128>::default(); AT_ONCE];
            keystream.write_keystream_blocks(&mut blocks);
            for block in &blocks {
                let counter = counters.next()?;
                let mut message = *ciphertext;
                apply(&mut message, block);
                let (port, tag) = message.split_first_chunk()?;
                let port = u16::from_be_bytes(*port);
                let worth = port != 0 && only.is_none_or(|only| only.contains(port));
                if worth && self.tag(wire, counter, knock_port, port).verify_truncated_left(tag).is_ok() {
                    return Some(Unsealed { port, counter });
                }
            }
        }
    }

    /// The keystream from `counter`'s block on; the next block is the next counter's.
    fn keystream(&self, wire: Wire, counter: u32) -> CtrCore<&Aes128, Ctr32BE> {
        let mut block = [0; 16];
        block[0] = match wire {
            Wire::Classic => 0,
            Wire::Stealth => 1,
        };
        block[12..].copy_from_slice(&counter.to_be_bytes());
        CtrCore::inner_iv_init(&self.cipher, &block.into())
    }

    fn tag(&self, wire: Wire, counter: u32, knock_port: u16, port: u16) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        let [c0, c1, c2, c3] = counter.to_be_bytes();
        let ([k0, k1], [p0, p1]) = (knock_port.to_be_bytes(), port.to_be_bytes());
        match wire {
            Wire::Classic => mac.update(&[p0, p1]),
            Wire::Stealth => {
                mac.update(STEALTH);
                mac.update(&[c0, c1, c2, c3, k0, k1, p0, p1]);
            }
        }
        mac
    }
}

/// Encrypts or decrypts `message`, which is shorter than a block.
fn apply(message: &mut [u8], keystream: &Block<Aes128>) {
    message.iter_mut().zip(keystream).for_each(|(byte, key)| *byte ^= key);
}

impl Ciphertext {
    /// The header fields that carry these bytes, or `None` where a field would be one that does not
    /// arrive: an identification of 0 is replaced by the sender's kernel, and an acknowledgment
    /// number of 0 says stealth.
    pub fn fields(&self) -> Option<Fields> {
        let fields = match *self {
            Self::Classic([i0, i1, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1]) => Fields {
                id: u16::from_be_bytes([i0, i1]),
                seq: u32::from_be_bytes([s0, s1, s2, s3]),
                ack: u32::from_be_bytes([a0, a1, a2, a3]),
                win: Some(u16::from_be_bytes([w0, w1])),
                timestamp: None,
            },
            Self::Stealth([i0, i1, s0, s1, s2, s3, t0, t1, t2, t3]) => Fields {
                id: u16::from_be_bytes([i0, i1]),
                seq: u32::from_be_bytes([s0, s1, s2, s3]),
                ack: 0,
                win: None,
                timestamp: Some(u32::from_be_bytes([t0, t1, t2, t3])),
            },
        };
        let arrives = fields.id != 0 && (fields.ack != 0 || fields.timestamp.is_some());
        arrives.then_some(fields)
    }

    /// The ciphertext that an arrived packet's fields carry: stealth where the acknowledgment
    /// number is 0. `None` where there is none, as in a SYN without timestamps.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let [i0, i1] = fields.id.to_be_bytes();
        let [s0, s1, s2, s3] = fields.seq.to_be_bytes();
        if fields.ack == 0 {
            let [t0, t1, t2, t3] = fields.timestamp?.to_be_bytes();
            return Some(Self::Stealth([i0, i1, s0, s1, s2, s3, t0, t1, t2, t3]));
        }
        let [a0, a1, a2, a3] = fields.ack.to_be_bytes();
        let [w0, w1] = fields.win?.to_be_bytes();
        Some(Self::Classic([i0, i1, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hex: &str) -> [u8; 16] {
        u128::from_str_radix(hex, 16).unwrap().to_be_bytes()
    }

    /// Each row of a vector file as (keys, numbers behind them).
    fn rows(text: &str) -> Vec<(Keys, Vec<u32>)> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| {
                let mut words = line.split('\t');
                let keys = Keys::new(&key(words.next().unwrap()), &key(words.next().unwrap()));
                (keys, words.map(|word| word.parse().unwrap()).collect())
            })
            .collect()
    }

    #[test]
    fn classic_vectors_of_the_original() {
        let rows = rows(include_str!("../../tests/vectors/classic.tsv"));
        assert_eq!(rows.len(), 77);
        for (keys, numbers) in rows {
            let [counter, port, id, seq, ack, win] = numbers[..] else { panic!("six numbers") };
            let fields = Fields { id: id as u16, seq, ack, win: Some(win as u16), timestamp: None };
            let sealed = keys.seal(Wire::Classic, counter, 666, port as u16);
            assert!(sealed == Ciphertext::from_fields(&fields).unwrap());
            assert!(sealed.fields() == (id != 0).then_some(fields), "an identification of 0 is not sent");
            let unsealed = keys.unseal(&sealed, counter..=counter, 666, None);
            assert_eq!(unsealed, (port != 0).then_some(Unsealed { port: port as u16, counter }));
        }
    }

    #[test]
    fn stealth_vectors_of_an_independent_script() {
        let rows = rows(include_str!("../../tests/vectors/stealth.tsv"));
        assert!(rows.len() >= 64);
        for (keys, numbers) in rows {
            let [counter, knock_port, port, id, seq, timestamp] = numbers[..] else { panic!("six numbers") };
            let fields = Fields { id: id as u16, seq, ack: 0, win: None, timestamp: Some(timestamp) };
            let sealed = keys.seal(Wire::Stealth, counter, knock_port as u16, port as u16);
            assert!(sealed == Ciphertext::from_fields(&fields).unwrap());
            let unsealed = keys.unseal(&sealed, counter..=counter, knock_port as u16, None);
            assert_eq!(unsealed, (port != 0).then_some(Unsealed { port: port as u16, counter }));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_counter_is_refused() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        for wire in [Wire::Classic, Wire::Stealth] {
            let sealed = keys.seal(wire, 1000, 666, 22);
            assert!(keys.unseal(&sealed, 999..=999, 666, None).is_none());
            assert!(keys.unseal(&sealed, 1001..=1001, 666, None).is_none());
            for bit in 0..96 {
                let flipped = match sealed {
                    Ciphertext::Classic(mut bytes) => {
                        bytes[bit / 8] ^= 1 << (bit % 8);
                        Ciphertext::Classic(bytes)
                    }
                    Ciphertext::Stealth(mut bytes) => {
                        bytes[bit % 80 / 8] ^= 1 << (bit % 8);
                        Ciphertext::Stealth(bytes)
                    }
                };
                assert!(keys.unseal(&flipped, 1000..=1000, 666, None).is_none());
            }
        }
        let sealed = keys.seal(Wire::Stealth, 1000, 666, 22);
        assert!(keys.unseal(&sealed, 1000..=1000, 667, None).is_none(), "a stealth tag covers the knock port");
    }

    #[test]
    fn among_many_counters_the_right_one_is_found() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        for wire in [Wire::Classic, Wire::Stealth] {
            for first in [0, 1000, u32::MAX - 30] {
                for counter in first..=first + 30 {
                    let sealed = keys.seal(wire, counter, 666, 22);
                    let found = keys.unseal(&sealed, first..=first + 30, 666, None);
                    assert_eq!(found, Some(Unsealed { port: 22, counter }));
                    if counter > first {
                        assert!(keys.unseal(&sealed, first..=counter - 1, 666, None).is_none());
                    }
                }
            }
        }
    }

    #[test]
    fn only_the_listed_ports_are_unsealed() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        let sealed = keys.seal(Wire::Classic, 5, 666, 22);
        let listed = Ports::parse("22,443").unwrap();
        assert_eq!(keys.unseal(&sealed, 5..=5, 666, Some(&listed)), Some(Unsealed { port: 22, counter: 5 }));
        assert!(keys.unseal(&sealed, 5..=5, 666, Some(&Ports::parse("443").unwrap())).is_none());
    }
}
