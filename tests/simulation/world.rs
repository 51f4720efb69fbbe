//! A world: profiles and their owners, an attacker, a network, a log, the engine, and models of the disk and the
//! opener.

use crate::invariants::{Disk, EngineModel, Knock, Known, OWNER_GETS_IN, Opener, Packet, Violation};
use crate::random::Random;
use knockknock::applet::daemon::ipc::OpenReply;
use knockknock::applet::daemon::watcher::engine::{Action, Engine, Event, Settings};
use knockknock::applet::daemon::watcher::{LoadedProfile, Reach};
use knockknock::ports::Ports;
use knockknock::prefix::Prefix;
use knockknock::profile::{ProfileConfig, SPENT};
use knockknock::wire::{Entry, Fields, Keys, Wire};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{AddAssign, Range};
use std::time::{Duration, Instant};

/// The knock ports. There are few, so that profiles share them.
const KNOCK_PORTS: Range<u16> = 600..602;
/// The prefixes of links: with long codes, which cannot be guessed, and with short ones.
const PREFIXES: [&str; 3] = ["2001:db8:0:ff::/64", "2001:db8:0:fe::/80", "2001:db8:0:fd::/72"];

/// A fault that is injected to test that an invariant detects it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A counter is stored only after its port was opened.
    StoredAfterOpening,
    /// The same, and openings are not compared with the disk.
    StoredAfterOpeningUnseen,
    /// The replay cache is empty.
    NoReplayCache,
    /// A far-ahead knock opens at once instead of arming.
    ArmingOpens,
    /// Clients that are far ahead are not searched for.
    NoFarSearch,
    /// The throttle always has room.
    NoThrottle,
}

/// How often each kind of event happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub steps: u64,
    handled: u64,
    openings: u64,
    refused: u64,
    caught_up: u64,
    replays: u64,
    wrong_codes: u64,
    too_many: u64,
    seconds_needed: u64,
    of_two: u64,
    crashes: u64,
    disk_failures: u64,
    owners: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.handled += other.handled;
        self.openings += other.openings;
        self.refused += other.refused;
        self.caught_up += other.caught_up;
        self.replays += other.replays;
        self.wrong_codes += other.wrong_codes;
        self.too_many += other.too_many;
        self.seconds_needed += other.seconds_needed;
        self.of_two += other.of_two;
        self.crashes += other.crashes;
        self.disk_failures += other.disk_failures;
        self.owners += other.owners;
    }
}

impl Totals {
    /// Fails if a kind of event is so rare that the simulation does not test it.
    pub fn check_variety(&self) {
        for number in [
            self.handled,
            self.openings,
            self.refused,
            self.caught_up,
            self.replays,
            self.wrong_codes,
            self.too_many,
            self.seconds_needed,
            self.of_two,
            self.crashes,
            self.disk_failures,
            self.owners,
        ] {
            assert!(number * 2000 >= self.steps, "{self:?}");
        }
    }
}

/// A client with its copy of a profile.
struct Owner {
    key: [u8; 16],
    config: ProfileConfig,
    next: u64,
    address: IpAddr,
}

impl Owner {
    /// Creates an owner with a random profile. `number` makes the address unique.
    fn new(number: u16, random: &mut Random) -> Self {
        let wire = match random.below(5) {
            0 | 1 => Wire::Stealth,
            2 | 3 => Wire::Classic,
            _ => Wire::Link(random.pick(&PREFIXES.map(|text| Prefix::parse(text).unwrap())).copied().unwrap()),
        };
        let lists: &[_] = match wire {
            Wire::Stealth | Wire::Link(_) => &[Some("22"), Some("22,443")],
            Wire::Classic => &[Some("22"), Some("22,443"), None, None],
        };
        let ports = random.pick(lists).copied().flatten().map(|list| Ports::parse(list).unwrap());
        let knock_port = if wire.prefix().is_some() { 0 } else { KNOCK_PORTS.start + random.below(2) as u16 };
        let config = ProfileConfig { knock_port, ports, wire, legacy: false };
        let next = if random.once_in(8) { SPENT - 100 } else { random.below(1000) };
        let address = match random.below(10) {
            0 => Ipv4Addr::LOCALHOST.into(),
            1..4 => Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, 1).into(),
            _ => [10, 0, number as u8, 1].into(),
        };
        Self { key: std::array::from_fn(|_| random.next() as u8), config, next, address }
    }

    /// Creates an owner whose profile has the same keys.
    fn twin(&self, random: &mut Random) -> Self {
        let next = self.next + random.below(4);
        Self { key: self.key, config: self.config.clone(), next, address: [10, 0, 99, 1].into() }
    }

    fn keys(&self) -> Keys {
        Keys::new(&self.key, &self.key)
    }
}

