//! What both backends work from: the rules' contents, and openings.

use crate::config::{self, Log};
use crate::ports::Ports;
use std::net::IpAddr;

/// The chain of ours that marks a knocked connection, with iptables.
pub(super) const CHAIN_ADMIT: &str = "KNOCKKNOCK-ADMIT";

/// What our rules are made from.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The knock ports of all profiles.
    pub knock_ports: Ports,
    /// The ports that nothing but a knock opens.
    pub guard: Ports,
    /// Where the guard applies; empty is everywhere but on lo.
    pub interfaces: Vec<String>,
    /// The bit that marks a knocked connection.
    pub mark: u32,
    /// How long an opening lasts, in seconds.
    pub delay: u16,
    /// The NFLOG group that knocks are handed to, instead of to the log.
    pub group: Option<u16>,
}

impl Rules {
    /// The rules for a configuration.
    pub fn new(config: &config::Config, knock_ports: Ports) -> Self {
        let group = match config.log {
            Log::Nflog(group) => Some(group),
            _ => None,
        };
        Self {
            knock_ports,
            guard: config.guard.clone(),
            interfaces: config.interfaces.clone(),
            mark: config.mark,
            delay: config.delay,
            group,
        }
    }
}

/// One connection to admit: from `source` to `port`, within `seconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The address to admit.
    pub source: IpAddr,
    /// The TCP port.
    pub port: u16,
    /// How long the opening waits for its connection, in seconds.
    pub seconds: u16,
}

/// What came of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The kernel has confirmed it.
    Admitted,
    /// Not now: all places are taken, or the source is one of this machine's own addresses.
    Denied,
}

/// How often `word` stands in `text`.
pub(super) fn count(text: &str, word: &str) -> usize {
    text.as_bytes().windows(word.len()).filter(|&bytes| bytes == word.as_bytes()).count()
}
