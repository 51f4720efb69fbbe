//! The proxy's one loop: every client is at some stage of client, or it is relayed.

use super::address_cache::AddressCache;
use super::resolver::{Question, Resolved, Resolver};
use super::socks::{self, Failure, Hello, Host, LONGEST, Reply, SocksRequest, Version, WELCOME};
use crate::error::Error;
use crate::knocker::Knocker;
use crate::profile::{Found, Profile};
use crate::say;
use crate::sys::epoll::{Epoll, Event};
use crate::sys::tcp;
use crate::tunnel::{self, KnockLock, KnockSetup, Moved, Progress, Race, Relay, Side, Spares};
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
/// How often to look whether another program has left the knock lock, and how long at most.
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client that was refused may take to close: closing first could lose our last words.
const LEAVING: Duration = Duration::from_secs(2);
/// How long not to accept anybody, where the system has no descriptor for it.
const REST: Duration = Duration::from_secs(1);
/// How many may be client besides those that are being connected.
const ASKERS: usize = 256;

/// What the epoll tells of beside clients, who have the numbers from 1.
const LISTENER: u64 = 0;
const BELL: u64 = 1;

/// The program's state.
pub struct EventLoop {
    listener: TcpListener,
    knocker: Rc<Knocker>,
    directory: PathBuf,
    /// The most connections at once.
    most: usize,
    /// Whether to connect to hosts with profiles only.
    profiles_only: bool,
    epoll: Epoll,
    client: HashMap<u64, Box<Client>>,
    relays: HashMap<u64, Box<Relay>>,
    last: u64,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    queues: Vec<Queue>,
    /// Gates that somebody has left.
    free: Vec<String>,
    /// Relays with something to move.
    moving: Vec<u64>,
    spares: Spares,
    resolver: Resolver,
    /// Who waits for the addresses of a name.
    named: Vec<(String, u64)>,
    address_cache: AddressCache,
    /// Who waits for the address_cache.
    readers: Vec<u64>,
    /// Somebody may be waiting to be accepted.
    knocked: bool,
    resting: Option<Instant>,
    full: bool,
}

/// A client that is not connected yet.
struct Client {
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
    /// It is being connected; through a queue, where there is a profile.
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

/// A profile's knock lock and the clients in front of it.
struct Queue {
    name: String,
    knock_lock: KnockLock,
    waiting: VecDeque<u64>,
    passing: bool,
}

impl Client {
    /// Its stage, which it leaves.
    fn take(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Leaving)
    }
}