fn hostile_address(random: &mut Random) -> IpAddr {
    [203, 0, 113, random.next() as u8].into()
}

pub struct World {
    random: Random,
    fault: Fault,
    /// The engine's settings, with the injected fault.
    settings: Settings,
    /// The reach that the invariants assume.
    reach: Reach,
    /// Whether the first two profiles have the same keys.
    has_shared_keys: bool,
    now: Instant,
    owners: Vec<Owner>,
    /// Packets in transit.
    network: Vec<Packet>,
    /// Packets that the attacker has recorded.
    recorded: Vec<Packet>,
    log: VecDeque<Packet>,
    engine: Engine,
    engine_model: EngineModel,
    disk: Disk,
    opener: Opener,
    /// Counters that a fault has not stored yet.
    late: Vec<(usize, u64)>,
    /// How many more points the daemon passes before it is killed.
    killed_in: Option<u64>,
    /// Whether the disk works and the opener opens, so that only the network can interfere.
    calm: bool,
    pub totals: Totals,
}

/// The daemon was killed.
struct Killed;

/// Returns the settings with the injected fault.
fn with_fault(settings: Settings, fault: Fault) -> Settings {
    let Reach { window, far } = settings.reach;
    match fault {
        Fault::NoReplayCache => Settings { replay_cache: 0, ..settings },
        Fault::ArmingOpens => Settings { reach: Reach { window: window + far, far }, ..settings },
        Fault::NoFarSearch => Settings { reach: Reach { window, far: 0 }, ..settings },
        Fault::NoThrottle => Settings { guesses: u32::MAX, ..settings },
        _ => settings,
    }
}

impl World {
    pub fn new(seed: u64, fault: Fault) -> Self {
        let mut random = Random::new(seed);
        let reach = Reach { window: 1 + random.below(8) as u32, far: random.below(60) as u32 };
        let guesses = if random.once_in(2) { 1 << 28 } else { 10 + random.below(100) as u32 };
        let settings = Settings { delay: 15, reach, replay_cache: 8, guesses, secret: random.next() };
        let mut owners: Vec<Owner> =
            (0..1 + random.below(4) as u16).map(|number| Owner::new(number, &mut random)).collect();
        let has_shared_keys = random.once_in(6);
        if has_shared_keys {
            owners.insert(0, owners[0].twin(&mut random));
        }
        let twins = |number| if has_shared_keys && number < 2 { vec![0, 1] } else { vec![number] };
        let known = owners.iter().enumerate().map(|(number, owner)| Known {
            knock_port: owner.config.knock_port,
            wire: owner.config.wire,
            ports: owner.config.ports.clone(),
            twins: twins(number),
        });
        let now = Instant::now();
        let mut world = Self {
            engine_model: EngineModel::new(known.collect(), reach.window, settings.replay_cache, guesses, now),
            opener: Opener::new(fault == Fault::StoredAfterOpeningUnseen),
            random,
            fault,
            settings: with_fault(settings, fault),
            reach,
            has_shared_keys,
            now,
            network: Vec::new(),
            recorded: Vec::new(),
            log: VecDeque::new(),
            engine: Engine::new(settings, Vec::new()),
            disk: Disk::new(owners.iter().map(|owner| owner.next).collect()),
            owners,
            late: Vec::new(),
            killed_in: None,
            calm: false,
            totals: Totals::default(),
        };
        world.start();
        world
    }

    /// Starts the daemon with the counters on the disk.
    fn start(&mut self) {
        let profiles = self.owners.iter().zip(&self.disk.counters);
        let loaded =
            profiles.map(|(owner, &next)| LoadedProfile::new(owner.config.clone(), owner.keys(), next)).collect();
        self.engine = Engine::new(self.settings, loaded);
        self.engine_model.restarted(self.now);
        self.opener.waiting.clear();
        self.late.clear();
        // A daemon reads the log from its end.
        self.log.clear();
        self.killed_in = None;
    }

    fn crash(&mut self) {
        self.totals.crashes += 1;
        self.start();
    }

