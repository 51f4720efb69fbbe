//! Publishes the status: rewrites the record when it has changed, at most once a second.

use crate::error::reason;
use crate::say;
use crate::status::{self, Count, LastKnock, Status};
use crate::sys::clock::uptime;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The minimum time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The status of the daemon, and the file of its record.
#[derive(Default)]
pub(super) struct Publication {
    status: Box<Status>,
    file: Option<File>,
    /// Whether the status has changed since the last write.
    changed: bool,
    written: Option<Instant>,
}

impl Publication {
    /// Opens the file as root. If that fails there is no status, and everything else works.
    pub fn open(directory: &Path, supervisor: u32, config: &str, profiles: u64) -> Self {
        let file = status::open(directory);
        if let Err(cause) = &file {
            say::warn(format_args!("cannot write the status for \"knockknock status\": {}", reason(cause)));
        }
        let status = Status::start(status::read(directory), supervisor, config, profiles, uptime());
        Self { status, file: file.ok(), changed: true, written: None }
    }

    /// Increments a count.
    pub fn count(&mut self, what: Count) {
        self.status.count(what);
        self.changed = true;
    }

    /// Records an accepted knock.
    pub fn knock(&mut self, profile: String, source: IpAddr, port: u16) {
        self.status.knock(LastKnock { time: uptime(), source, port, profile });
        self.changed = true;
    }

    /// Records a problem.
    pub fn problem(&mut self, text: &str) {
        self.status.problem(uptime(), text);
        self.changed = true;
    }

    /// Writes that the log has moved.
    pub fn log_moved(&mut self) {
        self.status.log_moved = true;
        self.write_now();
    }

    /// Returns the time until [`Publication::write`] has something to do.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        let left = self.written.map_or(Duration::ZERO, |written| INTERVAL.saturating_sub(now.duration_since(written)));
        self.changed.then_some(left)
    }

    /// Writes the record if a write is due.
    pub fn write(&mut self, now: Instant) {
        if self.due(now) != Some(Duration::ZERO) {
            return;
        }
        (self.changed, self.written) = (false, Some(now));
        self.write_now();
    }

    fn write_now(&self) {
        // A full disk must not stop a knock.
        let _ = self.file.as_ref().map_or(Ok(()), |file| file.write_all_at(&self.status.encode(), 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_written_at_once_and_the_next_a_second_later() {
        let (mut publication, start) = (Publication::default(), Instant::now());
        assert_eq!(publication.due(start), None, "nothing wakes an idle daemon");
        publication.count(Count::Opened);
        assert_eq!(publication.due(start), Some(Duration::ZERO));
        publication.write(start);
        assert_eq!(publication.due(start), None);
        publication.count(Count::Opened);
        let later = start + Duration::from_millis(300);
        assert_eq!(publication.due(later), Some(Duration::from_millis(700)));
        publication.write(later);
        assert_eq!(publication.due(later), Some(Duration::from_millis(700)), "not yet");
        publication.write(start + INTERVAL);
        assert_eq!(publication.due(start + INTERVAL), None);
    }
}
