//! The engine: decides what the SYNs to the knock ports mean, and what has to be done about them in what order.
//!
//! It is a value: it has no descriptor, reads no clock and says nothing. Whoever drives it gives it each SYN
//! ([`Engine::handle`]), does what [`Engine::next_action`] asks for until that is nothing more, and tells it
//! what came of that ([`Engine::stored`], [`Engine::answered`]). The counters of all accepted knocks are
//! stored before the first of their ports is opened, each profile's once.

use super::loaded_profile::{LoadedProfile, SearchLimits, Verdict};
use super::replay::{ReplayCache, Seen};
use super::search_budget::SearchBudget;
use crate::applet::daemon::ipc::{OpenReply, OpenRequest};
use crate::wire::{Ciphertext, Entry, Unsealed};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// This many accepted knocks wait for the disk together at most.
const BATCH: usize = 256;
/// This many SYNs wait for a search far ahead at most.
const FAR_SEARCHES: usize = 64;

/// What an engine works by.
#[derive(Clone, Copy)]
pub struct Settings {
    /// How long an opening lasts, in seconds.
    pub delay: u16,
    /// How many counters are tried, from the expected one on.
    pub window: u32,
    /// How many counters after the window are searched for a client that ran ahead.
    pub resync_window: u32,
    /// How many accepted messages are remembered, to tell a replay from a wrong tag.
    pub replay_cache: usize,
    /// A secret random number, for hashes that nobody can foresee.
    pub secret: u64,
}

/// What has to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store at least this counter of a profile, and tell [`Engine::stored`].
    Store {
        /// The profile's number.
        profile: usize,
        /// The counter.
        next: u64,
    },
    /// Ask the opener, and tell [`Engine::answered`].
    Open(OpenRequest),
    /// Report that a knock opened nothing.
    Report(Event),
}

/// What somebody should know, or what should be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A SYN that cannot carry a message.
    NoMessage {
        /// Where it came to.
        knock_port: u16,
    },
    /// A message that was accepted before.
    Replay,
    /// A message that no profile's keys made with the next counters.
    WrongTag,
    /// A client that ran ahead has knocked twice.
    CaughtUp {
        /// The profile's number.
        profile: usize,
        /// How many counters the client was ahead.
        ahead: u64,
    },
    /// The opener has answered.
    Answered(Knock, OpenReply),
    /// A knock for a port that the profile may not open.
    PortNotAllowed(Knock),
    /// A knock from an address that no client has.
    NoClientAddress(Knock),
}

/// A knock, as reports name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
    /// The number of its profile.
    pub profile: usize,
    /// Where it came from.
    pub source: IpAddr,
    /// The port that it asked for.
    pub port: u16,
}

/// An accepted knock, whose counter is used up in memory.
#[derive(Clone, Copy)]
struct AcceptedKnock {
    profile: usize,
    source: IpAddr,
    unsealed: Unsealed,
    port_allowed: bool,
}

/// The engine.
pub struct Engine {
    settings: Settings,
    /// The knock ports apart from all else: a search among thousands stays in the processor's cache.
    knock_ports: Vec<u16>,
    profiles: Vec<LoadedProfile>,
    replay_cache: ReplayCache,
    search_budget: SearchBudget,
    /// SYNs that a search far ahead may explain, in order.
    far_searches: VecDeque<Entry>,
    /// The profiles whose counters wait for the disk.
    unstored: VecDeque<usize>,
    /// The knocks whose ports are opened when the counters are stored, in order.
    accepted: VecDeque<AcceptedKnock>,
    /// The knock that the opener was asked about.
    asked: Option<AcceptedKnock>,
}

impl Engine {
    /// An engine for `profiles`, in the order of their knock ports, which are all different. A profile's
    /// number is its place among them.
    pub fn new(settings: Settings, profiles: Vec<LoadedProfile>) -> Self {
        Self {
            settings,
            knock_ports: profiles.iter().map(LoadedProfile::knock_port).collect(),
            profiles,
            replay_cache: ReplayCache::new(settings.replay_cache),
            search_budget: SearchBudget::new(settings.secret),
            far_searches: VecDeque::new(),
            unstored: VecDeque::new(),
            accepted: VecDeque::new(),
            asked: None,
        }
    }

    /// The knock ports, ascending.
    pub fn knock_ports(&self) -> &[u16] {
        &self.knock_ports
    }

    /// The profiles, by number.
    pub fn profiles(&self) -> &[LoadedProfile] {
        &self.profiles
    }

