//! The status record: the watcher's counts and recent knocks, as text of fixed length in /run/knockknock.
//!
//! The watcher rewrites the record in place, and `knockknock status` reads it. Times are seconds since boot, so setting
//! the clock does not change them.

use crate::say;
use crate::search;
use crate::sys::file;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// The length of the record: the most that a confined watcher can write into a file.
const BYTES: usize = 4096;
/// The maximum number of knocks that are kept; fewer if the profiles' names are long.
const KNOCKS: usize = 64;
/// The longest text of a problem, in characters.
const PROBLEM: usize = 400;
/// How often to retry reading a record that is being rewritten.
const ATTEMPTS: u32 = 50;

/// The events that are counted.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// SYNs to knock ports that were read from the log.
    Received,
    /// Ports opened.
    Opened,
    /// Clients that were far ahead and were admitted.
    CaughtUp,
    /// Replayed knocks.
    Replayed,
    /// Messages that match no profile.
    WrongCodes,
    /// Knocks for ports that their profiles may not open.
    NotAllowed,
    /// Overruns of the log.
    LogOverruns,
}

/// The names of the counts, in the order of [`Count`].
pub const COUNTS: [&str; 7] =
    ["received", "opened", "caught_up", "replayed", "wrong_codes", "not_allowed", "log_overruns"];

/// An accepted knock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastKnock {
    /// When it arrived.
    pub time: u64,
    /// Its source address.
    pub source: IpAddr,
    /// The requested port.
    pub port: u16,
    /// The name of its profile, with control characters escaped.
    pub profile: String,
}

/// The status of a running daemon.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The process ID of the supervisor.
    pub daemon: u32,
    /// When the daemon started.
    pub since: u64,
    /// A checksum of the profiles that the watcher has read.
    pub profiles: u64,
    /// The [`checksum`] of the daemon's configuration.
    pub config: u64,
    /// How many SYNs had been received when the watcher started with new rules, whose log rule counts from 0.
    pub received_before: u64,
    /// Whether the watcher has ended because the log has moved, so that the next one starts with the same rules.
    pub log_moved: bool,
    /// How often each [`Count`] has happened since the daemon started.
    pub counts: [u64; COUNTS.len()],
    /// The last problem, and when it arose.
    pub problem: Option<(u64, String)>,
    /// The last knocks, the latest first, one of each profile for each port and source.
    pub knocks: Vec<LastKnock>,
}

impl Status {
    /// Creates the status of a watcher that starts at `now` and has read the configuration `config` and profiles with
    /// the checksum `profiles`. It continues the status of an earlier watcher of the same daemon.
    pub fn start(earlier: Option<Box<Self>>, daemon: u32, config: &str, profiles: u64, now: u64) -> Box<Self> {
        let mut status = match earlier {
            Some(earlier) if earlier.daemon == daemon => earlier,
            _ => Box::new(Self { daemon, since: now, ..Self::default() }),
        };
        status.received_before += if status.log_moved { 0 } else { status.received() };
        status.log_moved = false;
        status.profiles = profiles;
        status.config = checksum(config.as_bytes());
        status
    }

    /// Returns how many SYNs have been received since the rules were made.
    pub fn received(&self) -> u64 {
        let [received, ..] = self.counts;
        received.saturating_sub(self.received_before)
    }

    /// Returns whether the daemon's program was replaced since it started.
    pub fn is_replaced(&self) -> bool {
        let program = fs::read_link(format!("/proc/{}/exe", self.daemon)).unwrap_or_default();
        program.as_os_str().as_bytes().ends_with(b" (deleted)")
    }

    /// Increments a count.
    pub fn count(&mut self, what: Count) {
        if let Some(count) = self.counts.get_mut(what as usize) {
            *count += 1;
        }
    }

    /// Records an accepted knock.
    pub fn knock(&mut self, knock: LastKnock) {
        let same = |other: &LastKnock| {
            other.port == knock.port && other.source == knock.source && other.profile == knock.profile
        };
        if let Some(place) = self.knocks.iter().position(same) {
            self.knocks.remove(place);
        }
        self.knocks.insert(0, knock);
        self.knocks.truncate(KNOCKS);
    }

    /// Records a problem.
    pub fn problem(&mut self, time: u64, text: &str) {
        let mut text = say::escaped(text);
        if let Some((end, _)) = text.char_indices().nth(PROBLEM) {
            text.truncate(end);
        }
        self.problem = Some((time, text));
    }

