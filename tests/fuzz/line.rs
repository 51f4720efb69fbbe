//! Compares the parser of log lines with a slow but simple one.
#![no_main]

use knockknock::wire::{Entry, Fields, Incomplete, entry};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv6Addr};

fuzz_target!(|line: &[u8]| {
    let (read, expected) = (Entry::parse(line), slow(line));
    assert!(read == expected, "{:?}", String::from_utf8_lossy(line));
    // What was cut shows no end of the header, and what has no sequence number shows none.
    let shows = |word: &[u8]| line.windows(word.len()).any(|window| window == word);
    match Incomplete::find(line) {
        Some(Incomplete::Cut) => assert!(read.is_none()),
        Some(Incomplete::NoSequence) => assert!(read.is_none() && shows(b"URGP=")),
        None => {}
    }
    if let (Some(entry), Some(port)) = (read, entry::knock_port(line)) {
        // The quick look for the knock port may find one in the log prefix instead. Such a line may be skipped.
        let at = |start: &[u8]| line.windows(start.len()).position(|window| window == start);
        let packet = at(b" IN=").or_else(|| at(b"IN=")).unwrap();
        assert!(entry.knock_port == port || line[..packet].windows(5).any(|five| five == b" DPT="));
    }
});

/// Takes one part after the other from the start of the text, in the kernel's order.
fn slow(line: &[u8]) -> Option<Entry> {
    let bytes = (0..line.len()).find(|&at| line[at..].starts_with(b" IN=")).map(|at| &line[at + 1..]);
    let bytes = bytes.or_else(|| (0..line.len()).find(|&at| line[at..].starts_with(b"IN=")).map(|at| &line[at..]))?;
    // One character for each byte.
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let mut rest = Rest(&text);
    if rest.word("IN=")?.is_empty() {
        return None;
    }
    rest.take(" OUT=")?;
    let links = [" MAC=", " PHYSIN=", " PHYSOUT", " MACSRC=", " MACDST=", " MACPROT", " VPROTO=", " VID=", " TUNNEL="];
    while !rest.0.starts_with(" SRC=") {
        links.iter().find_map(|link| rest.word(link))?;
    }
    let source = rest.word(" SRC=")?;
    let target = rest.word(" DST=")?;
    rest.word(" LEN=")?;
    let mut destination = None;
    let (source, id) = if let Ok(source) = source.parse() {
        rest.two(" TOS=0x")?;
        rest.two(" PREC=0x")?;
        rest.word(" TTL=")?;
        (IpAddr::V4(source), number(rest.word(" ID=")?, 0xffff)?)
    } else {
        destination = Some(in_full(target)?);
        rest.word(" TC=")?;
        rest.word(" HOPLIMIT=")?;
        (IpAddr::V6(in_full(source)?), number(rest.word(" FLOWLBL=")?, 0xfffff)? & 0xffff)
    };
    while !rest.0.starts_with(" PROTO=T") {
        if rest.word(" ")?.contains(['[', '=']) {
            return None;
        }
    }
    rest.take(" PROTO=TCP")?;
    let source_port = number(rest.word(" SPT=")?, 0xffff)? as u16;
    let knock_port = number(rest.word(" DPT=")?, 0xffff)? as u16;
    let seq = number(rest.word(" SEQ=")?, 0xffff_ffff)? as u32;
    let ack = number(rest.word(" ACK=")?, 0xffff_ffff)? as u32;
    let win = Some(number(rest.word(" WINDOW=")?, 0xffff)? as u16);
    rest.two(" RES=0x")?;
    while [" CWR", " ECE", " URG", " PSH"].iter().any(|flag| rest.take(flag).is_some()) {}
    rest.take(" SYN URGP=")?;
    Some(Entry { source, destination, source_port, knock_port, fields: Fields { id: id as u16, seq, ack, win } })
}

/// An IPv6 address as the kernel writes it.
fn in_full(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok().filter(|_| text.len() == 39 && !text.contains('.') && !text.contains("::"))
}

/// The rest of the text.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn take(&mut self, start: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(start)?;
        Some(())
    }

    /// Takes `start` and the text after it up to a space.
    fn word(&mut self, start: &str) -> Option<&'a str> {
        let after = self.0.strip_prefix(start)?;
        let (word, rest) = after.split_at(after.find(' ')?);
        self.0 = rest;
        Some(word)
    }

    /// Takes `start` and two characters.
    fn two(&mut self, start: &str) -> Option<()> {
        let after = self.0.strip_prefix(start)?;
        self.0 = after.char_indices().nth(2).map(|(at, _)| &after[at..])?;
        Some(())
    }
}

fn number(digits: &str, most: u64) -> Option<u64> {
    if digits.is_empty() || digits.len() > 10 || !digits.chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let number = digits.chars().fold(0, |number, digit| number * 10 + u64::from(digit.to_digit(10).unwrap()));
    (number <= most).then_some(number)
}
