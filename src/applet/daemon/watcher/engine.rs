//! The engine decides which SYNs are knocks, and which actions follow in which order.
//!
//! It is a pure value: it has no descriptor, reads no clock and prints nothing. The caller passes it each SYN
//! ([`Engine::handle`]), performs what [`Engine::next_action`] returns until that is `None`, and reports the outcome
//! ([`Engine::stored`], [`Engine::answered`]). All counters of accepted knocks are stored, each profile's once, before
//! the first port is opened. [`Engine::search_far`] and [`Engine::fill`] are work for when the log is silent.

use super::armed::Armed;
use super::decryption::Decryption;
use super::loaded_profile::LoadedProfile;
use super::look_ahead::{Hit, LookAhead, Reach};
use super::message::{ANY_PORT, Message};
use super::replay::{ReplayCache, Seen};
use super::throttle::Throttle;
use crate::applet::daemon::ipc::{OpenReply, OpenRequest};
use crate::ports::Ports;
use crate::prefix::Prefix;
use crate::wire::{Entry, Wire};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The maximum number of accepted knocks that wait for the disk together.
const BATCH: usize = 256;

/// The parameters of an engine.
#[derive(Clone, Copy)]
pub struct Settings {
    /// How long an opening lasts, in seconds.
    pub delay: u16,
    /// How many counters the look-ahead covers.
    pub reach: Reach,
    /// The size of the replay cache, in messages.
    pub replay_cache: usize,
    /// How many codes can be guessed at each day before a knock with a short code needs a second one.
    pub guesses: u32,
    /// A secret random number, which makes hashes unpredictable.
    pub secret: u64,
}

/// An action that the caller must perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store at least this counter of a profile, then call [`Engine::stored`]. If that fails, [`Engine::not_stored`]
    /// returns a knock to report.
    Store {
        /// The profile's number.
        profile: usize,
        /// The counter.
        next: u64,
    },
    /// Ask the opener, then call [`Engine::answered`].
    Open(OpenRequest),
    /// Report a knock that opens nothing.
    Report(Event),
}

/// An event to log or to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message that was accepted before (replay).
    Replay,
    /// A message that matches no profile.
    WrongCode {
        /// Whether there are so many that a knock with a short code needs a second one.
        throttled: bool,
    },
    /// A client that was far ahead has knocked twice.
    CaughtUp {
        /// The profile's number.
        profile: usize,
        /// How many counters the client was ahead.
        ahead: u64,
    },
    /// The opener has replied.
    Answered(Knock, OpenReply),
    /// A knock for a port that the profile may not open.
    PortNotAllowed(Knock),
    /// A knock from an address that no client can have.
    NoClientAddress(Knock),
    /// A knock that needs a second one because there are many wrong codes.
    NeedsSecond(Knock),
    /// A knock whose code matches several profiles.
    Ambiguous(Knock),
}

/// A knock, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
    /// The number of its profile.
    pub profile: usize,
    /// Its source address.
    pub source: IpAddr,
    /// The port that it asked for.
    pub port: u16,
}

/// What to do once the counter of an accepted knock is stored.
#[derive(Clone, Copy)]
enum Then {
    Open,
    Report(fn(Knock) -> Event),
}

/// A SYN and the message that it carries.
struct Arrival<'a> {
    entry: &'a Entry,
    /// How many codes that can be guessed currently open a port on its knock port.
    codes: u32,
    message: Message,
    hash: u64,
    now: Instant,
}

/// The state of the engine.
pub struct Engine {
    settings: Settings,
    profiles: Vec<LoadedProfile>,
    /// The knock ports in ascending order, and how many codes that can be guessed open a port on each.
    knock_ports: Ports,
    codes: Vec<u32>,
    /// The prefixes of links.
    prefixes: Vec<Prefix>,
    look_ahead: LookAhead,
    decryption: Decryption,
    armed: Armed,
    throttle: Throttle,
    replay_cache: ReplayCache,
    /// Profiles whose counters must be stored.
    unstored: Vec<usize>,
    /// Accepted knocks in order. Their counters are already burned in memory.
    accepted: Vec<(Knock, Then)>,
    /// The knock that waits for the opener's reply.
    asked: Option<Knock>,
}

