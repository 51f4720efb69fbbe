//! Taking turns: an opening is one at a time for a source and a port, so from the knock to the
//! connection one holds the knock lock of its profile, among all threads and processes that use it.

use crate::error::{Error, Result};
use crate::profile::Found;
use crate::sys;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long after its knock an opening is usually there: before anything is known, and the bounds of
/// what is learnt.
const USUAL: Duration = Duration::from_millis(3);
const SOONEST: Duration = Duration::from_micros(500);
const LATEST: Duration = Duration::from_millis(20);
/// The longest back-off.
const LONGEST: Duration = Duration::from_secs(60);

/// A profile's knock lock, with what was learnt at it.
pub struct KnockLock {
    directory: PathBuf,
    first_delay: Duration,
    unanswered: u32,
    closed_until: Option<Instant>,
}

/// The right to knock and connect; dropping it lets the next one go.
pub struct Turn(#[allow(dead_code, reason = "it is the lock")] Option<File>);

impl KnockLock {
    /// The knock lock of a profile.
    pub fn new(found: &Found) -> Self {
        Self { directory: found.path.clone(), first_delay: USUAL, unanswered: 0, closed_until: None }
    }

    /// Takes the turn, or nothing while somebody else has it. Refuses while it backs off.
    pub fn try_lock(&self) -> Result<Option<Turn>> {
        if self.closed_until.is_some_and(|until| Instant::now() < until) {
            let why = format!("knocks of {:?} went unanswered", self.directory.file_name().unwrap_or_default());
            return Err(Error::system("knock yet", io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        let lock = File::open(&self.directory).map_err(|cause| Error::path("open", &self.directory, cause))?;
        match sys::file::try_lock(&lock) {
            Ok(()) => Ok(Some(Turn(Some(lock)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // A file system without locks (NFS has none for directories) keeps nobody out.
            Err(_) => Ok(Some(Turn(None))),
        }
    }

    /// How long after the knock to try first.
    pub fn first_delay(&self) -> Duration {
        self.first_delay
    }

    /// Learns from a connection: three in five should get through at the `first` attempt, so that few
    /// packets are sent and little time is lost.
    pub fn passed(&mut self, first: bool) {
        self.first_delay = (self.first_delay * if first { 92 } else { 113 } / 100).clamp(SOONEST, LATEST);
        self.unanswered = 0;
    }

    /// Backs off after knocks that nobody answered, each time for longer.
    pub fn unanswered(&mut self) {
        self.closed_until = Some(Instant::now() + Duration::from_secs(1 << self.unanswered.min(6)).min(LONGEST));
        self.unanswered += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock_lock(name: &str) -> (KnockLock, Found) {
        let path = std::env::temp_dir().join(format!("knockknock-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let found = Found { name: name.into(), path };
        (KnockLock::new(&found), found)
    }

    #[test]
    fn one_at_a_time() {
        let (knock_lock, found) = knock_lock("turns");
        let turn = knock_lock.try_lock().unwrap();
        assert!(turn.is_some());
        assert!(KnockLock::new(&found).try_lock().unwrap().is_none());
        drop(turn);
        assert!(KnockLock::new(&found).try_lock().unwrap().is_some());
        std::fs::remove_dir(found.path).unwrap();
    }

    #[test]
    fn it_backs_off_longer_each_time_until_somebody_gets_through() {
        let (mut knock_lock, found) = knock_lock("back-off");
        let mut waits = Vec::new();
        for _ in 0..8 {
            knock_lock.unanswered();
            waits.push((knock_lock.closed_until.unwrap() - Instant::now()).as_secs_f32().round());
            assert_eq!(knock_lock.try_lock().err().unwrap().kind(), Some(io::ErrorKind::TimedOut));
        }
        assert_eq!(waits, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
        knock_lock.passed(true);
        knock_lock.unanswered();
        assert!(knock_lock.closed_until.unwrap() <= Instant::now() + Duration::from_secs(1));
        std::fs::remove_dir(found.path).unwrap();
    }

    #[test]
    fn the_pace_settles_where_most_get_through_at_once() {
        // Openings are there after 0 to 4 ms, as /dev/kmsg's reader is woken.
        let (mut knock_lock, found) = knock_lock("first_delay");
        let mut first = 0;
        for knock in 0..4000 {
            let through = knock_lock.first_delay() > Duration::from_micros(knock * 997 % 4000);
            first += u32::from(through && knock >= 2000);
            knock_lock.passed(through);
        }
        assert!((1100..1300).contains(&first), "{first} of 2000");
        // After half a millisecond, as with nflog.
        for _ in 0..100 {
            knock_lock.passed(knock_lock.first_delay() > Duration::from_micros(500));
        }
        assert!(knock_lock.first_delay() < Duration::from_millis(1), "{:?}", knock_lock.first_delay());
        std::fs::remove_dir(found.path).unwrap();
    }
}
