//! The invariants, checked after every step against what was sent, stored and opened.

use knockknock::applet::daemon::ipc::{OpenReply, OpenRequest};
use knockknock::applet::daemon::watcher::engine::Event;
use knockknock::ports::Ports;
use knockknock::wire::{Entry, Fields, Wire};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

pub const ONLY_WHAT_WAS_SENT: &str = "only a message that an owner sent is accepted";
pub const FAR_NEEDS_TWO: &str = "a knock beyond the window opens only after another one";
pub const REPLAY_IS_KNOWN: &str = "a recently accepted message is recognised as a replay";
pub const NEVER_BACK: &str = "no counter decreases";
pub const STORED_FIRST: &str = "nothing opens before its counter is stored";
pub const STORED_ONCE: &str = "a batch stores a profile's counter once";
pub const IN_ORDER: &str = "ports are opened in the order of the log";
pub const OPENS_ONCE: &str = "no counter opens twice";
pub const ONE_CONNECTION: &str = "one knock admits one connection";
pub const GUESSING_NEEDS_TWO: &str = "while throttled a knock opens only after another one from its source";
pub const GUESSES_ARE_COUNTED: &str = "wrong codes are counted by the number of codes that they could have hit";
pub const OF_TWO_OPENS_NOTHING: &str = "a code that two profiles hold opens nothing";
pub const OWNER_GETS_IN: &str = "a live owner gets in";

/// A message that an owner created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Knock {
    pub profile: usize,
    pub counter: u32,
    pub port: u16,
}

/// A SYN: an owner's or a forged one.
#[derive(Clone, Copy)]
pub struct Packet {
    pub entry: Entry,
    pub knock: Option<Knock>,
}

/// A violated invariant and the values that violate it.
pub type Violation = String;

fn require(invariant: &str, holds: bool, seen: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(format!("{invariant}: {}", seen())) }
}

/// The properties of a profile that the invariants need.
pub struct Known {
    /// 0 for links.
    pub knock_port: u16,
    pub wire: Wire,
    /// The ports that it lists; `None` means any.
    pub ports: Option<Ports>,
    /// The numbers of the profiles with the same keys, including this one.
    pub twins: Vec<usize>,
}

/// An accepted knock, and the expected outcome.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    pub knock: Knock,
    pub source: IpAddr,
    /// The invariant by which it must open nothing.
    closed_by: Option<&'static str>,
    /// Whether a single knock must suffice.
    alone: bool,
    /// Whether another profile has the same keys.
    has_twin: bool,
}

/// An independent implementation of the leaky counter of guesses.
struct Guesses {
    limit: f64,
    level: f64,
    at: Instant,
}

impl Guesses {
    /// Returns whether there is room for `codes`; `None` if rounding decides.
    fn has_room(&mut self, codes: u32, now: Instant) -> Option<bool> {
        let leaked = self.limit * now.duration_since(self.at).as_secs_f64() / 86_400.0;
        (self.level, self.at) = ((self.level - leaked).max(0.0), now);
        let left = self.limit - self.level - f64::from(codes);
        (left.abs() > 0.01).then_some(left > 0.0)
    }
}

impl Known {
    /// Returns whether its codes are so short that guesses are counted.
    fn is_short(&self) -> bool {
        self.wire == Wire::Stealth || self.wire.prefix().is_some_and(|prefix| prefix.is_guessable())
    }
}

/// A message: the address of a link, or a knock port and the fields.
#[derive(Clone, Copy, PartialEq)]
enum Message {
    Link(Ipv6Addr),
    Knock(u16, Fields),
}

/// The expected behaviour of the engine for each SYN.
pub struct EngineModel {
    pub window: u32,
    pub replay_cache: usize,
    known: Vec<Known>,
    guesses: Guesses,
    /// The recently handled counters of each profile, and when.
    handled: Vec<VecDeque<(u32, Instant)>>,
    /// The recently accepted messages.
    accepted: VecDeque<Message>,
}

