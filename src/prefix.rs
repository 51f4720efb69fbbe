//! IPv6 prefixes of links. A connection to an address with such a prefix is a knock.

use std::fmt::{self, Write};
use std::net::Ipv6Addr;

/// An IPv6 prefix. That of links has 48 to 80 bits, and the bits after it carry a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    network: Ipv6Addr,
    length: u8,
}

impl Prefix {
    /// Parses `2001:db8:0:ff::/64`. `None` unless it is a global or unique local prefix of 48 to 80 bits, and all bits
    /// after it are 0.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, digits) = text.split_once('/')?;
        let (network, length): (Ipv6Addr, u8) = (network.parse().ok()?, digits.parse().ok()?);
        let prefix = Self { network, length };
        let is_plain = (48..=80).contains(&length) && digits.len() == 2 && network.to_bits() & prefix.mask() == 0;
        // 2000::/3 and fc00::/7.
        let is_routed = matches!(network.octets(), [0x20..=0x3f | 0xfc | 0xfd, ..]);
        (is_plain && is_routed).then_some(prefix)
    }

    /// Creates a prefix of 0 to 128 bits. All bits of `network` after it must be 0.
    pub fn new(network: Ipv6Addr, length: u8) -> Self {
        Self { network, length }
    }

    /// The number of bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Returns whether every address of `other` begins with this prefix.
    pub fn covers(&self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.network)
    }

    /// Returns whether `address` begins with the prefix.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        address.to_bits() & !self.mask() == self.network.to_bits()
    }

    /// Returns the address with the prefix and the last bits of `code`.
    pub fn address(&self, code: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() | code & self.mask())
    }

    /// The bits after the prefix.
    fn mask(&self) -> u128 {
        u128::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }

    /// Returns whether codes are so short that guesses must be counted: shorter than 64 bits.
    pub fn is_guessable(&self) -> bool {
        self.length > 64
    }

    /// Returns a text that is in every log line of a packet to the prefix. The kernel writes addresses in full.
    pub fn logged(&self) -> String {
        let mut text = "DST=".to_owned();
        for group in self.network.segments().iter().take(usize::from(self.length / 16)) {
            let _ = write!(text, "{group:04x}:");
        }
        text
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_prefix_is_read_back() {
        for text in ["2001:db8:0:ff::/64", "fd00:1:2::/48", "2001:db8:0:ff:1::/80", "2001:db8:0:ff::/65"] {
            assert_eq!(Prefix::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_prefix_that_cannot_have_links_is_refused() {
        for text in [
            "",
            "2001:db8::",
            "2001:db8::/47",
            "2001:db8::/81",
            "2001:db8::1/64",
            "2001:db8::/064",
            "2001:db8::/+64",
            "2001:db8::/64/64",
            "fe80::/64",
            "ff02::/64",
            "::/64",
            "192.0.2.0/48",
        ] {
            assert_eq!(Prefix::parse(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_has_the_prefix_and_the_last_bits_of_the_code() {
        let prefix = Prefix::parse("2001:db8:0:ff::/72").unwrap();
        let address = prefix.address(u128::MAX);
        assert_eq!(address.to_string(), "2001:db8:0:ff:ff:ffff:ffff:ffff");
        assert!(prefix.contains(address) && !prefix.contains("2001:db8:0:ff:100::".parse().unwrap()));
    }

    #[test]
    fn the_text_of_log_lines_ends_with_a_whole_group() {
        let logged = |text| Prefix::parse(text).unwrap().logged();
        assert_eq!(logged("2001:db8:0:ff::/64"), "DST=2001:0db8:0000:00ff:");
        assert_eq!(logged("2001:db8:0:ff::/79"), "DST=2001:0db8:0000:00ff:");
        assert_eq!(logged("fd00:1:2::/48"), "DST=fd00:0001:0002:");
    }
}
