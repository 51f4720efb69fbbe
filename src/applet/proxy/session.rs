//! Sessions of clients that are not connected yet: sockets, deadlines and held locks.

use super::by_id::ById;
use super::client::{Client, ClientAction};
use super::socks::{LONGEST, WELCOME};
use crate::sys::clock::sooner;
use crate::tunnel::{Race, Turn};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::time::Instant;

/// How many reads of a refused client's bytes are discarded before other clients get their turn.
const DRAINS: usize = 16;

/// A client with its socket.
pub struct Session {
    /// The state that decides what to do.
    pub client: Client,
    /// The connection to the client.
    pub stream: TcpStream,
    /// The client's address.
    pub source: IpAddr,
    /// The index of the queue that it has joined.
    pub queue: Option<usize>,
    /// The knock lock, until the race has it.
    pub turn: Option<Turn>,
    /// The race to connect, and when to run it again.
    pub race: Option<(Box<Race>, Instant)>,
    /// The connection to the server, until the relay has it.
    pub server: Option<TcpStream>,
}

impl Session {
    /// Creates a session for a client that has just connected from `source`.
    pub fn new(client: Client, stream: TcpStream, source: IpAddr) -> Box<Self> {
        Box::new(Self { client, stream, source, queue: None, turn: None, race: None, server: None })
    }

    /// Returns when the session must act without an event.
    fn deadline(&self) -> Instant {
        self.race.as_ref().map_or(self.client.deadline(), |(_, due)| *due)
    }

    /// Passes the bytes that have arrived to the client state, and consumes only those that it uses.
    pub fn parse(&mut self, ended: bool, full: bool) -> ClientAction {
        let mut buffer = [0; LONGEST];
        let bytes = match self.stream.peek(&mut buffer) {
            Ok(length) => buffer.get(..length).unwrap_or_default(),
            Err(_) if ended => return ClientAction::Close,
            Err(_) => return ClientAction::Wait,
        };
        let (taken, action) = self.client.parse(bytes, ended, full, Instant::now());
        let _ = self.stream.read(buffer.get_mut(..taken).unwrap_or_default());
        action
    }

    /// Accepts a greeting.
    pub fn welcome(&mut self) {
        // A new socket always has room for two bytes.
        let _ = self.stream.write(&WELCOME);
    }

    /// Sends the final reply. Returns whether to wait until the client closes.
    pub fn leave(&mut self, reply: &[u8]) -> bool {
        let sent = self.stream.write_all(reply).and_then(|()| self.stream.shutdown(Shutdown::Write));
        sent.is_ok() && self.drain()
    }

    /// Reads and discards what the client still sends. Returns whether more may come.
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

/// All sessions by number.
#[derive(Default)]
pub struct Sessions {
    sessions: ById<Box<Session>>,
    /// The number of idle clients.
    idle: usize,
}

impl Sessions {
    /// Returns the number of sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Returns the number of sessions with clients that are not idle.
    pub fn busy(&self) -> usize {
        self.sessions.len() - self.idle
    }

    /// Removes a session to work on it.
    pub fn take(&mut self, id: u64) -> Option<Box<Session>> {
        let session = self.sessions.remove(id)?;
        self.idle -= usize::from(session.client.is_idle());
        Some(session)
    }

    /// Closes the oldest idle session. An honest client sends its request at once.
    pub fn close_oldest_idle(&mut self) {
        let idle = self.sessions.iter().find(|(_, session)| session.client.is_idle());
        if let Some(&(id, _)) = idle {
            drop(self.take(id));
        }
    }

    /// Adds a session, or puts it back.
    pub fn keep(&mut self, id: u64, session: Box<Session>) {
        self.idle += usize::from(session.client.is_idle());
        self.sessions.insert(id, session);
    }

    /// Returns the next deadline.
    pub fn due(&self) -> Option<Instant> {
        self.sessions.iter().map(|(_, session)| Some(session.deadline())).fold(None, sooner)
    }

    /// Returns the sessions whose deadlines have passed.
    pub fn expired(&self, now: Instant) -> Vec<u64> {
        let mut expired = Vec::new();
        for (id, session) in self.sessions.iter() {
            if session.deadline() <= now {
                expired.push(*id);
            }
        }
        expired
    }
}
