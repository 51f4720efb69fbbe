//! An invitation: a profile as one line of text, which hands it to a client.
//!
//! `knockknock1:CONFIG:COUNTER:HOST:KEYS:CHECKSUM`. CONFIG is the profile's config in one word, KEYS both keys in
//! base64, CHECKSUM the CRC-32 of the text before it, in hexadecimal. Each field has only one valid spelling, so a line
//! that was changed, truncated or doubled is refused.

use super::keys::RawKeys;
use super::{Counter, ProfileConfig};
use crate::search;
use base64ct::{Base64, Encoding};
use std::fmt::Write;
use zeroize::Zeroizing;

/// The prefix of every invitation.
const START: &str = "knockknock1:";

/// The data that a client needs to knock. It has no `Debug`, so that no key can be printed by mistake.
pub struct Invitation {
    /// The client's name for the server.
    pub host: String,
    /// The config of the profile.
    pub config: Box<ProfileConfig>,
    /// The first counter that the client uses.
    pub counter: u64,
    pub(super) keys: RawKeys,
}

impl Invitation {
    /// Writes the line, without a newline.
    pub fn encode(&self) -> Zeroizing<String> {
        let mut keys = Zeroizing::new([0; 44]);
        let keys = Base64::encode(self.keys.as_flattened(), &mut *keys).unwrap_or_default();
        let text = self.config.to_text();
        let config = search::replace(text.strip_prefix(HEADING).unwrap_or(&text), " = ", "=");
        let config = search::replace(&config, "\n", ";");
        // Allocated once, because a growing string leaves copies of the keys in memory.
        let mut line = Zeroizing::new(String::with_capacity(START.len() + config.len() + self.host.len() + 80));
        let _ = write!(line, "{START}{config}:{}:{}:{keys}", self.counter, self.host);
        let sum = crc32(line.as_bytes());
        let _ = write!(line, ":{sum:08x}");
        line
    }

    /// Parses a line that [`Invitation::encode`] wrote; `None` for any other text.
    pub fn decode(line: &str) -> Option<Self> {
        let (rest, _) = search::split_last(line.strip_prefix(START)?, b':')?;
        let (rest, encoded) = search::split_last(rest, b':')?;
        // A config ends with ";", and a prefix in it has colons.
        let (config, rest) = search::split_once(rest, ";:")?;
        let (counter, host) = rest.split_once(':')?;
        let mut keys = RawKeys::default();
        Base64::decode(encoded.as_bytes(), keys.as_flattened_mut()).ok()?;
        let config = ProfileConfig::parse(&format!("{HEADING}{}", search::replace(config, ";", "\n"))).ok()?;
        let found = Self { host: host.into(), config, counter: Counter::parse(counter.as_bytes())?, keys };
        (*found.encode() == line).then_some(found)
    }
}

/// The start of a config's text, which an invitation omits.
const HEADING: &str = "[main]\n";

/// The CRC-32 of Ethernet and zlib. It detects every change within 32 consecutive bits.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use crate::prefix::Prefix;
    use crate::wire::Wire;

    fn invitation(host: &str, ports: &str, wire: Wire, counter: u64) -> Invitation {
        let ports = Some(Ports::parse(ports).unwrap()).filter(|ports| !ports.is_empty());
        let config = Box::new(ProfileConfig { knock_port: 43017, ports, wire, legacy: false });
        Invitation { host: host.into(), config, counter, keys: Box::new(Zeroizing::new([[0xfb; 16], [7; 16]])) }
    }

    #[test]
    fn the_checksum_is_crc_32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_written_invitation_is_read_back() {
        for (host, ports, wire, counter) in [
            ("server.example.org", "22", Wire::Stealth, 1),
            ("fd09::1", "22,443", Wire::Stealth, 4_294_967_296),
            ("fe80::1%eth0", "", Wire::Classic, 0),
            ("::", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", Wire::Classic, 7),
            ("", "22", Wire::Classic, 7),
        ] {
            let invitation = invitation(host, ports, wire, counter);
            let found = Invitation::decode(&invitation.encode()).unwrap();
            assert_eq!((&*found.host, found.counter), (host, counter));
            assert!(found.config == invitation.config && found.keys == invitation.keys);
        }
        let mut links = invitation("phone", "22", Wire::Link(Prefix::parse("2001:db8:0:ff::/64").unwrap()), 1);
        links.config.knock_port = 0;
        let line = links.encode();
        assert!(line.starts_with("knockknock1:links=2001:db8:0:ff::/64;ports=22;:1:phone:+/v7"));
        assert!(Invitation::decode(&line).unwrap().config == links.config);
        let mut old = invitation("old", "", Wire::Classic, 7);
        old.config.legacy = true;
        assert!(Invitation::decode(&old.encode()).unwrap().config == old.config);
    }

    #[test]
    fn the_line_is_one_word() {
        let line = invitation("server.example.org", "22,443", Wire::Stealth, 1).encode();
        assert!(line.starts_with("knockknock1:knock_port=43017;ports=22,443;wire=stealth;:1:server.example.org:+/v7"));
        assert!(line.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn a_damaged_cut_or_doubled_line_is_refused() {
        for host in ["server.example.org", "fd09::1"] {
            let line = invitation(host, "22", Wire::Stealth, 1).encode();
            for at in 0..line.len() {
                let (before, rest) = line.split_at(at);
                let refused = |damaged: String| assert!(Invitation::decode(&damaged).is_none(), "{damaged}");
                refused(before.into());
                refused(rest[1..].into());
                refused(format!("{before}{}", &rest[1..]));
                refused(format!("{before}\n{rest}"));
                refused(format!("{before}{}{rest}", &rest[..1]));
                for other in (0..128).map(char::from).filter(|&other| !rest.starts_with(other)) {
                    refused(format!("{before}{other}{}", &rest[1..]));
                    refused(format!("{before}{other}{rest}"));
                }
            }
            for between in ["", "\n", " ", ":", "\r\n"] {
                assert!(Invitation::decode(&format!("{}{between}{}", *line, *line)).is_none());
            }
            assert!(Invitation::decode(&line.to_uppercase()).is_none());
            assert!(Invitation::decode(&line.replace("knockknock1", "knockknock2")).is_none());
        }
    }
}
