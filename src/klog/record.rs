//! What a log gives: records of packets, and notices about itself.

use crate::wire::{Entry, syn};
use std::fmt;

/// What the kernel said of one packet, from a log rule or an NFLOG group.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    /// A line of text.
    Line(&'a [u8]),
    /// The packet's own bytes, from its IP header on.
    Packet(&'a [u8]),
}

impl Record<'_> {
    /// The SYN that it tells of, if it is one.
    pub fn entry(&self) -> Option<Entry> {
        match self {
            Record::Line(line) => Entry::parse(line),
            Record::Packet(packet) => syn::entry(packet),
        }
    }
}

/// Something about the log that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Standard input has ended: nothing more will come.
    Ended,
    /// The file is not there, or is no file; it is waited for.
    Missing(String),
    /// The file is there again.
    Back,
    /// The reader was too slow and records were lost.
    Overrun,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => write!(f, "the log on standard input has ended"),
            Self::Missing(why) => write!(f, "the log cannot be read, waiting for it: {why}"),
            Self::Back => write!(f, "the log is there again"),
            Self::Overrun => write!(f, "the kernel's log ran over; records were lost"),
        }
    }
}
