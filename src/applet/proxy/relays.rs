//! The connected clients.

use crate::say;
use crate::sys::epoll::Event;
use crate::tunnel::{Moved, REFUSAL_SHOWS, Relay, Side, SparePipes};
use std::collections::{HashMap, VecDeque};
use std::net::TcpStream;
use std::time::Instant;

/// All relays by the numbers that they had as sessions.
#[derive(Default)]
pub struct Relays {
    relays: HashMap<u64, Box<Relay>>,
    /// The relays that may have bytes to move.
    moving: Vec<u64>,
    spares: SparePipes,
    /// The relays behind a knock, and when a refusal shows.
    watched: VecDeque<(Instant, u64)>,
}

impl Relays {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.relays.len()
    }

    /// Relays between a client and a server from now on. `knocked`: the connection needed an opening.
    pub fn add(&mut self, id: u64, client: TcpStream, server: TcpStream, knocked: bool) {
        self.relays.insert(id, Box::new(Relay::new(client, server)));
        self.moving.push(id);
        if knocked {
            self.watched.push_back((Instant::now() + REFUSAL_SHOWS, id));
        }
    }

    /// Records an epoll event of one side; whether there is such a relay.
    pub fn note(&mut self, id: u64, side: Side, event: Event) -> bool {
        let relay = self.relays.get_mut(&id);
        let found = relay.map(|relay| relay.note(side, event)).is_some();
        if found {
            self.moving.push(id);
        }
        found
    }

    /// When to call [`Relays::run`] without an event.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.moving.is_empty() { self.watched.front().map(|(at, _)| *at) } else { Some(now) }
    }

    /// Moves bytes where there may be some, and ends the connections that their servers have refused.
    pub fn run(&mut self) {
        let now = Instant::now();
        while let Some(&(_, id)) = self.watched.front().filter(|(at, _)| *at <= now) {
            self.watched.pop_front();
            if let Some(error) = self.relays.get(&id).and_then(|relay| relay.refusal()) {
                say::error(&error);
                self.relays.remove(&id).iter().for_each(|relay| relay.reset());
            }
        }
        let mut moving = std::mem::take(&mut self.moving);
        moving.sort_unstable();
        moving.dedup();
        for id in moving {
            match self.relays.get_mut(&id).map(|relay| relay.run(&mut self.spares)) {
                Some(Moved::Over) => drop(self.relays.remove(&id)),
                Some(Moved::Some) => self.moving.push(id),
                Some(Moved::All) | None => {}
            }
        }
    }
}
