//! The message in a SYN, and its hash.

use super::keyed_hash::keyed_hash;
use crate::wire::{Ciphertext, Code, Entry};
use std::net::Ipv6Addr;

/// The knock port of links, which is none: a link has any port.
pub(super) const ANY_PORT: u16 = 0;

/// A message of any wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A one-time code.
    Stealth(Code),
    /// An encrypted port and its tag.
    Classic(Ciphertext),
    /// The address of a link.
    Link(Ipv6Addr),
}

impl Message {
    /// Extracts the message from a SYN to a knock port, or to [`ANY_PORT`].
    pub fn of(entry: &Entry) -> Option<Self> {
        if entry.knock_port == ANY_PORT {
            return entry.destination.map(Self::Link);
        }
        match Code::from_fields(&entry.fields) {
            Some(code) => Some(Self::Stealth(code)),
            None => entry.ciphertext().map(Self::Classic),
        }
    }

    /// Hashes the message together with the knock port.
    pub fn hash(&self, knock_port: u16, secret: u64) -> u64 {
        let (first, rest) = match self {
            Self::Stealth(code) => (code.to_u64(), 0),
            Self::Classic(ciphertext) => ciphertext.to_numbers(),
            // The rest is the prefix, but for some bits of a long code.
            Self::Link(address) => (address.to_bits() as u64, 0),
        };
        keyed_hash(secret, keyed_hash(secret, first) ^ u64::from(rest) << 16 ^ u64::from(knock_port))
    }
}
