//! The queues of all profiles in use, each with its profile's knock lock.

use super::client::ClientEvent;
use super::error_log::ErrorLog;
use super::queue::{NextTurn, Queue};
use super::socks::Reply;
use crate::profile::Found;
use crate::say;
use crate::sys::clock::sooner;
use crate::tunnel::{KnockLock, Turn};
use std::time::Instant;

/// The queues. A client stores the index of its queue.
#[derive(Default)]
pub struct Turns(Vec<LockedQueue>);

/// A queue with its profile's knock lock.
struct LockedQueue {
    knock_lock: KnockLock,
    queue: Box<Queue>,
}

/// A client, the index of its queue, and the knock lock or the client's event if it gets no turn.
pub type TurnOf = (u64, usize, Result<Turn, ClientEvent>);

impl Turns {
    /// Adds a client to the queue of the profile at `found`. Returns the index of the queue; `None` if it is full.
    pub fn join(&mut self, client: u64, found: &Found) -> Option<usize> {
        let known = self.0.iter().position(|known| known.queue.profile() == found.name);
        let index = known.unwrap_or_else(|| {
            let (knock_lock, queue) = (KnockLock::new(found), Queue::new(found.name.clone()));
            self.0.push(LockedQueue { knock_lock, queue });
            self.0.len() - 1
        });
        self.queue(Some(index))?.join(client).then_some(index)
    }

    /// Returns the queue with this index.
    pub fn queue(&mut self, index: Option<usize>) -> Option<&mut Queue> {
        self.0.get_mut(index?).map(|known| &mut *known.queue)
    }

    /// Returns when to call [`Turns::next`].
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.0.iter().map(|known| known.queue.due(now)).fold(None, sooner)
    }

    /// Returns the next client that has its turn.
    pub fn next(&mut self, errors: &mut ErrorLog, now: Instant) -> Option<TurnOf> {
        self.0.iter_mut().enumerate().find_map(|(index, known)| {
            let LockedQueue { knock_lock, queue } = known;
            let next = queue.next(now);
            queue.take_notice().iter().for_each(say::warn);
            match next {
                NextTurn::Wait => None,
                NextTurn::Refuse(client) => Some((client, index, Err(ClientEvent::Failed(Reply::TimedOut)))),
                NextTurn::Take(client) => match knock_lock.try_lock() {
                    Ok(Some(turn)) => Some((client, index, Ok(turn))),
                    Ok(None) => {
                        queue.locked_elsewhere(now);
                        None
                    }
                    Err(error) => Some((client, index, Err(errors.failed(&error)))),
                },
            }
        })
    }
}
