//! A line of the kernel's log, or a packet that it handed over, becomes an [`Entry`].
//!
//! The line is what `net/netfilter/nf_log_syslog.c` writes:
//! `PREFIX IN=eth0 OUT= MAC=… SRC=… DST=… LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=4661 DF PROTO=TCP SPT=1084
//! DPT=666 SEQ=1 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0 OPT (020405B4…)`.
//! Anybody can make the kernel log almost any field, so a line that is not exactly a SYN's is no entry.

use super::options;
use super::seal::{Ciphertext, Fields};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the log says of one arrived SYN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it came from, as written in its header: nobody has checked that.
    pub source: IpAddr,
    /// Its TCP source port.
    pub source_port: u16,
    /// Its TCP destination port.
    pub knock_port: u16,
    /// The fields that may carry a message.
    pub fields: Fields,
    /// Whether the log shows TCP options, present or not; `false` says that the log rule lacks the
    /// flag, or that the SYN has none.
    pub options_logged: bool,
}

/// The words that an entry needs, each seen once or not yet.
#[derive(Default)]
struct Words<'a> {
    input: Option<&'a str>,
    output: Option<&'a str>,
    source: Option<&'a str>,
    destination: Option<&'a str>,
    id: Option<&'a str>,
    flow_label: Option<&'a str>,
    protocol: Option<&'a str>,
    source_port: Option<&'a str>,
    destination_port: Option<&'a str>,
    seq: Option<&'a str>,
    ack: Option<&'a str>,
    win: Option<&'a str>,
    urgent: Option<&'a str>,
    options: Option<&'a str>,
}

impl Entry {
    /// Reads one line. `None` for whatever is not, word for word, a SYN that came in.
    ///
    /// Total: no line makes it panic or allocate.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = fields_of(line)?;
        let mut words = Words::default();
        let mut syn = false;
        let mut tokens = line.split_ascii_whitespace();
        while let Some(token) = tokens.next() {
            // A header quoted in an ICMP error: another packet's words.
            if token.starts_with('[') {
                return None;
            }
            let Some((key, value)) = token.split_once('=') else {
                match token {
                    "SYN" if words.win.is_some() && !syn => syn = true,
                    "SYN" | "ACK" | "FIN" | "RST" => return None,
                    // Before PROTO= these are the IP header's options.
                    "OPT" if words.protocol.is_none() => {}
                    "OPT" => once(&mut words.options, tokens.next()?)?,
                    _ => {}
                }
                continue;
            };
            let word = match key {
                "IN" => &mut words.input,
                "OUT" => &mut words.output,
                "SRC" => &mut words.source,
                "DST" => &mut words.destination,
                "ID" => &mut words.id,
                "FLOWLBL" => &mut words.flow_label,
                "PROTO" => &mut words.protocol,
                "SPT" => &mut words.source_port,
                "DPT" => &mut words.destination_port,
                "SEQ" => &mut words.seq,
                "ACK" => &mut words.ack,
                "WINDOW" => &mut words.win,
                "URGP" => &mut words.urgent,
                _ => continue,
            };
            once(word, value)?;
        }
        // URGP= stands behind the flags: without it the line was cut and a flag may be missing.
        if words.input?.is_empty()
            || !words.output?.is_empty()
            || words.protocol? != "TCP"
            || !syn
            || words.urgent.is_none()
        {
            return None;
        }
        let (source, id) = match (words.id, words.flow_label) {
            (Some(id), None) => {
                let _: Ipv4Addr = words.destination?.parse().ok()?;
                (IpAddr::V4(words.source?.parse().ok()?), number(id)?)
            }
            (None, Some(label)) => {
                let _: Ipv6Addr = words.destination?.parse().ok()?;
                (IpAddr::V6(words.source?.parse().ok()?), flow_id(number(label)?)?)
            }
            _ => return None,
        };
        Some(Self {
            source,
            source_port: number(words.source_port?)?,
            knock_port: number(words.destination_port?)?,
            fields: Fields {
                id,
                seq: number(words.seq?)?,
                ack: number(words.ack?)?,
                win: Some(number(words.win?)?),
                timestamp: words.options.and_then(timestamp),
            },
            options_logged: words.options.is_some(),
        })
    }

    /// The ciphertext that it carries, where it can carry one.
    pub fn ciphertext(&self) -> Option<Ciphertext> {
        Ciphertext::from_fields(&self.fields)
    }
}

/// The destination port that a line names, found without reading the line: a quick look for those
/// who want to skip foreign lines. A line that [`Entry::parse`] takes gives the same port, unless the log
/// rule's prefix has one of its own.
pub fn knock_port(line: &[u8]) -> Option<u16> {
    let at = line.windows(5).position(|five| five == b" DPT=")?;
    let digits = line.get(at + 5..)?;
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    number(std::str::from_utf8(digits.get(..end)?).ok()?)
}

/// The low 16 bits of an IPv6 flow label, which has 20.
pub(super) fn flow_id(label: u32) -> Option<u16> {
    (label < 1 << 20).then_some(label as u16)
}

