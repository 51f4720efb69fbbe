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
        let (upper, lower) = match self {
            Self::Stealth(code) => (0, code.to_u64()),
            Self::Classic(ciphertext) => {
                let number = ciphertext.to_u128();
                ((number >> 64) as u64, number as u64)
            }
        };
        keyed_hash(secret, keyed_hash(secret, lower) ^ upper << 16 ^ u64::from(knock_port))
    }
}