    /// Makes one random event happen.
    pub fn step(&mut self) -> Result<(), Violation> {
        self.totals.steps += 1;
        match self.random.below(1000) {
            0..200 => self.owner_knocks(),
            200..450 => self.packet_arrives(),
            450..520 => self.hostile_packet_arrives(),
            520..720 => return self.read_log(),
            720..790 => return self.silence(),
            790..860 => self.now += Duration::from_millis(self.random.below(400)),
            860..865 => self.now += Duration::from_secs(self.random.below(100)),
            865..867 => self.now += Duration::from_secs(self.random.below(86_400)),
            867..880 => self.owner_runs_ahead(),
            880..890 => self.killed_in = Some(self.random.below(20)),
            890..893 => self.crash(),
            893..900 => self.disk_changes(),
            900..980 => return self.somebody_connects(),
            _ => return self.check_owner_can_open(),
        }
        Ok(())
    }

    /// Returns an owner's next knock and burns its counter; `None` if no counter is left.
    fn knock(&mut self, profile: usize, denied: bool) -> Option<Packet> {
        let source_port = 1024 + self.random.below(60000) as u16;
        let owner = &mut self.owners[profile];
        let ports: Vec<u16> = owner.config.ports.iter().flat_map(Ports::iter).collect();
        let port = match self.random.pick(&ports) {
            Some(&port) if !denied => port,
            _ => 1 + self.random.below(65535) as u16,
        };
        loop {
            let counter = u32::try_from(owner.next).ok().filter(|_| owner.next < SPENT)?;
            owner.next += 1;
            let (keys, mut knock_port, mut destination) = (owner.keys(), owner.config.knock_port, None);
            let fields = match owner.config.wire {
                Wire::Stealth => keys.code(counter, port).fields(),
                Wire::Classic => keys.seal(counter, port).fields(),
                Wire::Link(prefix) => {
                    // A link has any port, even that of knocks.
                    knock_port = self.random.pick(&[80, 443, KNOCK_PORTS.start]).copied().unwrap();
                    destination = Some(keys.link(prefix, counter, port));
                    Some(Fields { id: 1, seq: self.random.next() as u32, ack: 0, win: None })
                }
            };
            if let Some(fields) = fields {
                let entry = Entry { source: owner.address, destination, source_port, knock_port, fields };
                return Some(Packet { entry, knock: Some(Knock { profile, counter, port }) });
            }
        }
    }

    fn any_profile(&mut self) -> usize {
        self.random.below(self.owners.len() as u64) as usize
    }

    fn owner_knocks(&mut self) {
        let profile = self.any_profile();
        let denied = self.random.once_in(16);
        if let Some(packet) = self.knock(profile, denied) {
            self.network.push(packet);
            self.recorded.push(packet);
        }
    }

    /// Delivers a packet: out of order, lost, duplicated, or logged twice.
    fn packet_arrives(&mut self) {
        if self.network.is_empty() {
            return;
        }
        let place = self.random.below(self.network.len() as u64) as usize;
        let packet = if self.random.once_in(8) { self.network[place] } else { self.network.swap_remove(place) };
        if !self.random.once_in(8) {
            self.logged(packet);
        }
    }

    fn logged(&mut self, packet: Packet) {
        self.log.push_back(packet);
        if self.random.once_in(6) {
            self.log.push_back(packet);
        }
    }

    /// Delivers a packet of the attacker: a replay, a modified message, a message to another knock port, or noise.
    fn hostile_packet_arrives(&mut self) {
        let recorded = self.random.pick(&self.recorded).copied();
        let mut packet = recorded.unwrap_or_else(|| self.noise());
        if !self.random.once_in(4) {
            packet.entry.source = hostile_address(&mut self.random);
        }
        match self.random.below(4) {
            0 => {
                let bit = self.random.below(32);
                match &mut packet.entry.destination {
                    Some(address) => *address = Ipv6Addr::from_bits(address.to_bits() ^ 1 << bit),
                    None => packet.entry.fields.seq ^= 1 << bit,
                }
                packet.knock = None;
            }
            1 => {
                let profile = self.any_profile();
                let knock_port = self.owners[profile].config.knock_port;
                let is_link = packet.entry.destination.is_some();
                packet.knock = packet.knock.filter(|_| is_link || packet.entry.knock_port == knock_port);
                packet.entry.knock_port = knock_port;
            }
            2 => packet = self.noise(),
            _ => {}
        }
        self.logged(packet);
    }

    fn noise(&mut self) -> Packet {
        let bits = self.random.next();
        let ack = if bits & 2 == 0 { 0 } else { self.random.next() as u32 };
        let fields = Fields { id: (bits >> 16) as u16, seq: (bits >> 32) as u32, ack, win: Some(bits as u16) };
        let profile = self.any_profile();
        let source = hostile_address(&mut self.random);
        let ProfileConfig { knock_port, wire, .. } = self.owners[profile].config;
        let destination = wire.prefix().map(|prefix| prefix.address(u128::from(self.random.next())));
        let entry = Entry { source, destination, source_port: 1, knock_port, fields };
        Packet { entry, knock: None }
    }

