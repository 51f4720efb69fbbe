//! The watcher: reads the log, holds the keys, and can do no more than ask.

mod engine;
mod search_budget;

use super::ipc::{CONFIG, OpenReply, OpenRequest, READY};
use super::{LogTarget, ProfileIndex, confine, hooks, say_left_out, watcher_user};
use crate::config::{Config, Log};
use crate::error::{Error, Result, reason};
use crate::klog::{Klog, Notice};
use crate::ports::PortSet;
use crate::profile::Profile;
use crate::say;
use crate::sys::privilege;
use crate::sys::sandbox::{self, calls};
use crate::sys::socketpair::Channel;
use crate::sys::{poll, process};
use crate::wire::{Entry, Unsealed};
use engine::{ReplayCache, SearchLimits, Verdict, judge};
use search_budget::SearchBudget;
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// What anybody can cause is summed up, once in this time.
const SUMMARY: Duration = Duration::from_secs(60);
/// How many searches for the tag of a port that is not allowed are made in that time: enough for
/// somebody who mistypes, too few to be a burden.
const DENIED_PORT_SEARCHES: u32 = 60;
/// How many knocks wait for the disk together at most.
const BATCH: usize = 256;
/// How many SYNs wait for a search far ahead at most.
const FAR_SEARCHES: usize = 64;
/// How many SYNs in a row without logged options say that the log rule lacks a flag.
const OPTIONLESS: u32 = 3;

/// The system calls that the watcher makes, besides following a file.
const CALLS: &[&[libc::c_long]] =
    &[calls::LIVE, calls::WAIT, calls::READ_WRITE, calls::LOOK, calls::SEEK, calls::AT_OFFSETS, calls::MESSAGES];

/// Runs the watcher: descriptor 0 is the log where that is standard input, descriptor 1 the socket to
/// the opener. Returns its exit code.
pub fn run(supervisor: u32, log_target: LogTarget, directory: &Path) -> Result<u8> {
    log_target.open();
    process::set_name(c"knock-watcher");
    let channel = Channel::from(process::inherited(1));
    process::leave_signals_to_supervisor().map_err(|cause| Error::system("let signals through", cause))?;

    let config = receive_config(&channel, directory)?;
    let user = watcher_user(&config);
    let profiles = LoadedProfiles::load(directory)?;
    let mut log = Klog::open(&config.log)?;
    let groups: Vec<u32> = log.group().into_iter().collect();
    hooks::attempt("unconfined watcher");
    log_target.detach_terminal().map_err(|cause| Error::system("let go of the terminal", cause))?;
    let empty_root = match log {
        Klog::File(_) => sandbox::empty_root_but_here,
        _ => sandbox::empty_root,
    };
    empty_root().map_err(|cause| Error::system("close the file system (chroot)", cause))?;
    let dropped = privilege::become_user(user, &groups, &[])
        .and_then(|()| privilege::not_dumpable())
        .and_then(|()| privilege::die_with(supervisor));
    dropped.map_err(|cause| Error::system("give up root's privileges", cause))?;

    // While there are still random numbers to be had.
    let mut watcher = Watcher::new(config, profiles, channel);
    match log {
        // The working directory is the log's: a file made anew is opened by its name.
        Klog::File(_) => confine(Some(Path::new(".")), &[CALLS, &[calls::OPEN, calls::WATCH]].concat()),
        _ => confine(None, CALLS),
    }
    hooks::attempt("watcher");

    watcher.channel.send(READY).map_err(|cause| Error::system("tell the opener", cause))?;
    watcher.follow(&mut log)
}

/// The configuration that the supervisor goes by: the file may be another by now.
fn receive_config(channel: &Channel, directory: &Path) -> Result<Config> {
    let mut text = vec![0; CONFIG];
    let length = channel.receive(&mut text).map_err(|cause| Error::system("read the configuration", cause))?;
    let text = text.get(..length).ok_or_else(|| Error::refused("the configuration is too long"))?;
    Config::of(directory, &String::from_utf8_lossy(text)).map(|(config, _)| config)
}

