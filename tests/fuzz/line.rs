//! A line of the log is read as a slow and obvious reader reads it.
#![no_main]

use knockknock::wire::{Entry, Fields, entry};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fuzz_target!(|line: &[u8]| {
    let (read, expected) = (Entry::parse(line), slow(line));
    assert!(read == expected, "{:?}", String::from_utf8_lossy(line));
    if let (Some(entry), Some(port)) = (read, entry::knock_port(line)) {
        // A log prefix may name a port of its own, and is then taken at its word: the line may be passed over.
        let at = |start: &[u8]| line.windows(start.len()).position(|window| window == start);
        let packet = at(b" IN=").or_else(|| at(b"IN=")).unwrap();
        assert!(entry.knock_port == port || line[..packet].windows(5).any(|five| five == b" DPT="));
    }
});

/// The rules one by one, each over the whole list of words.
fn slow(line: &[u8]) -> Option<Entry> {
    let bytes = (0..line.len()).find(|&at| line[at..].starts_with(b" IN=")).map(|at| &line[at + 1..]);
    let bytes = bytes.or_else(|| (0..line.len()).find(|&at| line[at..].starts_with(b"IN=")).map(|at| &line[at..]))?;
    let text = String::from_utf8(bytes.to_vec()).ok()?;
    let all: Vec<String> = text
        .split(|char: char| char.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    // The word behind a TCP header's OPT is its list of options, whatever it looks like.
    let protocol_at = all.iter().position(|word| word.starts_with("PROTO="));
    let (mut words, mut lists, mut at) = (Vec::new(), Vec::new(), 0);
    while at < all.len() {
        if all[at] == "OPT" && protocol_at.is_some_and(|protocol| protocol < at) {
            lists.push(all.get(at + 1)?.clone());
            at += 1;
        } else {
            words.push(all[at].clone());
        }
        at += 1;
    }
    if words.iter().any(|word| word.starts_with('[')) || lists.len() > 1 {
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
    if value("IN")?.is_empty() || value("OUT")? != "" || value("PROTO")? != "TCP" || value("URGP").is_none() {
        return None;
    }
    let (source, id) = match (value("ID"), value("FLOWLBL")) {
        (Some(id), None) => {
            value("DST")?.parse::<Ipv4Addr>().ok()?;
            (IpAddr::V4(value("SRC")?.parse().ok()?), number(id, 0xffff)?)
        }
        (None, Some(label)) => {
            value("DST")?.parse::<Ipv6Addr>().ok()?;
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
            timestamp: lists.first().and_then(|list| timestamp(list)),
        },
        options_logged: !lists.is_empty(),
    })
}

fn number(digits: &str, most: u64) -> Option<u64> {
    if digits.is_empty() || !digits.chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    if significant.len() > 10 {
        return None;
    }
    let number = significant.chars().fold(0, |number, digit| number * 10 + u64::from(digit.to_digit(10).unwrap()));
    (number <= most).then_some(number)
}

fn timestamp(word: &str) -> Option<u32> {
    let hex = word.strip_prefix('(')?.strip_suffix(')')?;
    if hex.len() % 2 == 1 || hex.len() > 80 || !hex.chars().all(|char| "0123456789ABCDEF".contains(char)) {
        return None;
    }
    let list: Vec<u8> =
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    list_timestamp(&list)
}

/// The option kinds and bodies first, then the one that is wanted.
fn list_timestamp(list: &[u8]) -> Option<u32> {
    let (mut options, mut at) = (Vec::new(), 0);
    while at < list.len() && list[at] != 0 {
        if list[at] == 1 {
            at += 1;
            continue;
        }
        let length = usize::from(*list.get(at + 1)?);
        if length < 2 || at + length > list.len() {
            return None;
        }
        options.push((list[at], list[at + 2..at + length].to_vec()));
        at += length;
    }
    let stamps: Vec<_> = options.into_iter().filter(|(kind, _)| *kind == 8).map(|(_, body)| body).collect();
    if stamps.iter().any(|body| body.len() != 8 || body[4..] != [0; 4]) || stamps.len() != 1 {
        return None;
    }
    Some(u32::from_be_bytes(stamps[0][..4].try_into().unwrap()))
}