    /// Handles some records of the log, and performs the engine's actions.
    fn read_log(&mut self) -> Result<(), Violation> {
        for _ in 0..self.random.below(8) {
            let Some(packet) = self.log.pop_front() else { break };
            self.handle(&packet)?;
        }
        self.act()
    }

    fn handle(&mut self, packet: &Packet) -> Result<(), Violation> {
        self.totals.handled += 1;
        let before = self.counters();
        let event = self.engine.handle(&self.engine.addressed(packet.entry), self.now);
        self.judged(packet, before, event)
    }

    fn judged(&mut self, packet: &Packet, before: Vec<u64>, event: Option<Event>) -> Result<(), Violation> {
        match event {
            Some(Event::Replay) => self.totals.replays += 1,
            Some(Event::WrongCode { throttled }) => {
                self.totals.wrong_codes += 1;
                self.totals.too_many += u64::from(throttled);
            }
            Some(Event::CaughtUp { .. }) => self.totals.caught_up += 1,
            _ => {}
        }
        let after = self.counters();
        let accepted = self.engine_model.handled(packet, (&before, &after), event, self.now)?;
        self.opener.waiting.extend(accepted);
        Ok(())
    }

    fn counters(&self) -> Vec<u64> {
        self.engine.profiles().iter().map(LoadedProfile::next).collect()
    }

    /// Lets the engine do deferred work while the log is silent.
    fn silence(&mut self) -> Result<(), Violation> {
        if !self.log.is_empty() {
            return Ok(());
        }
        self.engine.fill();
        self.search_far()
    }

    fn search_far(&mut self) -> Result<(), Violation> {
        let Some(&entry) = self.engine.next_far_search() else { return Ok(()) };
        // Identify the knock by its message.
        let known = self.recorded.iter().rev().find(|packet| {
            packet.entry.knock_port == entry.knock_port && packet.entry.ciphertext() == entry.ciphertext()
        });
        let packet = Packet { entry, knock: known.and_then(|packet| packet.knock) };
        let before = self.counters();
        if let Some((source, event)) = self.engine.search_far(self.now) {
            let spent = Duration::from_micros(self.random.below(2000));
            self.engine.charge(source, spent, self.now);
            self.judged(&packet, before, event)?;
        }
        self.act()
    }

    /// Performs the engine's actions, unless the daemon is killed.
    fn act(&mut self) -> Result<(), Violation> {
        self.disk.new_batch();
        if let Err(Killed) = self.act_until_killed()? {
            self.crash();
        }
        Ok(())
    }

    fn act_until_killed(&mut self) -> Result<Result<(), Killed>, Violation> {
        while let Some(action) = self.engine.next_action() {
            if self.is_killed() {
                return Ok(Err(Killed));
            }
            match action {
                Action::Store { profile, next } => self.store(profile, next)?,
                Action::Report(event) => self.reported(event)?,
                Action::Open(request) => {
                    let reply =
                        if !self.calm && self.random.once_in(8) { OpenReply::SetFull } else { OpenReply::Opened };
                    self.opener.asked(&request, &self.disk, reply, self.now)?;
                    match reply {
                        OpenReply::Opened => self.totals.openings += 1,
                        _ => self.totals.refused += 1,
                    }
                    if self.is_killed() {
                        return Ok(Err(Killed));
                    }
                    self.engine.answered(reply);
                }
            }
            if self.is_killed() {
                return Ok(Err(Killed));
            }
        }
        for (profile, next) in std::mem::take(&mut self.late) {
            self.disk.store(profile, next)?;
        }
        // Knocks that were not opened by now never will be.
        self.opener.waiting.clear();
        Ok(Ok(()))
    }

    fn is_killed(&mut self) -> bool {
        self.killed_in = self.killed_in.map(|places| places.saturating_sub(1));
        self.killed_in == Some(0)
    }

    fn store(&mut self, profile: usize, next: u64) -> Result<(), Violation> {
        if matches!(self.fault, Fault::StoredAfterOpening | Fault::StoredAfterOpeningUnseen) {
            self.late.push((profile, next));
            self.engine.stored(profile, next);
            return Ok(());
        }
        match self.disk.store(profile, next)? {
            // The daemon can also be killed after the disk has stored the counter and before the engine knows.
            Some(_) if self.killed_in == Some(1) => {}
            Some(stored) => self.engine.stored(profile, stored),
            None => self.totals.disk_failures += 1,
        }
        Ok(())
    }

