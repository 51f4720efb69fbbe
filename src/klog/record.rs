//! Records of a log, and the events that reading produces.

use super::notice::Notice;
use crate::wire::{Entry, syn};

/// One logged packet, from a log rule or an NFLOG group.
#[derive(Clone, Copy)]
pub(super) enum Record<'a> {
    /// A line of text.
    Line(&'a [u8]),
    /// A line of text that was in the file when it was first read.
    OldLine(&'a [u8]),
    /// The packet's bytes, from the IP header on.
    Packet(&'a [u8]),
}

impl Record<'_> {
    /// Returns the logged SYN, if the packet is one.
    pub(super) fn entry(&self) -> Option<Entry> {
        match self {
            Record::Line(line) | Record::OldLine(line) => Entry::parse(line),
            Record::Packet(packet) => syn::entry(packet),
        }
    }

    /// Returns the line, if the record is one.
    pub(super) fn line(&self) -> Option<&[u8]> {
        match self {
            Record::Line(line) | Record::OldLine(line) => Some(line),
            Record::Packet(_) => None,
        }
    }
}

/// The result of reading one record.
pub enum LogEvent {
    /// A SYN to one of the ports, logged after the log was opened.
    Syn(Entry),
    /// A condition of the log that an operator should know about.
    Notice(Notice),
}
