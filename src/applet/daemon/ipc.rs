//! All messages between the daemon's processes. Every message but the configuration has a fixed length.
//!
//! | from | to | message | bytes |
//! |---|---|---|---|
//! | supervisor | opener | [`OpenerLimits`], once, before the opener exists | 2 × 8192 |
//! | supervisor | watcher | the configuration's text, once, before the opener exists | at most [`CONFIG`] |
//! | watcher | opener | [`READY`], once | 1 |
//! | opener | supervisor | [`READY`], once | 1 |
//! | opener | supervisor | [`OPENED`], once | 1 |
//! | watcher | opener | [`OpenRequest`] | 24 |
//! | opener | watcher | [`OpenReply`], one for each request | 1 |

use crate::config::MAX_DELAY;
use crate::ports::Ports;
use crate::sys::file;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The sender has opened what it needs, dropped its privileges, and is listening.
pub const READY: &[u8] = b"+";

/// "A knock has opened a port", from the opener to the supervisor, once.
pub const OPENED: &[u8] = b"o";

/// The longest configuration, in bytes.
pub const CONFIG: usize = file::LONGEST;

/// The ports that the opener may open. The supervisor sends them before the opener exists.
pub struct OpenerLimits {
    /// The ports that some profile may open; `None` means any.
    pub allowed: Option<Ports>,
    /// The guarded ports. With iptables each of them has a list.
    pub guard: Ports,
}

impl OpenerLimits {
    /// The size of the message: `allowed` and `guard`, each as a bit map of 65,536 bits. Port `p` is bit `p % 8` of byte
    /// `p / 8`. In `allowed`, port 0 means any.
    pub const BYTES: usize = 2 * 8192;

    /// Returns the message.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::BYTES];
        let (allowed, guard) = bytes.split_at_mut(Self::BYTES / 2);
        let listed = self.allowed.as_ref().map_or(&[0][..], Ports::as_slice);
        for (map, ports) in [(allowed, listed), (guard, self.guard.as_slice())] {
            for &port in ports {
                if let Some(byte) = map.get_mut(usize::from(port / 8)) {
                    *byte |= 1 << (port % 8);
                }
            }
        }
        bytes
    }

    /// Parses the message.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let (allowed, guard) = bytes.split_at(Self::BYTES / 2);
        let allowed = ports_in(allowed);
        Self { allowed: Some(allowed).filter(|allowed| !allowed.contains(0)), guard: ports_in(guard) }
    }
}

/// Returns the ports in a bit map.
fn ports_in(map: &[u8]) -> Ports {
    let mut ports = Ports::default();
    for port in 0..=u16::MAX {
        if map.get(usize::from(port / 8)).is_some_and(|byte| byte & 1 << (port % 8) != 0) {
            ports.insert(port);
        }
    }
    ports
}

/// The opener's reply to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenReply {
    /// The kernel has confirmed the opening.
    Opened = b'y' as isize,
    /// Not opened: the set of openings is full.
    SetFull = b'f' as isize,
    /// Not opened: the source is one of this machine's own addresses.
    OwnAddress = b'o' as isize,
    /// Not opened: the source is link-local, and this machine has several links.
    SeveralLinks = b'l' as isize,
    /// Not opened: no profile may open this port.
    PortNotPermitted = b'p' as isize,
    /// Not opened: the port has no list, because it is not guarded (iptables only).
    PortNotGuarded = b'g' as isize,
}

impl OpenReply {
    const ALL: [Self; 6] = [
        Self::Opened,
        Self::SetFull,
        Self::OwnAddress,
        Self::SeveralLinks,
        Self::PortNotPermitted,
        Self::PortNotGuarded,
    ];

    /// Returns the message.
    pub fn to_bytes(self) -> [u8; 1] {
        [self as u8]
    }

    /// Parses the message.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reply| *reply as u8 == byte)
    }
}

/// A request to admit one connection from `source` to `port` within `seconds`.
///
/// The watcher creates it for a valid knock that asked for the port. The source address is not authenticated. The
/// opener parses it from bytes. Both check the same ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    source: IpAddr,
    port: u16,
    seconds: u16,
}

impl OpenRequest {
    /// The size of a request in bytes: version (1), address family 4 or 6 (1), port (2), seconds (2), zero (2), address
    /// (16; IPv4 in the first 4 bytes, the rest zero). Integers are big-endian.
    pub const BYTES: usize = 24;

