//! The queues of all profiles that were used, each with its profile's knock lock.

use super::client::ClientEvent;
use super::hosts::failed;
use super::queue::{NextTurn, Queue};
use super::socks::Reply;
use crate::profile::Found;
use crate::say;
use crate::tunnel::{KnockLock, Turn};
use std::time::Instant;

/// The queues; a client remembers the index of its own.
#[derive(Default)]
pub struct Turns(Vec<(KnockLock, Queue)>);

/// The client whose turn it is, the index of its queue, and the knock lock; or the client's event where
/// it gets no turn.
pub type TurnOf = (u64, usize, Result<Turn, ClientEvent>);

impl Turns {
    /// Lines up a client for the profile at `found`. Returns the index of the queue; `None` where it has
    /// no room.
    pub fn join(&mut self, client: u64, found: &Found) -> Option<usize> {
        let known = self.0.iter().position(|(_, queue)| queue.profile() == found.name);
        let index = known.unwrap_or_else(|| {
            self.0.push((KnockLock::new(found), Queue::new(found.name.clone())));
            self.0.len() - 1
        });
        self.queue(Some(index))?.join(client).then_some(index)
    }

    /// The queue with this index.
    pub fn queue(&mut self, index: Option<usize>) -> Option<&mut Queue> {
        self.0.get_mut(index?).map(|(_, queue)| queue)
    }

    /// When to call [`Turns::next`].
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.0.iter().filter_map(|(_, queue)| queue.due(now)).min()
    }

    /// The next client whose turn it is.
    pub fn next(&mut self, now: Instant) -> Option<TurnOf> {
        self.0.iter_mut().enumerate().find_map(|(index, (knock_lock, queue))| {
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
                    Err(error) => Some((client, index, Err(failed(&error)))),
                },
            }
        })
    }
}