#[allow(clippy::indexing_slicing, reason = "a profile's number is its place in the list, which never changes")]
impl Engine {
    /// Creates an engine for `profiles`; a profile's number is its index. Together they may list at most [`MAX_PORTS`]
    /// ports.
    ///
    /// [`MAX_PORTS`]: super::MAX_PORTS
    pub fn new(settings: Settings, profiles: Vec<LoadedProfile>) -> Self {
        let knock_ports: Ports = profiles.iter().map(LoadedProfile::knock_port).collect();
        let look_ahead = LookAhead::new(&profiles, settings.reach, settings.secret);
        let mut codes = vec![0; knock_ports.as_slice().len()];
        let mut prefixes = Vec::new();
        for profile in &profiles {
            match profile.wire() {
                Wire::Classic => continue,
                Wire::Stealth => {}
                Wire::Link(prefix) => {
                    if !prefixes.contains(&prefix) {
                        prefixes.push(prefix);
                    }
                    if !prefix.is_guessable() {
                        continue;
                    }
                }
            }
            if let Ok(place) = knock_ports.as_slice().binary_search(&profile.knock_port()) {
                codes[place] += profile.held_ports().len() as u32 * look_ahead.reach().window;
            }
        }
        Self {
            decryption: Decryption::new(&profiles, settings.reach, settings.secret),
            settings,
            profiles,
            knock_ports,
            codes,
            prefixes,
            look_ahead,
            armed: Armed::default(),
            throttle: Throttle::new(settings.guesses),
            replay_cache: ReplayCache::new(settings.replay_cache),
            unstored: Vec::new(),
            accepted: Vec::new(),
            asked: None,
        }
    }

    /// Returns the prefixes of links.
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// Returns the entry with port 0 if it is to the address of a link, for which the port does not matter.
    pub fn addressed(&self, entry: Entry) -> Entry {
        let is_link = |address| self.prefixes.iter().any(|prefix| prefix.contains(address));
        if entry.destination.is_some_and(is_link) { Entry { knock_port: ANY_PORT, ..entry } } else { entry }
    }

    /// Returns the knock ports in ascending order, with 0 for links.
    pub fn knock_ports(&self) -> &Ports {
        &self.knock_ports
    }

    /// Returns the profiles by number.
    pub fn profiles(&self) -> &[LoadedProfile] {
        &self.profiles
    }

    /// Returns how many counters the look-ahead covers: fewer than configured if there are too many profiles.
    pub fn reach(&self) -> Reach {
        self.look_ahead.reach()
    }

    /// Returns whether accepted knocks wait for [`Engine::next_action`].
    pub fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    /// Returns whether the accepted knocks must be processed before more SYNs are handled.
    pub fn batch_is_full(&self) -> bool {
        self.accepted.len() >= BATCH
    }

    /// Handles one SYN, [`addressed`](Self::addressed). [`Engine::next_action`] returns what follows if it is accepted.
    pub fn handle(&mut self, entry: &Entry, now: Instant) -> Option<Event> {
        let arrival = self.arrival(entry, now)?;
        if let Some(seen) = self.replay_cache.find(entry, &arrival.message, arrival.hash, now) {
            return (seen == Seen::Replay).then_some(Event::Replay);
        }
        let mut hits = self.look_ahead.find(&arrival.message, arrival.hash, entry.knock_port, &self.profiles);
        if let (Message::Classic(ciphertext), true) = (&arrival.message, hits.is_empty()) {
            hits = self.decryption.find(entry.knock_port, ciphertext, &self.profiles, &self.armed, now);
        }
        if hits.is_empty() { Some(self.wrong(&arrival)) } else { self.judge(&arrival, &hits) }
    }

