//! A world: profiles and their owners, a network, a log, the engine, a disk, an opener, and somebody hostile.

use crate::laws::{Broken, Disk, Judgements, Knock, OWNER_GETS_IN, Opener, Packet};
use crate::random::Random;
use knockknock::applet::daemon::ipc::OpenReply;
use knockknock::applet::daemon::watcher::LoadedProfile;
use knockknock::applet::daemon::watcher::engine::{Action, Engine, Event, Settings};
use knockknock::ports::Ports;
use knockknock::profile::{ProfileConfig, SPENT};
use knockknock::wire::{Entry, Fields, Keys, Wire};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// A mistake that is planted, to see that a law finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The disk has a counter only when its port is open.
    StoredAfterOpening,
    /// The same, and nobody looks at the disk when a port is opened.
    StoredAfterOpeningUnseen,
    /// No accepted message is remembered.
    NoReplayCache,
    /// One knock opens wherever two are needed.
    ArmingOpens,
    /// Nobody looks for clients that ran ahead.
    NoFarSearch,
}

/// How much of what happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub steps: u64,
    handled: u64,
    openings: u64,
    refused: u64,
    caught_up: u64,
    replays: u64,
    wrong_tags: u64,
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
        self.wrong_tags += other.wrong_tags;
        self.crashes += other.crashes;
        self.disk_failures += other.disk_failures;
        self.owners += other.owners;
    }
}

impl Totals {
    /// A simulation in which something never happens shows nothing about it.
    pub fn check_variety(&self) {
        let Self { handled, openings, refused, caught_up, replays, wrong_tags, crashes, disk_failures, owners, .. } =
            *self;
        for number in [handled, openings, refused, caught_up, replays, wrong_tags, crashes, disk_failures, owners] {
            assert!(number * 1000 >= self.steps, "{self:?}");
        }
    }
}

/// A profile as its owner has it.
struct Owner {
    key: [u8; 16],
    config: ProfileConfig,
    next: u64,
    address: IpAddr,
}

impl Owner {
    /// The profile of that number: alone on its knock port.
    fn new(number: u16, random: &mut Random) -> Self {
        let lists = [Some("22"), Some("22,443"), None];
        let ports = random.pick(&lists).copied().flatten().map(|list| Ports::parse(list).unwrap());
        let config = ProfileConfig { knock_port: 600 + number, ports, wire: Wire::Classic, legacy: false };
        let next = if random.once_in(8) { SPENT - 100 } else { random.below(1000) };
        let address = match random.below(10) {
            0 => Ipv4Addr::LOCALHOST.into(),
            1..4 => Ipv6Addr::new(0x2001, 0xdb8, 0, number, 0, 0, 0, 1).into(),
            _ => [10, 0, number as u8, 1].into(),
        };
        Self { key: std::array::from_fn(|_| random.next() as u8), config, next, address }
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
    /// What the engine works by; a fault may have changed it.
    settings: Settings,
    resync_window: u64,
    now: Instant,
    owners: Vec<Owner>,
    /// Packets on their way.
    network: Vec<Packet>,
    /// Packets that somebody hostile has recorded.
    recorded: Vec<Packet>,
    log: VecDeque<Packet>,
    engine: Engine,
    judgements: Judgements,
    disk: Disk,
    opener: Opener,
    /// Counters that a fault has not stored yet.
    late: Vec<(usize, u64)>,
    /// After how many more places the daemon dies.
    dies_in: Option<u64>,
    /// Whether nothing but the network is hostile.
    calm: bool,
    pub totals: Totals,
}

/// The daemon has died.
struct Dead;

impl World {
    pub fn new(seed: u64, fault: Fault) -> Self {
        let mut random = Random::new(seed);
        let (window, resync_window) = (1 + random.below(8) as u32, random.below(60) as u32);
        let settings = Settings { delay: 15, window, resync_window, replay_cache: 8, secret: random.next() };
        let owners: Vec<Owner> =
            (0..1 + random.below(4) as u16).map(|number| Owner::new(number, &mut random)).collect();
        let disk = Disk::new(owners.iter().map(|owner| owner.next).collect());
        let settings_of_engine = Settings {
            replay_cache: if fault == Fault::NoReplayCache { 0 } else { settings.replay_cache },
            window: if fault == Fault::ArmingOpens { window + resync_window } else { window },
            resync_window: if fault == Fault::NoFarSearch { 0 } else { resync_window },
            ..settings
        };
        let mut world = Self {
            random,
            fault,
            settings: settings_of_engine,
            resync_window: resync_window.into(),
            now: Instant::now(),
            network: Vec::new(),
            recorded: Vec::new(),
            log: VecDeque::new(),
            engine: Engine::new(settings, Vec::new()),
            judgements: Judgements::new(owners.len(), window, settings.replay_cache),
            owners,
            disk,
            opener: Opener::new(fault == Fault::StoredAfterOpeningUnseen),
            late: Vec::new(),
            dies_in: None,
            calm: false,
            totals: Totals::default(),
        };
        world.start();
        world
    }