    /// Whether accepted knocks wait for [`Engine::next_action`].
    pub fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// Whether no more SYNs should be handled until the accepted knocks are done with.
    pub fn batch_is_full(&self) -> bool {
        self.accepted.len() >= BATCH
    }

    /// The SYN that [`Engine::search_far`] is next made for. It should wait while the log has more.
    pub fn next_far_search(&self) -> Option<&Entry> {
        self.far_searches.front()
    }

    /// Handles one SYN. What it accepts, [`Engine::next_action`] tells.
    pub fn handle(&mut self, entry: &Entry, now: Instant) -> Option<Event> {
        let profile = self.knock_ports.binary_search(&entry.knock_port).ok()?;
        let Some(ciphertext) = entry.ciphertext() else {
            return Some(Event::NoMessage { knock_port: entry.knock_port });
        };
        let denied_port = self.profile(profile).lists_ports() && self.search_budget.allows_denied_port(now);
        let limits = SearchLimits { window: self.settings.window, far: 0, denied_port };
        let event = self.judge(profile, entry, ciphertext, &limits, now);
        if event == Some(Event::WrongTag) {
            if denied_port {
                self.search_budget.charge_denied_port();
            }
            let room = self.settings.resync_window > 0 && self.far_searches.len() < FAR_SEARCHES;
            if room && self.search_budget.allows(entry.source, now) {
                self.far_searches.push_back(*entry);
            }
        }
        event
    }

    /// Searches far ahead for the first of the SYNs that wait for it, and returns its source, whose
    /// account is to be charged with the time that this took ([`Engine::charge`]).
    pub fn search_far(&mut self, now: Instant) -> Option<(IpAddr, Option<Event>)> {
        let entry = self.far_searches.pop_front()?;
        let profile = self.knock_ports.binary_search(&entry.knock_port).ok()?;
        let ciphertext = entry.ciphertext()?;
        // The searches before may have used up its source's account.
        if !self.search_budget.allows(entry.source, now) {
            return None;
        }
        let far = self.settings.resync_window;
        let limits = SearchLimits { window: self.settings.window, far, denied_port: false };
        let event = self.judge(profile, &entry, ciphertext, &limits, now);
        // It was counted when it was handled.
        Some((entry.source, event.filter(|event| *event != Event::WrongTag)))
    }

    /// Charges `source` for a search that took `spent`.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        self.search_budget.charge(source, spent, now);
    }

    fn judge(
        &mut self,
        number: usize,
        entry: &Entry,
        ciphertext: Ciphertext,
        limits: &SearchLimits,
        now: Instant,
    ) -> Option<Event> {
        match self.replay_cache.find(entry, &ciphertext, now) {
            Some(Seen::Again) => return None,
            Some(Seen::Replay) => return Some(Event::Replay),
            None => {}
        }
        let profile = self.profile(number);
        let next = profile.next();
        let (unsealed, port_allowed, event) = match profile.judge(&ciphertext, limits, now) {
            Verdict::Open(unsealed) => (unsealed, true, None),
            Verdict::PortNotAllowed(unsealed) => (unsealed, false, None),
            Verdict::CaughtUp(unsealed) => {
                let ahead = u64::from(unsealed.counter()) - next;
                (unsealed, true, Some(Event::CaughtUp { profile: number, ahead }))
            }
            Verdict::Ahead(unsealed) => {
                profile.arm(ciphertext, unsealed, now);
                return None;
            }
            Verdict::Replay => return Some(Event::Replay),
            Verdict::WrongTag => return Some(Event::WrongTag),
        };
        profile.use_up(unsealed);
        self.replay_cache.insert(entry, ciphertext, now);
        if !self.unstored.contains(&number) {
            self.unstored.push_back(number);
        }
        self.accepted.push_back(AcceptedKnock { profile: number, source: entry.source, unsealed, port_allowed });
        event
    }

    /// What has to be done next about the accepted knocks; `None` when they are done with.
    pub fn next_action(&mut self) -> Option<Action> {
        if let Some(profile) = self.unstored.pop_front() {
            return Some(Action::Store { profile, next: self.profile(profile).next() });
        }
        loop {
            let knock = self.accepted.pop_front()?;
            if !self.profile(knock.profile).is_stored() {
                continue;
            }
            if !knock.port_allowed {
                return Some(Action::Report(Event::PortNotAllowed(knock.named())));
            }
            let Some(request) = OpenRequest::new(knock.source, knock.unsealed, self.settings.delay) else {
                return Some(Action::Report(Event::NoClientAddress(knock.named())));
            };
            self.asked = Some(knock);
            return Some(Action::Open(request));
        }
    }

    /// Takes note that the disk has `next` for a profile: at least what was to be stored. A profile of which
    /// this is not told opens nothing.
    pub fn stored(&mut self, profile: usize, next: u64) {
        self.profile(profile).set_stored(next);
    }

    /// Takes the opener's reply to the last [`Action::Open`].
    pub fn answered(&mut self, reply: OpenReply) -> Option<Event> {
        self.asked.take().map(|knock| Event::Answered(knock.named(), reply))
    }

    #[allow(clippy::indexing_slicing, reason = "a profile's number is a place in the list, which never changes")]
    fn profile(&mut self, number: usize) -> &mut LoadedProfile {
        &mut self.profiles[number]
    }
}

