//! What a SYN to a knock port means. Deciding only: nothing here reads, writes or asks.

use crate::profile::{Profile, SPENT};
use crate::wire::{Ciphertext, Entry, Unsealed};
use std::time::{Duration, Instant};

/// How many accepted messages are remembered, to tell a replay from a wrong tag.
const REMEMBERED: usize = 16;
/// Two log rules show one packet twice within this time.
const TWICE: Duration = Duration::from_secs(1);

/// What to do about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A knock that nobody has used: burn the counter, then open the port.
    Open(Unsealed),
    /// A knock that nobody has used, for a port that its key may not open: burn the counter.
    NotAllowed(Unsealed),
    /// The very knock just accepted, logged a second time.
    Same,
    /// A message that was accepted before.
    Replay,
    /// Not made with this profile's keys and the next counters.
    WrongTag,
    /// It cannot carry a message.
    Empty,
}

/// What was accepted of late, for one profile.
#[derive(Default)]
pub struct Memory {
    accepted: Vec<Ciphertext>,
    oldest: usize,
    last: Option<(Entry, Instant)>,
}

impl Memory {
    /// Remembers an accepted entry.
    pub fn accept(&mut self, entry: &Entry, ciphertext: Ciphertext, now: Instant) {
        self.last = Some((*entry, now));
        match self.accepted.get_mut(self.oldest) {
            Some(oldest) => *oldest = ciphertext,
            None => self.accepted.push(ciphertext),
        }
        self.oldest = (self.oldest + 1) % REMEMBERED;
    }
}

/// Judges `entry`, which came to `profile`'s knock port, trying `window` counters. `curious` says
/// whether a knock for a port that is not allowed is worth the search for its tag.
pub fn judge(profile: &Profile, memory: &Memory, entry: &Entry, window: u32, curious: bool, now: Instant) -> Verdict {
    let Some(ciphertext) = entry.ciphertext() else { return Verdict::Empty };
    if memory.accepted.contains(&ciphertext) {
        let same = memory.last.as_ref().is_some_and(|(last, at)| last == entry && now.duration_since(*at) < TWICE);
        return if same { Verdict::Same } else { Verdict::Replay };
    }
    let knock_port = profile.terms.knock_port;
    let allowed = profile.terms.ports.as_ref();
    let next = profile.counter.next();
    let counters = (next..=SPENT).take(window as usize).filter_map(|counter| u32::try_from(counter).ok());
    if let Some(unsealed) =
        counters.clone().find_map(|counter| profile.keys.unseal(&ciphertext, counter, knock_port, allowed))
    {
        return Verdict::Open(unsealed);
    }
    let not_allowed = (curious && allowed.is_some())
        .then(|| counters.clone().find_map(|counter| profile.keys.unseal(&ciphertext, counter, knock_port, None)))
        .flatten();
    not_allowed.map_or(Verdict::WrongTag, Verdict::NotAllowed)
}