impl EngineModel {
    pub fn new(known: Vec<Known>, window: u32, replay_cache: usize, guesses: u32, now: Instant) -> Self {
        Self {
            window,
            replay_cache,
            handled: vec![VecDeque::new(); known.len()],
            known,
            guesses: Guesses { limit: guesses.into(), level: 0.0, at: now },
            accepted: VecDeque::new(),
        }
    }

    /// Records that the engine was restarted and has lost its memory.
    pub fn restarted(&mut self, now: Instant) {
        self.handled.iter_mut().for_each(VecDeque::clear);
        self.accepted.clear();
        (self.guesses.level, self.guesses.at) = (0.0, now);
    }

    /// Returns how many short codes open a port at this knock port, or with links at 0.
    pub fn codes(&self, knock_port: u16) -> u32 {
        let on_port = self.known.iter().filter(|known| known.is_short() && known.knock_port == knock_port);
        on_port.map(|known| known.ports.iter().flat_map(Ports::iter).count() as u32 * self.window).sum()
    }

    fn message(&self, entry: &Entry) -> Message {
        let is_link = |address: &Ipv6Addr| self.known.iter().any(|known| has_prefix(known, *address));
        match entry.destination.filter(is_link) {
            Some(address) => Message::Link(address),
            None => Message::Knock(entry.knock_port, carried(&entry.fields)),
        }
    }

    /// Returns how many short codes a packet could hit.
    fn codes_of(&self, entry: &Entry) -> u32 {
        match self.message(entry) {
            Message::Knock(knock_port, _) => self.codes(knock_port),
            Message::Link(address) => {
                let is_short = self.known.iter().any(|known| known.is_short() && has_prefix(known, address));
                if is_short { self.codes(0) } else { 0 }
            }
        }
    }

    /// Returns whether there is certainly room for a guess that could hit one of `codes`.
    pub fn has_room(&mut self, codes: u32, now: Instant) -> bool {
        self.guesses.has_room(codes, now) == Some(true)
    }

    /// Checks how the engine has handled `packet`, which changed its counters from `before` to `after`. Returns the
    /// accepted knocks.
    pub fn handled(
        &mut self,
        packet: &Packet,
        (before, after): (&[u64], &[u64]),
        event: Option<Event>,
        now: Instant,
    ) -> Result<Vec<Accepted>, Violation> {
        let seen = || format!("{:?}, {before:?} -> {after:?}, {event:?}", packet.knock);
        let changed: Vec<usize> = (0..before.len()).filter(|&profile| before[profile] != after[profile]).collect();
        require(NEVER_BACK, changed.iter().all(|&profile| before[profile] < after[profile]), seen)?;

        let message = self.message(&packet.entry);
        if self.accepted.contains(&message) {
            require(REPLAY_IS_KNOWN, changed.is_empty() && matches!(event, None | Some(Event::Replay)), seen)?;
        }
        if let Some(Event::WrongCode { throttled }) = event {
            self.wrong_code(packet, throttled, now)?;
        }
        let Some(knock) = packet.knock else {
            return require(ONLY_WHAT_WAS_SENT, changed.is_empty(), seen).map(|()| Vec::new());
        };
        let source = packet.entry.source;
        let codes = self.codes_of(&packet.entry);
        let room = self.guesses.has_room(codes, now);
        let mut accepted = Vec::new();
        let near = |&profile: &usize| {
            (before[profile]..before[profile] + u64::from(self.window)).contains(&knock.counter.into())
        };
        let holders = self.known[knock.profile].twins.iter().copied().filter(near).count();
        for &profile in &changed {
            require(ONLY_WHAT_WAS_SENT, self.known[knock.profile].twins.contains(&profile), seen)?;
            require(ONLY_WHAT_WAS_SENT, after[profile] == u64::from(knock.counter) + 1, seen)?;
            require(NEVER_BACK, u64::from(knock.counter) >= before[profile], seen)?;
            require(FAR_NEEDS_TWO, near(&profile) || self.is_behind(&knock, now), seen)?;
            let waits = self.known[profile].is_short() && !self.is_behind(&knock, now);
            let closed_by = if holders > 1 {
                Some(OF_TWO_OPENS_NOTHING)
            } else if waits && room == Some(false) {
                Some(GUESSING_NEEDS_TWO)
            } else {
                None
            };
            let alone = room == Some(true) || !self.known[profile].is_short();
            let has_twin = self.known[profile].twins.len() > 1;
            accepted.push(Accepted { knock: Knock { profile, ..knock }, source, closed_by, alone, has_twin });
        }
        if !changed.is_empty() {
            let listed = self.known[knock.profile].ports.as_ref().is_none_or(|ports| ports.contains(knock.port));
            require(OF_TWO_OPENS_NOTHING, holders < 2 || changed.len() == holders || !listed, seen)?;
            self.accepted.extend(changed.iter().map(|_| message));
            while self.accepted.len() > self.replay_cache {
                self.accepted.pop_front();
            }
        }
        let handled = &mut self.handled[self.known[knock.profile].twins[0]];
        handled.push_back((knock.counter, now));
        if handled.len() > 200 {
            handled.pop_front();
        }
        Ok(accepted)
    }

