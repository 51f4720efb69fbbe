//! Parses a log line or a packet into an [`Entry`].
//!
//! Anybody can make the kernel log almost any field, so the parser accepts only lines that are exactly those of a SYN.

use super::seal::{Ciphertext, Fields};
use crate::search;
use std::net::{IpAddr, Ipv4Addr};

/// The logged fields of one SYN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its source address, which is not authenticated.
    pub source: IpAddr,
    /// Its TCP source port.
    pub source_port: u16,
    /// Its TCP destination port.
    pub knock_port: u16,
    /// The fields that may carry a message.
    pub fields: Fields,
}

/// The values that an entry needs; each may occur once.
#[derive(Default)]
struct Words<'a> {
    input: Option<&'a [u8]>,
    output: Option<&'a [u8]>,
    source: Option<&'a [u8]>,
    destination: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
    flow_label: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
    source_port: Option<&'a [u8]>,
    destination_port: Option<&'a [u8]>,
    seq: Option<&'a [u8]>,
    ack: Option<&'a [u8]>,
    win: Option<&'a [u8]>,
    urgent: Option<&'a [u8]>,
    syn: Option<&'a [u8]>,
}

impl<'a> Words<'a> {
    /// Records the next word of a line; `None` if it cannot occur in the line of a SYN.
    fn record(&mut self, word: &'a [u8]) -> Option<()> {
        let (place, key) = match word {
            [b'I', b'N', b'=', ..] => (&mut self.input, 3),
            [b'I', b'D', b'=', ..] => (&mut self.id, 3),
            [b'O', b'U', b'T', b'=', ..] => (&mut self.output, 4),
            [b'S', b'R', b'C', b'=', ..] => (&mut self.source, 4),
            [b'S', b'P', b'T', b'=', ..] => (&mut self.source_port, 4),
            [b'S', b'E', b'Q', b'=', ..] => (&mut self.seq, 4),
            [b'S', b'Y', b'N'] if self.win.is_some() => (&mut self.syn, 3),
            [b'D', b'S', b'T', b'=', ..] => (&mut self.destination, 4),
            [b'D', b'P', b'T', b'=', ..] => (&mut self.destination_port, 4),
            [b'A', b'C', b'K', b'=', ..] => (&mut self.ack, 4),
            [b'F', b'L', b'O', b'W', b'L', b'B', b'L', b'=', ..] => (&mut self.flow_label, 8),
            [b'P', b'R', b'O', b'T', b'O', b'=', ..] => (&mut self.protocol, 6),
            [b'W', b'I', b'N', b'D', b'O', b'W', b'=', ..] => (&mut self.win, 7),
            [b'U', b'R', b'G', b'P', b'=', ..] => (&mut self.urgent, 5),
            // Other flags, or a header quoted in an ICMP error, which belongs to another packet.
            b"SYN" | b"ACK" | b"FIN" | b"RST" | [b'[', ..] => return None,
            _ => return Some(()),
        };
        place.replace(word.get(key..)?).is_none().then_some(())
    }
}

impl Entry {
    /// Parses one line; `None` if it is not exactly the line of an incoming SYN.
    ///
    /// It never panics or allocates.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = Words::default();
        let mut rest = fields_of(line)?;
        while !rest.is_empty() {
            let (word, after) = rest.split_at_checked(search::first(rest, search::mark_separators))?;
            if !word.is_empty() {
                words.record(word)?;
            }
            rest = after.get(1..).unwrap_or_default();
        }
        // URGP= follows the flags. Without it the line was truncated, and a flag may be missing.
        let (Some(_), Some(_), b"TCP", b"") = (words.syn, words.urgent, words.protocol?, words.output?) else {
            return None;
        };
        if words.input?.is_empty() || words.destination?.is_empty() {
            return None;
        }
        let (source, id) = match (words.id, words.flow_label) {
            (Some(id), None) => (v4(words.source?)?, short(id)?),
            (None, Some(label)) => (v6(words.source?)?, flow_id(number(label)?)?),
            _ => return None,
        };
        Some(Self {
            source,
            source_port: short(words.source_port?)?,
            knock_port: short(words.destination_port?)?,
            fields: Fields { id, seq: number(words.seq?)?, ack: number(words.ack?)?, win: Some(short(words.win?)?) },
        })
    }

    /// Returns the ciphertext, if the entry carries one.
    pub fn ciphertext(&self) -> Option<Ciphertext> {
        Ciphertext::from_fields(&self.fields)
    }
}

