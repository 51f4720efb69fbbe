//! Which SYNs the reader of a log wants.

use crate::ports::Ports;
use crate::prefix::Prefix;
use crate::search;

/// SYNs to some ports, and to the addresses of links.
#[derive(Default)]
pub struct Wanted {
    ports: Ports,
    /// The start of the destination address in the lines of links.
    links: Vec<String>,
}

impl Wanted {
    /// Wants SYNs to `ports`, and to any port of an address in `prefixes`.
    pub fn new(ports: Ports, prefixes: &[Prefix]) -> Self {
        let mut wanted = Self { ports, links: Vec::new() };
        for prefix in prefixes {
            wanted.links.push(prefix.logged());
        }
        wanted
    }

    /// Returns whether it wants packets to `port` of any address.
    #[inline(always)]
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.ports.contains(port)
    }

    /// Returns whether it wants packets to the addresses of links.
    #[inline(always)]
    pub(super) fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Returns whether a line is about the address of a link. The answer may be wrong for similar addresses.
    pub(super) fn is_link(&self, line: &[u8]) -> bool {
        self.links.iter().any(|start| search::contains(line, start.as_bytes()))
    }

    /// Returns whether it wants the packet of `line`, which is to `port`.
    pub(super) fn has(&self, port: u16, line: &[u8]) -> bool {
        self.has_port(port) || self.is_link(line)
    }
}