    /// Returns whether a message with one of the 20 counters before that of `knock` was handled in the last minute.
    fn is_behind(&self, knock: &Knock, now: Instant) -> bool {
        self.handled[self.known[knock.profile].twins[0]].iter().any(|&(counter, at)| {
            (counter + 1..=counter.saturating_add(20)).contains(&knock.counter)
                && now.duration_since(at) < Duration::from_secs(60)
        })
    }

    fn wrong_code(&mut self, packet: &Packet, throttled: bool, now: Instant) -> Result<(), Violation> {
        let message = self.message(&packet.entry);
        let is_code = matches!(message, Message::Link(_)) || packet.entry.fields.ack == 0;
        let codes = self.codes_of(&packet.entry);
        let room = self.guesses.has_room(codes, now);
        let counted = if is_code { room.is_none_or(|room| room != throttled) } else { !throttled };
        require(GUESSES_ARE_COUNTED, counted, || format!("{codes} codes, room: {room:?}, throttled: {throttled}"))?;
        if is_code && !throttled {
            self.guesses.level += f64::from(codes);
        }
        Ok(())
    }
}

/// Compares the prefix of a profile bit by bit.
fn has_prefix(known: &Known, address: Ipv6Addr) -> bool {
    let Some(prefix) = known.wire.prefix() else { return false };
    let text = prefix.to_string();
    let (network, length) = text.split_once('/').unwrap();
    let bits = |address: Ipv6Addr| format!("{:0128b}", address.to_bits());
    let length: usize = length.parse().unwrap();
    bits(network.parse().unwrap())[..length] == bits(address)[..length]
}

/// Returns the fields that carry the message.
fn carried(fields: &Fields) -> Fields {
    let win = fields.win.filter(|_| fields.ack != 0);
    Fields { win, ..*fields }
}

/// A model of the disk.
pub struct Disk {
    pub counters: Vec<u64>,
    pub works: Vec<bool>,
    stored_in_batch: HashSet<usize>,
    failed_in_batch: HashSet<usize>,
}

impl Disk {
    pub fn new(counters: Vec<u64>) -> Self {
        Self {
            works: vec![true; counters.len()],
            counters,
            stored_in_batch: HashSet::new(),
            failed_in_batch: HashSet::new(),
        }
    }

    pub fn new_batch(&mut self) {
        self.stored_in_batch.clear();
        self.failed_in_batch.clear();
    }

    /// Stores a profile's counter and returns the stored value; `None` if the disk fails.
    pub fn store(&mut self, profile: usize, next: u64) -> Result<Option<u64>, Violation> {
        require(STORED_ONCE, self.stored_in_batch.insert(profile), || format!("profile {profile}"))?;
        if !self.works[profile] {
            self.failed_in_batch.insert(profile);
            return Ok(None);
        }
        // Like the counter file, keep the higher value.
        let next = next.max(self.counters[profile]);
        self.counters[profile] = next;
        Ok(Some(next))
    }
}

