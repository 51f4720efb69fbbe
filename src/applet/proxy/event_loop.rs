//! The proxy's one loop: every client is at some stage of asking, or it is relayed.

use super::address_cache::Book;
use super::resolver::{Answer, Question, Resolver};
use super::socks::{self, Failure, Hello, Host, LONGEST, Reply, Request, Version, WELCOME};
use crate::error::Error;
use crate::knocker::Knocker;
use crate::profile::{Found, Profile};
use crate::say;
use crate::sys::epoll::{Epoll, Event};
use crate::sys::tcp;
use crate::tunnel::{self, Key, Moved, Progress, Race, Relay, Side, Spares, Turnstile};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a client may take to say what it wants.
const ASKING: Duration = Duration::from_secs(30);
/// How long a name may take.
const NAMING: Duration = Duration::from_secs(30);
/// How long the profiles' names may take, before what is known of them has to do.
const LOCATING: Duration = Duration::from_secs(2);
/// How often to look whether another program has left the turnstile, and how long at most.
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client that was refused may take to close: closing first could lose our last words.
const LEAVING: Duration = Duration::from_secs(2);
/// How long not to accept anybody, where the system has no descriptor for it.
const REST: Duration = Duration::from_secs(1);
/// How many may be asking besides those that are being connected.
const ASKERS: usize = 256;

/// What the epoll tells of beside clients, who have the numbers from 1.
const LISTENER: u64 = 0;
const BELL: u64 = 1;

/// The program's state.
pub struct Proxy {
    listener: TcpListener,
    knocker: Rc<Knocker>,
    directory: PathBuf,
    /// The most connections at once.
    most: usize,
    /// Whether to connect to hosts with profiles only.
    profiles_only: bool,
    epoll: Epoll,
    asking: HashMap<u64, Box<Asking>>,
    relays: HashMap<u64, Box<Relay>>,
    last: u64,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    gates: Vec<Gate>,
    /// Gates that somebody has left.
    free: Vec<String>,
    /// Relays with something to move.
    moving: Vec<u64>,
    spares: Spares,
    resolver: Resolver,
    /// Who waits for the addresses of a name.
    named: Vec<(String, u64)>,
    book: Book,
    /// Who waits for the book.
    readers: Vec<u64>,
    /// Somebody may be waiting to be accepted.
    knocked: bool,
    resting: Option<Instant>,
    full: bool,
}

/// A client that is not connected yet.
struct Asking {
    stream: TcpStream,
    version: Version,
    stage: Stage,
    deadline: Instant,
    /// The deadline that there is a timer for.
    timed: Option<Instant>,
}

/// How far a client is.
enum Stage {
    /// It has not said anything.
    Hello,
    /// It is welcome and may ask, as version 5 has it.
    Request,
    /// The addresses of its host are asked for.
    Naming { port: u16 },
    /// Whether these are a profile's addresses is being found out.
    Locating(Vec<SocketAddr>),
    /// It waits for its turn.
    Waiting(Errand),
    /// It is being connected; through a gate, where there is a profile.
    Racing(Option<String>, Box<Race>),
    /// It is refused, and is to close.
    Leaving,
}

/// What is to be done when it is one's turn.
struct Errand {
    found: Found,
    addresses: Vec<SocketAddr>,
    since: Instant,
}

/// A profile's turnstile and the clients in front of it.
struct Gate {
    name: String,
    turnstile: Turnstile,
    waiting: VecDeque<u64>,
    passing: bool,
}

impl Asking {
    /// Its stage, which it leaves.
    fn take(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Leaving)
    }
}

