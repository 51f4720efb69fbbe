//! Compares the parser of log lines with a slow but simple one.
#![no_main]

use knockknock::wire::{Entry, Fields, Incomplete, entry};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

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

/// Splits the line at each `=`, and compares the keys with those that the kernel writes, in its order.
fn slow(line: &[u8]) -> Option<Entry> {
    let bytes = (0..line.len()).find(|&at| line[at..].starts_with(b" IN=")).map(|at| &line[at + 1..]);
    let bytes = bytes.or_else(|| (0..line.len()).find(|&at| line[at..].starts_with(b"IN=")).map(|at| &line[at..]))?;
    // One character for each byte.
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let parts: Vec<&str> = text.split('=').collect();
    let mut at = 0;
    // The value of the last key, which ends before the next key.
    let mut value = |key: &str| {
        at += 1;
        parts.get(at).filter(|_| at + 1 < parts.len())?.strip_suffix(key).map(str::to_owned)
    };
    let input = value(" OUT")?;
    if input.starts_with(' ') || input.is_empty() {
        return None;
    }
    let mut output = text.split_once(" OUT=")?.1;
    if !output.starts_with(' ') {
        return None;
    }
    loop {
        let (before, after) = output.split_once('=')?;
        output = after;
        if before.ends_with(" SRC") {
            break;
        }
        ["YSIN", "SOUT", " MAC", "CSRC", "CDST", "ROTO", " VID", "NNEL"].iter().find(|key| before.ends_with(*key))?;
    }
    let (source, rest) = output.split_once(' ')?;
    let rest = rest.strip_prefix("DST=")?;
    let (destination, rest) = rest.split_once('=')?;
    let destination = destination.strip_suffix(" LEN")?;
    if destination.starts_with(' ') || destination.is_empty() {
        return None;
    }
    let mut rest = rest;
    // The text after the start: a word up to a space, or any two bytes.
    let mut take = |start: &str, two: bool| {
        rest = rest.strip_prefix(start)?;
        let end = if two { rest.char_indices().nth(2)?.0 } else { rest.find(' ')? };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word.to_owned())
    };
    let ten = |digits: String| number(&digits, 9_999_999_999);
    ten(take("", false)?)?;
    let (source, id) = if let Ok(source) = source.parse() {
        take(" TOS=0x", true)?;
        take(" PREC=0x", true)?;
        ten(take(" TTL=", false)?)?;
        (IpAddr::V4(source), number(&take(" ID=", false)?, 0xffff)?)
    } else {
        ten(take(" TC=", false)?)?;
        ten(take(" HOPLIMIT=", false)?)?;
        (IpAddr::V6(source.parse().ok()?), number(&take(" FLOWLBL=", false)?, 0xfffff)? & 0xffff)
    };
    let (words, after) = rest.split_once('=')?;
    words.strip_suffix("ROTO").filter(|words| !words.contains('['))?;
    let mut rest = after;
    let mut take = |start: &str| {
        rest = rest.strip_prefix(start)?;
        let (word, after) = rest.split_at(rest.find(' ')?);
        rest = after;
        number(word, 0xffff_ffff)
    };
    let source_port = take("TCP SPT=").filter(|&port| port < 65536)? as u16;
    let knock_port = take(" DPT=").filter(|&port| port < 65536)? as u16;
    let seq = take(" SEQ=")? as u32;
    let ack = take(" ACK=")? as u32;
    let win = Some(take(" WINDOW=").filter(|&window| window < 65536)? as u16);
    let rest = rest.strip_prefix(" RES=0x")?;
    let mut flags = rest.char_indices().nth(2).map(|(at, _)| &rest[at..])?;
    while let Some(after) = [" CWR", " ECE", " URG", " PSH"].iter().find_map(|flag| flags.strip_prefix(flag)) {
        flags = after;
    }
    flags.strip_prefix(" SYN URGP=")?;
    Some(Entry { source, source_port, knock_port, fields: Fields { id: id as u16, seq, ack, win } })
}

fn number(digits: &str, most: u64) -> Option<u64> {
    if digits.is_empty() || digits.len() > 10 || !digits.chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let number = digits.chars().fold(0, |number, digit| number * 10 + u64::from(digit.to_digit(10).unwrap()));
    (number <= most).then_some(number)
}