impl AcceptedKnock {
    fn named(&self) -> Knock {
        Knock { profile: self.profile, source: self.source, port: self.unsealed.port() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use crate::profile::ProfileConfig;
    use crate::wire::{Fields, Keys, Wire};

    const SETTINGS: Settings = Settings { delay: 15, window: 20, resync_window: 1000, replay_cache: 4, secret: 7 };
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// An engine with profiles on knock ports 666, 667, …, which may open port 22 and expect counter 100.
    fn engine(profiles: u16) -> Engine {
        let config = |number| ProfileConfig {
            knock_port: 666 + number,
            ports: Some(Ports::parse("22").unwrap()),
            wire: Wire::Classic,
            legacy: false,
        };
        let loaded = |number| LoadedProfile::new(config(number), keys(number), 100);
        Engine::new(SETTINGS, (0..profiles).map(loaded).collect())
    }

    fn keys(number: u16) -> Keys {
        Keys::new(&[number as u8; 16], &[2; 16])
    }

    fn knock(number: u16, counter: u32, port: u16) -> Entry {
        let knock_port = 666 + number;
        let fields = keys(number).seal(Wire::Classic, counter, knock_port, port).fields().unwrap();
        Entry { source: CLIENT, source_port: 40000, knock_port, fields, options_logged: false }
    }

    /// A SYN that no key made.
    fn wrong(source: [u8; 4]) -> Entry {
        let fields = Fields { id: 1, seq: 2, ack: 3, win: Some(4), timestamp: None };
        Entry { source: source.into(), source_port: 1, knock_port: 666, fields, options_logged: false }
    }

    /// What is done about the accepted knocks where the disk works but for `broken`, and everything opens.
    fn act(engine: &mut Engine, broken: Option<usize>) -> Vec<String> {
        let mut done = Vec::new();
        while let Some(action) = engine.next_action() {
            match action {
                Action::Store { profile, next } => {
                    done.push(format!("store {profile}: {next}"));
                    if broken != Some(profile) {
                        engine.stored(profile, next);
                    }
                }
                Action::Open(request) => {
                    let Some(Event::Answered(knock, OpenReply::Opened)) = engine.answered(OpenReply::Opened) else {
                        panic!("not the knock that was asked about")
                    };
                    assert_eq!((knock.source, knock.port), (request.source(), request.port()));
                    done.push(format!("open {}", knock.profile));
                }
                Action::Report(event) => done.push(format!("{event:?}")),
            }
        }
        assert!(!engine.has_accepted());
        done
    }

    #[test]
    fn counters_are_stored_once_each_before_the_ports_are_opened_in_order() {
        let (mut engine, now) = (engine(2), Instant::now());
        for (number, counter) in [(1, 100), (0, 100), (1, 103), (1, 104)] {
            assert_eq!(engine.handle(&knock(number, counter, 22), now), None);
        }
        assert_eq!(act(&mut engine, None), ["store 1: 105", "store 0: 101", "open 1", "open 0", "open 1", "open 1"]);
        assert_eq!(act(&mut engine, None), [""; 0]);
    }

    #[test]
    fn what_the_disk_refuses_stays_closed_and_is_used_up() {
        let (mut engine, now) = (engine(2), Instant::now());
        for number in [0, 1] {
            engine.handle(&knock(number, 100, 22), now);
        }
        assert_eq!(act(&mut engine, Some(0)), ["store 0: 101", "store 1: 101", "open 1"]);
        engine.handle(&knock(0, 100, 22), now);
        assert_eq!(act(&mut engine, None), [""; 0]);
        engine.handle(&knock(0, 101, 22), now);
        assert_eq!(act(&mut engine, None), ["store 0: 102", "open 0"]);
    }

    #[test]
    fn a_counter_that_is_higher_on_disk_is_taken_over() {
        let (mut engine, now) = (engine(1), Instant::now());
        engine.handle(&knock(0, 100, 22), now);
        assert_eq!(engine.next_action(), Some(Action::Store { profile: 0, next: 101 }));
        engine.stored(0, 500);
        assert_eq!(act(&mut engine, None), ["open 0"]);
        assert_eq!(engine.handle(&knock(0, 499, 22), now), Some(Event::WrongTag));
        assert_eq!(engine.handle(&knock(0, 500, 22), now), None);
        assert_eq!(act(&mut engine, None), ["store 0: 501", "open 0"]);
    }

    #[test]
    fn a_port_that_is_not_allowed_costs_a_counter_and_is_reported() {
        let (mut engine, now) = (engine(1), Instant::now());
        assert_eq!(engine.handle(&knock(0, 100, 23), now), None);
        let told = format!("{:?}", Event::PortNotAllowed(Knock { profile: 0, source: CLIENT, port: 23 }));
        assert_eq!(act(&mut engine, None), ["store 0: 101".to_owned(), told]);
    }

    #[test]
    fn an_address_that_no_client_has_opens_nothing() {
        let (mut engine, now) = (engine(1), Instant::now());
        let source = IpAddr::from([127, 0, 0, 1]);
        engine.handle(&Entry { source, ..knock(0, 100, 22) }, now);
        let told = format!("{:?}", Event::NoClientAddress(Knock { profile: 0, source, port: 22 }));
        assert_eq!(act(&mut engine, None), ["store 0: 101".to_owned(), told]);
    }

    #[test]
    fn a_replay_is_told_from_a_packet_that_was_logged_twice() {
        let (mut engine, now) = (engine(1), Instant::now());
        let entry = knock(0, 100, 22);
        engine.handle(&entry, now);
        act(&mut engine, None);
        assert_eq!(engine.handle(&entry, now), None);
        assert_eq!(engine.handle(&entry, now + Duration::from_secs(2)), Some(Event::Replay));
        assert_eq!(engine.handle(&Entry { source: [192, 0, 2, 2].into(), ..entry }, now), Some(Event::Replay));
        assert_eq!(act(&mut engine, None), [""; 0]);
    }

    #[test]
    fn a_client_that_ran_ahead_is_searched_for_later_and_needs_two_knocks() {
        let (mut engine, now) = (engine(1), Instant::now());
        assert_eq!(engine.handle(&knock(0, 500, 22), now), Some(Event::WrongTag));
        assert!(engine.next_far_search().is_some());
        assert_eq!(engine.search_far(now), Some((CLIENT, None)));
        assert_eq!(act(&mut engine, None), [""; 0]);
        assert_eq!(engine.handle(&knock(0, 501, 22), now), Some(Event::CaughtUp { profile: 0, ahead: 401 }));
        assert_eq!(act(&mut engine, None), ["store 0: 502", "open 0"]);
    }

    #[test]
    fn a_source_without_time_is_not_searched_for_and_others_are() {
        let (mut engine, now) = (engine(1), Instant::now());
        engine.handle(&wrong([192, 0, 2, 9]), now);
        let (source, event) = engine.search_far(now).unwrap();
        assert_eq!(event, None, "it was counted when it was handled");
        engine.charge(source, Duration::from_secs(1), now);
        engine.handle(&wrong([192, 0, 2, 9]), now);
        assert!(engine.next_far_search().is_none());
        let others = (10..20).filter(|&last| {
            engine.handle(&wrong([192, 0, 2, last]), now);
            engine.search_far(now).is_some()
        });
        assert!(others.count() >= 8);
    }

    #[test]
    fn only_so_many_searches_and_knocks_wait() {
        let (mut engine, now) = (engine(1), Instant::now());
        for _ in 0..2 * FAR_SEARCHES {
            engine.handle(&wrong([192, 0, 2, 9]), now);
        }
        assert_eq!(engine.far_searches.len(), FAR_SEARCHES);
        for counter in 100..100 + BATCH as u32 {
            assert!(!engine.batch_is_full());
            engine.handle(&knock(0, counter, 22), now);
        }
        assert!(engine.batch_is_full());
    }

    #[test]
    fn a_syn_that_carries_nothing_or_is_for_nobody_is_no_wrong_tag() {
        let (mut engine, now) = (engine(1), Instant::now());
        let mut entry = wrong([192, 0, 2, 9]);
        assert_eq!(engine.handle(&Entry { knock_port: 22, ..entry }, now), None);
        entry.fields.ack = 0;
        assert_eq!(engine.handle(&entry, now), Some(Event::NoMessage { knock_port: 666 }));
    }
}
