//! Finds out why a log line is not an [`Entry`](super::Entry), although its packet may have been a knock.

/// The prefix of our own log rule, and the name of the first field.
pub const LOG_PREFIX: &[u8] = b"knockknock IN=";

/// What the line of a TCP packet lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incomplete {
    /// Its end, after the TCP header: some program truncates lines.
    Cut,
    /// A sequence number: the log rule lacks a flag.
    NoSequence,
}

impl Incomplete {
    /// Returns what a line lacks; `None` if it is complete, belongs to another kind of packet, or is not a log line of
    /// the kernel.
    pub fn find(line: &[u8]) -> Option<Self> {
        let ours = line.windows(LOG_PREFIX.len()).any(|bytes| bytes == LOG_PREFIX);
        let fields = line.get(line.windows(3).position(|three| three == b"IN=")?..)?;
        let any = |is: &dyn Fn(&[u8]) -> bool| fields.split(|&byte| byte <= b' ').any(is);
        let has = |start: &[u8]| any(&|word| word.starts_with(start));
        // Our own rule logs only SYNs.
        let flags: [&[u8]; 3] = [b"ACK", b"FIN", b"RST"];
        if !ours && (!has(b"PROTO=TCP") || has(b"[") || any(&|word| flags.contains(&word))) {
            return None;
        }
        match (has(b"URGP="), has(b"SEQ=")) {
            (false, _) => Some(Self::Cut),
            (true, false) => Some(Self::NoSequence),
            (true, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Entry;

    const LINE: &str = "knockknock IN=eth0 OUT= MAC=82:bb:85:6a:15:66:ea:fb:11:81:2e:84:08:00 SRC=10.77.0.2 DST=10.77.0.1 \
        LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=4661 DF PROTO=TCP SPT=1084 DPT=666 SEQ=305419897 ACK=0 WINDOW=64240 RES=0x00 \
        SYN URGP=0 ";

    #[test]
    fn the_missing_part_of_a_line_is_named() {
        let lacks = |line: &str| {
            assert!(Entry::parse(line.as_bytes()).is_none(), "{line:?}");
            Incomplete::find(line.as_bytes())
        };
        let others = LINE.replace("knockknock ", "REJECT ");
        for line in [LINE, &others] {
            assert!(Entry::parse(line.as_bytes()).is_some() && Incomplete::find(line.as_bytes()).is_none());
            let tcp = line.find("PROTO=TCP").unwrap() + "PROTO=TCP".len();
            for end in (tcp..line.find("URGP=").unwrap()).filter(|&end| !line[..end].ends_with(" ACK")) {
                assert_eq!(lacks(&line[..end]), Some(Incomplete::Cut), "{:?}", &line[..end]);
            }
            assert_eq!(lacks(&line.replace("SEQ=305419897 ACK=0 ", "")), Some(Incomplete::NoSequence));
        }
        assert_eq!(lacks("knockknock IN=eth0 OUT= SRC=fd77:0000"), Some(Incomplete::Cut));
        for foreign in [
            "REJECT IN=eth0 OUT= SRC=fd77:0000".to_owned(),
            LINE.replace(" DF ", " ID=4661 "),
            others.replace("PROTO=TCP", "PROTO=UDP"),
            others.replace("URGP=0", "").replace(" SYN ", " ACK SYN "),
            others.replace("URGP=0", "").replace(" PROTO", " [SRC= PROTO"),
            "no line of netfilter's".to_owned(),
        ] {
            assert_eq!(lacks(&foreign), None, "{foreign:?}");
        }
    }
}