    /// The daemon starts: it knows what the disk has.
    fn start(&mut self) {
        let profiles = self.owners.iter().zip(&self.disk.counters);
        let loaded =
            profiles.map(|(owner, &next)| LoadedProfile::new(owner.config.clone(), owner.keys(), next)).collect();
        self.engine = Engine::new(self.settings, loaded);
        self.judgements.restarted();
        self.opener.waiting.clear();
        self.late.clear();
        // The log is read from its end on.
        self.log.clear();
        self.dies_in = None;
    }

    fn crash(&mut self) {
        self.totals.crashes += 1;
        self.start();
    }

    /// One thing happens.
    pub fn step(&mut self) -> Result<(), Broken> {
        self.totals.steps += 1;
        match self.random.below(1000) {
            0..200 => self.owner_knocks(),
            200..450 => self.packet_arrives(),
            450..520 => self.hostile_packet_arrives(),
            520..720 => return self.turn(),
            720..790 => return self.silence(),
            790..860 => self.now += Duration::from_millis(self.random.below(400)),
            860..865 => self.now += Duration::from_secs(self.random.below(100)),
            865..880 => self.owner_runs_ahead(),
            880..890 => self.dies_in = Some(self.random.below(20)),
            890..893 => self.crash(),
            893..900 => self.disk_changes(),
            900..980 => return self.somebody_connects(),
            _ => return self.owner_gets_in(),
        }
        Ok(())
    }