/// A model of the opener and of the kernel's set of openings.
#[derive(Default)]
pub struct Opener {
    /// Whether a port may be opened before its counter is stored.
    ignores_unstored: bool,
    /// The accepted knocks, in order.
    pub waiting: VecDeque<Accepted>,
    opened: HashSet<(usize, u32)>,
    openings: HashMap<(IpAddr, u16), (Knock, Instant)>,
    connected: HashSet<Knock>,
}

impl Opener {
    pub fn new(ignores_unstored: bool) -> Self {
        Self { ignores_unstored, ..Self::default() }
    }

    /// Removes the next accepted knock, which must be from `source` and for `port`. Skips knocks whose counters could
    /// not be stored.
    fn next_accepted(&mut self, source: IpAddr, port: u16, disk: &Disk) -> Result<Accepted, Violation> {
        while let Some(accepted) = self.waiting.pop_front() {
            if !disk.failed_in_batch.contains(&accepted.knock.profile) {
                let next = (accepted.source, accepted.knock.port) == (source, port);
                require(IN_ORDER, next, || format!("port {port} from {source} comes before {accepted:?}"))?;
                return Ok(accepted);
            }
        }
        Err(format!("{IN_ORDER}: nothing was accepted for port {port} from {source}"))
    }

    /// Checks a report about an accepted knock.
    pub fn reported(&mut self, event: Event, disk: &Disk) -> Result<(), Violation> {
        match event {
            Event::NeedsSecond(knock) => {
                let accepted = self.next_accepted(knock.source, knock.port, disk)?;
                require(GUESSING_NEEDS_TWO, !accepted.alone, || format!("{accepted:?} needs none"))
            }
            Event::Ambiguous(knock) => {
                // The order does not matter, because nothing is opened.
                let profile = |accepted: &Accepted| accepted.knock.profile == knock.profile;
                let place = self.waiting.iter().position(profile);
                let accepted = place.and_then(|place| self.waiting.remove(place));
                let of_two = accepted.is_some_and(|accepted| accepted.has_twin && accepted.source == knock.source);
                require(OF_TWO_OPENS_NOTHING, of_two, || format!("{accepted:?} is not {knock:?}"))
            }
            Event::PortNotAllowed(knock) | Event::NoClientAddress(knock) => {
                self.next_accepted(knock.source, knock.port, disk).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Checks a request for an opening, and records it if `reply` opens it.
    pub fn asked(
        &mut self,
        request: &OpenRequest,
        disk: &Disk,
        reply: OpenReply,
        now: Instant,
    ) -> Result<(), Violation> {
        let accepted = self.next_accepted(request.source(), request.port(), disk)?;
        let knock = accepted.knock;
        if let Some(broken) = accepted.closed_by {
            require(broken, false, || format!("{accepted:?}"))?;
        }
        if !self.ignores_unstored {
            let stored = disk.counters[knock.profile];
            require(STORED_FIRST, stored > knock.counter.into(), || format!("{knock:?}, the disk has {stored}"))?;
        }
        if reply == OpenReply::Opened {
            require(OPENS_ONCE, self.opened.insert((knock.profile, knock.counter)), || format!("{knock:?}"))?;
            let until = now + Duration::from_secs(request.seconds().into());
            self.openings.insert((request.source(), request.port()), (knock, until));
        }
        Ok(())
    }

    /// Uses up an opening by a connection.
    pub fn connect(&mut self, source: IpAddr, port: u16, now: Instant) -> Result<(), Violation> {
        match self.openings.remove(&(source, port)) {
            Some((knock, until)) if now < until => {
                require(ONE_CONNECTION, self.connected.insert(knock), || format!("{knock:?}"))
            }
            _ => Ok(()),
        }
    }

    pub fn has_opened(&self, knock: &Knock) -> bool {
        self.opened.contains(&(knock.profile, knock.counter))
    }
}
