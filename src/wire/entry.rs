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

/// Returns a text of at most eight bytes as [`search::eight`] does.
const fn text(bytes: &[u8]) -> u64 {
    let (mut text, mut before) = (0, bytes);
    while let [rest @ .., last] = before {
        text = text << 8 | *last as u64;
        before = rest;
    }
    text
}

// The last five bytes of the keys that follow a text of any length, as [`Words::key`] returns them.
const OUT: u64 = text(b" OUT=");
const MAC: u64 = text(b" MAC=");
const PHYSICAL_INPUT: u64 = text(b"YSIN=");
const PHYSICAL_OUTPUT: u64 = text(b"SOUT=");
const MAC_SOURCE: u64 = text(b"CSRC=");
const MAC_DESTINATION: u64 = text(b"CDST=");
const VLAN: u64 = text(b" VID=");
const TUNNEL: u64 = text(b"NNEL=");
const SOURCE: u64 = text(b" SRC=");
const LENGTH: u64 = text(b" LEN=");
/// Also that of MACPROTO= and VPROTO=.
const PROTOCOL: u64 = text(b"ROTO=");

/// A line, and the position up to which it has been read.
struct Words<'a> {
    line: &'a [u8],
    /// The position in the line.
    at: usize,
}

impl<'a> Words<'a> {
    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        self.line.get(self.at..).unwrap_or_default()
    }

    /// Goes to the end of the next key, and returns its last five bytes.
    fn key(&mut self) -> Option<u64> {
        self.at += search::first(self.rest(), |eight| search::mark_byte(eight, b'=')) + 1;
        let eight = self.line.get(..self.at)?.last_chunk()?;
        Some(u64::from_le_bytes(*eight) >> 24)
    }

    /// Takes the next bytes if they are this text.
    fn take(&mut self, text: u64) -> Option<()> {
        let unused = text.leading_zeros() & 56;
        if search::eight(self.rest()) << unused != text << unused {
            return None;
        }
        self.at += 8 - unused as usize / 8;
        Some(())
    }

    /// Takes a decimal number of at most ten digits, which a space ends, but not the space.
    fn number(&mut self) -> Option<u64> {
        let rest = self.rest();
        let (mut number, mut count) = digits(search::eight(rest));
        while let Some(byte @ b'0'..=b'9') = rest.get(count).filter(|_| count < 10) {
            number = number * 10 + u64::from(byte - b'0');
            count += 1;
        }
        self.at += count;
        (count > 0 && rest.get(count) == Some(&b' ')).then_some(number)
    }

    /// Takes this text and the number behind it.
    fn value(&mut self, text: u64) -> Option<u64> {
        self.take(text)?;
        self.number()
    }
}