    fn arrival<'a>(&self, entry: &'a Entry, now: Instant) -> Option<Arrival<'a>> {
        let place = self.knock_ports.as_slice().binary_search(&entry.knock_port).ok()?;
        let message = Message::of(entry)?;
        let hash = message.hash(entry.knock_port, self.settings.secret);
        let codes = match message {
            Message::Link(address) if !self.is_guessable(address) => 0,
            _ => self.codes[place],
        };
        Some(Arrival { entry, codes, message, hash, now })
    }

    /// Returns whether a code at `address` is short.
    fn is_guessable(&self, address: Ipv6Addr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.is_guessable() && prefix.contains(address))
    }

    /// Returns the SYN that [`Engine::search_far`] will search for next.
    pub fn next_far_search(&self) -> Option<&Entry> {
        self.decryption.next_far_search()
    }

    /// Searches the far-ahead counters for the first waiting SYN, if its source has budget left. Returns the source,
    /// which the caller charges with the duration ([`Engine::charge`]).
    pub fn search_far(&mut self, now: Instant) -> Option<(IpAddr, Option<Event>)> {
        let entry = self.decryption.take_far_search(now)?;
        let arrival = self.arrival(&entry, now)?;
        if self.replay_cache.find(&entry, &arrival.message, arrival.hash, now).is_some() {
            return None;
        }
        let hits = self.decryption.find_far(&entry, &self.profiles);
        Some((entry.source, self.judge(&arrival, &hits)))
    }

    /// Charges `source` for a search that took `spent`.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        self.decryption.charge(source, spent, now);
    }

    /// Returns how far the counter of a refused SYN is behind the profile's next counter, if it is one of the last few
    /// burned ones.
    pub fn counters_behind(&self, profile: usize, entry: &Entry) -> Option<u64> {
        self.profiles[profile].counters_behind(&Message::of(entry)?)
    }

    /// Computes some more codes of the look-ahead table. Returns `false` when the table is complete.
    pub fn fill(&mut self) -> bool {
        self.look_ahead.fill(&self.profiles)
    }

    /// Returns whether [`Engine::fill`] has work to do.
    pub fn is_filling(&self) -> bool {
        self.look_ahead.is_filling()
    }

    /// Handles a message that matches no profile.
    fn wrong(&mut self, arrival: &Arrival<'_>) -> Event {
        match arrival.message {
            Message::Stealth(_) | Message::Link(_) => {
                Event::WrongCode { throttled: !self.throttle.count(arrival.codes, arrival.now) }
            }
            Message::Classic(_) => {
                self.decryption.postpone(arrival.entry, arrival.now);
                Event::WrongCode { throttled: false }
            }
        }
    }

    /// Handles a message that matches one or more profiles.
    fn judge(&mut self, arrival: &Arrival<'_>, hits: &[Hit]) -> Option<Event> {
        if let [hit] = *hits {
            return self.hit(arrival, hit);
        }
        // The sender cannot be determined, so it opens nothing. Counters within the window are burned.
        for &hit in hits {
            let profile = &self.profiles[hit.profile];
            if u64::from(hit.counter) < profile.next() + u64::from(self.reach_of(profile).window) {
                self.accept(arrival, hit, Then::Report(Event::Ambiguous));
            }
        }
        None
    }

    /// Handles a message that matches one profile.
    fn hit(&mut self, arrival: &Arrival<'_>, hit: Hit) -> Option<Event> {
        let (source, now) = (arrival.entry.source, arrival.now);
        let profile = &self.profiles[hit.profile];
        let (next, reach) = (profile.next(), self.reach_of(profile));
        let ahead = u64::from(hit.counter) - next;
        let second = self.armed.is_second(hit.profile, next, hit.counter, source, now);
        if !profile.may_open(hit.port) {
            self.accept(arrival, hit, Then::Report(Event::PortNotAllowed));
            return None;
        }
        if ahead < reach.window.into() {
            let then = if second || profile.wire() == Wire::Classic || self.throttle.has_room(arrival.codes, now) {
                self.armed.disarm(hit.profile, source);
                Then::Open
            } else {
                // Burn the counter here too. Otherwise the knock could be recorded now and replayed later.
                self.armed.arm_source(hit.profile, hit.counter, source, now);
                Then::Report(Event::NeedsSecond)
            };
            self.accept(arrival, hit, then);
            return None;
        }
        if second {
            self.accept(arrival, hit, Then::Open);
            return Some(Event::CaughtUp { profile: hit.profile, ahead });
        }
        if self.armed.ahead(hit.profile, next, now) == Some(hit.counter) {
            return Some(Event::Replay);
        }
        if ahead < u64::from(reach.window) + u64::from(reach.far) {
            self.armed.arm_ahead(hit.profile, hit.counter, now);
            return None;
        }
        Some(self.wrong(arrival))
    }

    fn reach_of(&self, profile: &LoadedProfile) -> Reach {
        if profile.held_ports().is_empty() { self.settings.reach } else { self.look_ahead.reach() }
    }

    /// Burns the counter of a knock in memory, and queues what follows once the counter is stored.
    fn accept(&mut self, arrival: &Arrival<'_>, hit: Hit, then: Then) {
        self.use_up_to(hit.profile, u64::from(hit.counter) + 1);
        self.replay_cache.insert(arrival.entry, arrival.message, arrival.hash, arrival.now);
        if !self.unstored.contains(&hit.profile) {
            self.unstored.push(hit.profile);
        }
        self.accepted.push((Knock { profile: hit.profile, source: arrival.entry.source, port: hit.port }, then));
    }

    fn use_up_to(&mut self, number: usize, next: u64) {
        let profile = &mut self.profiles[number];
        let from = profile.next();
        profile.use_up_to(next);
        self.look_ahead.advance(number, from, profile);
    }

    /// Returns the next action for the accepted knocks; `None` when there is none left.
    pub fn next_action(&mut self) -> Option<Action> {
        if !self.unstored.is_empty() {
            let profile = self.unstored.remove(0);
            return Some(Action::Store { profile, next: self.profiles[profile].next() });
        }
        while !self.accepted.is_empty() {
            let (knock, then) = self.accepted.remove(0);
            if !self.profiles[knock.profile].is_stored() {
                continue;
            }
            if let Then::Report(event) = then {
                return Some(Action::Report(event(knock)));
            }
            let Some(request) = OpenRequest::new(knock.source, knock.port, self.settings.delay) else {
                return Some(Action::Report(Event::NoClientAddress(knock)));
            };
            self.asked = Some(knock);
            return Some(Action::Open(request));
        }
        None
    }

    /// Records that `next` has been stored for a profile. It may be higher than requested. A profile whose counter
    /// could not be stored opens nothing.
    pub fn stored(&mut self, profile: usize, next: u64) {
        self.use_up_to(profile, next);
        self.profiles[profile].set_stored(next);
    }

    /// Returns the first knock that opens nothing because the counter of `profile` could not be stored.
    pub fn not_stored(&self, profile: usize) -> Option<Knock> {
        self.accepted.iter().find(|(knock, _)| knock.profile == profile).map(|&(knock, _)| knock)
    }

    /// Records the opener's reply to the last [`Action::Open`].
    pub fn answered(&mut self, reply: OpenReply) -> Option<Event> {
        self.asked.take().map(|knock| Event::Answered(knock, reply))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use crate::profile::ProfileConfig;
    use crate::wire::{Fields, Keys, Wire};

    const SETTINGS: Settings =
        Settings { delay: 15, reach: Reach { window: 20, far: 1000 }, replay_cache: 4, guesses: 1 << 28, secret: 7 };
    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// A profile on a knock port of its own, 666, 667, …, which expects counter 100.
    fn profile(number: u16, wire: Wire, ports: &str) -> LoadedProfile {
        let ports = Some(Ports::parse(ports).unwrap()).filter(|ports| !ports.is_empty());
        LoadedProfile::new(ProfileConfig { knock_port: 666 + number, ports, wire, legacy: false }, keys(number), 100)
    }

    /// An engine with stealth profiles that may open port 22.
    fn engine(profiles: u16) -> Engine {
        filled(SETTINGS, (0..profiles).map(|number| profile(number, Wire::Stealth, "22")).collect())
    }

    /// An engine that holds all that it can.
    fn filled(settings: Settings, profiles: Vec<LoadedProfile>) -> Engine {
        let mut engine = Engine::new(settings, profiles);
        while engine.fill() {}
        engine
    }

    fn keys(number: u16) -> Keys {
        Keys::new(&[number as u8; 16], &[2 + number as u8; 16])
    }

    fn entry(number: u16, fields: Fields) -> Entry {
        Entry { source: CLIENT, destination: None, source_port: 40000, knock_port: 666 + number, fields }
    }

    fn knock(number: u16, counter: u32, port: u16) -> Entry {
        entry(number, keys(number).code(counter, port).fields().unwrap())
    }

    fn classic(number: u16, counter: u32, port: u16) -> Entry {
        entry(number, keys(number).seal(counter, port).fields().unwrap())
    }

    /// A SYN that no key made; classic where `ack` is not 0.
    fn wrong(last: u8, ack: u32) -> Entry {
        let fields = Fields { id: 1, seq: u32::from(last), ack, win: Some(4) };
        Entry { source: [192, 0, 2, last].into(), ..entry(0, fields) }
    }

    const WRONG: Option<Event> = Some(Event::WrongCode { throttled: false });

    /// What is done about the accepted knocks where the disk works but for `broken`, and everything opens.
    fn act(engine: &mut Engine, broken: Option<usize>) -> Vec<String> {
        let mut done = Vec::new();
        while let Some(action) = engine.next_action() {
            match action {
                Action::Store { profile, next } => {
                    done.push(format!("store {profile}: {next}"));
                    match broken == Some(profile) {
                        true => assert_eq!(engine.not_stored(profile).map(|knock| knock.profile), broken),
                        false => engine.stored(profile, next),
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
    fn a_counter_that_cannot_be_stored_is_burned_and_opens_nothing() {
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
    fn a_higher_counter_on_disk_is_adopted() {
        let (mut engine, now) = (engine(1), Instant::now());
        engine.handle(&knock(0, 100, 22), now);
        assert_eq!(engine.next_action(), Some(Action::Store { profile: 0, next: 101 }));
        engine.stored(0, 500);
        assert_eq!(act(&mut engine, None), ["open 0"]);
        assert_eq!(engine.handle(&knock(0, 499, 22), now), WRONG);
        assert_eq!(engine.handle(&knock(0, 500, 22), now), None);
        assert_eq!(act(&mut engine, None), ["store 0: 501", "open 0"]);
    }

    /// A profile for links, which expects counter 100.
    fn link_profile(number: u16, prefix: &str) -> LoadedProfile {
        let wire = Wire::Link(Prefix::parse(prefix).unwrap());
        let ports = Some(Ports::parse("22").unwrap());
        LoadedProfile::new(ProfileConfig { knock_port: 0, ports, wire, legacy: false }, keys(number), 100)
    }

    /// A SYN to an address, as a browser sends it.
    fn browser(engine: &Engine, destination: Ipv6Addr, port: u16, seq: u32) -> Entry {
        let fields = Fields { id: seq as u16, seq, ack: 0, win: Some(64240) };
        let source = "2001:db8::7".parse().unwrap();
        engine.addressed(Entry { source, destination: Some(destination), source_port: 4000, knock_port: port, fields })
    }

    #[test]
    fn a_link_opens_once_at_any_port_and_a_second_try_is_silent() {
        let profiles = vec![profile(0, Wire::Stealth, "22"), link_profile(1, "2001:db8:0:ff::/64")];
        let (mut engine, now) = (filled(SETTINGS, profiles), Instant::now());
        let link = |counter| keys(1).link(engine.prefixes()[0], counter, 22);
        let (first, third) = (link(100), link(102));
        for port in [80, 666] {
            let entry = browser(&engine, first, port, 1);
            assert_eq!(engine.handle(&entry, now), None);
        }
        assert_eq!(act(&mut engine, None), ["store 1: 101", "open 1"]);
        let again = browser(&engine, first, 443, 2);
        assert_eq!(engine.handle(&again, now + Duration::from_secs(7)), None);
        let stolen = Entry { source: "2001:db8::8".parse().unwrap(), ..again };
        assert_eq!(engine.handle(&stolen, now), Some(Event::Replay));
        let entry = browser(&engine, third, 80, 3);
        assert_eq!(engine.handle(&entry, now), None);
        assert_eq!(act(&mut engine, None), ["store 1: 103", "open 1"]);
    }

    #[test]
    fn an_address_outside_the_prefix_is_no_link_even_with_the_code() {
        let profiles = vec![link_profile(0, "2001:db8:0:ff::/64"), link_profile(1, "2001:db8:0:fe::/64")];
        let (mut engine, now) = (filled(SETTINGS, profiles), Instant::now());
        let of_other = keys(0).link(engine.prefixes()[1], 100, 22);
        let entry = browser(&engine, of_other, 80, 1);
        assert_eq!(engine.handle(&entry, now), WRONG);
        let outside = keys(0).link(Prefix::parse("2001:db8:0:fd::/64").unwrap(), 100, 22);
        let entry = browser(&engine, outside, 80, 1);
        assert_eq!((entry.knock_port, engine.handle(&entry, now)), (80, None));
        assert_eq!(act(&mut engine, None), [""; 0]);
    }

    #[test]
    fn only_guesses_at_short_codes_of_links_use_up_the_room_for_guesses() {
        let settings = Settings { guesses: 20 * 50, ..SETTINGS };
        for (prefix, throttled) in [("2001:db8:0:ff::/64", false), ("2001:db8:0:ff::/65", true)] {
            let profiles = vec![profile(1, Wire::Stealth, "22"), link_profile(0, prefix)];
            let (mut engine, now) = (filled(settings, profiles), Instant::now());
            let guesses: Vec<_> = (1..100).map(|code| engine.prefixes()[0].address(code)).collect();
            for guess in guesses {
                let entry = browser(&engine, guess, 80, 1);
                engine.handle(&entry, now);
            }
            let entry = browser(&engine, keys(0).link(engine.prefixes()[0], 100, 22), 80, 2);
            engine.handle(&entry, now);
            engine.handle(&knock(1, 100, 22), now);
            let done = act(&mut engine, None);
            let opened = done.iter().filter(|done| done.starts_with("open")).count();
            assert_eq!(opened, if throttled { 0 } else { 2 }, "{prefix}: {done:?}");
        }
    }

    #[test]
    fn a_profile_accepts_only_its_own_wire_and_listed_ports() {
        let profiles = vec![profile(0, Wire::Stealth, "22"), profile(1, Wire::Classic, "22")];
        let (mut engine, now) = (filled(SETTINGS, profiles), Instant::now());
        assert_eq!(engine.handle(&classic(0, 100, 22), now), WRONG);
        assert_eq!(engine.handle(&knock(1, 100, 22), now), WRONG);
        assert_eq!(engine.handle(&knock(0, 100, 23), now), WRONG, "for stealth such a code is a wrong one");
        assert_eq!(act(&mut engine, None), [""; 0]);
        engine.handle(&knock(0, 100, 22), now);
        engine.handle(&classic(1, 119, 22), now);
        assert_eq!(act(&mut engine, None), ["store 0: 101", "store 1: 120", "open 0", "open 1"]);
    }

    #[test]
    fn a_classic_knock_for_a_port_that_is_not_listed_costs_a_counter_and_is_reported() {
        let many = (1..=17).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
        for ports in ["22", &many] {
            let (mut engine, now) = (filled(SETTINGS, vec![profile(0, Wire::Classic, ports)]), Instant::now());
            assert_eq!(engine.handle(&classic(0, 100, 23), now), None);
            let report = format!("{:?}", Event::PortNotAllowed(Knock { profile: 0, source: CLIENT, port: 23 }));
            assert_eq!(act(&mut engine, None), ["store 0: 101".to_owned(), report]);
        }
    }

    #[test]
    fn a_classic_profile_without_a_list_or_with_a_long_one_is_decrypted() {
        let many = (1..=17).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
        for ports in ["", &many] {
            let (mut engine, now) = (filled(SETTINGS, vec![profile(0, Wire::Classic, ports)]), Instant::now());
            assert_eq!(engine.handle(&classic(0, 120, 17), now), WRONG);
            assert_eq!(engine.handle(&classic(0, 119, 17), now), None);
            assert_eq!(act(&mut engine, None), ["store 0: 120", "open 0"]);
        }
    }

    #[test]
    fn an_address_that_no_client_has_opens_nothing() {
        let (mut engine, now) = (engine(1), Instant::now());
        let source = IpAddr::from([127, 0, 0, 1]);
        engine.handle(&Entry { source, ..knock(0, 100, 22) }, now);
        let report = format!("{:?}", Event::NoClientAddress(Knock { profile: 0, source, port: 22 }));
        assert_eq!(act(&mut engine, None), ["store 0: 101".to_owned(), report]);
    }

    #[test]
    fn a_replay_differs_from_a_packet_logged_twice() {
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
    fn a_client_far_ahead_needs_two_knocks() {
        let (mut engine, now) = (engine(1), Instant::now());
        assert_eq!(engine.handle(&knock(0, 1120, 22), now), WRONG, "too far, but for a second knock");
        assert_eq!(engine.handle(&knock(0, 1119, 22), now), None);
        assert_eq!(engine.handle(&knock(0, 1140, 22), now), WRONG);
        assert_eq!(act(&mut engine, None), [""; 0]);
        assert_eq!(engine.handle(&knock(0, 1139, 22), now), Some(Event::CaughtUp { profile: 0, ahead: 1039 }));
        assert_eq!(act(&mut engine, None), ["store 0: 1140", "open 0"]);
    }

    #[test]
    fn a_repeated_far_ahead_knock_opens_nothing() {
        let (mut engine, now) = (engine(1), Instant::now());
        assert_eq!(engine.handle(&knock(0, 500, 22), now), None);
        assert_eq!(engine.handle(&knock(0, 500, 22), now), Some(Event::Replay));
        assert_eq!(engine.handle(&knock(0, 521, 22), now), None, "too far behind: it arms anew");
        assert_eq!(engine.handle(&knock(0, 520, 22), now), None);
        assert_eq!(act(&mut engine, None), [""; 0]);
    }

    #[test]
    fn a_classic_client_without_listed_ports_is_searched_for_while_the_log_is_silent() {
        let (mut engine, now) = (filled(SETTINGS, vec![profile(0, Wire::Classic, "")]), Instant::now());
        assert_eq!(engine.handle(&classic(0, 500, 22), now), WRONG);
        assert!(engine.next_far_search().is_some());
        assert_eq!(engine.search_far(now), Some((CLIENT, None)));
        assert!(engine.next_far_search().is_none());
        assert_eq!(act(&mut engine, None), [""; 0]);
        assert_eq!(engine.handle(&classic(0, 501, 22), now), Some(Event::CaughtUp { profile: 0, ahead: 401 }));
        assert_eq!(act(&mut engine, None), ["store 0: 502", "open 0"]);
    }

    #[test]
    fn a_source_without_budget_does_not_affect_others() {
        let (mut engine, now) = (filled(SETTINGS, vec![profile(0, Wire::Classic, "")]), Instant::now());
        engine.handle(&wrong(9, 1), now);
        let (source, event) = engine.search_far(now).unwrap();
        assert_eq!(event, None);
        engine.charge(source, Duration::from_secs(1), now);
        engine.handle(&wrong(9, 1), now);
        assert!(engine.next_far_search().is_none());
        let searched = (10..20).filter(|&last| {
            engine.handle(&wrong(last, 1), now);
            engine.search_far(now).is_some()
        });
        assert!(searched.count() >= 8);
    }

    #[test]
    fn nothing_is_searched_for_if_all_codes_are_held() {
        let profiles = vec![profile(0, Wire::Classic, "22"), profile(0, Wire::Stealth, "22")];
        let (mut engine, now) = (filled(SETTINGS, profiles), Instant::now());
        for ack in [0, 1] {
            assert_eq!(engine.handle(&wrong(9, ack), now), WRONG);
            assert!(engine.next_far_search().is_none());
        }
    }

    #[test]
    fn knocks_are_stored_in_batches() {
        let (mut engine, now) = (engine(1), Instant::now());
        for counter in 100..100 + BATCH as u32 {
            assert!(!engine.batch_is_full());
            engine.handle(&knock(0, counter, 22), now);
        }
        assert!(engine.batch_is_full());
    }

    #[test]
    fn profiles_share_a_knock_port() {
        let profile = |number: u16| {
            let config = ProfileConfig {
                knock_port: 666,
                ports: Some(Ports::parse("22").unwrap()),
                wire: if number < 3 { Wire::Stealth } else { Wire::Classic },
                legacy: false,
            };
            LoadedProfile::new(config, keys(number), 100)
        };
        let (mut engine, now) = (filled(SETTINGS, (0..4).map(profile).collect()), Instant::now());
        for number in 0..3 {
            assert_eq!(engine.handle(&Entry { knock_port: 666, ..knock(number, 105, 22) }, now), None);
        }
        let sealed = keys(3).seal(105, 22);
        assert_eq!(engine.handle(&entry(0, sealed.fields().unwrap()), now), None);
        let done = act(&mut engine, None);
        assert_eq!(done[4..], ["open 0", "open 1", "open 2", "open 3"]);
        assert_eq!(engine.knock_ports().as_slice(), [666]);
    }

    #[test]
    fn a_code_of_two_profiles_opens_nothing_and_burns_both_counters() {
        let twin = |next| {
            let config = ProfileConfig {
                knock_port: 666,
                ports: Some(Ports::parse("22").unwrap()),
                wire: Wire::Stealth,
                legacy: false,
            };
            LoadedProfile::new(config, keys(0), next)
        };
        let (mut engine, now) = (filled(SETTINGS, vec![twin(100), twin(90), twin(50)]), Instant::now());
        assert_eq!(engine.handle(&knock(0, 105, 22), now), None);
        let mut done = act(&mut engine, None);
        done.sort();
        let report = |profile| format!("{:?}", Event::Ambiguous(Knock { profile, source: CLIENT, port: 22 }));
        assert_eq!(done, [report(0), report(1), "store 0: 106".to_owned(), "store 1: 106".to_owned()]);
        assert_eq!(engine.handle(&knock(0, 105, 22), now + Duration::from_secs(9)), Some(Event::Replay));
        assert_eq!(act(&mut engine, None), [""; 0]);
        assert_eq!(engine.handle(&knock(0, 60, 22), now), None);
        assert_eq!(act(&mut engine, None), ["store 2: 61", "open 2"], "a code of one alone");
    }

    /// An engine whose room for guesses is used up.
    fn throttled(now: Instant) -> Engine {
        let mut engine = filled(
            Settings { guesses: 20 * 50, ..SETTINGS },
            vec![profile(0, Wire::Stealth, "22"), profile(1, Wire::Classic, "22")],
        );
        let events: Vec<_> = (0..60).map(|last| engine.handle(&wrong(last, 0), now)).collect();
        assert!(events[..49].iter().all(|event| *event == WRONG));
        assert!(events[51..].iter().all(|event| *event == Some(Event::WrongCode { throttled: true })));
        engine
    }

    #[test]
    fn while_throttled_a_knock_is_burned_and_the_next_from_its_source_opens() {
        let now = Instant::now();
        let mut engine = throttled(now);
        engine.handle(&knock(0, 100, 22), now);
        let waits = format!("{:?}", Event::NeedsSecond(Knock { profile: 0, source: CLIENT, port: 22 }));
        assert_eq!(act(&mut engine, None), ["store 0: 101".to_owned(), waits.clone()]);
        assert_eq!(engine.handle(&knock(0, 100, 22), now), None, "logged twice");
        let other = IpAddr::from([192, 0, 2, 77]);
        engine.handle(&Entry { source: other, ..knock(0, 101, 22) }, now);
        assert_eq!(act(&mut engine, None)[1], waits.replace("192.0.2.1", "192.0.2.77"), "from another source");
        engine.handle(&knock(0, 102, 22), now + Duration::from_secs(59));
        assert_eq!(act(&mut engine, None), ["store 0: 103", "open 0"]);
        engine.handle(&knock(0, 103, 22), now + Duration::from_secs(59));
        assert_eq!(act(&mut engine, None), ["store 0: 104".to_owned(), waits], "each opening takes two");
    }

    #[test]
    fn a_knock_recorded_while_throttled_cannot_be_replayed_later() {
        let now = Instant::now();
        let mut engine = throttled(now);
        engine.handle(&knock(0, 100, 22), now);
        act(&mut engine, None);
        let later = now + Duration::from_secs(86_400);
        let replay = Entry { source: [192, 0, 2, 77].into(), ..knock(0, 100, 22) };
        assert_eq!(engine.handle(&replay, later), Some(Event::Replay));
        engine.handle(&knock(0, 101, 22), later);
        assert_eq!(act(&mut engine, None), ["store 0: 102", "open 0"], "and one knock opens again");
    }

    #[test]
    fn the_throttle_does_not_affect_classic_or_far_ahead_knocks() {
        let now = Instant::now();
        let mut engine = throttled(now);
        engine.handle(&classic(1, 100, 22), now);
        assert_eq!(act(&mut engine, None), ["store 1: 101", "open 1"]);
        assert_eq!(engine.handle(&knock(0, 500, 22), now), None);
        assert_eq!(engine.handle(&knock(0, 501, 22), now), Some(Event::CaughtUp { profile: 0, ahead: 401 }));
        assert_eq!(act(&mut engine, None), ["store 0: 502", "open 0"]);
    }

    #[test]
    fn a_syn_to_another_port_is_ignored() {
        assert_eq!(engine(1).handle(&Entry { knock_port: 22, ..wrong(9, 0) }, Instant::now()), None);
    }
}
