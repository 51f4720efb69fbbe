//! The worker: reads the log, holds the keys, and can do no more than ask.

mod engine;
mod search_budget;

use super::ipc::{Answer, CONFIG, READY};
use super::{Census, Mouth, confine, hooks, say_left_out, worker_user};
use crate::config::{Config, Log};
use crate::error::{Error, Result, reason};
use crate::klog::{Klog, Notice};
use crate::ports::PortSet;
use crate::profile::Profile;
use crate::say;
use crate::sys::privilege;
use crate::sys::sandbox::{self, calls};
use crate::sys::socketpair::End;
use crate::sys::{poll, process};
use crate::wire::{Entry, Request, Unsealed};
use engine::{Effort, Memory, Verdict, judge};
use search_budget::Budget;
use std::collections::VecDeque;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// What anybody can cause is summed up, once in this time.
const SUMMARY: Duration = Duration::from_secs(60);
/// How many searches for the tag of a port that is not allowed are made in that time: enough for
/// somebody who mistypes, too few to be a burden.
const CURIOSITY: u32 = 60;
/// How many knocks wait for the disk together at most.
const BATCH: usize = 256;
/// How many SYNs wait for a search far ahead at most.
const ASIDE: usize = 64;
/// How many SYNs in a row without logged options say that the log rule lacks a flag.
const OPTIONLESS: u32 = 3;

/// The system calls that the worker makes, besides following a file.
const CALLS: &[&[libc::c_long]] =
    &[calls::LIVE, calls::WAIT, calls::READ_WRITE, calls::LOOK, calls::SEEK, calls::AT_OFFSETS, calls::MESSAGES];

/// Runs the worker: descriptor 0 is the log where that is standard input, descriptor 1 the socket to
/// the helper. Returns its exit code.
pub fn run(keeper: u32, mouth: Mouth, directory: &Path) -> Result<u8> {
    mouth.open();
    process::set_name(c"knock-worker");
    let channel = End::from(process::inherited(1));
    process::leave_signals_to_keeper().map_err(|cause| Error::system("let signals through", cause))?;

    let config = told(&channel, directory)?;
    let user = worker_user(&config);
    let guests = Guests::load(directory)?;
    let mut log = Klog::open(&config.log)?;
    let groups: Vec<u32> = log.group().into_iter().collect();
    hooks::attempt("unconfined worker");
    mouth.let_go().map_err(|cause| Error::system("let go of the terminal", cause))?;
    let empty_root = match log {
        Klog::File(_) => sandbox::empty_root_but_here,
        _ => sandbox::empty_root,
    };
    empty_root().map_err(|cause| Error::system("close the file system (chroot)", cause))?;
    let dropped = privilege::become_user(user, &groups, &[])
        .and_then(|()| privilege::not_dumpable())
        .and_then(|()| privilege::die_with(keeper));
    dropped.map_err(|cause| Error::system("give up root's privileges", cause))?;

    // While there are still random numbers to be had.
    let mut worker = Worker::new(config, guests, channel);
    match log {
        // The working directory is the log's: a file made anew is opened by its name.
        Klog::File(_) => confine(Some(Path::new(".")), &[CALLS, &[calls::OPEN, calls::WATCH]].concat()),
        _ => confine(None, CALLS),
    }
    hooks::attempt("worker");

    worker.channel.send(READY).map_err(|cause| Error::system("tell the helper", cause))?;
    worker.follow(&mut log)
}

/// The configuration that the keeper goes by: the file may be another by now.
fn told(channel: &End, directory: &Path) -> Result<Config> {
    let mut text = vec![0; CONFIG];
    let length = channel.receive(&mut text).map_err(|cause| Error::system("read the configuration", cause))?;
    let text = text.get(..length).ok_or_else(|| Error::refused("the configuration is too long"))?;
    Config::of(directory, &String::from_utf8_lossy(text)).map(|(config, _)| config)
}

/// A profile, and what was accepted of late.
struct Guest {
    profile: Profile,
    memory: Memory,
}

/// The profiles, in the order of their knock ports.
#[derive(Default)]
struct Guests {
    /// The knock ports apart from all else: a search among thousands stays in the processor's cache.
    knock_ports: Vec<u16>,
    guests: Vec<Guest>,
}

