//! The wire formats: conversions between bytes and values. `hotp` has the message of the stealth wire and of links,
//! `seal` that of the classic wire, `syn` the packets, `entry` the log lines. knockknock-wire(7) describes the formats.
//!
//! Nothing here uses a file, a socket or a clock. The data flow:
//!
//! - in the daemon: log record → [`Entry`] → [`Code`], or [`Ciphertext`] on the classic wire;
//! - in the client, in reverse: port and counter → [`Code`] or [`Ciphertext`] → [`Fields`] → [`Syn`] → bytes.
#![forbid(unsafe_code)]

pub mod entry;
pub mod hotp;
pub mod incomplete;
pub mod options;
pub mod seal;
pub mod syn;
pub mod syn_template;

pub use entry::Entry;
pub use hotp::Code;
pub use incomplete::Incomplete;
pub use seal::{Ciphertext, Fields, Keys, Unsealed};
pub use syn::Syn;
pub use syn_template::SynTemplate;

use crate::prefix::Prefix;

/// The format in which a SYN carries a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// The format of knockknock 0.8: 12 bytes in identification, sequence number, acknowledgment number and window.
    Classic,
    /// A one-time code of 6 bytes in identification and sequence number; every other field is the kernel's own.
    Stealth,
    /// A one-time code in the last bits of the IPv6 destination address, after this prefix.
    Link(Prefix),
}

impl Wire {
    /// Looks up the wire called `name` in a profile's config or on the command line.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "classic" => Some(Self::Classic),
            "stealth" => Some(Self::Stealth),
            _ => None,
        }
    }

    /// Returns the prefix of links.
    pub fn prefix(self) -> Option<Prefix> {
        if let Self::Link(prefix) = self { Some(prefix) } else { None }
    }

    /// Returns the name. [`Wire::named`] takes that of every wire but links, which need a prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Stealth => "stealth",
            Self::Link(_) => "links",
        }
    }
}