impl Proxy {
    /// One that serves `listener`'s clients, `most` at once.
    pub fn new(
        listener: TcpListener,
        knocker: Knocker,
        directory: PathBuf,
        most: usize,
        profiles_only: bool,
    ) -> io::Result<Self> {
        let (epoll, resolver) = (Epoll::new()?, Resolver::new()?);
        listener.set_nonblocking(true)?;
        tcp::hold_all(&listener)?;
        epoll.add(&listener, LISTENER)?;
        epoll.add(&resolver.bell, BELL)?;
        Ok(Self {
            listener,
            knocker: Rc::new(knocker),
            book: Book::new(directory.clone()),
            directory,
            most,
            profiles_only,
            epoll,
            asking: HashMap::new(),
            relays: HashMap::new(),
            last: 0,
            timers: BinaryHeap::new(),
            gates: Vec::new(),
            free: Vec::new(),
            moving: Vec::new(),
            spares: Spares::default(),
            resolver,
            named: Vec::new(),
            readers: Vec::new(),
            knocked: true,
            resting: None,
            full: false,
        })
    }

    /// Serves; sleeps for good while nothing happens.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.accept();
            let busy = !self.moving.is_empty() || !self.free.is_empty();
            let until = if busy { Some(Instant::now()) } else { self.next_deadline() };
            self.epoll.wait(&mut ready, until)?;
            for event in &ready {
                self.note(*event);
            }
            self.pass_time();
            let mut moving = std::mem::take(&mut self.moving);
            moving.sort_unstable();
            moving.dedup();
            for id in moving {
                self.relay(id);
            }
            for name in std::mem::take(&mut self.free) {
                self.admit(&name);
            }
        }
    }

    fn note(&mut self, event: Event) {
        let id = event.token >> 1;
        let side = if event.token & 1 == 0 { Side::Client } else { Side::Server };
        if event.token == LISTENER {
            self.knocked = true;
        } else if event.token == BELL {
            self.take_answers();
        } else if let Some(relay) = self.relays.get_mut(&id) {
            relay.note(side, event);
            self.moving.push(id);
        } else if let Some(asking) = self.asking.remove(&id) {
            match (&asking.stage, side) {
                (Stage::Hello | Stage::Request, _) => self.hear(id, asking, event.ended),
                (Stage::Leaving, _) => self.wait_for_end(id, asking),
                (Stage::Racing(..), Side::Server) => self.race(id, asking),
                // Who closes before there is an answer is gone, and no knock is spent on it.
                _ if event.ended => self.refuse(id, asking, Reply::Failed),
                _ => self.keep(id, asking),
            }
        }
    }

    /// Accepts whoever there is, as long as there is room.
    fn accept(&mut self) {
        while self.knocked && self.asking.len() + self.relays.len() < self.most + ASKERS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.last += 1;
                    let added = stream.set_nonblocking(true).and_then(|()| self.epoll.add(&stream, self.last << 1));
                    if added.is_ok() {
                        let deadline = Instant::now() + ASKING;
                        let (version, stage) = (Version::Five, Stage::Hello);
                        self.keep(self.last, Box::new(Asking { stream, version, stage, deadline, timed: None }));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.knocked = false;
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.resting = Some(Instant::now() + REST);
                    }
                }
            }
        }
    }

    fn keep(&mut self, id: u64, mut asking: Box<Asking>) {
        if asking.timed != Some(asking.deadline) {
            asking.timed = Some(asking.deadline);
            self.timers.push(Reverse((asking.deadline, id)));
        }
        self.asking.insert(id, asking);
    }

    /// The time at which something is to be done; timers that no longer count are dropped.
    fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if self.asking.get(&id).is_some_and(|asking| asking.deadline == at) {
                return Some(self.resting.map_or(at, |rest| rest.min(at)));
            }
            self.timers.pop();
        }
        self.resting
    }

    fn pass_time(&mut self) {
        let now = Instant::now();
        if self.resting.is_some_and(|until| until <= now) {
            (self.resting, self.knocked) = (None, true);
        }
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some(Reverse((_, id))) = self.timers.pop() else { return };
            let Some(mut asking) = self.asking.remove(&id) else { continue };
            asking.timed = None;
            match asking.take() {
                Stage::Leaving => {}
                Stage::Hello | Stage::Request => self.leave(id, asking, &[]),
                Stage::Naming { .. } => self.refuse(id, asking, Reply::HostUnreachable),
                Stage::Locating(addresses) => self.decide(id, asking, addresses),
                Stage::Waiting(errand) => {
                    self.free.push(errand.found.name.clone());
                    asking.deadline = errand.since + PATIENCE;
                    if asking.deadline <= now {
                        self.refuse(id, asking, Reply::TimedOut);
                    } else {
                        asking.stage = Stage::Waiting(errand);
                        self.keep(id, asking);
                    }
                }
                Stage::Racing(gate, race) => {
                    asking.stage = Stage::Racing(gate, race);
                    self.race(id, asking);
                }
            }
        }
    }

    /// Reads a client's messages, and nothing behind them: that is the server's.
    fn hear(&mut self, id: u64, mut asking: Box<Asking>, ended: bool) {
        let mut buffer = [0; LONGEST];
        while let Ok(length) = asking.stream.peek(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default();
            let parsed = match asking.stage {
                Stage::Hello => socks::hello(bytes),
                _ => socks::request(bytes).map(|(request, length)| (Hello::Asked(request), length)),
            };
            match parsed {
                Err(Failure::Short) => break,
                Err(Failure::Refused(words)) => return self.leave(id, asking, &words),
                Ok((hello, length)) => {
                    let _ = asking.stream.read(buffer.get_mut(..length).unwrap_or_default());
                    match hello {
                        Hello::Asked(request) => {
                            asking.version = request.version;
                            return if ended {
                                self.refuse(id, asking, Reply::Failed)
                            } else {
                                self.name(id, asking, request)
                            };
                        }
                        Hello::Five => {
                            let _ = asking.stream.write(&WELCOME);
                            asking.stage = Stage::Request;
                        }
                    }
                }
            }
        }
        if !ended {
            self.keep(id, asking);
        }
    }

    /// Finds out the addresses of the host.
    fn name(&mut self, id: u64, mut asking: Box<Asking>, request: Request) {
        let full = self.asking.len() + self.relays.len() >= self.most;
        if full && !self.full {
            say::warn(format_args!("there are {} connections: others are refused", self.most));
        }
        self.full = full;
        match request {
            _ if full => self.refuse(id, asking, Reply::Failed),
            Request { port: 0, .. } => self.refuse(id, asking, Reply::Refused),
            Request { host: Host::Address(address), port, .. } => {
                self.locate(id, asking, &address.to_string(), vec![SocketAddr::new(address, port)]);
            }
            Request { host: Host::Name(name), port, .. } => {
                asking.stage = Stage::Naming { port };
                asking.deadline = Instant::now() + NAMING;
                self.keep(id, asking);
                if self.named.iter().all(|(asked, _)| *asked != name) {
                    self.resolver.ask(Question::Host(name.clone()));
                }
                self.named.push((name, id));
            }
        }
    }

    fn take_answers(&mut self) {
        for answer in self.resolver.answers() {
            match answer {
                Answer::Host(name, addresses) => {
                    let named = std::mem::take(&mut self.named).into_iter();
                    let (these, others): (Vec<_>, Vec<_>) = named.partition(|(asked, _)| *asked == name);
                    self.named = others;
                    for (_, id) in these {
                        self.named(id, &name, &addresses);
                    }
                }
                Answer::Profiles(found) => {
                    self.book.fill(found);
                    for id in std::mem::take(&mut self.readers) {
                        let Some(mut asking) = self.asking.remove(&id) else { continue };
                        match asking.take() {
                            Stage::Locating(addresses) => self.decide(id, asking, addresses),
                            stage => {
                                asking.stage = stage;
                                self.keep(id, asking);
                            }
                        }
                    }
                }
            }
        }
    }

    fn named(&mut self, id: u64, name: &str, addresses: &[SocketAddr]) {
        let Some(mut asking) = self.asking.remove(&id) else { return };
        match asking.take() {
            Stage::Naming { .. } if addresses.is_empty() => self.refuse(id, asking, Reply::HostUnreachable),
            Stage::Naming { port } => {
                let mut addresses = addresses.to_vec();
                addresses.iter_mut().for_each(|address| address.set_port(port));
                self.locate(id, asking, name, addresses);
            }
            stage => {
                asking.stage = stage;
                self.keep(id, asking);
            }
        }
    }

    /// Finds out whether there is a profile: by the host's name, or by its addresses.
    fn locate(&mut self, id: u64, mut asking: Box<Asking>, host: &str, addresses: Vec<SocketAddr>) {
        match tunnel::find(&self.directory, host) {
            Ok(Some(found)) => return self.line_up(id, asking, found, addresses),
            Ok(None) => {}
            Err(error) => return self.fail(id, asking, &error),
        }
        if let Some(question) = self.book.read() {
            self.resolver.ask(question);
        }
        if self.book.is_usable() {
            return self.decide(id, asking, addresses);
        }
        asking.stage = Stage::Locating(addresses);
        asking.deadline = Instant::now() + LOCATING;
        self.keep(id, asking);
        self.readers.push(id);
    }

    /// Goes by what the book says.
    fn decide(&mut self, id: u64, asking: Box<Asking>, addresses: Vec<SocketAddr>) {
        match self.book.find(&addresses).map(|(name, addresses)| (tunnel::find(&self.directory, name), addresses)) {
            Some((Ok(Some(found)), addresses)) => self.line_up(id, asking, found, addresses),
            Some((Err(error), _)) => self.fail(id, asking, &error),
            _ if self.profiles_only => self.refuse(id, asking, Reply::NotAllowed),
            _ => self.set_out(id, asking, None, Race::new(&addresses, None)),
        }
    }

    /// Waits for a turn, where the port is one to knock for.
    fn line_up(&mut self, id: u64, mut asking: Box<Asking>, found: Found, addresses: Vec<SocketAddr>) {
        let port = addresses.first().map_or(0, SocketAddr::port);
        match tunnel::opens(&found, port) {
            Err(error) => self.fail(id, asking, &error),
            Ok(false) => self.set_out(id, asking, None, Race::new(&addresses, None)),
            Ok(true) => {
                let since = Instant::now();
                let name = found.name.clone();
                match gate(&mut self.gates, &name) {
                    Some(gate) => gate.waiting.push_back(id),
                    None => self.gates.push(Gate {
                        name: name.clone(),
                        turnstile: Turnstile::new(&found),
                        waiting: VecDeque::from([id]),
                        passing: false,
                    }),
                }
                self.free.push(name);
                asking.stage = Stage::Waiting(Errand { found, addresses, since });
                asking.deadline = since + PATIENCE;
                self.keep(id, asking);
            }
        }
    }

    /// Lets the next one through a gate.
    fn admit(&mut self, name: &str) {
        while let Some(gate) = gate(&mut self.gates, name).filter(|gate| !gate.passing) {
            let Some(&id) = gate.waiting.front() else { return };
            let Some(mut asking) = self.asking.remove(&id) else {
                gate.waiting.pop_front();
                continue;
            };
            let errand = match asking.take() {
                Stage::Waiting(errand) => errand,
                // It is gone.
                stage => {
                    gate.waiting.pop_front();
                    asking.stage = stage;
                    self.keep(id, asking);
                    continue;
                }
            };
            let pass = match gate.turnstile.try_pass() {
                Ok(Some(pass)) => pass,
                Ok(None) => {
                    asking.stage = Stage::Waiting(errand);
                    asking.deadline = Instant::now() + LOOK;
                    return self.keep(id, asking);
                }
                // It was said when the back-off began.
                Err(error) => {
                    gate.waiting.pop_front();
                    self.refuse(id, asking, reply(&error));
                    continue;
                }
            };
            gate.waiting.pop_front();
            match Profile::load(&errand.found) {
                Err(error) => self.fail(id, asking, &error),
                Ok(profile) => {
                    gate.passing = true;
                    let (knocker, pace) = (Rc::clone(&self.knocker), gate.turnstile.pace());
                    let race = Race::new(&errand.addresses, Some(Key { knocker, profile, pass, pace }));
                    self.set_out(id, asking, Some(name.to_owned()), race);
                }
            }
        }
    }

    fn set_out(&mut self, id: u64, mut asking: Box<Asking>, gate: Option<String>, race: Race) {
        asking.stage = Stage::Racing(gate, Box::new(race));
        self.race(id, asking);
    }

    /// Goes on connecting.
    fn race(&mut self, id: u64, mut asking: Box<Asking>) {
        let Stage::Racing(name, race) = &mut asking.stage else { return self.keep(id, asking) };
        let turnstile = name.as_ref().and_then(|name| Some(&mut gate(&mut self.gates, name)?.turnstile));
        match race.run(&self.epoll, id << 1 | 1) {
            Progress::Running(until) => {
                asking.deadline = until;
                self.keep(id, asking);
            }
            Progress::Won(server, first) => {
                if let Some(turnstile) = turnstile {
                    turnstile.passed(first);
                }
                self.leave_gate(asking.take());
                let words = socks::answer(asking.version, Reply::Succeeded, server.local_addr().ok());
                if asking.stream.write_all(&words).is_ok() {
                    self.relays.insert(id, Box::new(Relay::new(asking.stream, server)));
                    self.moving.push(id);
                }
            }
            Progress::Lost(error) => {
                if let Some(turnstile) = turnstile.filter(|_| race.knocks() > 0) {
                    turnstile.unanswered();
                }
                if name.is_some() && error.kind() != Some(io::ErrorKind::NetworkUnreachable) {
                    say::error(&error);
                }
                self.refuse(id, asking, reply(&error));
            }
        }
    }

    fn leave_gate(&mut self, stage: Stage) {
        let name = match stage {
            Stage::Racing(Some(name), _) => {
                if let Some(gate) = gate(&mut self.gates, &name) {
                    gate.passing = false;
                }
                name
            }
            // While another program has the turnstile, it may have been the only one that looked.
            Stage::Waiting(errand) => errand.found.name,
            _ => return,
        };
        self.free.push(name);
    }

    /// Refuses for a reason that the proxy's owner has to look at.
    fn fail(&mut self, id: u64, asking: Box<Asking>, error: &Error) {
        say::error(error);
        self.refuse(id, asking, Reply::Failed);
    }

    fn refuse(&mut self, id: u64, asking: Box<Asking>, reply: Reply) {
        let words = socks::answer(asking.version, reply, None);
        self.leave(id, asking, &words);
    }

    /// Says the last words, and waits until they are heard.
    fn leave(&mut self, id: u64, mut asking: Box<Asking>, words: &[u8]) {
        let stage = asking.take();
        self.leave_gate(stage);
        let said = asking.stream.write_all(words).is_ok();
        if said && asking.stream.shutdown(Shutdown::Write).is_ok() {
            asking.deadline = Instant::now() + LEAVING;
            self.wait_for_end(id, asking);
        }
    }

    /// What a client still sends would make the kernel answer with a reset, which overtakes our words.
    fn wait_for_end(&mut self, id: u64, mut asking: Box<Asking>) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            match asking.stream.read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.keep(id, asking),
                _ => return,
            }
        }
    }

    fn relay(&mut self, id: u64) {
        match self.relays.get_mut(&id).map(|relay| relay.run(&mut self.spares)) {
            Some(Moved::Over) => drop(self.relays.remove(&id)),
            Some(Moved::Some) => self.moving.push(id),
            Some(Moved::All) | None => {}
        }
    }
}

/// The gate of a profile.
fn gate<'a>(gates: &'a mut [Gate], name: &str) -> Option<&'a mut Gate> {
    gates.iter_mut().find(|gate| gate.name == name)
}

/// What a client is told of an error.
fn reply(error: &Error) -> Reply {
    match error.kind() {
        Some(io::ErrorKind::ConnectionRefused) => Reply::Refused,
        Some(io::ErrorKind::TimedOut) => Reply::TimedOut,
        Some(io::ErrorKind::HostUnreachable) => Reply::HostUnreachable,
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable) => Reply::NetworkUnreachable,
        Some(io::ErrorKind::PermissionDenied) => Reply::NotAllowed,
        _ => Reply::Failed,
    }
}