impl Guests {
    /// Loads them. One that cannot be read is named and left out.
    fn load(directory: &Path) -> Result<Self> {
        // The keeper has said which are left out for their terms.
        let profiles = Census::take(directory)?.profiles;
        let files = profiles.len() as u32 + 64;
        process::allow_files(files).map_err(|cause| Error::system("hold the counters open", cause))?;
        let mut guests = Self::default();
        guests.guests.reserve_exact(profiles.len());
        for (found, _) in profiles {
            match Profile::load(&found) {
                Ok(profile) => {
                    guests.knock_ports.push(profile.terms.knock_port);
                    guests.guests.push(Guest { profile, memory: Memory::default() });
                }
                Err(error) => say_left_out(&found, &error),
            }
        }
        Ok(guests)
    }

    /// The one whose knock port that is.
    fn on(&mut self, knock_port: u16) -> Option<&mut Guest> {
        let place = self.knock_ports.binary_search(&knock_port).ok()?;
        self.guests.get_mut(place)
    }
}

/// The worker after it has given up everything.
struct Worker {
    config: Config,
    guests: Guests,
    channel: End,
    budget: Budget,
    /// Whether the log has ever shown TCP options: then its rule has the flag for them.
    options_seen: bool,
    tally: Tally,
    /// What was accepted and is not on disk yet, in order.
    knocks: Vec<Knock>,
    /// What a search far ahead may explain, in order; made while nothing waits in the log.
    aside: VecDeque<Entry>,
}

/// An accepted knock, whose counter is used up in memory.
struct Knock {
    entry: Entry,
    unsealed: Unsealed,
    allowed: bool,
}

/// What anybody can cause, counted until it is summed up.
#[derive(Default)]
struct Tally {
    since: Option<Instant>,
    replays: u32,
    wrong_tags: u32,
    curious: u32,
    /// SYNs in a row that were logged without TCP options; from [`OPTIONLESS`] on, that has been said.
    optionless: u32,
    overruns: u32,
}

impl Worker {
    fn new(config: Config, guests: Guests, channel: End) -> Self {
        Self {
            config,
            guests,
            channel,
            budget: Budget::new(),
            options_seen: false,
            tally: Tally::default(),
            knocks: Vec::new(),
            aside: VecDeque::new(),
        }
    }

    /// Follows the log until it or the helper ends.
    fn follow(&mut self, log: &mut Klog) -> Result<u8> {
        let mut ports = PortSet::empty();
        ports.extend(self.guests.knock_ports.iter().copied());
        loop {
            let timeout = match self.aside.is_empty() {
                true => self.tally.since.map(|since| SUMMARY.saturating_sub(since.elapsed())),
                false => Some(Duration::ZERO),
            };
            let [more] =
                poll::readable([log.fd()], timeout).map_err(|cause| Error::system("wait for the log", cause))?;
            if more {
                let mut settled = true;
                let notice = log.read(&ports, &mut |record| {
                    if let Some(entry) = record.entry() {
                        self.take(&entry, 0);
                        if self.knocks.len() == BATCH {
                            settled &= self.settle();
                        }
                    }
                })?;
                // Without the helper it ends too; why, the keeper says.
                if !(self.settle() && settled) {
                    return Ok(1);
                }
                match notice {
                    None => {}
                    Some(Notice::Overrun) => self.tally.count(|tally| &mut tally.overruns),
                    Some(Notice::Ended) => return Err(Error::refused(Notice::Ended.to_string())),
                    Some(notice) => say::warn(notice),
                }
            } else if let Some(entry) = self.aside.pop_front() {
                // Those before it may have used up what its source had.
                if self.budget.allows(entry.source, Instant::now()) {
                    self.take(&entry, self.config.resync_window);
                    if !self.settle() {
                        return Ok(1);
                    }
                }
            }
            self.tally.sum_up();
        }
    }