/// Returns the destination port in a line without parsing the line, to skip unrelated lines quickly. For lines that
/// [`Entry::parse`] accepts, the port is the same, unless the log rule's prefix contains one.
pub fn knock_port(line: &[u8]) -> Option<u16> {
    // Skip from one possible end of the key to the next (Horspool).
    let mut at = 0;
    loop {
        at += match *line.get(at + 4)? {
            b'=' if line.get(at..at + 5)? == b" DPT=" => break,
            b'T' => 1,
            b'P' => 2,
            b'D' => 3,
            b' ' => 4,
            _ => 5,
        };
    }
    let digits = line.get(at + 5..)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    short(digits.get(..end)?)
}

/// Returns the low 16 bits of an IPv6 flow label, which has 20.
pub(super) fn flow_id(label: u32) -> Option<u16> {
    (label < 1 << 20).then_some(label as u16)
}

/// Returns the part of a line from `IN=` on. The log prefix before it may contain anything, and may end without a
/// space.
pub fn fields_of(line: &[u8]) -> Option<&[u8]> {
    let (mut attached, mut from) = (None, 0);
    loop {
        let rest = line.get(from..)?;
        let equals = from + search::first(rest, |eight| search::mark_byte(eight, b'='));
        if equals >= line.len() {
            return line.get(attached?..);
        }
        match line.get(..equals) {
            Some([.., b' ', b'I', b'N']) => return line.get(equals - 2..),
            Some([.., b'I', b'N']) if attached.is_none() => attached = Some(equals - 2),
            _ => {}
        }
        from = equals + 1;
    }
}

/// Parses an IPv6 address.
fn v6(text: &[u8]) -> Option<IpAddr> {
    std::str::from_utf8(text).ok()?.parse().ok().map(IpAddr::V6)
}

/// Parses an IPv4 address. The standard library takes four times as long, for every SYN of a flood.
fn v4(text: &[u8]) -> Option<IpAddr> {
    let (mut octets, mut bits) = (0, 0);
    for octet in text.split(|&byte| byte == b'.') {
        let value = number(octet).filter(|&value| value < 256)?;
        // 01 may be meant as octal.
        if octet.len() > 1 && octet.first() == Some(&b'0') {
            return None;
        }
        octets += 1;
        bits = bits << 8 | value;
    }
    (octets == 4).then(|| Ipv4Addr::from_bits(bits).into())
}

/// Parses a decimal number of 32 bits and at most ten digits.
pub fn number(digits: &[u8]) -> Option<u32> {
    if !matches!(digits.len(), 1..=10) {
        return None;
    }
    let mut number = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + u64::from(digit);
    }
    number.try_into().ok()
}