    /// An owner's next knock, whose counter is used up.
    fn knock(&mut self, profile: usize, denied: bool) -> Option<Packet> {
        let source_port = 1024 + self.random.below(60000) as u16;
        let wire = if self.random.once_in(2) { Wire::Classic } else { Wire::Stealth };
        let owner = &mut self.owners[profile];
        let ports: Vec<u16> = owner.config.ports.iter().flat_map(Ports::iter).collect();
        let port = match self.random.pick(&ports) {
            Some(&port) if !denied => port,
            _ => 1 + self.random.below(65535) as u16,
        };
        loop {
            let counter = u32::try_from(owner.next).ok().filter(|_| owner.next < SPENT)?;
            owner.next += 1;
            let sealed = owner.keys().seal(wire, counter, owner.config.knock_port, port);
            if let Some(fields) = sealed.fields() {
                let knock_port = owner.config.knock_port;
                let entry = Entry { source: owner.address, source_port, knock_port, fields, options_logged: true };
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

    /// Some packet on its way arrives: lost, doubled, overtaken or as it should, and logged once or twice.
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

    /// A replay, a message that was changed, one for somebody else's port, or noise.
    fn hostile_packet_arrives(&mut self) {
        let recorded = self.random.pick(&self.recorded).copied();
        let mut packet = recorded.unwrap_or_else(|| self.noise());
        if !self.random.once_in(4) {
            packet.entry.source = hostile_address(&mut self.random);
        }
        match self.random.below(4) {
            0 => {
                let bit = self.random.below(32);
                packet.entry.fields.seq ^= 1 << bit;
                packet.knock = None;
            }
            1 => {
                let profile = self.any_profile();
                let knock_port = self.owners[profile].config.knock_port;
                packet.knock = packet.knock.filter(|_| packet.entry.knock_port == knock_port);
                packet.entry.knock_port = knock_port;
            }
            2 => packet = self.noise(),
            _ => {}
        }
        self.logged(packet);
    }

    fn noise(&mut self) -> Packet {
        let bits = self.random.next();
        let timestamp = if bits & 1 == 0 { None } else { Some(self.random.next() as u32) };
        let ack = if bits & 2 == 0 { 0 } else { self.random.next() as u32 };
        let fields =
            Fields { id: (bits >> 16) as u16, seq: (bits >> 32) as u32, ack, win: Some(bits as u16), timestamp };
        let profile = self.any_profile();
        let source = hostile_address(&mut self.random);
        let knock_port = self.owners[profile].config.knock_port;
        let entry = Entry { source, source_port: 1, knock_port, fields, options_logged: timestamp.is_some() };
        Packet { entry, knock: None }
    }

    /// The watcher takes some of the log and does what the engine says.
    fn turn(&mut self) -> Result<(), Broken> {
        for _ in 0..self.random.below(8) {
            let Some(packet) = self.log.pop_front() else { break };
            self.handle(&packet)?;
        }
        self.act()
    }

    fn handle(&mut self, packet: &Packet) -> Result<(), Broken> {
        self.totals.handled += 1;
        let before = self.counters();
        let event = self.engine.handle(&packet.entry, self.now);
        self.judged(packet, before, event)
    }

    fn judged(&mut self, packet: &Packet, before: Vec<u64>, event: Option<Event>) -> Result<(), Broken> {
        match event {
            Some(Event::Replay) => self.totals.replays += 1,
            Some(Event::WrongTag) => self.totals.wrong_tags += 1,
            Some(Event::CaughtUp { .. }) => self.totals.caught_up += 1,
            _ => {}
        }
        let after = self.counters();
        if let Some(knock) = self.judgements.handled(packet, (&before, &after), event, self.now)? {
            self.opener.waiting.push_back((knock, packet.entry.source));
        }
        Ok(())
    }

    fn counters(&self) -> Vec<u64> {
        self.engine.profiles().iter().map(LoadedProfile::next).collect()
    }

    /// While the log is silent, the engine searches far ahead.
    fn silence(&mut self) -> Result<(), Broken> {
        if self.log.is_empty() {
            self.search_far()?;
        }
        Ok(())
    }

    fn search_far(&mut self) -> Result<(), Broken> {
        let Some(entry) = self.engine.next_far_search().copied() else { return Ok(()) };
        // What this SYN was, the world knows by its looks.
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

    /// Does what the engine asks for, until the daemon dies.
    fn act(&mut self) -> Result<(), Broken> {
        self.disk.new_batch();
        if let Err(Dead) = self.act_alive()? {
            self.crash();
        }
        Ok(())
    }

    fn act_alive(&mut self) -> Result<Result<(), Dead>, Broken> {
        while let Some(action) = self.engine.next_action() {
            if self.dies() {
                return Ok(Err(Dead));
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
                    if self.dies() {
                        return Ok(Err(Dead));
                    }
                    self.engine.answered(reply);
                }
            }
            if self.dies() {
                return Ok(Err(Dead));
            }
        }
        for (profile, next) in std::mem::take(&mut self.late) {
            self.disk.store(profile, next)?;
        }
        // What was not opened by now never is.
        self.opener.waiting.clear();
        Ok(Ok(()))
    }

    fn dies(&mut self) -> bool {
        self.dies_in = self.dies_in.map(|places| places.saturating_sub(1));
        self.dies_in == Some(0)
    }

    fn store(&mut self, profile: usize, next: u64) -> Result<(), Broken> {
        if matches!(self.fault, Fault::StoredAfterOpening | Fault::StoredAfterOpeningUnseen) {
            self.late.push((profile, next));
            self.engine.stored(profile, next);
            return Ok(());
        }
        match self.disk.store(profile, next)? {
            // Between the disk and the engine's knowledge of it the daemon can die too.
            Some(_) if self.dies_in == Some(1) => {}
            Some(stored) => self.engine.stored(profile, stored),
            None => self.totals.disk_failures += 1,
        }
        Ok(())
    }

    fn reported(&mut self, event: Event) -> Result<(), Broken> {
        let (Event::PortNotAllowed(knock) | Event::NoClientAddress(knock)) = event else { return Ok(()) };
        self.opener.done_with(knock.source, knock.port, &self.disk).map(drop)
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

    fn somebody_connects(&mut self) -> Result<(), Broken> {
        let Some(packet) = self.random.pick(&self.recorded).copied() else { return Ok(()) };
        let Some(knock) = packet.knock else { return Ok(()) };
        self.opener.connect(packet.entry.source, knock.port, self.now)
    }

    /// The law about owners: while the disk works and packets arrive, an owner whose counter is not behind
    /// and not too far ahead opens its port by its first knock within the window, and else by its third.
    fn owner_gets_in(&mut self) -> Result<(), Broken> {
        let profile = self.any_profile();
        if self.owners[profile].address.is_loopback() {
            return Ok(());
        }
        self.calm = true;
        self.dies_in = None;
        self.disk.works[profile] = true;
        let outcome = self.settle(profile).and_then(|()| self.owner_tries(profile));
        self.calm = false;
        outcome
    }

    /// What waits is done with, and what cannot be is set right as an operator would: a client that is behind
    /// takes over the server's counter, and the server that of a client which is too far ahead.
    fn settle(&mut self, profile: usize) -> Result<(), Broken> {
        self.work_off_the_log()?;
        let owner = &mut self.owners[profile];
        let next = self.engine.profiles()[profile].next();
        // A few counters are left for those that no packet can carry.
        if owner.next + 8 > next + self.judgements.window + self.resync_window {
            self.disk.counters[profile] = self.disk.counters[profile].max(owner.next);
        }
        owner.next = owner.next.max(next).max(self.disk.counters[profile]);
        if self.disk.counters[profile] > next {
            self.start();
        }
        Ok(())
    }

    fn owner_tries(&mut self, profile: usize) -> Result<(), Broken> {
        self.totals.owners += 1;
        let next = self.engine.profiles()[profile].next();
        let knocks = if self.owners[profile].next < next + self.judgements.window { 1 } else { 3 };
        for _ in 0..knocks {
            let Some(packet) = self.knock(profile, false) else { return Ok(()) };
            for _ in 0..self.random.below(3) {
                self.hostile_packet_arrives();
            }
            self.recorded.push(packet);
            self.log.push_back(packet);
            self.work_off_the_log()?;
            if packet.knock.is_some_and(|knock| self.opener.has_opened(&knock)) {
                return Ok(());
            }
            self.now += Duration::from_secs(15);
        }
        let owner = self.owners[profile].next;
        Err(format!("{OWNER_GETS_IN}: profile {profile}, not after {knocks} knocks, {next} expected, {owner} next"))
    }

    fn work_off_the_log(&mut self) -> Result<(), Broken> {
        while let Some(packet) = self.log.pop_front() {
            self.handle(&packet)?;
        }
        self.act()?;
        while self.engine.next_far_search().is_some() {
            self.search_far()?;
        }
        Ok(())
    }
}
