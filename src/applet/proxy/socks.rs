//! Parses and builds SOCKS messages: version 5 (RFC 1928), and versions 4 and 4a as their authors described them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longer than any message of a client, in bytes.
pub const LONGEST: usize = 600;

/// The longest user name in version 4, in bytes. The name is ignored.
const LONGEST_USER: usize = 255;
/// The longest host name in bytes, from version 5's one-byte length.
const LONGEST_NAME: usize = 255;

/// The version that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// SOCKS 4 or 4a.
    Four,
    /// SOCKS 5.
    Five,
}

/// The requested host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name that is not an address.
    Name(String),
}

/// A client's request for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocksRequest {
    /// The version to reply in.
    pub version: Version,
    /// The host to connect to.
    pub host: Host,
    /// The port of the host.
    pub port: u16,
}

/// The outcome of a request, with its code in version 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Connected.
    Succeeded = 0,
    /// A failure without a code of its own.
    Failed = 1,
    /// The client may not connect to this host.
    NotAllowed = 2,
    /// There is no route to the network.
    NetworkUnreachable = 3,
    /// The host does not answer, or its name has no address.
    HostUnreachable = 4,
    /// The connection was refused.
    Refused = 5,
    /// There was no answer in time.
    TimedOut = 6,
    /// The command is not CONNECT.
    CommandNotSupported = 7,
    /// The address type is not one of version 5's.
    AddressTypeNotSupported = 8,
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A version 5 greeting that offers "no authentication". The reply is [`WELCOME`].
    Five,
    /// A request; version 4 has no greeting.
    Request(SocksRequest),
}

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// More bytes are needed.
    Short,
    /// The message is refused; the reply to send before closing, which may be empty.
    Refused(Vec<u8>),
}

/// A message and its length in bytes.
pub type ParsedMessage = Result<(Hello, usize), Failure>;

/// The reply to a version 5 greeting: no authentication.
pub const WELCOME: [u8; 2] = [5, 0];
/// The reply to a greeting that does not offer "no authentication".
const UNWELCOME: [u8; 2] = [5, 0xff];

/// Parses a client's first message.
pub fn hello(bytes: &[u8]) -> ParsedMessage {
    match bytes {
        [] | [5] => Err(Failure::Short),
        [5, count, methods @ ..] => {
            let count = usize::from(*count);
            let methods = methods.get(..count).ok_or(Failure::Short)?;
            if methods.contains(&0) { Ok((Hello::Five, 2 + count)) } else { Err(Failure::Refused(UNWELCOME.into())) }
        }
        [4, ..] => four(bytes),
        _ => Err(Failure::Refused(Vec::new())),
    }
}

/// Parses a version 5 request.
pub fn request(bytes: &[u8]) -> ParsedMessage {
    let refused = |reply| Err(Failure::Refused(answer(Version::Five, reply, None)));
    let [version, command, _, kind, rest @ ..] = bytes else { return Err(Failure::Short) };
    let (host, rest) = match (kind, rest) {
        _ if *version != 5 => return refused(Reply::Failed),
        (1, [a, b, c, d, rest @ ..]) => (Some(Host::Address(Ipv4Addr::new(*a, *b, *c, *d).into())), rest),
        (3, [length, rest @ ..]) => {
            let (name, rest) = rest.split_at_checked(usize::from(*length)).ok_or(Failure::Short)?;
            (host(name), rest)
        }
        (4, rest) => {
            let (address, rest) = rest.split_first_chunk::<16>().ok_or(Failure::Short)?;
            (Some(Host::Address(Ipv6Addr::from(*address).to_canonical())), rest)
        }
        (1 | 3, _) => return Err(Failure::Short),
        _ => return refused(Reply::AddressTypeNotSupported),
    };
    let [high, low, after @ ..] = rest else { return Err(Failure::Short) };
    match (command, host) {
        (1, Some(host)) => {
            let request = SocksRequest { version: Version::Five, host, port: u16::from_be_bytes([*high, *low]) };
            Ok((Hello::Request(request), bytes.len() - after.len()))
        }
        (1, None) => refused(Reply::HostUnreachable),
        _ => refused(Reply::CommandNotSupported),
    }
}