    /// Returns the bytes of the record: a checksum, then text, then empty lines.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        for number in
            [self.daemon.into(), self.since, self.profiles, self.config, self.received_before, self.log_moved.into()]
        {
            push_number(&mut text, number);
        }
        for number in self.counts {
            push_number(&mut text, number);
        }
        let (time, why) = self.problem.as_ref().map_or((0, ""), |(time, why)| (*time, why));
        push_number(&mut text, time);
        text.push_str(why);
        text.push('\n');
        for knock in &self.knocks {
            let length = text.len();
            push_number(&mut text, knock.time);
            push_number(&mut text, knock.port.into());
            text.push_str(&knock.source.to_string());
            text.push(' ');
            text.push_str(&knock.profile);
            text.push('\n');
            if text.len() > BYTES - CHECKSUM {
                text.truncate(length);
                break;
            }
        }
        with_checksum(text, BYTES)
    }

    /// Parses a record; `None` if it is damaged or being rewritten.
    pub fn decode(bytes: &[u8]) -> Option<Box<Self>> {
        let mut lines = checked(bytes)?.split('\n');
        let first = &mut lines.next()?;
        let mut status = Box::new(Self {
            daemon: number(first)? as u32,
            since: number(first)?,
            profiles: number(first)?,
            config: number(first)?,
            received_before: number(first)?,
            log_moved: number(first)? != 0,
            ..Self::default()
        });
        for count in &mut status.counts {
            *count = number(first)?;
        }
        let time = number(first)?;
        status.problem = (!first.is_empty()).then(|| (time, (*first).to_owned()));
        for mut line in lines {
            let Some(time) = number(&mut line) else { break };
            let port = number(&mut line)? as u16;
            let (source, profile) = line.split_once(' ')?;
            status.knocks.push(LastKnock { time, source: source.parse().ok()?, port, profile: profile.into() });
        }
        // Each record has only one encoding.
        Some(status).filter(|status| status.encode() == bytes)
    }
}

fn push_number(text: &mut String, number: u64) {
    text.push_str(&number.to_string());
    text.push(' ');
}

/// Removes a number and the following space from the line.
fn number(line: &mut &str) -> Option<u64> {
    let (number, rest) = line.split_once(' ')?;
    *line = rest;
    number.parse().ok()
}

/// The length of the checksum.
const CHECKSUM: usize = 8;

/// FNV-1a, to detect a record that was read while it was being written, or a changed configuration.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Returns a record of `length` bytes: a checksum, the text, and empty lines.
fn with_checksum(text: String, length: usize) -> Vec<u8> {
    let mut text = text.into_bytes();
    text.resize(length - CHECKSUM, b'\n');
    [&checksum(&text).to_be_bytes()[..], &text].concat()
}

/// Returns the text of a record; `None` if its checksum is wrong.
fn checked(record: &[u8]) -> Option<&str> {
    let (sum, text) = record.split_at_checked(CHECKSUM)?;
    if sum == checksum(text).to_be_bytes() { std::str::from_utf8(text).ok() } else { None }
}

/// Returns the directory of the records.
fn home() -> PathBuf {
    let run = if Path::new("/run").is_dir() { "/run" } else { "/var/run" };
    Path::new(run).join("knockknock")
}

/// Creates the directory of the records if necessary, and returns it.
pub fn make_home() -> io::Result<PathBuf> {
    let home = home();
    file::ensure_directory(&home).map(|_| home)
}

/// Returns the path of the record of the daemon on `directory`.
pub fn path(directory: &Path) -> io::Result<PathBuf> {
    let name = search::replace(&fs::canonicalize(directory)?.to_string_lossy(), "/", "-");
    Ok(home().join(format!("status{name}")))
}

/// Opens that file for writing and creates it if necessary. Only root can read it.
pub fn open(directory: &Path) -> io::Result<File> {
    let path = path(directory)?;
    make_home()?;
    file::open_private(&path)
}

/// The length of the trial's record: a checksum and a line, behind the watcher's record.
const TRIAL: usize = 64;

/// The recorded state of a guard's trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialState {
    /// The guard is lifted when it ends, unless a knock opens a port before.
    Running,
    /// A knock has opened a port.
    Passed,
    /// The guard was lifted.
    Failed,
}

impl TrialState {
    /// Returns the word for it in the record and in the output of status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Running, Self::Passed, Self::Failed].into_iter().find(|state| state.name() == name)
    }
}

/// Records the state of the trial of the daemon that runs on `directory`, and when it ends.
pub fn write_trial(directory: &Path, daemon: u32, state: TrialState, end: u64) -> io::Result<()> {
    let record = with_checksum(format!("{daemon} {end} {}\n", state.name()), TRIAL);
    open(directory)?.write_all_at(&record, BYTES as u64)
}

