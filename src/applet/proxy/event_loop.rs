//! The proxy's event loop: it reads, asks `client` or `queue` for a decision, and carries it out.

use super::acceptor::Acceptor;
use super::client::{Client, ClientAction, ClientEvent};
use super::error_log::ErrorLog;
use super::hosts::Hosts;
use super::relays::Relays;
use super::session::{Session, Sessions};
use super::socks::Reply;
use super::turns::Turns;
use crate::error::{Error, Result};
use crate::knocker::Knocker;
use crate::profile::Profile;
use crate::sys::clock::sooner;
use crate::sys::epoll::{Epoll, EpollEvent};
use crate::tunnel::{KnockSetup, Progress, Race, Side};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

/// How many more clients may send requests while all connections are in use.
const EXTRA_CLIENTS: usize = 256;
/// How many clients are accepted at once. This is far below the limit, so that no client is closed as idle before its
/// request was read.
const ACCEPTS: usize = 64;

/// The epoll tokens of the listener and the resolver. The token of a client's socket is twice its session number, which
/// starts at 1. The token of its connection to the server is one higher.
const LISTENER: u64 = 0;
const RESOLVER: u64 = 1;

/// The proxy's settings from the command line.
pub struct ProxyRules {
    /// The directory of the profiles.
    pub directory: PathBuf,
    /// The maximum number of connections.
    pub most: usize,
    /// Whether to connect only to hosts with profiles.
    pub profiles_only: bool,
}

/// The state of the running proxy.
pub struct EventLoop {
    most: usize,
    profiles_only: bool,
    knocker: Rc<Knocker>,
    epoll: Epoll,
    acceptor: Acceptor,
    hosts: Box<Hosts>,
    errors: ErrorLog,
    /// Whether it has been logged that all connections are in use.
    full: bool,
    sessions: Sessions,
    last_session: u64,
    turns: Turns,
    relays: Relays,
}

impl EventLoop {
    /// Creates a proxy for the clients of `listener`.
    pub fn new(listener: TcpListener, knocker: Rc<Knocker>, rules: ProxyRules) -> Result<Self> {
        let ProxyRules { directory, most, profiles_only } = rules;
        let hosts = Hosts::new(directory, profiles_only)?;
        let waiting = || {
            let (epoll, acceptor) = (Epoll::new()?, Acceptor::new(listener));
            epoll.add(acceptor.listener(), LISTENER)?;
            epoll.add(hosts.wakeup(), RESOLVER)?;
            Ok((epoll, acceptor))
        };
        let (epoll, acceptor) = waiting().map_err(|cause| Error::system("wait for connections", cause))?;
        Ok(Self {
            most,
            profiles_only,
            knocker,
            epoll,
            acceptor,
            hosts,
            errors: ErrorLog::default(),
            full: false,
            sessions: Sessions::default(),
            last_session: 0,
            turns: Turns::default(),
            relays: Relays::default(),
        })
    }