    /// Creates a request. Returns `None` for port 0 and for a source that no client can have (see [`may_knock`]).
    /// `seconds` are limited to [`MAX_DELAY`].
    pub fn new(source: IpAddr, port: u16, seconds: u16) -> Option<Self> {
        Self::checked(source, port, seconds.clamp(1, MAX_DELAY))
    }

    fn checked(source: IpAddr, port: u16, seconds: u16) -> Option<Self> {
        let fits = may_knock(source) && port != 0 && (1..=MAX_DELAY).contains(&seconds);
        fits.then_some(Self { source, port, seconds })
    }

    /// The address to admit.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// The port to open.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The lifetime of the opening in seconds.
    pub fn seconds(&self) -> u16 {
        self.seconds
    }

    /// Returns the message.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let (family, address) = match self.source {
            IpAddr::V4(v4) => {
                let [a, b, c, d] = v4.octets();
                (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
            IpAddr::V6(v6) => (6, v6.octets()),
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0] = 1;
        bytes[1] = family;
        bytes[2..4].copy_from_slice(&self.port.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&address);
        bytes
    }

    /// Parses the message. Returns `None` for bytes that the watcher never sends.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [1, family, p0, p1, s0, s1, 0, 0, address @ ..] = bytes else { return None };
        let source = match (family, address) {
            (4, &[a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => IpAddr::from([a, b, c, d]),
            (6, address) => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
            _ => return None,
        };
        Self::checked(source, u16::from_be_bytes([*p0, *p1]), u16::from_be_bytes([*s0, *s1]))
    }
}

/// Returns whether a client can have the address `source`: it must be unicast and not loopback.
///
/// Whether it is one of this machine's own addresses only the kernel knows; the opener asks it.
pub fn may_knock(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first != 0 && !v4.is_loopback() && !v4.is_multicast() && first < 240 && v4 != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(v6) => {
            let embedded = v6.to_ipv4_mapped().is_some();
            !(v6.is_unspecified() || v6 == Ipv6Addr::LOCALHOST || v6.is_multicast() || embedded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_replies_survive_the_socket() {
        for allowed in [None, Some(Ports::default()), Some(Ports::from_iter([1, 22, 65535]))] {
            let limits = OpenerLimits { allowed, guard: Ports::parse("22,443").unwrap() };
            let read = OpenerLimits::from_bytes(limits.to_bytes()[..].try_into().unwrap());
            assert_eq!((read.allowed, read.guard), (limits.allowed, limits.guard));
        }
        for reply in OpenReply::ALL {
            assert_eq!(OpenReply::from_byte(reply.to_bytes()[0]), Some(reply));
        }
        assert_eq!(OpenReply::from_byte(0), None);
    }

    #[test]
    fn a_request_survives_the_socket() {
        for source in ["192.0.2.7", "2001:db8::7", "fe80::1"] {
            let request = OpenRequest::new(source.parse().unwrap(), 22, 15).unwrap();
            assert_eq!(OpenRequest::from_bytes(&request.to_bytes()), Some(request));
        }
    }

    #[test]
    fn odd_sources_are_refused() {
        for source in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "ff02::1",
            "::ffff:192.0.2.7",
        ] {
            assert_eq!(OpenRequest::new(source.parse().unwrap(), 22, 15), None, "{source}");
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        let good = OpenRequest::new("192.0.2.7".parse().unwrap(), 22, 15).unwrap().to_bytes();
        let mut seen = 0;
        for (at, value) in [(0, 2), (1, 5), (1, 6), (3, 0), (5, 0), (4, 4), (6, 1), (8, 127), (8, 0), (20, 1)] {
            let mut bytes = good;
            bytes[at] = value;
            // 192.0.2.7 read as IPv6 is c000:207::, which is an address like any other.
            let source_changed = (at, value) == (1, 6);
            assert_eq!(OpenRequest::from_bytes(&bytes).is_some(), source_changed, "byte {at} = {value}");
            seen += 1;
        }
        assert_eq!(seen, 10);
        assert!(OpenRequest::from_bytes(&good[..23]).is_none());
        assert!(OpenRequest::from_bytes(&[&good[..], &[0]].concat()).is_none());
    }

    #[test]
    fn an_opening_is_at_most_fifteen_minutes() {
        let request = OpenRequest::new("192.0.2.7".parse().unwrap(), 22, u16::MAX).unwrap();
        assert_eq!(request.seconds(), MAX_DELAY);
    }
}
