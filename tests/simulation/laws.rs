//! What must hold after every step, checked from outside: by what was sent, what the disk has and what was opened.

use knockknock::applet::daemon::ipc::{OpenReply, OpenRequest};
use knockknock::applet::daemon::watcher::engine::Event;
use knockknock::wire::{Ciphertext, Entry};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

pub const ONLY_WHAT_WAS_SENT: &str = "only a message that its owner sent is accepted";
pub const FAR_NEEDS_TWO: &str = "a knock outside of the window opens only behind another one";
pub const REPLAY_IS_KNOWN: &str = "a message that was accepted lately is known as a replay";
pub const NEVER_BACK: &str = "no counter goes back";
pub const STORED_FIRST: &str = "nothing opens before its counter is stored";
pub const STORED_ONCE: &str = "a batch stores a profile's counter once";
pub const IN_ORDER: &str = "ports are opened in the order of the log";
pub const OPENS_ONCE: &str = "no counter opens twice";
pub const ONE_CONNECTION: &str = "one knock lets one connection in";
pub const OWNER_GETS_IN: &str = "a live owner gets in";

/// A message that an owner made.
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

/// A law that does not hold, and what was seen.
pub type Broken = String;

fn law(law: &str, holds: bool, seen: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(format!("{law}: {}", seen())) }
}

/// The engine's promises about one SYN.
pub struct Judgements {
    pub window: u64,
    pub replay_cache: usize,
    /// When the messages of each profile were handled.
    handled: Vec<VecDeque<(u32, Instant)>>,
    /// The messages accepted last, and where they came to.
    accepted: VecDeque<(u16, Ciphertext)>,
}

impl Judgements {
    pub fn new(profiles: usize, window: u32, replay_cache: usize) -> Self {
        Self {
            window: window.into(),
            replay_cache,
            handled: vec![VecDeque::new(); profiles],
            accepted: VecDeque::new(),
        }
    }

    /// The engine has forgotten everything.
    pub fn restarted(&mut self) {
        self.handled.iter_mut().for_each(VecDeque::clear);
        self.accepted.clear();
    }

    /// The engine has handled `packet`, and its counters went from `before` to `after`. Returns the knock
    /// where it was accepted.
    pub fn handled(
        &mut self,
        packet: &Packet,
        (before, after): (&[u64], &[u64]),
        event: Option<Event>,
        now: Instant,
    ) -> Result<Option<Knock>, Broken> {
        let seen = || format!("{:?}, {before:?} -> {after:?}, {event:?}", packet.knock);
        let changed: Vec<usize> = (0..before.len()).filter(|&profile| before[profile] != after[profile]).collect();
        law(NEVER_BACK, changed.iter().all(|&profile| before[profile] < after[profile]), seen)?;

        let message = packet.entry.ciphertext().map(|ciphertext| (packet.entry.knock_port, ciphertext));
        if message.as_ref().is_some_and(|message| self.accepted.contains(message)) {
            law(REPLAY_IS_KNOWN, changed.is_empty() && matches!(event, None | Some(Event::Replay)), seen)?;
        }
        let Some(knock) = packet.knock else {
            return law(ONLY_WHAT_WAS_SENT, changed.is_empty(), seen).map(|()| None);
        };
        let handled = &mut self.handled[knock.profile];
        let mut accepted = None;
        if !changed.is_empty() {
            law(ONLY_WHAT_WAS_SENT, changed == [knock.profile], seen)?;
            law(ONLY_WHAT_WAS_SENT, after[knock.profile] == u64::from(knock.counter) + 1, seen)?;
            law(NEVER_BACK, u64::from(knock.counter) >= before[knock.profile], seen)?;
            let near = u64::from(knock.counter) < before[knock.profile] + self.window;
            let behind_another = handled.iter().any(|&(counter, at)| {
                (counter + 1..=counter.saturating_add(20)).contains(&knock.counter)
                    && now.duration_since(at) < Duration::from_secs(60)
            });
            law(FAR_NEEDS_TWO, near || behind_another, seen)?;
            self.accepted.extend(message);
            if self.accepted.len() > self.replay_cache {
                self.accepted.pop_front();
            }
            accepted = Some(knock);
        }
        handled.push_back((knock.counter, now));
        if handled.len() > 200 {
            handled.pop_front();
        }
        Ok(accepted)
    }
}

/// The disk and its promises.
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

    /// A profile's counter is to be stored; `None` where the disk fails.
    pub fn store(&mut self, profile: usize, next: u64) -> Result<Option<u64>, Broken> {
        law(STORED_ONCE, self.stored_in_batch.insert(profile), || format!("profile {profile}"))?;
        if !self.works[profile] {
            self.failed_in_batch.insert(profile);
            return Ok(None);
        }
        // As the counter file does it: what is higher stays.
        let next = next.max(self.counters[profile]);
        self.counters[profile] = next;
        Ok(Some(next))
    }
}

/// The opener and the kernel's set of openings.
#[derive(Default)]
pub struct Opener {
    /// Whether a port may be opened before its counter is stored.
    ignores_unstored: bool,
    /// The accepted knocks and their sources, in order.
    pub waiting: VecDeque<(Knock, IpAddr)>,
    opened: HashSet<(usize, u32)>,
    openings: HashMap<(IpAddr, u16), (Knock, Instant)>,
    connected: HashSet<Knock>,
}

impl Opener {
    pub fn new(ignores_unstored: bool) -> Self {
        Self { ignores_unstored, ..Self::default() }
    }

    /// The engine is done with the next accepted knock, which came from `source` for `port`.
    pub fn done_with(&mut self, source: IpAddr, port: u16, disk: &Disk) -> Result<Knock, Broken> {
        loop {
            let Some((knock, from)) = self.waiting.pop_front() else {
                return Err(format!("{IN_ORDER}: nothing was accepted for port {port} from {source}"));
            };
            if (from, knock.port) == (source, port) {
                return Ok(knock);
            }
            // Those passed over have a counter that could not be stored.
            let failed = disk.failed_in_batch.contains(&knock.profile);
            law(IN_ORDER, failed, || format!("port {port} from {source} comes before {knock:?}"))?;
        }
    }

    /// The engine asks for an opening, and `reply` is the answer.
    pub fn asked(&mut self, request: &OpenRequest, disk: &Disk, reply: OpenReply, now: Instant) -> Result<(), Broken> {
        let knock = self.done_with(request.source(), request.port(), disk)?;
        if !self.ignores_unstored {
            let stored = disk.counters[knock.profile];
            law(STORED_FIRST, stored > knock.counter.into(), || format!("{knock:?}, the disk has {stored}"))?;
        }
        if reply == OpenReply::Opened {
            law(OPENS_ONCE, self.opened.insert((knock.profile, knock.counter)), || format!("{knock:?}"))?;
            let until = now + Duration::from_secs(request.seconds().into());
            self.openings.insert((request.source(), request.port()), (knock, until));
        }
        Ok(())
    }

    /// A connection comes from where an opening is for; the opening is used up.
    pub fn connect(&mut self, source: IpAddr, port: u16, now: Instant) -> Result<(), Broken> {
        match self.openings.remove(&(source, port)) {
            Some((knock, until)) if now < until => {
                law(ONE_CONNECTION, self.connected.insert(knock), || format!("{knock:?}"))
            }
            _ => Ok(()),
        }
    }

    pub fn has_opened(&self, knock: &Knock) -> bool {
        self.opened.contains(&(knock.profile, knock.counter))
    }
}
