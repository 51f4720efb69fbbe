//! Writes and reads SYN packets: an IPv4 (RFC 791) or IPv6 (RFC 8200) header, and a TCP header (RFC 9293).

use super::Entry;
use super::entry::flow_id;
use super::options;
use super::seal::Fields;
use super::syn_template::SynTemplate;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Offsets in an IPv4 header (RFC 791, section 3.1).
mod v4 {
    pub const HEADER: usize = 20;
    pub const FRAGMENT: usize = 6;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
}

/// Offsets in an IPv6 header (RFC 8200, section 3).
mod v6 {
    pub const HEADER: usize = 40;
}

/// Offsets in a TCP header (RFC 9293, section 3.1).
mod tcp {
    pub const HEADER: usize = 20;
    pub const CHECKSUM: usize = 16;
}

const TCP: u8 = 6;
const DONT_FRAGMENT: u16 = 0x4000;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const ECE_CWR: u8 = 0xc0;

/// A SYN packet, field by field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Syn {
    /// The sender's address.
    pub source: IpAddr,
    /// The receiver's address, of the same family.
    pub destination: IpAddr,
    /// TCP source port.
    pub source_port: u16,
    /// TCP destination port.
    pub knock_port: u16,
    /// The fields that carry the message.
    pub fields: Fields,
    /// The top 4 bits of an IPv6 flow label; IPv4 has none.
    pub flow_high: u8,
    /// All other fields.
    pub template: SynTemplate,
}

impl Syn {
    /// Returns the packet, from the IP header on. `None` if the addresses are of different families.
    pub fn emit(&self) -> Option<Vec<u8>> {
        let mut segment = self.segment();
        let length = segment.len() as u16;
        let (mut packet, pseudo) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let addresses = [source.octets(), destination.octets()].as_flattened().to_vec();
                (self.header_v4(length, &addresses), addresses)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let addresses = [source.octets(), destination.octets()].as_flattened().to_vec();
                (self.header_v6(length, &addresses), addresses)
            }
            _ => return None,
        };
        // The TCP checksum covers a pseudo header: both addresses, the protocol, the length (RFC 9293, section 3.1).
        let sum = checksum(&[&pseudo, &[0, TCP], &length.to_be_bytes(), &segment]);
        put(&mut segment, tcp::CHECKSUM, sum);
        packet.extend(segment);
        Some(packet)
    }

    fn segment(&self) -> Vec<u8> {
        let mut list = Vec::with_capacity(options::LONGEST);
        self.template.options.emit(&mut list);
        let words = (tcp::HEADER + list.len()) / 4;
        let mut segment = Vec::with_capacity(words * 4);
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(self.knock_port.to_be_bytes());
        segment.extend(self.fields.seq.to_be_bytes());
        segment.extend(self.fields.ack.to_be_bytes());
        segment.extend([(words << 4) as u8, SYN | if self.template.ecn { ECE_CWR } else { 0 }]);
        segment.extend(self.fields.win.unwrap_or(self.template.win).to_be_bytes());
        segment.extend([0; 4]); // checksum, urgent pointer
        segment.extend(list);
        segment
    }

    fn header_v4(&self, length: u16, addresses: &[u8]) -> Vec<u8> {
        let mut header = Vec::with_capacity(v4::HEADER + usize::from(length));
        header.extend([0x45, 0]); // version 4, header length in words, type of service
        header.extend((v4::HEADER as u16 + length).to_be_bytes());
        header.extend(self.fields.id.to_be_bytes());
        header.extend(if self.template.dont_fragment { DONT_FRAGMENT } else { 0 }.to_be_bytes());
        header.extend([self.template.ttl, TCP, 0, 0]);
        header.extend(addresses);
        let sum = checksum(&[&header]);
        put(&mut header, v4::CHECKSUM, sum);
        header
    }

    fn header_v6(&self, length: u16, addresses: &[u8]) -> Vec<u8> {
        let mut header = Vec::with_capacity(v6::HEADER + usize::from(length));
        header.extend([0x60, self.flow_high & 0x0f]); // version 6, traffic class, first bits of the flow label
        header.extend(self.fields.id.to_be_bytes());
        header.extend(length.to_be_bytes());
        header.extend([TCP, self.template.ttl]);
        header.extend(addresses);
        header
    }
}