/// Parses a decimal number of 16 bits.
fn short(digits: &[u8]) -> Option<u16> {
    number(digits)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "knockknock IN=eth0 OUT= MAC=82:bb:85:6a:15:66:ea:fb:11:81:2e:84:08:00 SRC=10.77.0.2 DST=10.77.0.1 \
        LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=4661 DF PROTO=TCP SPT=1084 DPT=666 SEQ=305419897 ACK=0 WINDOW=64240 RES=0x00 \
        SYN URGP=0 OPT (020405B40402080A112233440000000001030307) ";

    fn parse(line: &str) -> Option<Entry> {
        Entry::parse(line.as_bytes())
    }

    #[test]
    fn a_port_in_the_log_prefix_is_never_the_packets() {
        let line = LINE.replace("knockknock ", "IN= DPT=22 ");
        assert_eq!(knock_port(line.as_bytes()), Some(22));
        assert_eq!(parse(&line).unwrap().knock_port, 666);
    }

    /// The line with one part of it replaced, and nothing taken from it.
    fn refused(from: &str, to: &str) {
        assert!(LINE.contains(from));
        assert!(parse(&LINE.replacen(from, to, 1)).is_none(), "{from:?} -> {to:?}");
    }

    #[test]
    fn an_entry_is_parsed_field_by_field() {
        let entry = parse(LINE).unwrap();
        assert_eq!(entry.source, IpAddr::from([10, 77, 0, 2]));
        assert_eq!((entry.source_port, entry.knock_port), (1084, 666));
        let fields = Fields { id: 4661, seq: 305419897, ack: 0, win: Some(64240) };
        assert!(entry.fields == fields);
        assert_eq!(knock_port(LINE.as_bytes()), Some(666));
    }

    #[test]
    fn an_ipv6_line_is_parsed() {
        let line = "x IN=eth0 OUT= SRC=fe80:0000:0000:0000:0000:0000:0000:0001 DST=2001:0db8:0000:0000:0000:0000:0000:0001 \
            LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=703710 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.source, "fe80::1".parse::<IpAddr>().unwrap());
        assert_eq!(u32::from(entry.fields.id), 703710 % 65536);
        assert!(parse(&line.replace("703710", "1048576")).is_none(), "a flow label has 20 bits");
        assert!(parse(&line.replace("FLOWLBL=703710", "ID=7")).is_none(), "an IPv6 address in an IPv4 header");
    }

    #[test]
    fn the_log_prefix_does_not_matter() {
        for prefix in [
            "",
            "Nov 22 07:58:30 host kernel: [ 1287.881436] REJECT ",
            "REJECT:",
            "BEGIN=1 ",
            "a [b] c ",
            "SRC=1.2.3.4 ACK ",
        ] {
            assert!(parse(&LINE.replace("knockknock ", prefix)).is_some(), "{prefix:?}");
        }
        let latin1 = [b"caf\xe9 ", LINE.as_bytes()].concat();
        assert!(Entry::parse(&latin1).is_some());
    }

    #[test]
    fn duplicate_missing_and_false_fields_are_refused() {
        for word in [
            "IN=eth0",
            "OUT=",
            "SRC=10.77.0.2",
            "DST=10.77.0.1",
            "ID=4661",
            "PROTO=TCP",
            "SPT=1084",
            "DPT=666",
            "SEQ=305419897",
            "ACK=0",
            "WINDOW=64240",
            "URGP=0",
            "SYN",
        ] {
            refused(&format!(" {word} "), " ");
            refused(&format!(" {word} "), &format!(" {word} {word} "));
        }
        refused("IN=eth0", "IN=");
        refused("OUT=", "OUT=eth1");
        refused("SRC=10.77.0.2", "SRC=0.0.0.0/0");
        refused("SRC=10.77.0.2", "SRC=010.77.0.2");
        refused("SRC=10.77.0.2", "SRC=::1");
        refused("ID=4661", "ID=70000");
        refused("ID=4661", "ID=-1");
        refused("ID=4661", "ID=+1");
        refused("ID=4661", "ID=");
        refused("SEQ=305419897", "SEQ=4294967296");
        refused("WINDOW=64240", "WINDOW=65536");
        refused("DPT=666", "DPT=0x29a");
        refused("PROTO=TCP", "PROTO=UDP");
        refused("RES=0x00 SYN", "RES=0x00 ACK SYN");
        refused("RES=0x00 SYN", "RES=0x00 SYN FIN");
        refused("RES=0x00 SYN", "RES=0x00 RST SYN");
        refused("SYN URGP=0", "URGP=0");
        refused("DF PROTO", "DF SYN PROTO");
    }

    #[test]
    fn a_truncated_line_is_refused_or_gives_the_same_entry() {
        let whole = LINE.find(" OPT (").unwrap();
        for end in 0..whole {
            let cut = parse(&LINE[..end]);
            // URGP=0 is complete without the space after it, and its value is not used.
            assert!(cut.is_none() || end >= LINE.find("URGP=").unwrap() + 5, "{:?}", &LINE[..end]);
        }
        for end in whole + 7..LINE.len() - 1 {
            assert!(parse(&LINE[..end]) == parse(LINE), "{:?}", &LINE[..end]);
        }
    }

    #[test]
    fn an_icmp_error_that_quotes_a_knock_is_refused() {
        let icmp = format!(
            "x IN=eth0 OUT= SRC=10.77.0.9 DST=10.77.0.1 LEN=68 TTL=64 ID=1 PROTO=ICMP TYPE=3 CODE=3 [{}]",
            &LINE["knockknock IN=eth0 OUT= ".len()..]
        );
        assert!(parse(&icmp).is_none());
        refused(" SRC=", " [SRC=");
    }

    #[test]
    fn options_do_not_matter() {
        for line in [
            LINE.replace("PROTO=", "OPT (94040000) PROTO="),
            LINE.replace("OPT (020405B40402080A112233440000000001030307) ", ""),
            LINE.replace("OPT (0204", "OPT (94040000) OPT (0204"),
        ] {
            assert!(parse(&line) == parse(LINE), "{line}");
        }
    }

    #[test]
    fn a_port_is_found_by_its_whole_key() {
        for (line, port) in [
            (" DPT=666 ", Some(666)),
            ("xDPT=1 DDPT=2  DPT=3 DPT=4", Some(3)),
            ("    DPT=65535", Some(65535)),
            (" DPT=65536", None),
            (" DPT=", None),
            ("DPT=1", None),
            (" DPT", None),
            ("", None),
        ] {
            assert_eq!(knock_port(line.as_bytes()), port, "{line:?}");
            let padded = format!("D PT= DP{line}");
            assert_eq!(knock_port(padded.as_bytes()), port, "{padded:?}");
        }
    }

    #[test]
    fn a_line_of_a_megabyte_is_refused() {
        assert!(Entry::parse(&vec![b'A'; 1 << 20]).is_none());
        assert!(parse(&"IN=e OUT= ".repeat(100_000)).is_none());
        assert!(Entry::parse(&[&b"IN="[..], &[0xff; 1 << 20]].concat()).is_none());
    }

    #[test]
    fn captured_lines_give_the_packets_that_were_sent() {
        let samples = [
            (include_str!("../../tests/samples/iptables-INPUT.kern.log"), true),
            (include_str!("../../tests/samples/nft-flags-all.kern.log"), true),
            (include_str!("../../tests/samples/nft-flags-tcp-ip.kern.log"), true),
            (include_str!("../../tests/samples/nft-netdev-ingress.kern.log"), true),
            (include_str!("../../tests/samples/nft-plain.kern.log"), false),
        ];
        for (log, sequence) in samples {
            let first = log.lines().next().unwrap();
            let entry = parse(first);
            assert_eq!(entry.is_some(), sequence, "without SEQ= there is no entry: {first}");
            if let Some(entry) = entry {
                let fields = Fields { id: 4660, seq: 305419896, ack: 2271560481, win: Some(777) };
                assert!(entry.fields == fields && entry.source == IpAddr::from([10, 77, 0, 2]));
            }
            for line in log.lines() {
                let tcp = line.contains("PROTO=TCP")
                    && line.contains(" SYN ")
                    && !line.contains(" ACK ")
                    && !line.contains(" FIN ")
                    && !line.contains(" RST ");
                let quoted = line.rsplit("IN=").next().is_some_and(|fields| fields.contains('['));
                assert_eq!(parse(line).is_some(), sequence && tcp && !quoted, "{line}");
            }
        }
    }
}
