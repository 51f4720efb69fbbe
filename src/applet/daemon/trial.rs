//! The trial of a guard: it is lifted unless a knock opens a port in time, so that a mistake locks nobody out for good.
//!
//! The decision is a value; [`Trial::announce`] logs it. If the daemon is gone, the kernel ends the guard by itself.

use crate::error::Error;
use crate::say;
use crate::status::{self, TrialState};
use crate::sys::clock::uptime;
use std::path::Path;
use std::time::{Duration, Instant};

/// What to do after a failed trial.
const TRY_AGAIN: &str = "find the cause with: knockknock doctor; restart the daemon to try again";

/// The state of a guard's trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// The guard is not on trial.
    None,
    /// The guard is lifted at that time, unless a knock opens a port before.
    Until(Instant),
    /// A knock has opened a port: the guard stays.
    Passed,
    /// No knock had opened a port by that time.
    Failed(Instant),
}

impl Trial {
    /// Starts a trial of that length, if one is given.
    pub(super) fn new(length: Option<Duration>, now: Instant) -> Self {
        length.map_or(Self::None, |length| Self::Until(now + length))
    }

    /// Returns when the guard ends or has ended; `None` if it stays.
    pub(super) fn end_of_guard(self) -> Option<Instant> {
        match self {
            Self::None | Self::Passed => None,
            Self::Until(end) | Self::Failed(end) => Some(end),
        }
    }

    /// Returns the time left to knock; `None` once the trial is decided.
    pub(super) fn left(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Until(end) => Some(end.saturating_duration_since(now)),
            _ => None,
        }
    }

    /// Returns whether the trial is still running.
    pub(super) fn is_undecided(self) -> bool {
        matches!(self, Self::Until(_))
    }

    /// Records that a knock has opened a port. Returns whether that decides the trial.
    pub(super) fn opened(&mut self) -> bool {
        let decides = self.is_undecided();
        if decides {
            *self = Self::Passed;
        }
        decides
    }

    /// Fails the trial if its time has passed. Returns whether that decides it.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let decides = self.left(now) == Some(Duration::ZERO);
        if decides {
            *self = Self::Failed(now);
        }
        decides
    }

    /// Ends the trial with the daemon: an undecided one fails. Returns the message on what happens to the guard.
    pub(super) fn end(&mut self, now: Instant) -> &'static str {
        if self.is_undecided() {
            *self = Self::Failed(now);
        }
        match self {
            Self::Failed(_) => "stopped; the guard is lifted, since no knock has opened a port during its trial",
            _ => "stopped; the guard stays, and knocks open nothing until the daemon runs again",
        }
    }

    /// Logs the trial, and records it for `knockknock status`.
    pub(super) fn announce(self, directory: &Path) {
        let left = self.left(Instant::now()).unwrap_or_default();
        // Rounded, because the trial has just begun.
        let left = (left + Duration::from_millis(500)).as_secs();
        let state = match self {
            Self::None => return,
            Self::Until(_) => {
                say::warn(format_args!("the guard is on trial: it is lifted in {left} s unless a knock opens a port"));
                TrialState::Running
            }
            Self::Passed => {
                say::note("the trial is passed: a knock has opened a port, and the guard stays");
                TrialState::Passed
            }
            Self::Failed(_) => {
                let why = Error::refused("the trial has failed: no knock has opened a port, and the guard is lifted");
                say::warning(&why.advise(TRY_AGAIN));
                TrialState::Failed
            }
        };
        // The daemon works without the record.
        let _ = status::write_trial(directory, std::process::id(), state, uptime() + left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(600);

    #[test]
    fn a_knock_in_time_keeps_the_guard() {
        let now = Instant::now();
        let mut trial = Trial::new(Some(LENGTH), now);
        assert_eq!((trial.left(now), trial.end_of_guard()), (Some(LENGTH), Some(now + LENGTH)));
        assert!(!trial.expire(now + LENGTH / 2));
        assert!(trial.opened() && !trial.opened(), "decided once");
        assert!(!trial.expire(now + 2 * LENGTH));
        assert_eq!((trial.left(now), trial.end_of_guard()), (None, None));
        assert!(trial.end(now).contains("stays"));
    }

    #[test]
    fn without_a_knock_the_guard_is_lifted() {
        let now = Instant::now();
        let mut trial = Trial::new(Some(LENGTH), now);
        assert!(trial.expire(now + LENGTH) && !trial.expire(now + LENGTH));
        assert!(!trial.opened(), "too late");
        assert_eq!((trial.left(now), trial.end_of_guard()), (None, Some(now + LENGTH)));
    }

    #[test]
    fn the_end_of_the_daemon_lifts_an_undecided_guard() {
        let now = Instant::now();
        let mut trial = Trial::new(Some(LENGTH), now);
        assert!(trial.end(now).contains("lifted"));
        assert_eq!(trial.end_of_guard(), Some(now));
    }

    #[test]
    fn a_guard_that_is_not_on_trial_stays() {
        let now = Instant::now();
        let mut trial = Trial::new(None, now);
        assert!(!trial.opened() && !trial.expire(now + LENGTH));
        assert_eq!((trial.left(now), trial.end_of_guard()), (None, None));
        assert!(trial.end(now).contains("stays"));
    }
}
