//! The message of the classic wire: sealing turns a port into a [`Ciphertext`], unsealing a ciphertext into an
//! [`Unsealed`] port.
//!
//! The message is the port (2 bytes) and the first 10 bytes of HMAC-SHA1(mac key, port). It is encrypted with
//! AES-128 in CTR mode (NIST SP 800-38A); the counter block is 12 zero bytes and the counter (4). All numbers
//! are big-endian. Bytes 0..2 are the IPv4 identification, or the low 16 bits of the IPv6 flow label, bytes 2..6 the
//! sequence number, 6..10 the acknowledgment number and 10..12 the window. The stealth wire encrypts nothing: see
//! [`super::hotp`].

use crate::ports::Ports;
use aes::Aes128;
use aes::cipher::{Block, InnerIvInit, KeyInit, StreamCipherCore};
use ctr::{CtrCore, flavors::Ctr32BE};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::ops::RangeInclusive;
use zeroize::Zeroizing;

/// How many blocks of keystream are generated together: AES instructions process this many in parallel.
const AT_ONCE: usize = 8;

/// A profile's two keys. Does not implement `Debug`, so that no key can be printed.
pub struct Keys {
    /// Expanded on use, because an expanded key has 704 bytes.
    cipher: Zeroizing<[u8; 16]>,
    /// The HMAC state after the key; cloned for each message.
    pub(super) mac: Hmac<Sha1>,
}

/// An encrypted message, as a SYN carries it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ciphertext([u8; 12]);

/// An authenticated request for a port: its sender holds the keys. Only [`Keys::unseal`] creates one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsealed {
    port: u16,
    counter: u32,
}

impl Unsealed {
    /// Returns the port to open, never 0.
    pub fn port(self) -> u16 {
        self.port
    }

    /// Returns the counter with which the port was sealed.
    pub fn counter(self) -> u32 {
        self.counter
    }
}

/// The header fields that carry a message of either wire. Fields that the wire does not use are 0 or `None`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// IPv4 identification, or the low 16 bits of the IPv6 flow label.
    pub id: u16,
    /// TCP sequence number.
    pub seq: u32,
    /// TCP acknowledgment number; 0 means the stealth wire.
    pub ack: u32,
    /// TCP window, if the wire sets it.
    pub win: Option<u16>,
}

impl Keys {
    /// Creates keys from the two 16-byte values.
    pub fn new(cipher: &[u8; 16], mac: &[u8; 16]) -> Self {
        // HMAC pads the key with zeros to a block (RFC 2104). A whole block cannot have a wrong length, so this cannot
        // fail.
        let mut block = Zeroizing::new([0; 64]);
        block.iter_mut().zip(mac).for_each(|(to, from)| *to = *from);
        Self { cipher: Zeroizing::new(*cipher), mac: Hmac::new((&*block).into()) }
    }

    /// Encrypts a request for `port`, to be sent once.
    pub fn seal(&self, counter: u32, port: u16) -> Ciphertext {
        let tag = self.tag(port).finalize().into_bytes();
        let mut message = [0; 12];
        let bytes = port.to_be_bytes().into_iter().chain(tag);
        message.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        let mut keystream = Block::<Aes128>::default();
        self.keystream(counter).write_keystream_block(&mut keystream);
        apply(&mut message, &keystream);
        Ciphertext(message)
    }

    /// Decrypts `ciphertext` with each of `counters` in turn and verifies the tags in constant time. Returns the first
    /// match.
    ///
    /// `only` lists the ports to verify; other ports are skipped without computing an HMAC. Port 0 is never unsealed.
    pub fn unseal(
        &self,
        ciphertext: &Ciphertext,
        mut counters: RangeInclusive<u32>,
        only: Option<&Ports>,
    ) -> Option<Unsealed> {
        let mut keystream = self.keystream(*counters.start());
        loop {
            let mut blocks = [Block::<Aes128>::default(); AT_ONCE];
            keystream.write_keystream_blocks(&mut blocks);
            for block in &blocks {
                let counter = counters.next()?;
                let mut message = ciphertext.0;
                apply(&mut message, block);
                let (port, tag) = message.split_first_chunk()?;
                let port = u16::from_be_bytes(*port);
                let worth = port != 0 && only.is_none_or(|only| only.contains(port));
                if worth && self.tag(port).verify_truncated_left(tag).is_ok() {
                    return Some(Unsealed { port, counter });
                }
            }
        }
    }

