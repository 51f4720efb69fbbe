//! Everything that the daemon's processes may say to each other; all but the configuration in fixed bytes.
//!
//! | from | to | message | bytes |
//! |---|---|---|---|
//! | supervisor | opener | [`OpenerLimits`], once, before the watcher exists | 2 × 8192 |
//! | supervisor | watcher | the configuration's text, once, before the opener exists | at most [`CONFIG`] |
//! | watcher | opener | [`READY`], once | 1 |
//! | opener | supervisor | [`READY`], once | 1 |
//! | watcher | opener | [`Request`](crate::wire::Request) | 24 |
//! | opener | watcher | [`Answer`], one for each request | 1 |

use crate::firewall::Opening;
use crate::ports::{PortSet, Ports};

/// "I hold what I need, have given up the rest, and listen."
pub const READY: &[u8] = b"+";

/// The longest configuration, in bytes.
pub const CONFIG: usize = 1 << 16;

/// What the opener may do at all. The supervisor leaves it in the socket before the watcher exists.
pub struct OpenerLimits {
    /// The ports that some profile may open.
    pub allowed: PortSet,
    /// The guarded ports: with iptables, those that have a list.
    pub guard: Ports,
}

impl OpenerLimits {
    /// Two sets of ports.
    pub const BYTES: usize = 2 * PortSet::BYTES;

    /// The fixed bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut guard = PortSet::empty();
        guard.extend(self.guard.iter());
        [self.allowed.as_bytes(), guard.as_bytes()].concat()
    }

    /// Reads the fixed bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (allowed, guard) = bytes.split_at_checked(PortSet::BYTES)?;
        let guard = PortSet::from_bytes(guard)?;
        Some(Self {
            allowed: PortSet::from_bytes(allowed)?,
            guard: (1..=u16::MAX).filter(|&port| guard.contains(port)).collect(),
        })
    }
}

/// What the opener says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel has the opening.
    Opened = b'y' as isize,
    /// It was not made: a limit is reached, or the rules do not allow it.
    Refused = b'n' as isize,
}

impl Answer {
    /// The byte.
    pub fn to_bytes(self) -> [u8; 1] {
        [self as u8]
    }

    /// Reads the byte.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Opened, Self::Refused].into_iter().find(|answer| *answer as u8 == byte)
    }
}

impl From<Opening> for Answer {
    fn from(opening: Opening) -> Self {
        match opening {
            Opening::Made => Self::Opened,
            Opening::Denied => Self::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let limits = OpenerLimits { allowed: PortSet::all(), guard: Ports::parse("22,443").unwrap() };
        let bytes = limits.to_bytes();
        assert_eq!(bytes.len(), OpenerLimits::BYTES);
        let read = OpenerLimits::from_bytes(&bytes).unwrap();
        assert!(read.allowed.contains(1) && read.guard == limits.guard);
        assert!(OpenerLimits::from_bytes(&bytes[1..]).is_none());
        for answer in [Answer::Opened, Answer::Refused] {
            assert_eq!(Answer::from_byte(answer.to_bytes()[0]), Some(answer));
        }
        assert_eq!(Answer::from_byte(0), None);
    }
}