/// Parses a version 4 request: `4, command, port, address, user, 0`, and in 4a `name, 0` after an address 0.0.0.x.
fn four(bytes: &[u8]) -> ParsedMessage {
    let refused = || Failure::Refused(answer(Version::Four, Reply::Failed, None));
    let [_, command, high, low, a, b, c, d, rest @ ..] = bytes else { return Err(Failure::Short) };
    let (_, rest) = string(rest, LONGEST_USER)?;
    let (host, after) = if let ([0, 0, 0], true) = ([*a, *b, *c], *d != 0) {
        let (name, after) = string(rest, LONGEST_NAME)?;
        (host(name), after)
    } else {
        (Some(Host::Address(Ipv4Addr::new(*a, *b, *c, *d).into())), rest)
    };
    let host = host.filter(|_| *command == 1).ok_or_else(refused)?;
    let request = SocksRequest { version: Version::Four, host, port: u16::from_be_bytes([*high, *low]) };
    Ok((Hello::Request(request), bytes.len() - after.len()))
}

/// Splits at the first zero byte, which is removed.
fn string(bytes: &[u8], longest: usize) -> Result<(&[u8], &[u8]), Failure> {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(end) if end <= longest => {
            Ok((bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default()))
        }
        None if bytes.len() <= longest => Err(Failure::Short),
        _ => Err(Failure::Refused(answer(Version::Four, Reply::Failed, None))),
    }
}

/// Parses a host name. Some clients send an address as a name.
fn host(name: &[u8]) -> Option<Host> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(char::is_control))?;
    Some(
        name.parse::<IpAddr>()
            .map_or_else(|_| Host::Name(name.into()), |address| Host::Address(address.to_canonical())),
    )
}

