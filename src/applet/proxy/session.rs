//! The clients that are not connected yet: their sockets, their deadlines, and what is held for them.

use super::client::{Client, ClientAction};
use super::socks::{LONGEST, WELCOME};
use crate::tunnel::{Race, Turn};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::Instant;

/// How often a refused client's bytes are read and dropped before the other clients go on.
const DRAINS: usize = 16;
/// How many outdated timers are left alone, besides one for each session.
const SPARE_TIMERS: usize = 1024;

/// A client with its socket.
pub struct Session {
    /// Decides what to do.
    pub client: Client,
    /// The connection to the client.
    pub stream: TcpStream,
    /// The client's address.
    pub source: IpAddr,
    /// The index of the queue that it stands in.
    pub queue: Option<usize>,
    /// The knock lock, until the race has it.
    pub turn: Option<Turn>,
    /// The attempts to connect, and when they go on.
    pub race: Option<(Box<Race>, Instant)>,
    /// The connection to the server, until the relay has it.
    pub server: Option<TcpStream>,
    /// The deadline that there is a timer for.
    timer: Option<Instant>,
}

impl Session {
    /// A client that has just connected by `stream` from `source`.
    pub fn new(client: Client, stream: TcpStream, source: IpAddr) -> Self {
        Self { client, stream, source, queue: None, turn: None, race: None, server: None, timer: None }
    }

    /// When there is something to do without an event.
    fn deadline(&self) -> Instant {
        self.race.as_ref().map_or(self.client.deadline(), |(_, due)| *due)
    }

    /// Shows the client what it has sent, and reads no more of it than the client takes.
    pub fn hear(&mut self, ended: bool, full: bool) -> ClientAction {
        let mut buffer = [0; LONGEST];
        let bytes = match self.stream.peek(&mut buffer) {
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(_) if ended => return ClientAction::Close,
            Err(_) => return ClientAction::Wait,
        };
        let (taken, action) = self.client.hear(bytes, ended, full, Instant::now());
        let _ = self.stream.read(buffer.get_mut(..taken).unwrap_or_default());
        action
    }

    /// Answers a greeting.
    pub fn welcome(&mut self) {
        // So few bytes always find room in a fresh socket.
        let _ = self.stream.write(&WELCOME);
    }

    /// Sends the last words, and reports whether to wait until the client closes.
    pub fn leave(&mut self, words: &[u8]) -> bool {
        let said = self.stream.write_all(words).and_then(|()| self.stream.shutdown(Shutdown::Write));
        said.is_ok() && self.drain()
    }

    /// Reads and drops what the client still sends; whether it may send more.
    pub fn drain(&mut self) -> bool {
        let mut buffer = [0; 4096];
        for _ in 0..DRAINS {
            match self.stream.read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                _ => return false,
            }
        }
        false
    }
}

/// All sessions by their numbers, with a timer for each.
#[derive(Default)]
pub struct Sessions {
    sessions: HashMap<u64, Box<Session>>,
    /// The deadlines. One that is no longer its session's is dropped when it is the first.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    /// How many have an idle client.
    idle: usize,
}

impl Sessions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// How many there are whose clients are not idle.
    pub fn busy(&self) -> usize {
        self.sessions.len() - self.idle
    }

    /// Takes a session out to work on it.
    pub fn take(&mut self, id: u64) -> Option<Box<Session>> {
        let session = self.sessions.remove(&id)?;
        self.idle -= usize::from(session.client.is_idle());
        Some(session)
    }

    /// Closes the oldest one whose client is idle: a client that has something to ask does so at once.
    pub fn close_oldest_idle(&mut self) {
        let idle = self.sessions.iter().filter(|(_, session)| session.client.is_idle());
        if let Some(&id) = idle.map(|(id, _)| id).min() {
            drop(self.take(id));
        }
    }

    /// Puts a session in, or back.
    pub fn keep(&mut self, id: u64, mut session: Box<Session>) {
        let deadline = session.deadline();
        if session.timer != Some(deadline) {
            session.timer = Some(deadline);
            self.timers.push(Reverse((deadline, id)));
        }
        self.idle += usize::from(session.client.is_idle());
        self.sessions.insert(id, session);
        // Clients that leave early leave their timers behind.
        let Self { sessions, timers, .. } = self;
        if timers.len() > 2 * sessions.len() + SPARE_TIMERS {
            timers.retain(|Reverse((at, id))| sessions.get(id).is_some_and(|session| session.deadline() == *at));
        }
    }

    /// The next deadline, and whose it is.
    pub fn next_timer(&mut self) -> Option<(Instant, u64)> {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if self.sessions.get(&id).is_some_and(|session| session.deadline() == at) {
                return Some((at, id));
            }
            self.timers.pop();
        }
        None
    }
}