    /// Serves clients forever. It sleeps while nothing happens.
    pub fn serve(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.accept();
            let until = self.next_deadline();
            self.epoll.wait(&mut ready, until)?;
            for event in &ready {
                self.dispatch(*event);
            }
            self.expire();
            self.relays.run();
            self.give_turns();
            self.hosts.resolve();
        }
    }

    fn dispatch(&mut self, event: EpollEvent) {
        let id = event.token >> 1;
        let side = if event.token & 1 == 0 { Side::Client } else { Side::Server };
        if event.token == LISTENER {
            self.acceptor.set_ready();
        } else if event.token == RESOLVER {
            for (id, event) in self.hosts.answers() {
                self.tell(id, event);
            }
        } else if self.relays.record(id, side, event) {
            // It runs after all events have been recorded.
        } else if side == Side::Client {
            self.tell(id, ClientEvent::Readable { ended: event.ended });
        } else if let Some(session) = self.sessions.take(id) {
            self.race(id, session);
        }
    }

    /// Returns whether another client can be accepted.
    fn has_room(&self) -> bool {
        self.sessions.busy() + self.relays.len() < self.most + EXTRA_CLIENTS
    }

    /// Accepts some clients. If necessary it closes an idle one to make room.
    fn accept(&mut self) {
        for _ in 0..ACCEPTS {
            let Some((stream, source)) = self.has_room().then(|| self.acceptor.accept()).flatten() else { return };
            if self.sessions.len() + self.relays.len() >= self.most + EXTRA_CLIENTS {
                self.sessions.close_oldest_idle();
            }
            self.last_session += 1;
            let id = self.last_session;
            if self.epoll.add(&stream, id << 1).is_ok() {
                let client = Client::new(self.profiles_only, Instant::now());
                self.sessions.keep(id, Session::new(client, stream, source));
            }
        }
    }

    /// Returns the time of the next action without an event.
    fn next_deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let accept = self.acceptor.due(now).filter(|_| self.has_room());
        let clients = sooner(self.sessions.due(), self.relays.due(now));
        let waiting = sooner(self.turns.due(now), self.hosts.due(now));
        sooner(sooner(clients, waiting), sooner(accept, self.errors.due()))
    }

    fn expire(&mut self) {
        let now = Instant::now();
        self.errors.summarise(now);
        for id in self.sessions.expired(now) {
            match self.sessions.take(id) {
                Some(session) if session.race.is_some() => self.race(id, session),
                Some(session) => self.proceed(id, session, ClientEvent::Expired),
                None => {}
            }
        }
    }

    fn tell(&mut self, id: u64, event: ClientEvent) {
        if let Some(session) = self.sessions.take(id) {
            self.proceed(id, session, event);
        }
    }

    /// Passes an event to a client and performs its actions until it waits for another event.
    fn proceed(&mut self, id: u64, mut session: Box<Session>, event: ClientEvent) {
        let mut action = session.client.on(event, Instant::now());
        loop {
            let event = match action {
                ClientAction::Wait => return self.sessions.keep(id, session),
                ClientAction::Parse { ended } => {
                    action = session.parse(ended, self.is_full());
                    continue;
                }
                ClientAction::Welcome { ended } => {
                    session.welcome();
                    action = ClientAction::Parse { ended };
                    continue;
                }
                ClientAction::Resolve => match self.hosts.look_up(id, session.source, &session.client.host) {
                    Ok(()) => return self.sessions.keep(id, session),
                    Err(error) => self.errors.failed(&error),
                },
                ClientAction::FindProfile { wait } => {
                    let Client { host, addresses, .. } = &mut session.client;
                    let found = self.hosts.find_profile(id, host, addresses, wait);
                    found.unwrap_or_else(|error| self.errors.failed(&error))
                }
                ClientAction::JoinQueue => {
                    session.queue = session.client.found.as_ref().and_then(|found| self.turns.join(id, found));
                    match session.queue {
                        Some(_) => return self.sessions.keep(id, session),
                        None => ClientEvent::Failed(Reply::Failed),
                    }
                }
                ClientAction::Connect => match self.start_race(&mut session) {
                    Ok(()) => return self.race(id, session),
                    Err(error) => self.errors.failed(&error),
                },
                ClientAction::Relay(reply) => {
                    self.release(id, &mut session);
                    let Session { mut stream, server: Some(server), .. } = *session else { return };
                    if stream.write_all(&reply).is_ok() {
                        self.relays.add(id, stream, server);
                    }
                    return;
                }
                ClientAction::Leave(reply) => {
                    self.release(id, &mut session);
                    if session.leave(&reply) {
                        self.sessions.keep(id, session);
                    }
                    return;
                }
                ClientAction::Drain => {
                    if session.drain() {
                        self.sessions.keep(id, session);
                    }
                    return;
                }
                ClientAction::Close => return,
            };
            action = session.client.on(event, Instant::now());
        }
    }

    /// Returns whether all connections are in use, and logs each time they become so.
    fn is_full(&mut self) -> bool {
        let full = self.sessions.busy() + self.relays.len() >= self.most;
        if full && !self.full {
            let why = format!("all {} connections are in use: further clients are refused", self.most);
            self.errors.log(&Error::refused(why));
        }
        self.full = full;
        full
    }

    /// Releases what a client holds once it is connected or refused.
    fn release(&mut self, id: u64, session: &mut Session) {
        self.hosts.leave(id);
        let knocks = session.race.as_ref().map_or(0, |(race, _)| race.knocks());
        // Release the lock first, or the next client would find it taken.
        (session.turn, session.race) = (None, None);
        if let Some(queue) = self.turns.queue(session.queue.take()) {
            queue.leave(id, knocks, Instant::now());
        }
    }

    fn give_turns(&mut self) {
        while let Some((id, index, turn)) = self.turns.next(&mut self.errors, Instant::now()) {
            match (self.sessions.take(id), turn) {
                (Some(mut session), Ok(turn)) => {
                    session.turn = Some(turn);
                    self.proceed(id, session, ClientEvent::Turn);
                }
                (Some(session), Err(event)) => self.proceed(id, session, event),
                (None, _) => {
                    if let Some(queue) = self.turns.queue(Some(index)) {
                        queue.leave(id, 0, Instant::now());
                    }
                }
            }
        }
    }

    /// Starts connecting, with a knock if there is a profile.
    fn start_race(&mut self, session: &mut Session) -> Result<()> {
        let mut setup = None;
        let queue = self.turns.queue(session.queue);
        if let (Some(found), Some(turn), Some(queue)) = (&session.client.found, session.turn.take(), queue) {
            let (profile, first_delay) = (Profile::load(found)?, queue.begin_turn());
            setup = Some(KnockSetup { knocker: Rc::clone(&self.knocker), profile, turn, first_delay });
        }
        session.race = Some((Race::new(&session.client.addresses, setup), Instant::now()));
        Ok(())
    }

    /// Continues connecting.
    fn race(&mut self, id: u64, mut session: Box<Session>) {
        let Some((race, due)) = &mut session.race else { return self.sessions.keep(id, session) };
        let queue = self.turns.queue(session.queue);
        let event = match race.run(&self.epoll, id << 1 | 1) {
            Progress::Running(until) => {
                *due = until;
                return self.sessions.keep(id, session);
            }
            Progress::Won(server, first) => {
                if let Some(queue) = queue {
                    queue.won(first);
                }
                let local = server.local_addr().ok();
                session.server = Some(server);
                ClientEvent::Connected(local)
            }
            Progress::Lost(error) => {
                if let Some(queue) = queue {
                    if race.knocks() > 0 {
                        queue.lost(race.knocks(), Instant::now());
                    }
                    if error.kind() != Some(io::ErrorKind::NetworkUnreachable) {
                        self.errors.log(&error);
                    }
                }
                ClientEvent::Failed(reply(&error))
            }
        };
        self.proceed(id, session, event);
    }
}

/// Maps an error to a SOCKS reply.
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
