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

/// Applies each rule separately to the whole list of words.
fn slow(line: &[u8]) -> Option<Entry> {
    let bytes = (0..line.len()).find(|&at| line[at..].starts_with(b" IN=")).map(|at| &line[at + 1..]);
    let bytes = bytes.or_else(|| (0..line.len()).find(|&at| line[at..].starts_with(b"IN=")).map(|at| &line[at..]))?;
    let text = String::from_utf8_lossy(bytes);
    let separates = |char: char| char <= ' ';
    let words: Vec<String> = text.split(separates).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.iter().any(|word| word.starts_with('[')) {
        return None;
    }
    let values = |key: &str| -> Vec<&str> {
        words.iter().filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).collect()
    };
    let known = ["IN", "OUT", "SRC", "DST", "ID", "FLOWLBL", "PROTO", "SPT", "DPT", "SEQ", "ACK", "WINDOW", "URGP"];
    if known.iter().any(|key| values(key).len() > 1) {
        return None;
    }
    let value = |key: &str| values(key).first().copied();
    let flags: Vec<&str> =
        words.iter().map(String::as_str).filter(|word| ["SYN", "ACK", "FIN", "RST"].contains(word)).collect();
    if flags != ["SYN"] {
        return None;
    }
    let place = |wanted: &dyn Fn(&String) -> bool| words.iter().position(wanted);
    if place(&|word| word == "SYN")? < place(&|word| word.starts_with("WINDOW="))? {
        return None;
    }
    if value("IN")?.is_empty() || value("DST")?.is_empty() || value("OUT")? != "" || value("PROTO")? != "TCP" || value("URGP").is_none() {
        return None;
    }
    let (source, id) = match (value("ID"), value("FLOWLBL")) {
        (Some(id), None) => {
            (IpAddr::V4(value("SRC")?.parse().ok()?), number(id, 0xffff)?)
        }
        (None, Some(label)) => {
            (IpAddr::V6(value("SRC")?.parse().ok()?), number(label, 0xfffff)? & 0xffff)
        }
        _ => return None,
    };
    Some(Entry {
        source,
        source_port: number(value("SPT")?, 0xffff)? as u16,
        knock_port: number(value("DPT")?, 0xffff)? as u16,
        fields: Fields {
            id: id as u16,
            seq: number(value("SEQ")?, 0xffff_ffff)? as u32,
            ack: number(value("ACK")?, 0xffff_ffff)? as u32,
            win: Some(number(value("WINDOW")?, 0xffff)? as u16),
        },
    })
}

fn number(digits: &str, most: u64) -> Option<u64> {
    if digits.is_empty() || digits.len() > 10 || !digits.chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let number = digits.chars().fold(0, |number, digit| number * 10 + u64::from(digit.to_digit(10).unwrap()));
    (number <= most).then_some(number)
}
