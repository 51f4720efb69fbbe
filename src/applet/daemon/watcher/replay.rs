//! The replay cache: the messages accepted lately, by which a replay is told from a wrong tag.
//!
//! It does not keep replays out: the counter does, which never goes back. The cache keeps a replayed
//! message, or a packet that two log rules show, from being counted and searched for as a wrong tag.

use crate::wire::{Ciphertext, Entry};
use std::time::{Duration, Instant};

/// Two log rules show one packet twice within this time.
const TWICE: Duration = Duration::from_secs(1);

/// What the cache knows about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It is the accepted packet itself, logged a second time.
    Again,
    /// It carries the message of an accepted packet.
    Replay,
}

/// The messages accepted lately, of all profiles together. The oldest makes room for the next.
pub(super) struct ReplayCache {
    capacity: usize,
    accepted: Vec<Accepted>,
    oldest: usize,
}

struct Accepted {
    entry: Entry,
    ciphertext: Ciphertext,
    at: Instant,
}

impl ReplayCache {
    /// An empty cache with room for `capacity` messages.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, accepted: Vec::new(), oldest: 0 }
    }

    /// Remembers an accepted entry and its message.
    pub fn insert(&mut self, entry: &Entry, ciphertext: Ciphertext, now: Instant) {
        if self.capacity == 0 {
            return;
        }
        let accepted = Accepted { entry: *entry, ciphertext, at: now };
        match self.accepted.get_mut(self.oldest) {
            Some(oldest) => *oldest = accepted,
            None => self.accepted.push(accepted),
        }
        self.oldest = (self.oldest + 1) % self.capacity;
    }

    /// Looks for the message of `entry` among those accepted on the same knock port.
    pub fn find(&self, entry: &Entry, ciphertext: &Ciphertext, now: Instant) -> Option<Seen> {
        let known = self
            .accepted
            .iter()
            .find(|known| known.ciphertext == *ciphertext && known.entry.knock_port == entry.knock_port)?;
        let again = known.entry == *entry && now.duration_since(known.at) < TWICE;
        Some(if again { Seen::Again } else { Seen::Replay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Fields;

    fn entry(seq: u32) -> Entry {
        let fields = Fields { id: 1, seq, ack: 1, win: Some(1), timestamp: None };
        Entry { source: [192, 0, 2, 1].into(), source_port: 40000, knock_port: 666, fields, options_logged: false }
    }

    #[test]
    fn a_packet_logged_twice_is_no_replay_and_a_later_one_is() {
        let (mut cache, now) = (ReplayCache::new(4), Instant::now());
        let known = entry(7);
        let ciphertext = known.ciphertext().unwrap();
        assert_eq!(cache.find(&known, &ciphertext, now), None);
        cache.insert(&known, ciphertext, now);
        let find = |entry: &Entry, after| cache.find(entry, &ciphertext, now + Duration::from_millis(after));
        assert_eq!(find(&known, 999), Some(Seen::Again));
        assert_eq!(find(&known, 1000), Some(Seen::Replay));
        assert_eq!(find(&Entry { source: [192, 0, 2, 2].into(), ..known }, 1), Some(Seen::Replay));
        assert_eq!(find(&Entry { knock_port: 667, ..known }, 1), None, "another profile's message");
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut cache, now) = (ReplayCache::new(4), Instant::now());
        for seq in 0..10 {
            cache.insert(&entry(seq), entry(seq).ciphertext().unwrap(), now);
        }
        let kept = |seq| cache.find(&entry(seq), &entry(seq).ciphertext().unwrap(), now).is_some();
        assert_eq!((0..10).filter(|&seq| kept(seq)).collect::<Vec<_>>(), [6, 7, 8, 9]);
    }
}
