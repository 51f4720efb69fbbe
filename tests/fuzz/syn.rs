//! Compares the packet parser with a slow but simple one, and parses written SYNs again.
#![no_main]

use knockknock::wire::options::TcpOptions;
use knockknock::wire::{Entry, Fields, SynTemplate, Syn, syn};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

fuzz_target!(|bytes: &[u8]| {
    assert!(syn::entry(bytes) == slow(bytes), "{bytes:02x?}");
    if let Some(written) = from(bytes) {
        let entry = syn::entry(&written.emit().unwrap()).unwrap();
        assert!(entry.source == written.source && entry.source_port == written.source_port);
        assert!(entry.knock_port == written.knock_port);
        assert!(entry.destination.map(IpAddr::V6) == Some(written.destination).filter(IpAddr::is_ipv6));
        assert!(entry.fields == Fields { ..written.fields });
    }
});

/// Reads the fields by their offsets in the packet (RFC 791, RFC 8200, RFC 9293).
fn slow(packet: &[u8]) -> Option<Entry> {
    let byte = |at: usize| packet.get(at).copied().map(u32::from);
    let short = |at: usize| Some(byte(at)? << 8 | byte(at + 1)?);
    let long = |at: usize| Some(short(at)? << 16 | short(at + 2)?);
    let (source, destination, id, tcp) = match byte(0)? >> 4 {
        4 => {
            let header = 4 * (byte(0)? & 15) as usize;
            if header < 20 || packet.len() < header || byte(9)? != 6 || short(6)? & 0x1fff != 0 {
                return None;
            }
            (IpAddr::from(long(12)?.to_be_bytes()), None, short(4)?, header)
        }
        6 => {
            if packet.len() < 40 || byte(6)? != 6 {
                return None;
            }
            let source: [u8; 16] = packet[8..24].try_into().unwrap();
            let destination: [u8; 16] = packet[24..40].try_into().unwrap();
            (IpAddr::from(source), Some(destination.into()), long(0)? & 0xffff, 40)
        }
        _ => return None,
    };
    long(tcp + 16)?;
    let flags = byte(tcp + 13)?;
    let (fin, syn, rst, ack) = (flags & 1, flags & 2, flags & 4, flags & 16);
    if fin != 0 || syn == 0 || rst != 0 || ack != 0 {
        return None;
    }
    let header = 4 * (byte(tcp + 12)? >> 4) as usize;
    if header < 20 || packet.len() < tcp + header {
        return None;
    }
    Some(Entry {
        source,
        destination,
        source_port: short(tcp)? as u16,
        knock_port: short(tcp + 2)? as u16,
        fields: Fields {
            id: id as u16,
            seq: long(tcp + 4)?,
            ack: long(tcp + 8)?,
            win: Some(short(tcp + 14)? as u16),
        },
    })
}

/// A SYN made of the bytes.
fn from(bytes: &[u8]) -> Option<Syn> {
    let &[
        kind,
        ttl,
        i0,
        i1,
        s0,
        s1,
        d0,
        d1,
        q0,
        q1,
        q2,
        q3,
        a0,
        a1,
        a2,
        a3,
        w0,
        w1,
        m0,
        m1,
        t0,
        t1,
        t2,
        t3,
        ref rest @ ..,
    ] = bytes
    else {
        return None;
    };
    let addresses: [u8; 32] = *rest.first_chunk()?;
    let (source, destination) = if kind & 1 == 0 {
        let [a, b, c, d, e, f, g, h, ..] = addresses;
        (IpAddr::from([a, b, c, d]), IpAddr::from([e, f, g, h]))
    } else {
        let (source, destination) = addresses.split_at(16);
        let array = |half: &[u8]| IpAddr::from(<[u8; 16]>::try_from(half).unwrap());
        (array(source), array(destination))
    };
    let timestamp = (kind & 2 != 0).then_some(u32::from_be_bytes([t0, t1, t2, t3]));
    let win = u16::from_be_bytes([w0, w1]);
    Some(Syn {
        source,
        destination,
        source_port: u16::from_be_bytes([s0, s1]),
        knock_port: u16::from_be_bytes([d0, d1]),
        fields: Fields {
            id: u16::from_be_bytes([i0, i1]),
            seq: u32::from_be_bytes([q0, q1, q2, q3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            win: Some(win),
        },
        flow_high: kind >> 4,
        template: SynTemplate {
            ttl,
            dont_fragment: kind & 4 != 0,
            win,
            ecn: kind & 8 != 0,
            options: TcpOptions {
                mss: u16::from_be_bytes([m0, m1]),
                sack: kind & 16 != 0,
                timestamp,
                window_scale: (kind & 32 != 0).then_some(kind >> 6),
            },
        },
    })
}
