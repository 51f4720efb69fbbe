//! The watcher reads the log and holds the keys. All it can do is send requests to the opener.
//!
//! The engine decides. This file feeds it with log records, stores counters, asks the opener and reports.

mod armed;
mod code_table;
mod decryption;
pub mod engine;
mod keyed_hash;
mod loaded_profile;
mod look_ahead;
mod message;
mod profiles;
mod publication;
mod refused_knocks;
mod replay;
mod report;
mod search_budget;
mod throttle;

pub use code_table::MAX_PLACES as MAX_PORTS;
pub use loaded_profile::LoadedProfile;
pub use look_ahead::Reach;

use super::ipc::{CONFIG, OpenReply, OpenRequest, READY};
use super::privileges::{self, Kept, watcher_user};
use super::{LogTarget, hooks};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::klog::{self, Klog, Notice, Wanted};
use crate::profile::{self, Counter, REVOKED};
use crate::say;
use crate::status;
use crate::sys::sandbox::calls;
use crate::sys::socketpair::Channel;
use crate::sys::{clock, memory, process, random};
use crate::wire::Entry;
use engine::{Action, Engine, Event, Settings};
use profiles::{Profiles, Replacement};
use publication::Publication;
use report::Report;
use std::path::Path;
use std::time::{Duration, Instant};

/// The size of the replay cache, in messages.
const REPLAY_CACHE: usize = 64;
/// How many of the 2^48 codes can be guessed at each day before a knock needs a second one. A day of guessing then
/// opens a port with a probability of 2^-20.
const GUESSES: u32 = 1 << 28;

/// Exit code: the log must be reopened, which only root can do.
pub const LOG_MOVED: u8 = 65;

/// The watcher's system calls, without those for following a file.
const CALLS: &[&[libc::c_long]] =
    &[calls::BASIC, calls::WAIT, calls::READ_WRITE, calls::METADATA, calls::SEEK, calls::AT_OFFSETS, calls::MESSAGES];

/// Runs the watcher. Descriptor 0 is the log if it is standard input, descriptor 1 the socket to the opener. Returns
/// the exit code.
pub fn run(supervisor: u32, log_target: LogTarget, directory: &Path) -> Result<u8> {
    log_target.open();
    process::set_name(c"knock-watcher");
    let channel = Channel::from(process::inherited(1));
    process::leave_signals_to_supervisor().map_err(|cause| Error::system("set the signal mask", cause))?;

    let text = receive_config(&channel)?;
    let (config, _) = Config::from_text(directory, &text)?;
    let user = watcher_user(&config)?;
    // Before the profiles are read, so that a later change is noticed.
    let profiles_sum = profile::checksum(&directory.join("profiles"));
    let profiles = Profiles::load(directory)?;
    let untried = profiles.counters.iter().all(Counter::is_unused) && !config.guard.is_empty();
    if untried && !profiles.counters.is_empty() && status::read_trial(directory, supervisor).is_none() {
        say::warn("no profile has ever knocked: if no knock gets through, nobody can reach the guarded ports");
        say::warn("to lift the guard unless a knock opens a port in time: knockknock-daemon --trial 10m");
    }
    let mut log = Klog::open(&config.log)?;
    let group = log.group();
    hooks::attempt("unconfined watcher");
    let publication = Publication::open(directory, supervisor, &text, profiles_sum);
    let mut watcher = Watcher::new(&config, profiles, channel, publication)?;
    let working_directory = log.enter_directory()?;
    let mut calls = CALLS.to_vec();
    if working_directory {
        // It is the log's. A re-created log is opened by name.
        calls.push(calls::OPEN);
        calls.push(calls::WATCH);
    }
    let kept = Kept { user, groups: group.as_slice(), capabilities: &[], working_directory, calls: &calls };
    privileges::drop_root(&kept, supervisor, log_target)?;
    hooks::attempt("watcher");

    watcher.report.write_due(Instant::now());
    watcher.channel.send(READY).map_err(|cause| Error::system("report to the opener", cause))?;
    memory::release_start();
    match watcher.follow(&mut log) {
        // The supervisor reports the cause.
        WatcherEnd::OpenerGone => Ok(1),
        WatcherEnd::LogMoved => {
            watcher.report.log_moved();
            Ok(LOG_MOVED)
        }
        WatcherEnd::Failed(error) => Err(error),
    }
}