impl Entry {
    /// Parses one line; `None` if it is not exactly the line of an incoming SYN. The kernel writes all fields in one
    /// order (`nf_log_syslog.c`).
    ///
    /// It never panics or allocates.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = fields_of(line)?;
        let mut words = Words { line, at: 3 };
        let no_input = words.rest().first() == Some(&b' ');
        if words.key()? != OUT || no_input || words.rest().first() != Some(&b' ') {
            return None;
        }
        let mut key = words.key()?;
        while let MAC | PHYSICAL_INPUT | PHYSICAL_OUTPUT | MAC_SOURCE | MAC_DESTINATION | PROTOCOL | VLAN | TUNNEL = key
        {
            key = words.key()?;
        }
        if key != SOURCE {
            return None;
        }
        let (source, length) = address(words.rest())?;
        words.at += length;
        words.take(const { text(b" DST=") })?;
        let no_destination = words.rest().first() == Some(&b' ');
        if words.key()? != LENGTH || no_destination {
            return None;
        }
        words.number()?;
        let id = if source.is_ipv4() {
            words.take(const { text(b" TOS=0x") })?;
            words.at += 2;
            words.take(const { text(b" PREC=0x") })?;
            words.at += 2;
            words.value(const { text(b" TTL=") })?;
            words.value(const { text(b" ID=") })?.try_into().ok()?
        } else {
            words.value(const { text(b" TC=") })?;
            words.take(const { text(b" HOPLIM") })?;
            words.value(const { text(b"IT=") })?;
            words.take(const { text(b" FLOW") })?;
            flow_id(words.value(const { text(b"LBL=") })?)?
        };
        // CE, DF, MF, FRAG: and IP options may precede the protocol. A bracket begins the header that an ICMP error
        // quotes, which is another packet's.
        let before = words.at;
        if words.key()? != PROTOCOL || search::first_byte(line.get(before..words.at)?, b'[').is_some() {
            return None;
        }
        let source_port = words.value(const { text(b"TCP SPT=") })?.try_into().ok()?;
        let knock_port = words.value(const { text(b" DPT=") })?.try_into().ok()?;
        let seq = words.value(const { text(b" SEQ=") })?.try_into().ok()?;
        let ack = words.value(const { text(b" ACK=") })?.try_into().ok()?;
        let win = Some(words.value(const { text(b" WINDOW=") })?.try_into().ok()?);
        words.take(const { text(b" RES=0x") })?;
        words.at += 2;
        // Without URGP= the line is truncated, and a flag may be missing.
        while words.take(const { text(b" SYN URG") }).is_none() {
            const { [text(b" CWR"), text(b" ECE"), text(b" URG"), text(b" PSH")] }
                .iter()
                .find_map(|flag| words.take(*flag))?;
        }
        words.take(const { text(b"P=") })?;
        Some(Self { source, source_port, knock_port, fields: Fields { id, seq, ack, win } })
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
pub(super) fn flow_id(label: u64) -> Option<u16> {
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

/// Parses an address, which a space ends. Returns its length too.
fn address(text: &[u8]) -> Option<(IpAddr, usize)> {
    v4(text).or_else(|| {
        let (address, _) = text.split_at_checked(search::first_byte(text, b' ')?)?;
        let v6 = std::str::from_utf8(address).ok()?.parse().ok()?;
        Some((IpAddr::V6(v6), address.len()))
    })
}

/// Parses an IPv4 address. The standard library takes four times as long, for every SYN of a flood.
fn v4(text: &[u8]) -> Option<(IpAddr, usize)> {
    let (mut at, mut bits) = (0, 0);
    for end in *b"... " {
        let rest = text.get(at..)?;
        let (octet, count) = digits(search::eight(rest));
        // 01 may be meant as octal.
        let octal = count > 1 && rest.first() == Some(&b'0');
        if count == 0 || octet > 255 || octal || rest.get(count) != Some(&end) {
            return None;
        }
        bits = bits << 8 | octet as u32;
        at += count + 1;
    }
    Some((Ipv4Addr::from_bits(bits).into(), at - 1))
}

/// Parses the decimal digits at the start of eight bytes, all at once: in a flood the branches of a loop would be
/// mispredicted. Returns the number and how many digits it has.
pub fn digits(eight: u64) -> (u64, usize) {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let values = eight ^ (ONES * b'0' as u64);
    // Marks the first byte above 9, and perhaps some after it.
    let others = (values.wrapping_add(ONES * 0x76) | values) & (ONES << 7);
    let count = others.trailing_zeros() / 8;
    // The last digit becomes the highest byte. Then join neighbours: to two digits, four, eight.
    let ones = values.checked_shl(64 - 8 * count).unwrap_or(0);
    let pairs = ones.wrapping_mul(10).wrapping_add(ones >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let eights = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff;
    (eights, count as usize)
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
            // What follows the first URGP= is not read.
            if word != "URGP=0" {
                refused(&format!(" {word} "), &format!(" {word} {word} "));
            }
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
        refused("DF PROTO", "DF DPT=667 PROTO");
        refused("MAC=", "DPT=667 MAC=");
        refused("SPT=1084 DPT=666", "DPT=666 SPT=1084");
        refused("SYN URGP=0", "SYN FIN URGP=0");
    }

    #[test]
    fn digits_are_parsed_up_to_the_first_other_byte() {
        for (text, number, count) in [
            ("0 123456", 0, 1),
            ("12345678", 12_345_678, 8),
            ("99999999", 99_999_999, 8),
            ("6553\u{7f}999", 6553, 4),
            ("255.1.2.", 255, 3),
            ("00071/23", 71, 5),
            (":1234567", 0, 0),
            ("1\0", 1, 1),
        ] {
            assert_eq!(digits(search::eight(text.as_bytes())), (number, count), "{text:?}");
        }
        for (at, other) in (0..8).flat_map(|at| (0..=u8::MAX).map(move |other| (at, other))) {
            let mut bytes = *b"98765432";
            bytes[at] = other;
            let count = if other.is_ascii_digit() { 8 } else { at };
            let number = std::str::from_utf8(&bytes[..count]).unwrap().parse().unwrap_or(0);
            assert_eq!(digits(u64::from_le_bytes(bytes)), (number, count), "{bytes:?}");
        }
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
        refused(" PROTO=", " [ PROTO=");
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