/// A profile, and what was accepted of late.
struct LoadedProfile {
    profile: Profile,
    replay_cache: ReplayCache,
}

/// The profiles, in the order of their knock ports.
#[derive(Default)]
struct LoadedProfiles {
    /// The knock ports apart from all else: a search among thousands stays in the processor's cache.
    knock_ports: Vec<u16>,
    profiles: Vec<LoadedProfile>,
}

impl LoadedProfiles {
    /// Loads them. One that cannot be read is named and left out.
    fn load(directory: &Path) -> Result<Self> {
        // The supervisor has already reported the profiles whose config cannot be used.
        let index = ProfileIndex::read(directory)?.profiles;
        let files = index.len() as u32 + 64;
        process::allow_files(files).map_err(|cause| Error::system("hold the counters open", cause))?;
        let mut loaded = Self::default();
        loaded.profiles.reserve_exact(index.len());
        for (found, _) in index {
            match Profile::load(&found) {
                Ok(profile) => {
                    loaded.knock_ports.push(profile.config.knock_port);
                    loaded.profiles.push(LoadedProfile { profile, replay_cache: ReplayCache::default() });
                }
                Err(error) => say_left_out(&found, &error),
            }
        }
        Ok(loaded)
    }

    /// The one whose knock port that is.
    fn by_knock_port(&mut self, knock_port: u16) -> Option<&mut LoadedProfile> {
        let place = self.knock_ports.binary_search(&knock_port).ok()?;
        self.profiles.get_mut(place)
    }
}

/// The watcher after it has given up everything.
struct Watcher {
    config: Config,
    profiles: LoadedProfiles,
    channel: Channel,
    search_budget: SearchBudget,
    /// Whether the log has ever shown TCP options: then its rule has the flag for them.
    options_seen: bool,
    counts: Counts,
    /// What was accepted and is not on disk yet, in order.
    knocks: Vec<AcceptedKnock>,
    /// What a search far ahead may explain, in order; made while nothing waits in the log.
    far_searches: VecDeque<Entry>,
}

/// An accepted knock, whose counter is used up in memory.
struct AcceptedKnock {
    entry: Entry,
    unsealed: Unsealed,
    allowed: bool,
}

/// What anybody can cause, counted until it is summed up.
#[derive(Default)]
struct Counts {
    since: Option<Instant>,
    replays: u32,
    wrong_tags: u32,
    denied_port: u32,
    /// SYNs in a row that were logged without TCP options; from [`OPTIONLESS`] on, that has been said.
    optionless: u32,
    overruns: u32,
}

impl Watcher {
    fn new(config: Config, profiles: LoadedProfiles, channel: Channel) -> Self {
        Self {
            config,
            profiles,
            channel,
            search_budget: SearchBudget::new(),
            options_seen: false,
            counts: Counts::default(),
            knocks: Vec::new(),
            far_searches: VecDeque::new(),
        }
    }

    /// Follows the log until it or the opener ends.
    fn follow(&mut self, log: &mut Klog) -> Result<u8> {
        let mut ports = PortSet::empty();
        ports.extend(self.profiles.knock_ports.iter().copied());
        loop {
            let timeout = match self.far_searches.is_empty() {
                true => self.counts.since.map(|since| SUMMARY.saturating_sub(since.elapsed())),
                false => Some(Duration::ZERO),
            };
            let [more] =
                poll::readable([log.fd()], timeout).map_err(|cause| Error::system("wait for the log", cause))?;
            if more {
                let mut committed = true;
                let notice = log.read(&ports, &mut |record| {
                    if let Some(entry) = record.entry() {
                        self.handle_syn(&entry, 0);
                        if self.knocks.len() == BATCH {
                            committed &= self.commit();
                        }
                    }
                })?;
                // Without the opener it ends too; why, the supervisor says.
                if !(self.commit() && committed) {
                    return Ok(1);
                }
                match notice {
                    None => {}
                    Some(Notice::Overrun) => self.counts.count(|counts| &mut counts.overruns),
                    Some(Notice::Ended) => return Err(Error::refused(Notice::Ended.to_string())),
                    Some(notice) => say::warn(notice),
                }
            } else if let Some(entry) = self.far_searches.pop_front() {
                // Those before it may have used up what its source had.
                if self.search_budget.allows(entry.source, Instant::now()) {
                    self.handle_syn(&entry, self.config.resync_window);
                    if !self.commit() {
                        return Ok(1);
                    }
                }
            }
            self.counts.sum_up();
        }
    }