/// Parses a packet, from the IP header on, into the [`Entry`] that its log line would give. `None` unless it has the
/// complete headers of a SYN.
pub fn entry(packet: &[u8]) -> Option<Entry> {
    let (source, destination, id, segment) = match packet.first()? >> 4 {
        4 => {
            let header = packet.get(..usize::from(packet.first()? & 0x0f) * 4)?;
            let fixed: &[u8; v4::HEADER] = header.first_chunk()?;
            // Only the first fragment has a TCP header.
            let fragment = u16::from_be_bytes([fixed[v4::FRAGMENT], fixed[v4::FRAGMENT + 1]]) & 0x1fff;
            if fixed[v4::PROTOCOL] != TCP || fragment != 0 {
                return None;
            }
            let [.., s0, s1, s2, s3, _, _, _, _] = *fixed;
            let source = Ipv4Addr::new(s0, s1, s2, s3);
            (IpAddr::V4(source), None, u16::from_be_bytes([fixed[4], fixed[5]]), packet.get(header.len()..)?)
        }
        6 => {
            let (fixed, rest) = packet.split_first_chunk::<{ v6::HEADER }>()?;
            let [_, f0, f1, f2, _, _, TCP, _, addresses @ ..] = fixed else { return None };
            let (source, destination): (&[u8; 16], _) = addresses.split_first_chunk()?;
            let destination: &[u8; 16] = destination.first_chunk()?;
            let label = u32::from_be_bytes([0, f0 & 0x0f, *f1, *f2]).into();
            (Ipv6Addr::from(*source).into(), Some(Ipv6Addr::from(*destination)), flow_id(label)?, rest)
        }
        _ => return None,
    };
    let (&[s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, words, flags, w0, w1, _, _, _, _], _) =
        segment.split_first_chunk::<{ tcp::HEADER }>()?;
    if flags & FIN_SYN_RST_ACK != SYN {
        return None;
    }
    // The options must be complete; their contents do not matter.
    segment.get(tcp::HEADER..usize::from(words >> 4) * 4)?;
    Some(Entry {
        source,
        destination,
        source_port: u16::from_be_bytes([s0, s1]),
        knock_port: u16::from_be_bytes([d0, d1]),
        fields: Fields {
            id,
            seq: u32::from_be_bytes([q0, q1, q2, q3]),
            ack: u32::from_be_bytes([a0, a1, a2, a3]),
            win: Some(u16::from_be_bytes([w0, w1])),
        },
    })
}

/// Computes the internet checksum (RFC 1071) over `parts`, of which all but the last must have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let [high, low] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or(0));
            sum += u32::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Writes `value`, big-endian, at the offset `at` of a header.
