//! A profile's `config`, which holds no secret. The supervisor reads this file and no other file of a profile.

use super::ownership::failed;
use crate::error::{Error, Result, not_a_port, not_a_prefix, quoted};
use crate::ini;
use crate::ports::{self, Ports};
use crate::prefix::Prefix;
use crate::sys::file;
use crate::wire::Wire;
use std::path::Path;

/// The maximum number of ports that a profile with one-time codes may list: the daemon holds a code for each of them
/// and each counter.
pub const MAX_STEALTH_PORTS: usize = 16;

/// The ports that a profile may open, and how its knocks are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileConfig {
    /// The port that knocks are sent to; 0 for links.
    pub knock_port: u16,
    /// The ports that the profile may open; `None` means all, as in version 0.8.
    pub ports: Option<Ports>,
    /// The format of the knocks.
    pub wire: Wire,
    /// Whether `wire` is missing, as in the profiles of knockknock 0.8, whose daemon reads IPv4 only.
    pub legacy: bool,
}

impl ProfileConfig {
    /// Describes the target of its knocks for a message.
    pub fn target(&self) -> String {
        match self.wire.prefix() {
            Some(prefix) => format!("links in {prefix}"),
            None => format!("knock port {}", self.knock_port),
        }
    }

    /// Refuses a profile, called `name`, that is for links only.
    pub fn check_knocks(&self, name: &str) -> Result<()> {
        if self.wire.prefix().is_none() { Ok(()) } else { Err(Self::cannot_knock(name)) }
    }

    /// Returns the error for a profile, called `name`, that is for links only.
    pub fn cannot_knock(name: &str) -> Error {
        Error::refused(format!("profile {} is for links and cannot knock", quoted(name)))
            .advise(format!("to print links: knockknock links {name} -p PORT"))
    }

    /// Refuses a port that the profile, called `name`, may not open.
    pub fn check_may_open(&self, name: &str, port: u16) -> Result<()> {
        if self.ports.as_ref().is_none_or(|ports| ports.contains(port)) {
            return Ok(());
        }
        Err(Error::refused(format!("profile {} may not open port {port}", quoted(name)))
            .advise("to allow it, add the port to \"ports\" in the profile's config, on both sides"))
    }

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
        let (mut knock_port, mut allowed, mut wire, mut links) = (None, None, None, None);
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
                "links" => {
                    links = Prefix::parse(value);
                    wrong = links.is_none().then(|| not_a_prefix(value));
                }
                _ => wrong = Some(format!("unknown key {}", quoted(key))),
            }
            if let Some(why) = wrong {
                return Err((*line, why));
            }
        }
        let (knock_port, legacy, wire) = match (knock_port, wire, links) {
            (None, None, Some(prefix)) => (0, false, Wire::Link(prefix)),
            (_, _, Some(_)) => return Err((0, "\"links\" excludes \"knock_port\" and \"wire\"".to_owned())),
            (None, ..) => return Err((0, "\"knock_port\" is missing".to_owned())),
            (Some(knock_port), wire, None) => (knock_port, wire.is_none(), wire.unwrap_or(Wire::Classic)),
        };
        let config = Box::new(Self { knock_port, ports: allowed, wire, legacy });
        let of = if links.is_some() { "links" } else { "wire = stealth" };
        match (wire, config.listed().len()) {
            (Wire::Classic, _) | (_, 1..=MAX_STEALTH_PORTS) => Ok(config),
            (_, 0) => Err((0, format!("\"{of}\" needs \"ports\": the list of ports to open"))),
            (_, listed) => {
                Err((0, format!("\"{of}\" allows at most {MAX_STEALTH_PORTS} ports, and {listed} are listed")))
            }
        }
    }

    /// Returns the text that [`ProfileConfig::parse`] reads.
    pub fn to_text(&self) -> String {
        let mut text = match self.wire.prefix() {
            Some(prefix) => format!("[main]\nlinks = {prefix}\n"),
            None => format!("[main]\nknock_port = {}\n", self.knock_port),
        };
        if let Some(ports) = &self.ports {
            text.push_str(&format!("ports = {ports}\n"));
        }
        if !self.legacy && self.wire.prefix().is_none() {
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
            (Wire::Link(Prefix::parse("2001:db8:0:ff::/64").unwrap()), listed(), false),
        ] {
            let knock_port = if wire.prefix().is_some() { 0 } else { 666 };
            let config = ProfileConfig { knock_port, ports, wire, legacy };
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
            ("[main]\nlinks=2001:db8::/47\nports=22", 2),
            ("[main]\nlinks=2001:db8::/64", 0),
            ("[main]\nlinks=2001:db8::/64\nports=22\nknock_port=1", 0),
            ("[main]\nlinks=2001:db8::/64\nports=22\nwire=stealth", 0),
            ("[main]\nx", 2),
            ("[main]\nknock_port=1\nprots=22", 3),
        ] {
            assert_eq!(ProfileConfig::parse(text).unwrap_err().0, line, "{text:?}");
        }
    }
}