    /// One SYN to a knock port, searched for `far` counters ahead of the window.
    fn handle_syn(&mut self, entry: &Entry, far: u32) {
        let now = Instant::now();
        self.options_seen |= entry.options_logged;
        let Some(profile) = self.profiles.by_knock_port(entry.knock_port) else { return };
        let mut accept = |profile: &mut LoadedProfile, unsealed, allowed| {
            profile.accept(entry, unsealed, now);
            self.knocks.push(AcceptedKnock { entry: *entry, unsealed, allowed });
        };
        let denied_port = far == 0 && self.counts.denied_port < DENIED_PORT_SEARCHES;
        let limits = SearchLimits { window: self.config.window, far, denied_port };
        match judge(&profile.profile, &profile.replay_cache, entry, &limits, now) {
            Verdict::Open(unsealed) => accept(profile, unsealed, true),
            Verdict::CaughtUp(unsealed) => {
                let behind = u64::from(unsealed.counter()) - profile.profile.counter.next();
                say::note(format_args!("caught up with profile {:?}, {behind} counters on", profile.profile.name));
                accept(profile, unsealed, true);
            }
            Verdict::Ahead(unsealed) => {
                if let Some(ciphertext) = entry.ciphertext() {
                    profile.replay_cache.arm(ciphertext, unsealed, now);
                }
                self.search_budget.charge(entry.source, now.elapsed(), now);
            }
            Verdict::NotAllowed(unsealed) => accept(profile, unsealed, false),
            Verdict::Same => {}
            Verdict::Replay => self.counts.count(|counts| &mut counts.replays),
            Verdict::WrongTag if far > 0 => self.search_budget.charge(entry.source, now.elapsed(), now),
            Verdict::WrongTag => {
                self.counts.count(|counts| &mut counts.wrong_tags);
                self.counts.denied_port = self.counts.denied_port.saturating_add(1);
                let room = self.config.resync_window > 0 && self.far_searches.len() < FAR_SEARCHES;
                if room && self.search_budget.allows(entry.source, now) {
                    self.far_searches.push_back(*entry);
                }
            }
            // Packets that were handed over whole have what options they have.
            Verdict::Empty if !self.options_seen && !matches!(self.config.log, Log::Nflog(_)) => {
                self.counts.count_optionless(entry.knock_port);
            }
            Verdict::Empty => {}
        }
    }

    /// Stores the counters of all that was accepted, and only then asks for the openings, in order.
    ///
    /// However many knocks there are, each profile's disk is waited for once: else a slow disk would
    /// have the kernel's log run over while knocks wait in it. `false` when the opener is gone.
    fn commit(&mut self) -> bool {
        for knock in &self.knocks {
            if let Some(profile) =
                self.profiles.by_knock_port(knock.entry.knock_port).filter(|profile| !profile.is_stored())
            {
                profile.store();
            }
        }
        for knock in self.knocks.drain(..) {
            let Some(profile) =
                self.profiles.by_knock_port(knock.entry.knock_port).filter(|profile| profile.is_stored())
            else {
                continue;
            };
            if knock.allowed {
                if !open(&self.channel, &self.config, profile, &knock) {
                    return false;
                }
            } else {
                let (name, port, source) = (&profile.profile.name, knock.unsealed.port(), knock.entry.source);
                say::warn(format_args!("profile {name:?} may not open port {port} (asked from {source})"));
            }
        }
        true
    }
}

