//! Parses a log line or a packet into an [`Entry`].
//!
//! Anybody can make the kernel log almost any field, so the parser accepts only lines that are exactly those of a SYN.

use super::seal::{Ciphertext, Fields};
use crate::search;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The logged fields of one SYN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its source address, which is not authenticated.
    pub source: IpAddr,
    /// Its destination address, if that is an IPv6 address.
    pub destination: Option<Ipv6Addr>,
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

/// The words that may come between the interfaces and the source address.
const LINK: [u64; 9] = [
    text(b" MAC="),
    text(b" PHYSIN="),
    text(b" PHYSOUT"),
    text(b" MACSRC="),
    text(b" MACDST="),
    text(b" MACPROT"),
    text(b" VPROTO="),
    text(b" VID="),
    text(b" TUNNEL="),
];
/// The flags that may precede SYN.
const FLAGS: [u64; 4] = [text(b" CWR"), text(b" ECE"), text(b" URG"), text(b" PSH")];

// Each of these functions takes a part of a line from its start, and returns the rest of the line.

/// Takes this text of at most eight bytes. At least eight follow each text in a complete line.
#[inline(always)]
fn take(line: &[u8], text: u64) -> Option<&[u8]> {
    let unused = text.leading_zeros() & 56;
    let (eight, _) = line.split_first_chunk()?;
    let is = u64::from_le_bytes(*eight) << unused == text << unused;
    line.get(8 - unused as usize / 8..).filter(|_| is)
}

/// Takes one of these texts.
fn take_any<'a>(line: &'a [u8], texts: &[u64]) -> Option<&'a [u8]> {
    texts.iter().find_map(|text| take(line, *text))
}

/// Takes the bytes up to a space. At least eight follow it in a complete line.
fn word(line: &[u8]) -> Option<&[u8]> {
    let mut rest = line;
    loop {
        let spaces = search::mark_byte(u64::from_le_bytes(*rest.first_chunk()?), b' ');
        if spaces != 0 {
            return rest.get(spaces.trailing_zeros() as usize / 8..);
        }
        rest = rest.get(8..)?;
    }
}

/// Takes a decimal number of at most ten digits.
pub fn number<'a>(line: &'a [u8], number: &mut u64) -> Option<&'a [u8]> {
    let (value, count) = digits(u64::from_le_bytes(*line.first_chunk()?));
    *number = value;
    let mut rest = line.get(count..).filter(|_| count > 0)?;
    if count == 8 {
        for _ in 0..2 {
            if let [digit @ b'0'..=b'9', after @ ..] = rest {
                *number = *number * 10 + u64::from(digit - b'0');
                rest = after;
            }
        }
    }
    Some(rest)
}