    /// Returns the keystream that starts at `counter`'s block; the next block belongs to the next counter.
    fn keystream(&self, counter: u32) -> CtrCore<Aes128, Ctr32BE> {
        let mut block = [0; 16];
        block[12..].copy_from_slice(&counter.to_be_bytes());
        CtrCore::inner_iv_init(Aes128::new((&*self.cipher).into()), &block.into())
    }

    fn tag(&self, port: u16) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        mac.update(&port.to_be_bytes());
        mac
    }
}

/// XORs `message`, which is shorter than a block, with the keystream: encrypts or decrypts it.
fn apply(message: &mut [u8], keystream: &Block<Aes128>) {
    message.iter_mut().zip(keystream).for_each(|(byte, key)| *byte ^= key);
}

impl Ciphertext {
    /// Returns the header fields that carry these bytes. `None` if one of them would not arrive unchanged: the sender's
    /// kernel replaces an identification of 0, and an acknowledgment number of 0 means the stealth wire.
    pub fn fields(&self) -> Option<Fields> {
        let [i0, i1, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1] = self.0;
        let fields = Fields {
            id: u16::from_be_bytes([i0, i1]),
            seq: u32::from_be_bytes([s0, s1, s2, s3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            win: Some(u16::from_be_bytes([w0, w1])),
        };
        (fields.id != 0 && fields.ack != 0).then_some(fields)
    }

    /// Reads the ciphertext from the fields of a received packet; `None` if the acknowledgment number is 0.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        let ([i0, i1], [w0, w1]) = (fields.id.to_be_bytes(), fields.win?.to_be_bytes());
        let ([s0, s1, s2, s3], [a0, a1, a2, a3]) = (fields.seq.to_be_bytes(), fields.ack.to_be_bytes());
        (fields.ack != 0).then_some(Self([i0, i1, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1]))
    }

    /// Returns the first eight bytes and the last four as big-endian numbers.
    pub fn to_numbers(&self) -> (u64, u32) {
        let [i0, i1, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1] = self.0;
        (u64::from_be_bytes([i0, i1, s0, s1, s2, s3, a0, a1]), u32::from_be_bytes([a2, a3, w0, w1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hex: &str) -> [u8; 16] {
        u128::from_str_radix(hex, 16).unwrap().to_be_bytes()
    }

    /// Reads a vector file: each row as its keys and the numbers after them.
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
            let fields = Fields { id: id as u16, seq, ack, win: Some(win as u16) };
            let sealed = keys.seal(counter, port as u16);
            assert!(sealed == Ciphertext::from_fields(&fields).unwrap());
            assert!(sealed.fields() == (id != 0).then_some(fields), "an identification of 0 is not sent");
            let unsealed = keys.unseal(&sealed, counter..=counter, None);
            assert_eq!(unsealed, (port != 0).then_some(Unsealed { port: port as u16, counter }));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_other_counter_is_refused() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        let sealed = keys.seal(1000, 22);
        assert!(keys.unseal(&sealed, 999..=999, None).is_none());
        assert!(keys.unseal(&sealed, 1001..=1001, None).is_none());
        for bit in 0..96 {
            let mut flipped = sealed;
            flipped.0[bit / 8] ^= 1 << (bit % 8);
            assert!(keys.unseal(&flipped, 1000..=1000, None).is_none());
        }
    }

    #[test]
    fn the_right_counter_is_found_among_many() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        for first in [0, 1000, u32::MAX - 30] {
            for counter in first..=first + 30 {
                let sealed = keys.seal(counter, 22);
                let found = keys.unseal(&sealed, first..=first + 30, None);
                assert_eq!(found, Some(Unsealed { port: 22, counter }));
                if counter > first {
                    assert!(keys.unseal(&sealed, first..=counter - 1, None).is_none());
                }
            }
        }
    }

    #[test]
    fn only_the_listed_ports_are_unsealed() {
        let keys = Keys::new(&[7; 16], &[9; 16]);
        let sealed = keys.seal(5, 22);
        let listed = Ports::parse("22,443").unwrap();
        assert_eq!(keys.unseal(&sealed, 5..=5, Some(&listed)), Some(Unsealed { port: 22, counter: 5 }));
        assert!(keys.unseal(&sealed, 5..=5, Some(&Ports::parse("443").unwrap())).is_none());
    }
}