    fn reported(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::NeedsSecond(_) => self.totals.seconds_needed += 1,
            Event::Ambiguous(_) => self.totals.of_two += 1,
            _ => {}
        }
        self.opener.reported(event, &self.disk)
    }

    fn owner_runs_ahead(&mut self) {
        let profile = self.any_profile();
        self.owners[profile].next += self.random.below(80);
    }

    fn disk_changes(&mut self) {
        let profile = self.any_profile();
        match self.random.below(4) {
            0 => self.disk.counters[profile] = (self.disk.counters[profile] + self.random.below(30)).min(SPENT),
            _ => self.disk.works[profile] = !self.disk.works[profile],
        }
    }

    fn somebody_connects(&mut self) -> Result<(), Violation> {
        let Some(packet) = self.random.pick(&self.recorded).copied() else { return Ok(()) };
        let Some(knock) = packet.knock else { return Ok(()) };
        self.opener.connect(packet.entry.source, knock.port, self.now)
    }

    /// Checks that an owner can open its port while the disk works and packets arrive, if its counter is neither behind
    /// nor too far ahead: with the first knock within the window, with the second one while throttled, with the third
    /// one from far ahead.
    fn check_owner_can_open(&mut self) -> Result<(), Violation> {
        let profile = self.any_profile();
        // An owner of shared keys can be prevented by the other owner.
        if self.owners[profile].address.is_loopback() || self.has_shared_keys && profile < 2 {
            return Ok(());
        }
        self.calm = true;
        self.killed_in = None;
        self.disk.works[profile] = true;
        let outcome = self.settle(profile).and_then(|()| self.owner_tries(profile));
        self.calm = false;
        outcome
    }

    /// Handles everything that waits, and repairs the counters as an operator would: a client that is behind gets the
    /// server's counter, and the server gets that of a client that is too far ahead.
    fn settle(&mut self, profile: usize) -> Result<(), Violation> {
        self.handle_whole_log()?;
        let owner = &mut self.owners[profile];
        let next = self.engine.profiles()[profile].next();
        // Leave a few counters for those that no packet can carry.
        if owner.next + 8 > next + u64::from(self.reach.window) + u64::from(self.reach.far) {
            self.disk.counters[profile] = self.disk.counters[profile].max(owner.next);
        }
        owner.next = owner.next.max(next).max(self.disk.counters[profile]);
        if self.disk.counters[profile] > next {
            self.start();
        }
        Ok(())
    }

    fn owner_tries(&mut self, profile: usize) -> Result<(), Violation> {
        self.totals.owners += 1;
        let next = self.engine.profiles()[profile].next();
        let mut tried = Vec::new();
        loop {
            let Some(packet) = self.knock(profile, false) else { return Ok(()) };
            let Some(knock) = packet.knock else { return Ok(()) };
            tried.push(knock.counter);
            let enough = self.knocks_needed(profile, tried[0].into(), next);
            for _ in 0..self.random.below(3) {
                self.hostile_packet_arrives();
            }
            self.recorded.push(packet);
            self.log.push_back(packet);
            self.handle_whole_log()?;
            if self.opener.has_opened(&knock) {
                return Ok(());
            }
            if tried.len() >= enough {
                return Err(format!("{OWNER_GETS_IN}: profile {profile}, {next} expected, {tried:?} tried"));
            }
            self.now += Duration::from_secs(15);
        }
    }

    /// Returns how many knocks are needed at most, if the first has the counter `first`.
    fn knocks_needed(&mut self, profile: usize, first: u64, next: u64) -> usize {
        let owner = &self.owners[profile];
        match (first < next + u64::from(self.reach.window), owner.config.wire) {
            (false, _) => 3,
            (true, Wire::Classic) => 1,
            (true, Wire::Link(prefix)) if !prefix.is_guessable() => 1,
            (true, Wire::Stealth | Wire::Link(_)) => {
                // Other packets may use up the remaining room meanwhile: two SYNs, each logged twice.
                let codes: u32 = [0].into_iter().chain(KNOCK_PORTS).map(|port| self.engine_model.codes(port)).sum();
                if self.engine_model.has_room(codes * 5, self.now) { 1 } else { 2 }
            }
        }
    }

    fn handle_whole_log(&mut self) -> Result<(), Violation> {
        while let Some(packet) = self.log.pop_front() {
            self.handle(&packet)?;
        }
        self.act()?;
        while self.engine.next_far_search().is_some() {
            self.search_far()?;
        }
        while self.engine.fill() {}
        Ok(())
    }
}
