//! Compares the netlink parser with a slow but simple one, and parses written messages again.
#![no_main]

use knockknock::sys::netlink::{self, Writer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let read: Vec<_> = netlink::messages(bytes).map(|message| (message.kind, message.sequence, message.body)).collect();
    assert_eq!(read, slow_messages(bytes));
    for message in netlink::messages(bytes) {
        let _ = netlink::outcome(&message);
        assert_eq!(netlink::attributes(message.body).collect::<Vec<_>>(), slow_attributes(message.body));
    }
    let attributes: Vec<_> = netlink::attributes(bytes).collect();
    assert_eq!(attributes, slow_attributes(bytes));

    let (mut body, mut writer) = (Writer::default(), Writer::default());
    attributes.iter().for_each(|(kind, value)| body.attribute(*kind, value));
    writer.message(7, 1, 9, &[], body.bytes());
    let [message] = netlink::messages(writer.bytes()).collect::<Vec<_>>()[..] else { panic!("one message") };
    assert_eq!(netlink::attributes(message.body).collect::<Vec<_>>(), attributes);
});

fn slow_messages(bytes: &[u8]) -> Vec<(u16, u32, &[u8])> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 16 <= bytes.len() {
        let number =
            |from: usize, to: usize| bytes[at + from..at + to].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
        let length = number(0, 4) as usize;
        if length < 16 || at + length > bytes.len() {
            break;
        }
        found.push((number(4, 6) as u16, number(8, 12) as u32, &bytes[at + 16..at + length]));
        at += length.div_ceil(4) * 4;
    }
    found
}

fn slow_attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + 4 <= bytes.len() {
        let short = |from: usize| usize::from(bytes[from]) | usize::from(bytes[from + 1]) << 8;
        let length = short(at);
        if length < 4 || at + length > bytes.len() {
            break;
        }
        found.push(((short(at + 2) & 0x3fff) as u16, &bytes[at + 4..at + length]));
        at += length.div_ceil(4) * 4;
    }
    found
}
