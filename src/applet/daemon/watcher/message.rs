//! The message in a SYN to a knock port, and its hash.

use super::keyed_hash::keyed_hash;
use crate::wire::{Ciphertext, Code, Fields};

/// A message of either wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// A one-time code.
    Stealth(Code),
    /// An encrypted port and its tag.
    Classic(Ciphertext),
}

impl Message {
    /// Extracts the message from the fields of a SYN.
    pub fn from_fields(fields: &Fields) -> Option<Self> {
        match Code::from_fields(fields) {
            Some(code) => Some(Self::Stealth(code)),
            None => Ciphertext::from_fields(fields).map(Self::Classic),
        }
    }

    /// Hashes the message together with the knock port.
    pub fn hash(&self, knock_port: u16, secret: u64) -> u64 {
        let (first, rest) = match self {
            Self::Stealth(code) => (code.to_u64(), 0),
            Self::Classic(ciphertext) => ciphertext.to_numbers(),
        };
        keyed_hash(secret, keyed_hash(secret, first) ^ u64::from(rest) << 16 ^ u64::from(knock_port))
    }
}