impl EventLoop {
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
            address_cache: AddressCache::new(directory.clone()),
            directory,
            most,
            profiles_only,
            epoll,
            client: HashMap::new(),
            relays: HashMap::new(),
            last: 0,
            timers: BinaryHeap::new(),
            queues: Vec::new(),
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
        } else if let Some(client) = self.client.remove(&id) {
            match (&client.stage, side) {
                (Stage::Hello | Stage::Request, _) => self.hear(id, client, event.ended),
                (Stage::Leaving, _) => self.wait_for_end(id, client),
                (Stage::Racing(..), Side::Server) => self.race(id, client),
                // Who closes before there is an answer is gone, and no knock is spent on it.
                _ if event.ended => self.refuse(id, client, Reply::Failed),
                _ => self.keep(id, client),
            }
        }
    }

    /// Accepts whoever there is, as long as there is room.
    fn accept(&mut self) {
        while self.knocked && self.client.len() + self.relays.len() < self.most + ASKERS {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.last += 1;
                    let added = stream.set_nonblocking(true).and_then(|()| self.epoll.add(&stream, self.last << 1));
                    if added.is_ok() {
                        let deadline = Instant::now() + ASKING;
                        let (version, stage) = (Version::Five, Stage::Hello);
                        self.keep(self.last, Box::new(Client { stream, version, stage, deadline, timed: None }));
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

    fn keep(&mut self, id: u64, mut client: Box<Client>) {
        if client.timed != Some(client.deadline) {
            client.timed = Some(client.deadline);
            self.timers.push(Reverse((client.deadline, id)));
        }
        self.client.insert(id, client);
    }

    /// The time at which something is to be done; timers that no longer count are dropped.
    fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if self.client.get(&id).is_some_and(|client| client.deadline == at) {
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
            let Some(mut client) = self.client.remove(&id) else { continue };
            client.timed = None;
            match client.take() {
                Stage::Leaving => {}
                Stage::Hello | Stage::Request => self.leave(id, client, &[]),
                Stage::Naming { .. } => self.refuse(id, client, Reply::HostUnreachable),
                Stage::Locating(addresses) => self.decide(id, client, addresses),
                Stage::Waiting(errand) => {
                    self.free.push(errand.found.name.clone());
                    client.deadline = errand.since + PATIENCE;
                    if client.deadline <= now {
                        self.refuse(id, client, Reply::TimedOut);
                    } else {
                        client.stage = Stage::Waiting(errand);
                        self.keep(id, client);
                    }
                }
                Stage::Racing(queue, race) => {
                    client.stage = Stage::Racing(queue, race);
                    self.race(id, client);
                }
            }
        }
    }

    /// Reads a client's messages, and nothing behind them: that is the server's.
    fn hear(&mut self, id: u64, mut client: Box<Client>, ended: bool) {
        let mut buffer = [0; LONGEST];
        while let Ok(length) = client.stream.peek(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default();
            let parsed = match client.stage {
                Stage::Hello => socks::hello(bytes),
                _ => socks::request(bytes).map(|(request, length)| (Hello::Asked(request), length)),
            };
            match parsed {
                Err(Failure::Short) => break,
                Err(Failure::Refused(words)) => return self.leave(id, client, &words),
                Ok((hello, length)) => {
                    let _ = client.stream.read(buffer.get_mut(..length).unwrap_or_default());
                    match hello {
                        Hello::Asked(request) => {
                            client.version = request.version;
                            return if ended {
                                self.refuse(id, client, Reply::Failed)
                            } else {
                                self.name(id, client, request)
                            };
                        }
                        Hello::Five => {
                            let _ = client.stream.write(&WELCOME);
                            client.stage = Stage::Request;
                        }
                    }
                }
            }
        }
        if !ended {
            self.keep(id, client);
        }
    }

    /// Finds out the addresses of the host.
    fn name(&mut self, id: u64, mut client: Box<Client>, request: SocksRequest) {
        let full = self.client.len() + self.relays.len() >= self.most;
        if full && !self.full {
            say::warn(format_args!("there are {} connections: others are refused", self.most));
        }
        self.full = full;
        match request {
            _ if full => self.refuse(id, client, Reply::Failed),
            SocksRequest { port: 0, .. } => self.refuse(id, client, Reply::Refused),
            SocksRequest { host: Host::Address(address), port, .. } => {
                self.locate(id, client, &address.to_string(), vec![SocketAddr::new(address, port)]);
            }
            SocksRequest { host: Host::Name(name), port, .. } => {
                client.stage = Stage::Naming { port };
                client.deadline = Instant::now() + NAMING;
                self.keep(id, client);
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
                Resolved::Host(name, addresses) => {
                    let named = std::mem::take(&mut self.named).into_iter();
                    let (these, others): (Vec<_>, Vec<_>) = named.partition(|(asked, _)| *asked == name);
                    self.named = others;
                    for (_, id) in these {
                        self.named(id, &name, &addresses);
                    }
                }
                Resolved::Profiles(found) => {
                    self.address_cache.fill(found);
                    for id in std::mem::take(&mut self.readers) {
                        let Some(mut client) = self.client.remove(&id) else { continue };
                        match client.take() {
                            Stage::Locating(addresses) => self.decide(id, client, addresses),
                            stage => {
                                client.stage = stage;
                                self.keep(id, client);
                            }
                        }
                    }
                }
            }
        }
    }

    fn named(&mut self, id: u64, name: &str, addresses: &[SocketAddr]) {
        let Some(mut client) = self.client.remove(&id) else { return };
        match client.take() {
            Stage::Naming { .. } if addresses.is_empty() => self.refuse(id, client, Reply::HostUnreachable),
            Stage::Naming { port } => {
                let mut addresses = addresses.to_vec();
                addresses.iter_mut().for_each(|address| address.set_port(port));
                self.locate(id, client, name, addresses);
            }
            stage => {
                client.stage = stage;
                self.keep(id, client);
            }
        }
    }

    /// Finds out whether there is a profile: by the host's name, or by its addresses.
    fn locate(&mut self, id: u64, mut client: Box<Client>, host: &str, addresses: Vec<SocketAddr>) {
        match tunnel::find(&self.directory, host) {
            Ok(Some(found)) => return self.line_up(id, client, found, addresses),
            Ok(None) => {}
            Err(error) => return self.fail(id, client, &error),
        }
        if let Some(question) = self.address_cache.read() {
            self.resolver.ask(question);
        }
        if self.address_cache.is_usable() {
            return self.decide(id, client, addresses);
        }
        client.stage = Stage::Locating(addresses);
        client.deadline = Instant::now() + LOCATING;
        self.keep(id, client);
        self.readers.push(id);
    }

    /// Goes by what the address_cache says.
    fn decide(&mut self, id: u64, client: Box<Client>, addresses: Vec<SocketAddr>) {
        match self
            .address_cache
            .find(&addresses)
            .map(|(name, addresses)| (tunnel::find(&self.directory, name), addresses))
        {
            Some((Ok(Some(found)), addresses)) => self.line_up(id, client, found, addresses),
            Some((Err(error), _)) => self.fail(id, client, &error),
            _ if self.profiles_only => self.refuse(id, client, Reply::NotAllowed),
            _ => self.set_out(id, client, None, Race::new(&addresses, None)),
        }
    }

    /// Waits for a turn, where the port is one to knock for.
    fn line_up(&mut self, id: u64, mut client: Box<Client>, found: Found, addresses: Vec<SocketAddr>) {
        let port = addresses.first().map_or(0, SocketAddr::port);
        match tunnel::opens(&found, port) {
            Err(error) => self.fail(id, client, &error),
            Ok(false) => self.set_out(id, client, None, Race::new(&addresses, None)),
            Ok(true) => {
                let since = Instant::now();
                let name = found.name.clone();
                match queue(&mut self.queues, &name) {
                    Some(queue) => queue.waiting.push_back(id),
                    None => self.queues.push(Queue {
                        name: name.clone(),
                        knock_lock: KnockLock::new(&found),
                        waiting: VecDeque::from([id]),
                        passing: false,
                    }),
                }
                self.free.push(name);
                client.stage = Stage::Waiting(Errand { found, addresses, since });
                client.deadline = since + PATIENCE;
                self.keep(id, client);
            }
        }
    }

    /// Lets the next one through a queue.
    fn admit(&mut self, name: &str) {
        while let Some(queue) = queue(&mut self.queues, name).filter(|queue| !queue.passing) {
            let Some(&id) = queue.waiting.front() else { return };
            let Some(mut client) = self.client.remove(&id) else {
                queue.waiting.pop_front();
                continue;
            };
            let errand = match client.take() {
                Stage::Waiting(errand) => errand,
                // It is gone.
                stage => {
                    queue.waiting.pop_front();
                    client.stage = stage;
                    self.keep(id, client);
                    continue;
                }
            };
            let turn = match queue.knock_lock.try_lock() {
                Ok(Some(turn)) => turn,
                Ok(None) => {
                    client.stage = Stage::Waiting(errand);
                    client.deadline = Instant::now() + LOOK;
                    return self.keep(id, client);
                }
                // It was said when the back-off began.
                Err(error) => {
                    queue.waiting.pop_front();
                    self.refuse(id, client, reply(&error));
                    continue;
                }
            };
            queue.waiting.pop_front();
            match Profile::load(&errand.found) {
                Err(error) => self.fail(id, client, &error),
                Ok(profile) => {
                    queue.passing = true;
                    let (knocker, first_delay) = (Rc::clone(&self.knocker), queue.knock_lock.first_delay());
                    let race = Race::new(&errand.addresses, Some(KnockSetup { knocker, profile, turn, first_delay }));
                    self.set_out(id, client, Some(name.to_owned()), race);
                }
            }
        }
    }

    fn set_out(&mut self, id: u64, mut client: Box<Client>, queue: Option<String>, race: Race) {
        client.stage = Stage::Racing(queue, Box::new(race));
        self.race(id, client);
    }

    /// Goes on connecting.
    fn race(&mut self, id: u64, mut client: Box<Client>) {
        let Stage::Racing(name, race) = &mut client.stage else { return self.keep(id, client) };
        let knock_lock = name.as_ref().and_then(|name| Some(&mut queue(&mut self.queues, name)?.knock_lock));
        match race.run(&self.epoll, id << 1 | 1) {
            Progress::Running(until) => {
                client.deadline = until;
                self.keep(id, client);
            }
            Progress::Won(server, first) => {
                if let Some(knock_lock) = knock_lock {
                    knock_lock.passed(first);
                }
                self.leave_gate(client.take());
                let words = socks::answer(client.version, Reply::Succeeded, server.local_addr().ok());
                if client.stream.write_all(&words).is_ok() {
                    self.relays.insert(id, Box::new(Relay::new(client.stream, server)));
                    self.moving.push(id);
                }
            }
            Progress::Lost(error) => {
                if let Some(knock_lock) = knock_lock.filter(|_| race.knocks() > 0) {
                    knock_lock.unanswered();
                }
                if name.is_some() && error.kind() != Some(io::ErrorKind::NetworkUnreachable) {
                    say::error(&error);
                }
                self.refuse(id, client, reply(&error));
            }
        }
    }

    fn leave_gate(&mut self, stage: Stage) {
        let name = match stage {
            Stage::Racing(Some(name), _) => {
                if let Some(queue) = queue(&mut self.queues, &name) {
                    queue.passing = false;
                }
                name
            }
            // While another program has the knock_lock, it may have been the only one that looked.
            Stage::Waiting(errand) => errand.found.name,
            _ => return,
        };
        self.free.push(name);
    }

    /// Refuses for a reason that the proxy's owner has to look at.
    fn fail(&mut self, id: u64, client: Box<Client>, error: &Error) {
        say::error(error);
        self.refuse(id, client, Reply::Failed);
    }

    fn refuse(&mut self, id: u64, client: Box<Client>, reply: Reply) {
        let words = socks::answer(client.version, reply, None);
        self.leave(id, client, &words);
    }

    /// Says the last words, and waits until they are heard.
    fn leave(&mut self, id: u64, mut client: Box<Client>, words: &[u8]) {
        let stage = client.take();
        self.leave_gate(stage);
        let said = client.stream.write_all(words).is_ok();
        if said && client.stream.shutdown(Shutdown::Write).is_ok() {
            client.deadline = Instant::now() + LEAVING;
            self.wait_for_end(id, client);
        }
    }

    /// What a client still sends would make the kernel answer with a reset, which overtakes our words.
    fn wait_for_end(&mut self, id: u64, mut client: Box<Client>) {
        let mut buffer = [0; 4096];
        for _ in 0..16 {
            match client.stream.read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.keep(id, client),
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

/// The queue of a profile.
fn queue<'a>(queues: &'a mut [Queue], name: &str) -> Option<&'a mut Queue> {
    queues.iter_mut().find(|queue| queue.name == name)
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