/// The part of a line from `IN=` on. A log prefix may hold anything, and may touch the `IN=`.
fn fields_of(line: &[u8]) -> Option<&str> {
    let at = line.windows(4).position(|four| four == b" IN=").map(|at| at + 1);
    let at = at.or_else(|| line.windows(3).position(|three| three == b"IN="))?;
    std::str::from_utf8(line.get(at..)?).ok()
}

/// Takes `value` for a word that must stand in the line once.
fn once<'a>(word: &mut Option<&'a str>, value: &'a str) -> Option<()> {
    word.replace(value).is_none().then_some(())
}

/// A number in decimal digits that fits its field.
fn number<N: std::str::FromStr>(digits: &str) -> Option<N> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The timestamp value in `(020405B4…)`, the hexadecimal list of TCP options.
fn timestamp(word: &str) -> Option<u32> {
    let digits = word.strip_prefix('(')?.strip_suffix(')')?.as_bytes();
    let mut list = [0; options::LONGEST];
    let list = list.get_mut(..digits.len() / 2)?;
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    for (byte, pair) in list.iter_mut().zip(pairs) {
        let [high, low] = *pair else { return None };
        *byte = hex(high)? << 4 | hex(low)?;
    }
    options::timestamp(list)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
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
    fn a_line_word_for_word() {
        let entry = parse(LINE).unwrap();
        assert_eq!(entry.source, IpAddr::from([10, 77, 0, 2]));
        assert_eq!((entry.source_port, entry.knock_port), (1084, 666));
        let fields = Fields { id: 4661, seq: 305419897, ack: 0, win: Some(64240), timestamp: Some(0x11223344) };
        assert!(entry.fields == fields && entry.options_logged);
        assert_eq!(knock_port(LINE.as_bytes()), Some(666));
    }

    #[test]
    fn a_line_of_ipv6() {
        let line = "x IN=eth0 OUT= SRC=fe80:0000:0000:0000:0000:0000:0000:0001 DST=2001:0db8:0000:0000:0000:0000:0000:0001 \
            LEN=60 TC=0 HOPLIMIT=64 FLOWLBL=703710 PROTO=TCP SPT=1 DPT=666 SEQ=1 ACK=2 WINDOW=3 RES=0x00 SYN URGP=0";
        let entry = parse(line).unwrap();
        assert_eq!(entry.source, "fe80::1".parse::<IpAddr>().unwrap());
        assert_eq!(u32::from(entry.fields.id), 703710 % 65536);
        assert!(!entry.options_logged);
        assert!(parse(&line.replace("703710", "1048576")).is_none(), "a flow label has 20 bits");
        assert!(parse(&line.replace("FLOWLBL=703710", "ID=7")).is_none(), "an IPv6 address in an IPv4 header");
    }

    #[test]
    fn what_stands_before_the_fields_does_not_matter() {
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
    fn doubled_missing_and_lying_words_are_refused() {
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
    fn a_line_cut_anywhere_before_its_end_is_refused_or_the_same() {
        let whole = LINE.find(" OPT (").unwrap();
        for end in 0..whole {
            let cut = parse(&LINE[..end]);
            // URGP=0 is complete one byte before the space behind it, and URGP= has no use.
            assert!(cut.is_none() || end >= LINE.find("URGP=").unwrap() + 5, "{:?}", &LINE[..end]);
        }
        for end in whole + 7..LINE.len() - 1 {
            assert!(parse(&LINE[..end]).is_none_or(|entry| entry.fields.timestamp.is_none()));
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
    fn ip_options_are_not_tcp_options() {
        let line = LINE.replace("PROTO=", "OPT (94040000) PROTO=");
        assert_eq!(parse(&line).unwrap().fields.timestamp, Some(0x11223344));
        refused("OPT (0204", "OPT (94040000) OPT (0204");
    }

    #[test]
    fn odd_hexadecimal_has_no_timestamp() {
        let odd = [
            "(080A1122334400000000",
            "080A1122334400000000)",
            "(080A112233440000000)",
            "(080a1122334400000000)",
            "(08 0A)",
            "()",
            "(GG)",
        ];
        for word in odd {
            let line = LINE.replace("(020405B40402080A112233440000000001030307)", word);
            assert!(parse(&line).is_none_or(|entry| entry.fields.timestamp.is_none()), "{word}");
        }
        let long = LINE.replace("(0204", &format!("({}0204", "01".repeat(40)));
        assert_eq!(parse(&long).unwrap().fields.timestamp, None, "40 bytes at most");
    }

    #[test]
    fn a_line_of_a_megabyte_is_refused() {
        assert!(Entry::parse(&vec![b'A'; 1 << 20]).is_none());
        assert!(parse(&"IN=e OUT= ".repeat(100_000)).is_none());
        assert!(Entry::parse(&[&b"IN="[..], &[0xff; 1 << 20]].concat()).is_none(), "invalid UTF-8");
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
                let fields = Fields { id: 4660, seq: 305419896, ack: 2271560481, win: Some(777), timestamp: None };
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
