//! Splits a byte stream into lines and looks only at those that name a wanted port or address.

use super::notice::Notice;
use super::record::Record;
use super::wanted::Wanted;
use crate::error::{Error, Result};
use crate::search;
use crate::wire::entry;
use crate::wire::incomplete::LOG_PREFIX;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// The buffer size, and so the longest line in bytes. Longer lines are skipped.
const BUFFER: usize = 1 << 16;

/// A line buffer.
pub struct Lines {
    buffer: Box<[u8]>,
    /// How many bytes of the buffer are filled, starting with the beginning of a line.
    filled: usize,
    /// Whether the buffer starts in the middle of a line that was too long.
    in_long_line: bool,
}

impl Lines {
    /// Returns an empty buffer.
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into(), filled: 0, in_long_line: false }
    }

    /// Discards an incomplete line.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.in_long_line = false;
    }

    /// Reads once, and passes complete lines that may log a wanted SYN to `each`. Returns the number of
    /// bytes read; 0 means end of file.
    pub fn read_from(
        &mut self,
        from: &mut impl Read,
        wanted: &Wanted,
        each: &mut dyn FnMut(Record<'_>),
    ) -> io::Result<usize> {
        let read = from.read(self.buffer.get_mut(self.filled..).unwrap_or_default())?;
        self.filled += read;
        let filled = self.buffer.get(..self.filled).unwrap_or_default();
        let Some(end) = search::last_byte(filled, b'\n') else {
            if self.filled == self.buffer.len() {
                self.filled = 0;
                self.in_long_line = true;
            }
            return Ok(read);
        };
        let (mut whole, rest) = filled.split_at(end + 1);
        if self.in_long_line {
            let first = search::first_byte(whole, b'\n').map_or(0, |at| at + 1);
            whole = whole.get(first..).unwrap_or_default();
            self.in_long_line = false;
        }
        pass_syns(whole, wanted, each);
        pass_truncated(whole, each);
        let rest = rest.len();
        self.buffer.copy_within(end + 1..self.filled, 0);
        self.filled = rest;
        Ok(read)
    }
}

/// The largest distance in bytes from ` DPT=` to the word SYN: all numbers at their longest, with all flags in between.
const REACH: usize = 96;

/// Passes the lines of `text` that may log a wanted SYN to `each`.
///
/// Hardly any word in a kernel log but SYN has a Y, and a search for a single byte is the fastest. The port comes
/// shortly before SYN. Line ends are searched for only around a match.
fn pass_syns(text: &[u8], wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) {
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| search::first_byte(rest, b'Y')) {
        let at = from + at;
        from = at + 1;
        if text.get(at.saturating_sub(2)..).and_then(<[u8]>::first_chunk) != Some(b" SYN ") {
            continue;
        }
        let (before, after) = text.split_at(at);
        let Some(named) = last_port(before) else { continue };
        let (port, _) = entry::digits(search::eight(before.get(named + 5..).unwrap_or_default()));
        let is_wanted = u16::try_from(port).is_ok_and(|port| wanted.has_port(port));
        if !is_wanted && !wanted.has_links() {
            continue;
        }
        let start = search::last_byte(before, b'\n').map_or(0, |newline| newline + 1);
        if start > named || !is_wanted && !wanted.is_link(before.get(start..).unwrap_or_default()) {
            continue;
        }
        let end = at + search::first_byte(after, b'\n').unwrap_or(after.len());
        each(Record::Line(text.get(start..end).unwrap_or_default()));
        from = end;
    }
}

