//! Conditions of the log that an operator should know about.

use crate::wire::Incomplete;
use std::fmt;

/// A condition of the log that an operator should know about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Standard input has ended.
    Ended,
    /// The log does not exist or is not a regular file. The watcher waits for it.
    Missing(String),
    /// The missing file has appeared.
    Back,
    /// Root has to reopen the file, because its path now leads elsewhere.
    Moved,
    /// The reader was too slow, and the kernel dropped records.
    Overrun,
    /// Lines have no readable timestamp.
    Untimed,
    /// SYNs from before the daemon's start were ignored.
    OldLines,
    /// Several lines about SYNs were incomplete.
    Incomplete(Incomplete),
}

impl Notice {
    /// Returns advice, if there is any.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::OldLines | Self::Untimed => "pipe only new lines: journalctl -kf -n 0",
            Self::Incomplete(Incomplete::Cut) => {
                "the program that writes the log truncates long lines: use another, or set log = kmsg or nflog:5 in the config"
            }
            Self::Incomplete(Incomplete::NoSequence) => {
                "the log rule needs a flag: nft log flags tcp sequence; iptables --log-tcp-sequence"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "the log on standard input has ended",
            Self::Missing(why) => return write!(f, "the log cannot be read, waiting for it: {why}"),
            Self::Back => "the log can be read now",
            Self::Moved => "the log was moved, or only root can open it: reopening it",
            Self::Overrun => "the kernel log overflowed; records were lost",
            Self::Untimed => {
                "log lines have no readable timestamp: a knock from before the daemon's start would open its port"
            }
            Self::OldLines => "ignoring SYNs to knock ports that were logged before the daemon started",
            Self::Incomplete(Incomplete::Cut) => "lines about TCP packets are truncated: knocks are missed",
            Self::Incomplete(Incomplete::NoSequence) => {
                "SYNs to knock ports are logged without sequence numbers: knocks are missed"
            }
        })
    }
}