/// Reads the state of the trial of a daemon, and when it ends; `None` if there is no trial.
pub fn read_trial(directory: &Path, daemon: u32) -> Option<(TrialState, u64)> {
    let bytes = file::read_small(&path(directory).ok()?).ok()?;
    let line = &mut checked(bytes.get(BYTES..BYTES + TRIAL)?)?.split('\n').next()?;
    let (writer, end) = (number(line)?, number(line)?);
    Some((TrialState::named(line)?, end)).filter(|_| writer == daemon.into())
}

/// Reads the record of the daemon that runs on `directory`, or has run there since boot; `None` if there is none.
pub fn read(directory: &Path) -> Option<Box<Status>> {
    let path = path(directory).ok()?;
    for _ in 0..ATTEMPTS {
        let bytes = file::read_small(&path).ok()?;
        if let Some(status) = bytes.get(..BYTES).and_then(Status::decode) {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(time: u64, profile: &str) -> LastKnock {
        LastKnock { time, source: "2001:db8::7".parse().unwrap(), port: 22, profile: profile.into() }
    }

    fn full() -> Box<Status> {
        let mut status = Status::start(None, 77, "", 3, 5);
        status.count(Count::Opened);
        status.count(Count::LogOverruns);
        status.count(Count::LogOverruns);
        status.knock(knock(8, "a laptop"));
        status.knock(knock(9, "phone"));
        status
    }

    #[test]
    fn a_written_record_is_read_back() {
        let mut status = full();
        assert_eq!(Status::decode(&status.encode()).as_ref(), Some(&status));
        status.problem(12, "cannot store\nthe counter");
        assert_eq!(status.encode().len(), BYTES);
        assert_eq!(Status::decode(&status.encode()).as_ref(), Some(&status));
        assert_eq!(status.problem, Some((12, "cannot store\\x0athe counter".into())));
        assert_eq!(status.counts, [0, 1, 0, 0, 0, 0, 2]);
    }

    #[test]
    fn a_record_that_is_half_written_is_not_read() {
        let (old, mut new) = (full().encode(), full());
        new.count(Count::Replayed);
        new.knock(knock(10, "phone"));
        let new = new.encode();
        for at in 0..=BYTES {
            let (Some(head), Some(tail)) = (new.get(..at), old.get(at..)) else { panic!("within both") };
            let torn = [head, tail].concat();
            assert_eq!(Status::decode(&torn).is_some(), torn == old || torn == new, "cut at {at}");
        }
        assert_eq!(Status::decode(&new[..BYTES - 1]), None);
        assert_eq!(Status::decode(&[]), None);
    }

    #[test]
    fn the_last_knocks_fit_however_long_their_names_are() {
        let mut status = full();
        status.problem(12, &"é".repeat(1000));
        for number in 0..100 {
            status.knock(knock(number, &format!("{number}{}", "x".repeat(253))));
        }
        let read = Status::decode(&status.encode()).unwrap();
        assert!(read.knocks.len() > 10);
        assert_eq!(read.knocks[..10], status.knocks[..10]);
        assert!(read.knocks[0].profile.starts_with("99x"));
    }

    #[test]
    fn a_profile_has_one_knock_for_each_port_and_source() {
        let mut status = full();
        status.knock(knock(20, "a laptop"));
        status.knock(LastKnock { port: 443, ..knock(21, "phone") });
        let all: Vec<_> = status.knocks.iter().map(|knock| (knock.time, knock.profile.as_str(), knock.port)).collect();
        assert_eq!(all, [(21, "phone", 443), (20, "a laptop", 22), (9, "phone", 22)]);
    }

    #[test]
    fn a_new_watcher_receives_0_unless_it_has_the_same_rules() {
        let received = |status: &Status| {
            let mut status = Status::start(Some(Status::decode(&status.encode()).unwrap()), 77, "", 3, 50);
            let before = status.received();
            status.count(Count::Received);
            (before, status.received(), status.counts[0])
        };
        let mut status = full();
        status.count(Count::Received);
        status.count(Count::Received);
        assert_eq!(received(&status), (0, 1, 3));
        let again = Status { log_moved: true, received_before: 1, ..*status };
        assert_eq!(received(&again), (1, 2, 3));
    }

    #[test]
    fn counts_continue_after_a_restart_of_the_watcher_and_start_from_0_with_the_daemon() {
        let again = Status::start(Some(full()), 77, "", 4, 50);
        assert_eq!(again, Box::new(Status { profiles: 4, ..*full() }));
        let config = checksum(b"x");
        let new_daemon = Box::new(Status { daemon: 78, since: 50, profiles: 4, config, ..Status::default() });
        assert_eq!(Status::start(Some(full()), 78, "x", 4, 50), new_daemon);
    }
}