/// Passes the last line of `text` to `each` if it logs a TCP packet but ends before the packet's flags.
///
/// A program that truncates long lines truncates many, so one line of each read is enough.
fn pass_truncated(text: &[u8], each: &mut dyn FnMut(Record<'_>)) {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let start = search::last_byte(text, b'\n').map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default();
    let has = |word: &[u8]| search::contains(line, word);
    // A line that has its flags was handled above.
    if !has(b"URGP=") && !has(b"SYN ") && has(b"IN=") && (has(b"PROTO=TCP") || has(LOG_PREFIX)) {
        each(Record::Line(line));
    }
}

/// Returns the position of the last ` DPT=` within [`REACH`] of the end of `text`; it may be in another line.
fn last_port(text: &[u8]) -> Option<usize> {
    let far = text.len().saturating_sub(REACH);
    let mut near = text.get(far..)?;
    // Between the two words only PSH has a P.
    while let Some(at) = search::last_byte(near, b'P') {
        if near.get(at.saturating_sub(2)..).and_then(<[u8]>::first_chunk) == Some(b" DPT=") {
            return Some(far + at - 2);
        }
        near = near.get(..at)?;
    }
    None
}

/// Standard input as a log, for `logread -f |` and `journalctl -kf |`.
pub struct Input {
    file: File,
    lines: Lines,
}

impl Input {
    pub(super) fn new(file: File) -> Self {
        Self { file, lines: Lines::new() }
    }

    /// Becomes readable when there may be more input.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn read(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        match self.lines.read_from(&mut self.file, wanted, each) {
            Ok(0) => Ok(Some(Notice::Ended)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(cause) => Err(Error::system("read standard input", cause)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;

    /// The wanted lines of `text`, read in steps of `step` bytes.
    fn read(text: &[u8], step: usize) -> Vec<String> {
        let wanted = Wanted::new(Ports::from_iter([666]), &[]);
        let (mut lines, mut found) = (Lines::new(), Vec::new());
        for mut piece in text.chunks(step) {
            while !piece.is_empty() {
                let mut each = |record: Record<'_>| {
                    if let Record::Line(line) = record {
                        found.push(String::from_utf8(line.to_vec()).unwrap());
                    }
                };
                lines.read_from(&mut piece, &wanted, &mut each).unwrap();
            }
        }
        found
    }

    #[test]
    fn wanted_lines_are_found_at_every_read_size() {
        let text = b"a DPT=666 SYN b\nc DPT=667 SYN d\n DPT=666 SYN \nno port SYN \nY\nx DPT=66 SYN \n\
            y DPT=6660 SYN z\n DPT=1 DPT=666 SYN \n DPT=666 ACK \nnone SYN \n DPT=666 PSH P SYN \nhalf DPT=666 SYN ";
        for step in [1, 2, 3, 7, 100, 1000] {
            let wanted = ["a DPT=666 SYN b", " DPT=666 SYN ", " DPT=1 DPT=666 SYN ", " DPT=666 PSH P SYN "];
            assert_eq!(read(text, step), wanted, "steps of {step}");
        }
    }

    #[test]
    fn lines_to_links_are_found_at_every_port() {
        let prefix = crate::prefix::Prefix::parse("2001:db8:0:ff::/64").unwrap();
        let wanted = Wanted::new(Ports::from_iter([666]), &[prefix]);
        let line = |group: &str, port| format!("x DST=2001:0db8:0000:{group}:1 DPT={port} SYN ");
        let (link, other, knock) = (line("00ff", 80), line("00fe", 80), line("00fe", 666));
        let (text, mut found) = (format!("{link}\n{other}\n{knock}\n{link}\n"), Vec::new());
        pass_syns(text.as_bytes(), &wanted, &mut |record| found.extend(record.line().map(<[u8]>::to_vec)));
        assert_eq!(found, [link.as_bytes(), knock.as_bytes(), link.as_bytes()]);
        assert!(wanted.has(80, link.as_bytes()) && !wanted.has(80, other.as_bytes()));
    }

    #[test]
    fn a_truncated_last_line_is_passed_on() {
        let line =
            "x IN=eth0 OUT= SRC=192.0.2.1 DST=192.0.2.2 LEN=60 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00";
        for cut in [line, &format!("{line} "), &line[..70], &format!("{line} SYN"), "knockknock IN=eth0 OUT= SRC=192."]
        {
            assert_eq!(read(format!("foreign\n{cut}\n").as_bytes(), 1000), [cut]);
        }
        for whole in
            ["foreign PROTO=TCP", "x IN=eth0 PROTO=UDP SPT=1 DPT=666", &format!("{line} ACK URGP=0"), "x IN=eth0 OUT="]
        {
            assert_eq!(read(format!("foreign\n{whole}\n").as_bytes(), 1000), [""; 0]);
        }
        assert_eq!(read(format!("{line}\nforeign\n").as_bytes(), 1000), [""; 0], "one in each read is enough");
    }

    #[test]
    fn every_entry_is_found() {
        // Every number has its maximum length, and every flag that can precede SYN is set.
        let line = "x IN=eth0 OUT= MAC= SRC=100.100.100.100 DST=100.100.100.100 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=65535 DF \
            PROTO=TCP SPT=65535 DPT=666 SEQ=4294967295 ACK=4294967295 WINDOW=65535 RES=0x3f CWR ECE URG PSH SYN URGP=65535";
        assert!(crate::wire::Entry::parse(line.as_bytes()).is_some());
        assert_eq!(read(format!("{line}\n").as_bytes(), 1000), [line]);
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_skipped() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend(b" DPT=666 SYN tail of it\nnext DPT=666 SYN \n");
        assert_eq!(read(&text, 5000), ["next DPT=666 SYN "]);
        let text = [&vec![b'x'; BUFFER][..], b"\nnext DPT=666 SYN \n"].concat();
        assert_eq!(read(&text, BUFFER), ["next DPT=666 SYN "]);
    }
}