    /// One SYN to a knock port, searched for `far` counters ahead of the window.
    fn take(&mut self, entry: &Entry, far: u32) {
        let now = Instant::now();
        self.options_seen |= entry.options_logged;
        let Some(guest) = self.guests.on(entry.knock_port) else { return };
        let mut accept = |guest: &mut Guest, unsealed, allowed| {
            guest.accept(entry, unsealed, now);
            self.knocks.push(Knock { entry: *entry, unsealed, allowed });
        };
        let curious = far == 0 && self.tally.curious < CURIOSITY;
        let effort = Effort { window: self.config.window, far, curious };
        match judge(&guest.profile, &guest.memory, entry, &effort, now) {
            Verdict::Open(unsealed) => accept(guest, unsealed, true),
            Verdict::CaughtUp(unsealed) => {
                let behind = u64::from(unsealed.counter()) - guest.profile.counter.next();
                say::note(format_args!("caught up with profile {:?}, {behind} counters on", guest.profile.name));
                accept(guest, unsealed, true);
            }
            Verdict::Ahead(unsealed) => {
                if let Some(ciphertext) = entry.ciphertext() {
                    guest.memory.arm(ciphertext, unsealed, now);
                }
                self.budget.charge(entry.source, now.elapsed(), now);
            }
            Verdict::NotAllowed(unsealed) => accept(guest, unsealed, false),
            Verdict::Same => {}
            Verdict::Replay => self.tally.count(|tally| &mut tally.replays),
            Verdict::WrongTag if far > 0 => self.budget.charge(entry.source, now.elapsed(), now),
            Verdict::WrongTag => {
                self.tally.count(|tally| &mut tally.wrong_tags);
                self.tally.curious = self.tally.curious.saturating_add(1);
                let room = self.config.resync_window > 0 && self.aside.len() < ASIDE;
                if room && self.budget.allows(entry.source, now) {
                    self.aside.push_back(*entry);
                }
            }
            // Packets that were handed over whole have what options they have.
            Verdict::Empty if !self.options_seen && !matches!(self.config.log, Log::Nflog(_)) => {
                self.tally.count_optionless(entry.knock_port);
            }
            Verdict::Empty => {}
        }
    }

    /// Stores the counters of all that was accepted, and only then asks for the openings, in order.
    ///
    /// However many knocks there are, each profile's disk is waited for once: else a slow disk would
    /// have the kernel's log run over while knocks wait in it. `false` when the helper is gone.
    fn settle(&mut self) -> bool {
        for knock in &self.knocks {
            if let Some(guest) = self.guests.on(knock.entry.knock_port).filter(|guest| !guest.is_stored()) {
                guest.store();
            }
        }
        for knock in self.knocks.drain(..) {
            let Some(guest) = self.guests.on(knock.entry.knock_port).filter(|guest| guest.is_stored()) else {
                continue;
            };
            if knock.allowed {
                if !open(&self.channel, &self.config, guest, &knock) {
                    return false;
                }
            } else {
                let (name, port, source) = (&guest.profile.name, knock.unsealed.port(), knock.entry.source);
                say::warn(format_args!("profile {name:?} may not open port {port} (asked from {source})"));
            }
        }
        true
    }
}

impl Guest {
    /// Uses up the counters up to and with the knock's, in memory: nothing is accepted twice even
    /// where the disk refuses.
    fn accept(&mut self, entry: &Entry, unsealed: Unsealed, now: Instant) {
        hooks::step("worker: judged");
        if let Some(ciphertext) = entry.ciphertext() {
            self.memory.accept(entry, ciphertext, now);
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

/// Asks the helper for the opening and says what came of it; `false` when the helper is gone.
fn open(channel: &End, config: &Config, guest: &Guest, knock: &Knock) -> bool {
    let (name, port, source) = (&guest.profile.name, knock.unsealed.port(), knock.entry.source);
    let Some(request) = Request::new(source, knock.unsealed, config.delay) else {
        say::warn(format_args!("port {port} stays closed: {source} is no client's address (profile {name:?})"));
        return true;
    };
    hooks::step("worker: stored");
    if channel.send(&request.to_bytes()).is_err() {
        return false;
    }
    hooks::step("worker: asked");
    let mut answer = [0; 1];
    let answered = channel.receive(&mut answer).is_ok_and(|length| length == answer.len());
    match answer.first().filter(|_| answered).and_then(|&byte| Answer::from_byte(byte)) {
        Some(Answer::Opened) => {
            hooks::step("worker: opened");
            say::note(format_args!("opened port {port} to {source} for {} s (profile {name:?})", request.seconds()));
        }
        Some(Answer::Refused) => {
            say::warn(format_args!(
                "port {port} stays closed to {source}: the firewall takes no such opening now (profile {name:?})"
            ));
        }
        None => return false,
    }
    true
}

impl Tally {
    fn count(&mut self, of: fn(&mut Self) -> &mut u32) {
        self.since.get_or_insert_with(Instant::now);
        let count = of(self);
        *count = count.saturating_add(1);
    }

    /// Says at the last of so many in a row what the log rule lacks; once in a [`SUMMARY`].
    fn count_optionless(&mut self, knock_port: u16) {
        self.count(|tally| &mut tally.optionless);
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
