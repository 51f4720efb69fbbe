//! Checks that a status record which is read is written as the same bytes, and that a status which is written is read.
#![no_main]

use knockknock::say;
use knockknock::status::{self, LastKnock, Status};
use libfuzzer_sys::fuzz_target;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The length of a record and of its checksum.
const RECORD: usize = 4096;
const CHECKSUM: usize = 8;

fuzz_target!(|bytes: &[u8]| {
    // As it is, and with the length and the checksum that it should have.
    let mut text = bytes.to_vec();
    text.resize(RECORD - CHECKSUM, b'\n');
    for record in [bytes.to_vec(), [&status::checksum(&text).to_be_bytes()[..], &text].concat()] {
        if let Some(status) = Status::decode(&record) {
            assert_eq!(status.encode(), record);
        }
    }

    let status = made_of(bytes);
    let (record, mut read) = (status.encode(), Status::decode(&status.encode()).expect("it was just written"));
    assert_eq!((record.len(), read.encode()), (RECORD, record));
    // The oldest knocks are left out if they do not fit.
    assert!(status.knocks.starts_with(&read.knocks));
    read.knocks = status.knocks.clone();
    assert_eq!(read, status);
});

/// A status with values that the input names, as the watcher may make it.
fn made_of(mut bytes: &[u8]) -> Box<Status> {
    let mut take = |length: usize| {
        let (taken, rest) = bytes.split_at(length.min(bytes.len()));
        bytes = rest;
        taken
    };
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let (daemon, profiles, since) = (number(take(4)) as u32, number(take(8)), number(take(8)));
    let mut status = Status::start(None, daemon, &String::from_utf8_lossy(take(4)), profiles, since);
    status.counts.iter_mut().for_each(|count| *count = number(take(1)));
    while let &[kind, length] = take(2) {
        let text = String::from_utf8_lossy(take(length.into())).into_owned();
        if kind == 0 {
            // A problem has a text.
            status.problem(number(take(8)), &format!("cannot {text}"));
            continue;
        }
        let source = match take(16).try_into() {
            Ok(octets) if kind % 2 == 0 => Ipv6Addr::from_octets(octets).into(),
            _ => Ipv4Addr::from(number(take(4)) as u32).into(),
        };
        let port = number(take(2)) as u16;
        status.knock(LastKnock { time: number(take(8)), source, port, profile: say::escaped(&text) });
    }
    status
}