impl LoadedProfile {
    /// Uses up the counters up to and with the knock's, in memory: nothing is accepted twice even
    /// where the disk refuses.
    fn accept(&mut self, entry: &Entry, unsealed: Unsealed, now: Instant) {
        hooks::step("watcher: judged");
        if let Some(ciphertext) = entry.ciphertext() {
            self.replay_cache.accept(entry, ciphertext, now);
        }
        self.profile.counter.use_up_to(u64::from(unsealed.counter()) + 1);
    }

    /// Whether the disk has what memory has.
    fn is_stored(&self) -> bool {
        self.profile.counter.kept() == self.profile.counter.next()
    }

    /// Stores the counter. Where that fails the port stays closed, and it is said.
    fn store(&mut self) {
        let counter = &mut self.profile.counter;
        let (expected, stored) = (counter.kept(), counter.stored().ok());
        // Whatever happened to the file, it never goes back.
        counter.use_up_to(stored.unwrap_or_default());
        let kept = counter.store();
        let name = &self.profile.name;
        if let Err(cause) = kept {
            let path = counter.path();
            say::warn(format_args!("cannot store the counter in {path:?}: {}; the port stays closed", reason(&cause)));
        } else if stored.is_none_or(|stored| stored < expected) {
            say::warn(format_args!(
                "the counter of profile {name:?} had gone backwards on disk, or was damaged; it was put right"
            ));
        }
    }
}

/// Asks the opener for the opening and says what came of it; `false` when the opener is gone.
fn open(channel: &Channel, config: &Config, profile: &LoadedProfile, knock: &AcceptedKnock) -> bool {
    let (name, port, source) = (&profile.profile.name, knock.unsealed.port(), knock.entry.source);
    let Some(request) = OpenRequest::new(source, knock.unsealed, config.delay) else {
        say::warn(format_args!("port {port} stays closed: {source} is no client's address (profile {name:?})"));
        return true;
    };
    hooks::step("watcher: stored");
    if channel.send(&request.to_bytes()).is_err() {
        return false;
    }
    hooks::step("watcher: asked");
    let mut answer = [0; 1];
    let answered = channel.receive(&mut answer).is_ok_and(|length| length == answer.len());
    match answer.first().filter(|_| answered).and_then(|&byte| OpenReply::from_byte(byte)) {
        Some(OpenReply::Opened) => {
            hooks::step("watcher: opened");
            say::note(format_args!("opened port {port} to {source} for {} s (profile {name:?})", request.seconds()));
        }
        Some(OpenReply::Refused) => {
            say::warn(format_args!(
                "port {port} stays closed to {source}: the firewall takes no such opening now (profile {name:?})"
            ));
        }
        None => return false,
    }
    true
}

impl Counts {
    fn count(&mut self, of: fn(&mut Self) -> &mut u32) {
        self.since.get_or_insert_with(Instant::now);
        let count = of(self);
        *count = count.saturating_add(1);
    }

    /// Says at the last of so many in a row what the log rule lacks; once in a [`SUMMARY`].
    fn count_optionless(&mut self, knock_port: u16) {
        self.count(|counts| &mut counts.optionless);
        if self.optionless == OPTIONLESS {
            say::warn(format_args!(
                "{OPTIONLESS} SYNs in a row to knock port {knock_port} were logged without TCP options, which stealth \
                 knocks need: nft log flags tcp sequence,options; iptables --log-tcp-sequence --log-tcp-options"
            ));
        }
    }

    /// Says what was counted, once the time for it has come.
    fn sum_up(&mut self) {
        if self.since.is_none_or(|since| since.elapsed() < SUMMARY) {
            return;
        }
        let mut text = String::new();
        for (count, what) in [
            (self.replays, "replayed"),
            (self.wrong_tags, "with a wrong tag"),
            (self.overruns, "times the kernel's log ran over"),
        ] {
            if count > 0 {
                let _ = write!(text, "{}{count} {what}", if text.is_empty() { "" } else { ", " });
            }
        }
        if !text.is_empty() {
            say::note(format_args!("ignored in the last minute: {text}"));
        }
        *self = Self::default();
    }
}