fn put(header: &mut [u8], at: usize, value: u16) {
    if let Some(place) = header.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Keys;
    use crate::wire::options::TcpOptions;

    const TEMPLATE: SynTemplate = SynTemplate {
        ttl: 64,
        dont_fragment: true,
        win: 64240,
        ecn: false,
        options: TcpOptions { mss: 1460, sack: true, timestamp: Some(0), window_scale: Some(7) },
    };

    fn syn(source: &str, destination: &str, fields: Fields) -> Syn {
        let [source, destination] = [source, destination].map(|text| text.parse().unwrap());
        Syn { source, destination, source_port: 40000, knock_port: 666, fields, flow_high: 0xa, template: TEMPLATE }
    }

    /// The line that the kernel logs for a packet (`nf_log_syslog.c`), computed from its bytes.
    fn logged(packet: &[u8]) -> String {
        let be16 = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let be32 = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
        let (ip, tcp) = if packet[0] >> 4 == 4 {
            let [s, d] = [12, 16].map(|at| Ipv4Addr::from(be32(at)));
            (format!("SRC={s} DST={d} LEN={} TOS=0x00 PREC=0x00 TTL={} ID={} DF", be16(2), packet[8], be16(4)), 20)
        } else {
            let address =
                |at: usize| (0..8usize).map(|i| format!("{:04x}", be16(at + 2 * i))).collect::<Vec<_>>().join(":");
            let label = be32(0) & 0xfffff;
            (
                format!(
                    "SRC={} DST={} LEN={} TC=0 HOPLIMIT={} FLOWLBL={label}",
                    address(8),
                    address(24),
                    be16(4) + 40,
                    packet[7]
                ),
                40,
            )
        };
        let options: String = packet[tcp + 20..].iter().map(|byte| format!("{byte:02X}")).collect();
        format!(
            "knockknock IN=eth0 OUT= MAC= {ip} PROTO=TCP SPT={} DPT={} SEQ={} ACK={} WINDOW={} RES=0x00 SYN URGP=0 OPT ({options}) ",
            be16(tcp),
            be16(tcp + 2),
            be32(tcp + 4),
            be32(tcp + 8),
            be16(tcp + 14)
        )
    }

    /// The round trip: fields → packet → the kernel's line → entry → fields.
    fn round_trip(fields: Fields) {
        for (source, destination) in [("192.0.2.7", "192.0.2.1"), ("2001:db8::7", "2001:db8::1")] {
            let packet = syn(source, destination, fields).emit().unwrap();
            let line = Entry::parse(logged(&packet).as_bytes()).unwrap();
            assert!(entry(&packet).unwrap() == line, "the packet and its log line give the same entry");
            assert_eq!(line.source.to_string(), source);
            assert_eq!(line.destination, destination.parse().ok());
            let Fields { id, seq, ack, win, .. } = line.fields;
            assert_eq!((id, seq, ack), (fields.id, fields.seq, fields.ack));
            assert!(fields.win.is_none() || fields.win == win);
        }
    }

    fn round_trips(counter: u32, port: u16) {
        let keys = Keys::new(&[3; 16], &[4; 16]);
        let classic = keys.seal(counter, port).fields();
        classic.into_iter().chain(keys.code(counter, port).fields()).for_each(round_trip);
    }

    #[test]
    fn every_port_survives_the_round_trip() {
        for port in 1..=65535 {
            round_trips(7, port);
        }
    }

    #[test]
    fn the_first_and_last_counters_survive_the_round_trip() {
        for counter in (0..64).chain(u32::MAX - 64..=u32::MAX).chain([255, 256, 65535, 65536, 1 << 31]) {
            round_trips(counter, 22);
        }
    }

    #[test]
    fn checksums_are_right() {
        let fields = Fields { id: 1, seq: 2, ack: 3, win: Some(4) };
        let packet = syn("192.0.2.7", "192.0.2.1", fields).emit().unwrap();
        assert_eq!(packet.len(), 60);
        assert_eq!(checksum(&[&packet[..20]]), 0);
        assert_eq!(checksum(&[&packet[12..20], &[0, TCP, 0, 40], &packet[20..]]), 0);
        let packet = syn("2001:db8::7", "2001:db8::1", fields).emit().unwrap();
        assert_eq!(packet.len(), 80);
        assert_eq!(checksum(&[&packet[8..40], &[0, TCP, 0, 40], &packet[40..]]), 0);
    }

    #[test]
    fn the_packet_of_a_plain_connection_is_an_entry_without_a_classic_message() {
        // A SYN of Linux 6.18, 10.9.0.2:40000 → 10.9.0.1:22.
        let packet = b"\x45\0\0\x3c\x12\x34\x40\0\x40\x06\0\0\x0a\x09\0\x02\x0a\x09\0\x01\x9c\x40\0\x16\
            \0\0\0\x01\0\0\0\0\xa0\x02\xfa\xf0\0\0\0\0\x02\x04\x05\xb4\x04\x02\x08\x0a\0\0\0\x09\0\0\0\0\x01\x03\x03\x0a";
        let seen = entry(packet).unwrap();
        assert_eq!((seen.knock_port, seen.fields.seq, seen.fields.ack), (22, 1, 0));
    }

    #[test]
    fn only_a_syn_is_an_entry() {
        let fields = Fields { id: 1, seq: 2, ack: 3, win: Some(4) };
        for (from, to, flags) in [("192.0.2.7", "192.0.2.1", 33), ("2001:db8::7", "2001:db8::1", 53)] {
            let good = syn(from, to, fields).emit().unwrap();
            for value in 0..=255 {
                let mut packet = good.clone();
                packet[flags] = value;
                assert_eq!(entry(&packet).is_some(), value & 0x17 == SYN, "flags {value:#04x}");
            }
            (0..good.len()).for_each(|end| assert!(entry(&good[..end]).is_none()));
        }
        let mut fragment = syn("192.0.2.7", "192.0.2.1", fields).emit().unwrap();
        fragment[7] = 1;
        assert!(entry(&fragment).is_none());
        assert!(syn("192.0.2.7", "2001:db8::1", fields).emit().is_none());
    }
}
