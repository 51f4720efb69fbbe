//! A profile's `config`: what anybody may know of it. The supervisor reads this and no other file of it.

use super::ownership::failed;
use crate::error::{Error, Result};
use crate::ini;
use crate::ports::{self, Ports};
use crate::sys::file;
use crate::wire::Wire;
use std::path::Path;

/// On what config a profile's key opens ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// Where its knocks go.
    pub knock_port: u16,
    /// The only ports that its key may open; `None` is no limit, as in the original.
    pub ports: Option<Ports>,
    /// How its client sends; the daemon takes both wires.
    pub wire: Wire,
    /// Whether `wire` is missing, as in the profiles of knockknock 0.8, whose daemon reads IPv4 only.
    pub legacy: bool,
}

impl ProfileConfig {
    /// Reads the file `config` in `profile`.
    pub fn load(profile: &Path) -> Result<Self> {
        let path = profile.join("config");
        let bytes = file::read_small(&path).map_err(|cause| failed("read", &path, cause))?;
        // A comment may be in any encoding, as with the original.
        Self::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|(line, why)| Error::content(&path, line, why).advise("correct it, or copy the profile again"))
    }

    /// Reads the text of a `config`; the error is a line, or 0, and what is wrong. Unknown keys are
    /// the original's affair and passed over.
    pub fn parse(text: &str) -> std::result::Result<Self, (usize, String)> {
        let (settings, _) = ini::settings(text, &["ports"])?;
        let (mut knock_port, mut allowed, mut wire) = (None, None, None);
        for ini::Setting { key, value, line } in settings {
            match key.as_str() {
                "knock_port" => {
                    let port = ports::port(&value);
                    knock_port = Some(port.ok_or_else(|| (line, format!("{value:?} is no port from 1 to 65535")))?);
                }
                "ports" => {
                    let list =
                        Ports::parse(&value).map_err(|word| (line, format!("{word:?} is no port from 1 to 65535")))?;
                    if list.is_empty() {
                        return Err((line, "\"ports\" is empty: such a key could open nothing".into()));
                    }
                    allowed = Some(list);
                }
                "wire" => {
                    let named = Wire::named(&value);
                    wire = Some(named.ok_or_else(|| (line, format!("{value:?} is no wire: classic or stealth")))?);
                }
                _ => {}
            }
        }
        let knock_port = knock_port.ok_or_else(|| (0, "\"knock_port\" is missing".to_owned()))?;
        Ok(Self { knock_port, ports: allowed, wire: wire.unwrap_or(Wire::Classic), legacy: wire.is_none() })
    }

    /// The text that [`ProfileConfig::parse`] reads.
    pub fn to_text(&self) -> String {
        let mut text = format!("[main]\nknock_port = {}\n", self.knock_port);
        if let Some(ports) = &self.ports {
            text.push_str(&format!("ports = {ports}\n"));
        }
        if !self.legacy {
            text.push_str(&format!("wire = {}\n", self.wire.name()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for ports in [None, Some(Ports::parse("22,443").unwrap())] {
            for (wire, legacy) in [(Wire::Classic, true), (Wire::Classic, false), (Wire::Stealth, false)] {
                let config = ProfileConfig { knock_port: 666, ports: ports.clone(), wire, legacy };
                assert_eq!(ProfileConfig::parse(&config.to_text()), Ok(config));
            }
        }
    }

    #[test]
    fn the_originals_is_classic_without_limit() {
        let config = ProfileConfig::parse("[main]\nknock_port=666\n").unwrap();
        assert_eq!(config, ProfileConfig { knock_port: 666, ports: None, wire: Wire::Classic, legacy: true });
    }

    #[test]
    fn bad_values_are_named_with_their_line() {
        for (text, line) in [
            ("", 0),
            ("[main]\nknock_port = 0", 2),
            ("[main]\nknock_port=1\nports=22,x", 3),
            ("[main]\nknock_port=1\nports=", 3),
            ("[main]\nwire=morse", 2),
            ("[main]\nx", 2),
        ] {
            assert_eq!(ProfileConfig::parse(text).unwrap_err().0, line, "{text:?}");
        }
    }
}
