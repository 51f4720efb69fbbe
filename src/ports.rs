//! Lists of TCP ports.

use std::fmt;

/// A list of ports, sorted and without duplicates, such as `22,443` in a config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<u16>);

impl Ports {
    /// Parses `22,443` or `22 443`. The error is the first word that is not a port from 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, &str> {
        let mut ports = Self::default();
        for word in text.split([',', ' ', '\t']).filter(|word| !word.is_empty()) {
            ports.insert(port(word).ok_or(word)?);
        }
        Ok(ports)
    }

    /// Adds `port` to the list.
    pub fn insert(&mut self, port: u16) {
        if let Err(place) = self.0.binary_search(&port) {
            self.0.insert(place, port);
        }
    }

    /// Removes the ports for which `keep` is false.
    pub fn retain(&mut self, keep: &dyn Fn(u16) -> bool) {
        self.0.retain(|&port| keep(port));
    }

    /// Whether `port` is in the list.
    pub fn contains(&self, port: u16) -> bool {
        self.0.binary_search(&port).is_ok()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ports, ascending.
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }

    /// Describes the list for a message: `no port`, `port 22` or `ports 22,443`.
    pub fn describe(&self) -> String {
        match self.0.len() {
            0 => "no port".to_owned(),
            1 => format!("port {self}"),
            _ => format!("ports {self}"),
        }
    }

    /// The ports, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().copied()
    }
}

impl Extend<u16> for Ports {
    fn extend<I: IntoIterator<Item = u16>>(&mut self, ports: I) {
        ports.into_iter().for_each(|port| self.insert(port));
    }
}

impl FromIterator<u16> for Ports {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> Self {
        let mut list = Self::default();
        list.extend(ports);
        list
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, port) in self.0.iter().enumerate() {
            write!(f, "{}{port}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Parses a port from 1 to 65535; decimal digits only, without a sign.
pub fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port: &u16| digits && port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_sorted_and_displayed() {
        let ports = Ports::parse("443, 22,22").unwrap();
        assert_eq!(ports.to_string(), "22,443");
        assert!(ports.contains(22) && !ports.contains(23));
        assert!(Ports::parse("").unwrap().is_empty());
    }

    #[test]
    fn singular_and_plural_are_right() {
        let described = |text| Ports::parse(text).unwrap().describe();
        assert_eq!([described(""), described("22"), described("22,443")], ["no port", "port 22", "ports 22,443"]);
    }

    #[test]
    fn an_invalid_port_is_named_in_the_error() {
        for bad in ["0", "65536", "-1", "+1", "ssh", "22;23"] {
            assert_eq!(Ports::parse(&format!("22,{bad}")), Err(bad));
        }
    }
}