/// Receives the supervisor's configuration. The file may have changed since the supervisor read it.
fn receive_config(channel: &Channel) -> Result<String> {
    let mut text = vec![0; CONFIG];
    let length = channel.receive(&mut text).map_err(|cause| Error::system("read the configuration", cause))?;
    let text = text.get(..length).ok_or_else(|| Error::refused("the configuration is too long"))?;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The watcher after it has dropped its privileges.
struct Watcher {
    engine: Box<Engine>,
    /// The counter files of the engine's profiles, by number.
    counters: Vec<Counter>,
    replacements: Vec<Replacement>,
    report: Box<Report>,
    channel: Channel,
}

/// The reason why the watcher ends.
enum WatcherEnd {
    /// The opener has exited.
    OpenerGone,
    /// The log must be reopened as root.
    LogMoved,
    /// The log has ended or cannot be read.
    Failed(Error),
}

impl From<Error> for WatcherEnd {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Watcher {
    fn new(config: &Config, profiles: Profiles, channel: Channel, publication: Publication) -> Result<Self> {
        let mut secret = [0; 8];
        random::fill(&mut secret)?;
        let wanted = Reach { window: config.window, far: config.resync_window };
        let settings = Settings {
            delay: config.delay,
            reach: wanted,
            replay_cache: REPLAY_CACHE,
            guesses: GUESSES,
            secret: u64::from_ne_bytes(secret),
        };
        let engine = Box::new(Engine::new(settings, profiles.loaded));
        let Reach { window, far } = engine.reach();
        if engine.reach() != wanted {
            say::warn(format_args!(
                "the profiles list many ports: error_window is reduced to {window} and resync_window to {far}"
            ));
        }
        let mut knock_ports = Vec::new();
        for profile in engine.profiles() {
            knock_ports.push(profile.knock_port());
        }
        let report = Report::new(profiles.names, knock_ports, config.delay, publication);
        let Profiles { counters, replacements, .. } = profiles;
        Ok(Self { engine, counters, replacements, report, channel })
    }

    /// Follows the log until the log or the opener ends.
    fn follow(&mut self, log: &mut Klog) -> WatcherEnd {
        let wanted = Wanted::new(self.engine.knock_ports().clone(), self.engine.prefixes());
        loop {
            if let Err(end) = self.step(log, &wanted) {
                return end;
            }
        }
    }

    /// Waits for the log and handles new records, or does deferred work if there are none.
    fn step(&mut self, log: &mut Klog, wanted: &Wanted) -> std::result::Result<(), WatcherEnd> {
        let now = Instant::now();
        let timeout = match self.engine.next_far_search().is_some() || self.engine.is_filling() {
            true => Some(Duration::ZERO),
            false => clock::sooner(self.report.due(now), log.due(now)),
        };
        let more = log.wait(timeout).map_err(|cause| Error::system("wait for the log", cause))?;
        if more || log.due(Instant::now()) == Some(Duration::ZERO) {
            self.read(log, wanted)?;
        } else {
            self.do_deferred_work()?;
        }
        self.report.write_due(Instant::now());
        Ok(())
    }

    /// Handles new records. Many knocks are processed in batches: if each waited for a slow disk on its own, the
    /// kernel's log buffer would overflow.
    fn read(&mut self, log: &mut Klog, wanted: &Wanted) -> std::result::Result<(), WatcherEnd> {
        // Read the clock once for each read of the log, and again after waiting for the disk.
        let (mut done, mut now) = (Ok(()), Instant::now());
        log.read(wanted, &mut |event| match event {
            klog::LogEvent::Syn(entry) => {
                self.handle(&self.engine.addressed(entry), now);
                if self.engine.batch_is_full() && done.is_ok() {
                    done = self.perform();
                    now = Instant::now();
                }
            }
            klog::LogEvent::Notice(notice) if done.is_ok() => done = self.perform().and_then(|()| self.notice(&notice)),
            klog::LogEvent::Notice(_) => {}
        })?;
        done?;
        self.perform()
    }

    /// Reports a condition of the log.
    fn notice(&mut self, notice: &Notice) -> std::result::Result<(), WatcherEnd> {
        match notice {
            Notice::Overrun => self.report.overrun(Instant::now()),
            Notice::Ended => return Err(Error::refused(notice.to_string()).into()),
            _ => say::warn(notice),
        }
        if let Some(advice) = notice.advice() {
            say::warn(advice);
        }
        if *notice == Notice::Moved { Err(WatcherEnd::LogMoved) } else { Ok(()) }
    }

    fn handle(&mut self, entry: &Entry, now: Instant) {
        self.report.received();
        if let Some(event) = self.engine.handle(entry, now) {
            self.report.event(&event, now);
            if matches!(event, Event::Replay | Event::WrongCode { .. }) {
                self.report_refused(entry, now);
            }
        }
        if self.engine.has_accepted() {
            hooks::step("watcher: judged");
        }
    }

    /// Logs a refused knock, if it is one to log at once.
    fn report_refused(&mut self, entry: &Entry, now: Instant) {
        if let Some(refused) = self.report.select(entry, now) {
            let behind = refused.profile.and_then(|profile| self.engine.counters_behind(profile, entry));
            self.report.refused(&refused, behind);
        }
    }

    /// Does a small piece of deferred work.
    fn do_deferred_work(&mut self) -> std::result::Result<(), WatcherEnd> {
        if self.engine.next_far_search().is_none() {
            self.engine.fill();
            return Ok(());
        }
        let now = Instant::now();
        if let Some((source, event)) = self.engine.search_far(now) {
            self.engine.charge(source, now.elapsed(), now);
            if let Some(event) = event {
                self.report.event(&event, now);
            }
        }
        self.perform()
    }

    /// Performs the engine's actions.
    fn perform(&mut self) -> std::result::Result<(), WatcherEnd> {
        let mut stored = Vec::new();
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Store { profile, next } => {
                    if self.store(profile, next) {
                        stored.push(profile);
                        let replacement = self.replacements.iter().find(|replacement| replacement.new == profile);
                        if let Some(&Replacement { old, .. }) = replacement {
                            self.revoke_replaced(old);
                            stored.push(old);
                        }
                    }
                }
                Action::Report(event) => self.report.event(&event, Instant::now()),
                Action::Open(request) => {
                    let reply = self.request_opening(&request).ok_or(WatcherEnd::OpenerGone)?;
                    if let Some(event) = self.engine.answered(reply) {
                        self.report.event(&event, Instant::now());
                    }
                }
            }
        }
        // Only now, so that no port opens after a profile was revoked.
        stored.iter().filter_map(|&profile| self.counters.get(profile)).for_each(Counter::unlock);
        Ok(())
    }

    /// Stores a counter, and tells the engine and the caller if that succeeded. The counter is then locked.
    #[allow(clippy::indexing_slicing, reason = "the engine's profiles and the counters are of one list")]
    fn store(&mut self, profile: usize, next: u64) -> bool {
        let counter = &mut self.counters[profile];
        match counter.store(next) {
            Ok(kept) => {
                self.engine.stored(profile, counter.next());
                if !kept {
                    self.report.restored(profile);
                }
                true
            }
            Err(cause) => {
                counter.unlock();
                self.report.not_stored(profile, self.engine.not_stored(profile), counter.path(), &cause);
                false
            }
        }
    }

    /// Revokes the profile `old`, whose new keys have knocked, unless that is done.
    #[allow(clippy::indexing_slicing, reason = "the engine's profiles and the counters are of one list")]
    fn revoke_replaced(&mut self, old: usize) {
        if self.counters[old].next() < REVOKED && self.store(old, REVOKED) {
            self.report.revoked(old);
        }
    }

    /// Asks the opener for an opening; `None` if the opener has exited.
    fn request_opening(&self, request: &OpenRequest) -> Option<OpenReply> {
        hooks::step("watcher: stored");
        self.channel.send(&request.to_bytes()).ok()?;
        hooks::step("watcher: asked");
        let mut answer = [0; 1];
        let length = self.channel.receive(&mut answer).ok()?;
        let [byte] = answer;
        let reply = OpenReply::from_byte(byte).filter(|_| length == answer.len())?;
        if reply == OpenReply::Opened {
            hooks::step("watcher: opened");
        }
        Some(reply)
    }
}