/// Builds the reply to a request; `bound` is the local address of the connection.
pub fn answer(version: Version, reply: Reply, bound: Option<SocketAddr>) -> Vec<u8> {
    let bound = bound.unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
    let port = bound.port().to_be_bytes();
    match (version, bound.ip()) {
        (Version::Five, IpAddr::V4(address)) => [&[5, reply as u8, 0, 1][..], &address.octets(), &port].concat(),
        (Version::Five, IpAddr::V6(address)) => [&[5, reply as u8, 0, 4][..], &address.octets(), &port].concat(),
        (Version::Four, address) => {
            let address = if let IpAddr::V4(address) = address { address } else { Ipv4Addr::UNSPECIFIED };
            let granted = if reply == Reply::Succeeded { 90 } else { 91 };
            [&[0, granted][..], &port, &address.octets()].concat()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn five(host: &str, port: u16) -> SocksRequest {
        let host = host.parse().map_or_else(|_| Host::Name(host.into()), Host::Address);
        SocksRequest { version: Version::Five, host, port }
    }

    /// One message of each kind and the request that it is.
    fn messages() -> Vec<(Vec<u8>, SocksRequest)> {
        let name = "n".repeat(255);
        let four = |host: &str| SocksRequest { version: Version::Four, ..five(host, 80) };
        let v6 = [&[5, 1, 0, 4][..], &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &[0, 80]].concat();
        vec![
            (vec![5, 1, 0, 1, 10, 9, 0, 1, 0, 22], five("10.9.0.1", 22)),
            ([&[5, 1, 0, 3, 4][..], b"host", &[1, 0xbb]].concat(), five("host", 443)),
            ([&[5, 1, 0, 3, 255][..], name.as_bytes(), &[0, 22]].concat(), five(&name, 22)),
            ([&[5, 1, 0, 3, 8][..], b"10.9.0.1", &[0, 22]].concat(), five("10.9.0.1", 22)),
            (v6, five("2001:db8::1", 80)),
            (vec![4, 1, 0, 80, 10, 9, 0, 1, 0], four("10.9.0.1")),
            (b"\x04\x01\x00\x50\x0a\x09\x00\x01user\x00".into(), four("10.9.0.1")),
            (b"\x04\x01\x00\x50\x00\x00\x00\x01user\x00host\x00".into(), four("host")),
            (b"\x04\x01\x00\x50\x00\x00\x00\xff\x00fd09::1\x00".into(), four("fd09::1")),
        ]
    }

    fn parse(bytes: &[u8]) -> ParsedMessage {
        if bytes.first() == Some(&5) { request(bytes) } else { hello(bytes) }
    }

    #[test]
    fn a_message_is_parsed_to_its_end_and_no_further() {
        for (mut bytes, request) in messages() {
            let length = bytes.len();
            for end in 0..length {
                assert_eq!(parse(&bytes[..end]), Err(Failure::Short), "{:?}", &bytes[..end]);
            }
            bytes.extend(b"payload");
            assert_eq!(parse(&bytes), Ok((Hello::Request(request), length)));
        }
    }

    #[test]
    fn greetings_are_parsed() {
        assert_eq!(hello(&[5, 1, 0]), Ok((Hello::Five, 3)));
        assert_eq!(hello(&[5, 2, 2, 0, 5]), Ok((Hello::Five, 4)));
        let all: Vec<u8> = [5, 255].into_iter().chain((0..255).rev()).collect();
        assert_eq!(hello(&all), Ok((Hello::Five, 257)));
        for (bytes, failure) in [
            (&[5, 2, 0][..], Failure::Short),
            (&[5, 0], Failure::Refused(vec![5, 0xff])),
            (&[5, 1, 2], Failure::Refused(vec![5, 0xff])),
            (b"GET / HTTP/1.1\r\n", Failure::Refused(vec![])),
            (&[0], Failure::Refused(vec![])),
        ] {
            assert_eq!(hello(bytes), Err(failure), "{bytes:?}");
        }
    }

    #[test]
    fn each_refusal_has_its_number() {
        let v5 = |reply: u8| Err(Failure::Refused(vec![5, reply, 0, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(request(&[5, 2, 0, 1, 1, 2, 3, 4, 0, 80]), v5(7), "BIND");
        assert_eq!(request(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]), v5(7), "UDP ASSOCIATE");
        assert_eq!(request(&[5, 1, 0, 2, 0]), v5(8), "no such kind of address");
        assert_eq!(request(&[5, 1, 0, 3, 0, 0, 80]), v5(4), "no name");
        assert_eq!(request(b"\x05\x01\x00\x03\x03a\0b\x00\x50"), v5(4), "a name with NUL");
        assert_eq!(request(b"\x05\x01\x00\x03\x01\xff\x00\x50"), v5(4), "no UTF-8");
        assert_eq!(request(&[6, 1, 0, 1, 1]), v5(1));
        let v4 = Err(Failure::Refused(vec![0, 91, 0, 0, 0, 0, 0, 0]));
        assert_eq!(hello(&[4, 2, 0, 80, 1, 2, 3, 4, 0]), v4, "BIND");
        assert_eq!(hello(&[4, 1, 0, 80, 0, 0, 0, 1, 0, 0]), v4, "no name");
        assert_eq!(hello(&[&[4, 1, 0, 80, 1, 2, 3, 4][..], &[b'u'; 256]].concat()), v4, "an endless user");
        assert_eq!(hello(&[&[4, 1, 0, 80, 0, 0, 0, 1, 0][..], &[b'n'; 256]].concat()), v4, "an endless name");
    }

    #[test]
    fn no_message_is_longer_than_the_limit() {
        // LONGEST bytes are a message or refused, whatever they are.
        let mut seed = 1_u32;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..LONGEST)
                .map(|at| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    match at {
                        0 => 4 + (seed >> 31) as u8,
                        1..4 if seed >> 30 != 0 => (seed >> 8) as u8 % 5,
                        _ => (seed >> 24) as u8 | u8::from(seed & 0x100 == 0),
                    }
                })
                .collect();
            for parsed in [hello(&bytes).map(|(_, length)| length), request(&bytes).map(|(_, length)| length)] {
                assert_ne!(parsed, Err(Failure::Short), "{bytes:?}");
                assert!(parsed.is_err() || parsed.is_ok_and(|length| length <= LONGEST));
            }
        }
    }

    #[test]
    fn replies_have_the_format_of_their_version() {
        let v4 = Some("10.9.0.2:258".parse().unwrap());
        let v6 = Some("[::1]:258".parse().unwrap());
        assert_eq!(answer(Version::Five, Reply::Succeeded, v4), [5, 0, 0, 1, 10, 9, 0, 2, 1, 2]);
        assert_eq!(answer(Version::Five, Reply::Succeeded, v6)[..4], [5, 0, 0, 4]);
        assert_eq!(answer(Version::Five, Reply::Succeeded, v6).len(), 22);
        assert_eq!(answer(Version::Four, Reply::Succeeded, v4), [0, 90, 1, 2, 10, 9, 0, 2]);
        assert_eq!(answer(Version::Four, Reply::Refused, None), [0, 91, 0, 0, 0, 0, 0, 0]);
    }
}
