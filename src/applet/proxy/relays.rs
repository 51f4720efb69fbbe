//! The relays of connected clients.

use super::by_id::ById;
use crate::sys::epoll::EpollEvent;
use crate::tunnel::{Moved, Relay, Side, SparePipes};
use std::net::TcpStream;
use std::time::Instant;

/// All relays by their session numbers.
#[derive(Default)]
pub struct Relays {
    relays: ById<Box<Relay>>,
    /// Relays that may have bytes to move, in ascending order.
    moving: Vec<u64>,
    spares: SparePipes,
}

impl Relays {
    /// Returns the number of relays.
    pub fn len(&self) -> usize {
        self.relays.len()
    }

    /// Adds a relay between a client and a server.
    pub fn add(&mut self, id: u64, client: TcpStream, server: TcpStream) {
        self.relays.insert(id, Box::new(Relay::new(client, server)));
        self.moves(id);
    }

    /// Records an epoll event of one side. Returns whether the relay exists.
    pub fn record(&mut self, id: u64, side: Side, event: EpollEvent) -> bool {
        let relay = self.relays.get_mut(id);
        let found = relay.map(|relay| relay.record(side, event)).is_some();
        if found {
            self.moves(id);
        }
        found
    }

    fn moves(&mut self, id: u64) {
        if let Err(at) = self.moving.binary_search(&id) {
            self.moving.insert(at, id);
        }
    }

    /// Returns when to call [`Relays::run`] without an event.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        (!self.moving.is_empty()).then_some(now)
    }

    /// Moves available bytes.
    pub fn run(&mut self) {
        for id in std::mem::take(&mut self.moving) {
            match self.relays.get_mut(id).map(|relay| relay.run(&mut self.spares)) {
                Some(Moved::Over) => drop(self.relays.remove(id)),
                Some(Moved::Some) => self.moving.push(id),
                Some(Moved::All) | None => {}
            }
        }
    }
}
