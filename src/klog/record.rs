//! What a log holds, and what reading it comes to.

use super::notice::Notice;
use crate::wire::{Entry, syn};

/// What the kernel said of one packet, from a log rule or an NFLOG group.
#[derive(Clone, Copy)]
pub(super) enum Record<'a> {
    /// A line of text.
    Line(&'a [u8]),
    /// A line of text that stood in the log before the log was looked at.
    PastLine(&'a [u8]),
    /// The packet's own bytes, from its IP header on.
    Packet(&'a [u8]),
}

impl Record<'_> {
    /// The SYN that it tells of, if it is one.
    pub(super) fn entry(&self) -> Option<Entry> {
        match self {
            Record::Line(line) | Record::PastLine(line) => Entry::parse(line),
            Record::Packet(packet) => syn::entry(packet),
        }
    }

    /// Its text, where it has one.
    pub(super) fn line(&self) -> Option<&[u8]> {
        match self {
            Record::Line(line) | Record::PastLine(line) => Some(line),
            Record::Packet(_) => None,
        }
    }
}

/// What reading the log comes to.
pub enum Event {
    /// A SYN to one of the ports, logged since the log was opened.
    Syn(Entry),
    /// Something about the log that a person should know.
    Notice(Notice),
}
