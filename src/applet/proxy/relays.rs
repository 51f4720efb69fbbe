//! The relays of connected clients.

use super::by_id::ById;
use crate::say;
use crate::sys::epoll::EpollEvent;
use crate::tunnel::{Moved, REFUSAL_SHOWS, Relay, Side, SparePipes};
use std::collections::VecDeque;
use std::net::TcpStream;
use std::time::Instant;

/// All relays by their session numbers.
#[derive(Default)]
pub struct Relays {
    relays: ById<Box<Relay>>,
    /// Relays that may have bytes to move.
    moving: Vec<u64>,
    spares: SparePipes,
    /// Relays whose connection began with a knock, and when to check them for a refusal.
    watched: VecDeque<(Instant, u64)>,
}

impl Relays {
    /// Returns the number of relays.
    pub fn len(&self) -> usize {
        self.relays.len()
    }

    /// Adds a relay between a client and a server. `knocked` means that the connection began with a knock.
    pub fn add(&mut self, id: u64, client: TcpStream, server: TcpStream, knocked: bool) {
        self.relays.insert(id, Box::new(Relay::new(client, server)));
        self.moving.push(id);
        if knocked {
            self.watched.push_back((Instant::now() + REFUSAL_SHOWS, id));
        }
    }

    /// Records an epoll event of one side. Returns whether the relay exists.
    pub fn note(&mut self, id: u64, side: Side, event: EpollEvent) -> bool {
        let relay = self.relays.get_mut(&id);
        let found = relay.map(|relay| relay.note(side, event)).is_some();
        if found {
            self.moving.push(id);
        }
        found
    }

    /// Returns when to call [`Relays::run`] without an event.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.moving.is_empty() { self.watched.front().map(|(at, _)| *at) } else { Some(now) }
    }

    /// Moves available bytes, and closes connections that their server has refused.
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