impl Entry {
    /// Parses one line; `None` if it is not exactly the line of an incoming SYN. The kernel writes all fields in one
    /// order (`nf_log_syslog.c`).
    ///
    /// It never panics or allocates.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let [mut id, mut source_port, mut knock_port, mut seq, mut ack, mut win] = [0; 6];
        let name = fields_of(line)?.get(3..).filter(|name| name.first() != Some(&b' '))?;
        let mut rest = take(word(name)?, const { text(b" OUT=") })?;
        let (source, mut rest) = loop {
            if let Some(after) = take(rest, const { text(b" SRC=") }) {
                break address(after)?;
            }
            rest = word(take_any(rest, &LINK)?)?;
        };
        let mut destination = None;
        rest = take(rest, const { text(b" DST=") })?;
        if source.is_ipv4() {
            rest = word(rest)?;
        } else {
            let (address, after) = v6(rest)?;
            (destination, rest) = (Some(address), after);
        }
        rest = word(take(rest, const { text(b" LEN=") })?)?;
        if source.is_ipv4() {
            rest = take(rest, const { text(b" TOS=0x") })?.get(2..)?;
            rest = take(rest, const { text(b" PREC=0x") })?.get(2..)?;
            rest = word(take(rest, const { text(b" TTL=") })?)?;
            rest = number(take(rest, const { text(b" ID=") })?, &mut id)?;
        } else {
            rest = word(take(rest, const { text(b" TC=") })?)?;
            rest = take(rest, const { text(b" HOPLIM") })?;
            rest = word(take(rest, const { text(b"IT=") })?)?;
            rest = take(rest, const { text(b" FLOW") })?;
            rest = number(take(rest, const { text(b"LBL=") })?, &mut id)?;
        }
        // CE, DF, MF, FRAG: and IP options may precede the protocol. A bracket begins the header that an ICMP error
        // quotes, which is another packet's.
        rest = loop {
            if let Some(after) = take(rest, const { text(b" PROTO=T") }) {
                break after;
            }
            let after = word(take(rest, const { text(b" ") })?)?;
            if rest.get(..rest.len() - after.len())?.iter().any(|byte| matches!(byte, b'[' | b'=')) {
                return None;
            }
            rest = after;
        };
        rest = number(take(rest, const { text(b"CP SPT=") })?, &mut source_port)?;
        rest = number(take(rest, const { text(b" DPT=") })?, &mut knock_port)?;
        rest = number(take(rest, const { text(b" SEQ=") })?, &mut seq)?;
        rest = number(take(rest, const { text(b" ACK=") })?, &mut ack)?;
        rest = number(take(rest, const { text(b" WINDOW=") })?, &mut win)?;
        rest = take(rest, const { text(b" RES=0x") })?.get(2..)?;
        // Without URGP= the line is truncated, and a flag may be missing.
        loop {
            if let Some(after) = take(rest, const { text(b" SYN URG") }) {
                after.strip_prefix(b"P=")?;
                break;
            }
            rest = take_any(rest, &FLAGS)?;
        }
        let id = if source.is_ipv4() { id.try_into().ok()? } else { flow_id(id)? };
        Some(Self {
            source,
            destination,
            source_port: source_port.try_into().ok()?,
            knock_port: knock_port.try_into().ok()?,
            fields: Fields {
                id,
                seq: seq.try_into().ok()?,
                ack: ack.try_into().ok()?,
                win: Some(win.try_into().ok()?),
            },
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
    let (port, count) = digits(search::eight(line.get(at + 5..)?));
    port.try_into().ok().filter(|_| count > 0)
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

/// Takes an address, which a space ends.
fn address(line: &[u8]) -> Option<(IpAddr, &[u8])> {
    let mut v4 = 0;
    if let Some(rest) = ipv4(line, &mut v4) {
        return Some((Ipv4Addr::from_bits(v4).into(), rest));
    }
    let (address, rest) = v6(line)?;
    Some((address.into(), rest))
}

/// Takes an IPv6 address as the kernel writes it: eight groups of four digits.
fn v6(line: &[u8]) -> Option<(Ipv6Addr, &[u8])> {
    let (text, rest) = line.split_at_checked(39)?;
    let mut groups = [0; 8];
    for (group, text) in groups.iter_mut().zip(text.chunks(5)) {
        let (digits, colon) = text.split_at_checked(4)?;
        for &digit in digits {
            *group = *group << 4 | char::from(digit).to_digit(16)? as u16;
        }
        if !matches!(colon, b":" | []) {
            return None;
        }
    }
    Some((groups.into(), rest))
}

/// Takes an IPv4 address, which a space ends. The standard library takes four times as long, for every SYN of a flood.
fn ipv4<'a>(line: &'a [u8], bits: &mut u32) -> Option<&'a [u8]> {
    let (mut rest, mut value) = (line, 0);
    for end in b"... " {
        let (octet, count) = digits(u64::from_le_bytes(*rest.first_chunk()?));
        // 01 may be meant as octal.
        let octal = count > 1 && rest.first() == Some(&b'0');
        rest = rest.get(count..)?;
        if count == 0 || octet > 255 || octal || rest.first() != Some(end) {
            return None;
        }
        value = value << 8 | octet as u32;
        if *end == b'.' {
            rest = rest.get(1..)?;
        }
    }
    *bits = value;
    Some(rest)
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
        assert_eq!((entry.source_port, entry.knock_port, entry.destination), (1084, 666, None));
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
        assert_eq!(entry.destination, Some("2001:db8::1".parse().unwrap()));
        for address in ["x001", "20010", "201", "2001:", " 2001", "+201", ":001"] {
            assert!(parse(&line.replace("DST=2001", &format!("DST={address}"))).is_none(), "{address}");
            assert!(parse(&line.replace("SRC=fe80", &format!("SRC={address}"))).is_none(), "{address}");
        }
        assert!(parse(&line.replace("0db8:0000:0000:0000:0000:0000:0001", "db8::1")).is_none(), "not the kernel's");
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
