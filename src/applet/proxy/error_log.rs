//! Logs the errors of requests. A program or a web page can cause the same one many times a second, so each error is
//! logged once a minute, and then how many more there were.

use super::client::ClientEvent;
use super::socks::Reply;
use crate::error::Error;
use crate::say;
use crate::status::checksum;
use std::time::{Duration, Instant};

/// How often to log the same error.
const INTERVAL: Duration = Duration::from_secs(60);
/// The maximum number of different errors in that time.
const MOST: usize = 8;

/// The errors of the last minute.
#[derive(Default)]
pub struct ErrorLog {
    /// When the first of them was logged.
    since: Option<Instant>,
    /// Checksums of those that were logged.
    logged: Vec<u64>,
    /// How many more there were.
    more: usize,
}

impl ErrorLog {
    /// Logs an error of a request, and returns the client's event for it.
    pub fn failed(&mut self, error: &Error) -> ClientEvent {
        self.log(error);
        ClientEvent::Failed(Reply::Failed)
    }

    /// Logs an error, or counts it.
    pub fn log(&mut self, error: &Error) {
        let now = Instant::now();
        self.summarise(now);
        if self.is_new(&error.to_string(), now) {
            say::warning(error);
        }
    }

    /// Returns when to call [`ErrorLog::summarise`].
    pub fn due(&self) -> Option<Instant> {
        self.since.filter(|_| self.more > 0).map(|since| since + INTERVAL)
    }

    /// Logs how many more errors there were, after a minute.
    pub fn summarise(&mut self, now: Instant) {
        if let Some(more) = self.end(now).filter(|more| *more > 0) {
            let errors = if more == 1 { "error" } else { "errors" };
            say::warn(format_args!("{more} more {errors} in the last minute"));
        }
    }

    /// Forgets the errors after a minute. Returns how many more there were.
    fn end(&mut self, now: Instant) -> Option<usize> {
        self.since.take_if(|since| now >= *since + INTERVAL)?;
        self.logged.clear();
        Some(std::mem::take(&mut self.more))
    }

    /// Returns whether to log this error; otherwise counts it.
    fn is_new(&mut self, text: &str, now: Instant) -> bool {
        let sum = checksum(text.as_bytes());
        let new = self.logged.len() < MOST && !self.logged.contains(&sum);
        if new {
            self.since.get_or_insert(now);
            self.logged.push(sum);
        } else {
            self.more += 1;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_repeats_is_logged_once_a_minute_and_counted() {
        let (mut log, now) = (ErrorLog::default(), Instant::now());
        assert!(log.is_new("damaged", now));
        assert_eq!(log.due(), None, "there is nothing to count yet");
        for _ in 0..49 {
            assert!(!log.is_new("damaged", now + INTERVAL / 2));
        }
        assert!(log.is_new("another", now + INTERVAL / 2));
        assert_eq!((log.due(), log.end(now + INTERVAL / 2)), (Some(now + INTERVAL), None));
        assert_eq!(log.end(now + INTERVAL), Some(49));
        assert_eq!((log.due(), log.end(now + INTERVAL * 9)), (None, None));
        assert!(log.is_new("damaged", now + INTERVAL));
    }

    #[test]
    fn errors_that_all_differ_are_limited_too() {
        let (mut log, now) = (ErrorLog::default(), Instant::now());
        let logged = (0..1000).filter(|number| log.is_new(&number.to_string(), now)).count();
        assert_eq!((logged, log.end(now + INTERVAL)), (MOST, Some(1000 - MOST)));
    }
}
