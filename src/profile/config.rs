//! A profile's `config`, which holds no secret. The supervisor reads this file and no other file of a profile.

use super::ownership::failed;
use crate::error::{Error, Result, not_a_port, quoted};
use crate::ini;
use crate::ports::{self, Ports};
use crate::sys::file;
use crate::wire::Wire;
use std::path::Path;

/// The maximum number of ports that a stealth profile may list: the daemon holds a code for each of them and each
/// counter.
pub const MAX_STEALTH_PORTS: usize = 16;

/// The ports that a profile may open, and how its knocks are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// The port that knocks are sent to.
    pub knock_port: u16,
    /// The ports that the profile may open; `None` means all, as in version 0.8.
    pub ports: Option<Ports>,
    /// The format of the knocks.
    pub wire: Wire,
    /// Whether `wire` is missing, as in the profiles of knockknock 0.8, whose daemon reads IPv4 only.
    pub legacy: bool,
}

impl ProfileConfig {
    /// The ports that `ports` lists; none means all.
    pub fn listed(&self) -> &[u16] {
        self.ports.as_ref().map_or(&[], Ports::as_slice)
    }

    /// Reads the file `config` in `profile`.
    pub fn load(profile: &Path) -> Result<Box<Self>> {
        let path = profile.join("config");
        let bytes = file::read_small(&path).map_err(|cause| failed("read", &path, cause))?;
        // Comments may be in any encoding, as in version 0.8.
        Self::parse(&String::from_utf8_lossy(&bytes)).map_err(|(line, why)| {
            Error::content(&path, line, why).advise("correct it, or make a new profile on both sides")
        })
    }

    /// Parses the text of a `config`. The error is a line number, or 0, and a reason. An unknown key is an error,
    /// because it may be a misspelled `ports`, without which the profile opens every port.
    pub fn parse(text: &str) -> std::result::Result<Box<Self>, (usize, String)> {
        let (settings, _) = ini::settings(text, &["ports"])?;
        let (mut knock_port, mut allowed, mut wire) = (None, None, None);
        for ini::Setting { key, value, line } in &settings {
            let mut wrong = None;
            match key.as_str() {
                "knock_port" => {
                    knock_port = ports::port(value);
                    wrong = knock_port.is_none().then(|| not_a_port(value));
                }
                "ports" => match Ports::parse(value) {
                    Err(word) => wrong = Some(not_a_port(word)),
                    Ok(list) if list.is_empty() => {
                        wrong = Some("\"ports\" is empty: such a profile could open nothing".to_owned());
                    }
                    Ok(list) => allowed = Some(list),
                },
                "wire" => {
                    wire = Wire::named(value);
                    wrong = wire.is_none().then(|| format!("{} is not a wire: use classic or stealth", quoted(value)));
                }
                _ => wrong = Some(format!("unknown key {}", quoted(key))),
            }
            if let Some(why) = wrong {
                return Err((*line, why));
            }
        }
        let knock_port = knock_port.ok_or_else(|| (0, "\"knock_port\" is missing".to_owned()))?;
        let (legacy, wire) = (wire.is_none(), wire.unwrap_or(Wire::Classic));
        let config = Box::new(Self { knock_port, ports: allowed, wire, legacy });
        match (wire, config.listed().len()) {
            (Wire::Stealth, 0) => Err((0, "\"wire = stealth\" needs \"ports\": the list of ports to open".into())),
            (Wire::Stealth, listed) if listed > MAX_STEALTH_PORTS => Err((
                0,
                format!("\"wire = stealth\" allows at most {MAX_STEALTH_PORTS} ports, and {listed} are listed"),
            )),
            _ => Ok(config),
        }
    }

    /// Returns the text that [`ProfileConfig::parse`] reads.
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
    fn written_values_are_read_back() {
        let listed = || Some(Ports::parse("22,443").unwrap());
        for (wire, ports, legacy) in [
            (Wire::Classic, None, true),
            (Wire::Classic, None, false),
            (Wire::Classic, listed(), false),
            (Wire::Stealth, listed(), false),
        ] {
            let config = ProfileConfig { knock_port: 666, ports, wire, legacy };
            assert_eq!(ProfileConfig::parse(&config.to_text()), Ok(Box::new(config)));
        }
    }

    #[test]
    fn a_config_of_version_0_8_is_classic_without_limit() {
        let config = ProfileConfig::parse("[main]\nknock_port=666\n").unwrap();
        assert_eq!(*config, ProfileConfig { knock_port: 666, ports: None, wire: Wire::Classic, legacy: true });
    }

    #[test]
    fn bad_values_are_named_with_their_line() {
        for (text, line) in [
            ("", 0),
            ("[main]\nknock_port = 0", 2),
            ("[main]\nknock_port=1\nports=22,x", 3),
            ("[main]\nknock_port=1\nports=", 3),
            ("[main]\nwire=morse", 2),
            ("[main]\nknock_port=1\nwire=stealth", 0),
            ("[main]\nknock_port=1\nwire=stealth\nports=1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17", 0),
            ("[main]\nx", 2),
            ("[main]\nknock_port=1\nprots=22", 3),
        ] {
            assert_eq!(ProfileConfig::parse(text).unwrap_err().0, line, "{text:?}");
        }
    }
}
