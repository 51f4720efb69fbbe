//! The openings that no connection has used yet, which the opener reports when their time is up.

use crate::firewall::{Admitter, Opening};
use crate::say;
use crate::sys::poll;
use crate::sys::socketpair::Channel;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

/// The maximum number of openings that the opener tracks, to report unused ones.
const MOST: usize = 64;

/// Openings that may still be unused, with the times to check them, in order.
#[derive(Default)]
pub(super) struct UnusedOpenings(Vec<(Instant, Opening)>);

impl UnusedOpenings {
    /// Tracks an opening. Openings beyond the limit are never reported.
    pub(super) fn track(&mut self, opening: Opening, admitter: &Admitter) {
        let known = |(_, other): &(_, Opening)| (other.source, other.port) == (opening.source, opening.port);
        if let Some(at) = self.0.iter().position(known) {
            self.0.remove(at);
        }
        if self.0.len() < MOST {
            self.0.push((Instant::now() + admitter.time_to_check(&opening), opening));
        }
    }

    /// Reports unused openings when their time is up. Returns when the watcher has sent a request or no opening is
    /// left.
    pub(super) fn report(&mut self, channel: &Channel, admitter: &Admitter) -> io::Result<()> {
        while let Some(&(due, opening)) = self.0.first() {
            let left = due.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                match poll::readable([channel.as_fd()], Some(left))? {
                    [true] => break,
                    [false] => continue,
                }
            }
            self.0.remove(0);
            let Opening { source, port, seconds } = opening;
            if admitter.withdraw(&opening).unwrap_or(false) {
                say::warn(format_args!("no connection used the opening of port {port} to {source} within {seconds} s"));
                say::warn("if you tried to connect, find out what blocks the connection: knockknock doctor");
            }
        }
        Ok(())
    }
}
