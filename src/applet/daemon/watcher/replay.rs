//! The replay cache: recently accepted messages, to tell a replay from a wrong code.
//!
//! It does not prevent replays; the counter does. The cache prevents a replayed message, or a packet logged by two
//! rules, from being counted or searched for as a wrong code.

use super::message::Message;
use crate::wire::Entry;
use std::time::{Duration, Instant};

/// The same packet logged again within this time comes from a second log rule.
const TWICE: Duration = Duration::from_secs(1);

/// The result of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The accepted packet itself, logged a second time; or a link that its user has tried again.
    Again,
    /// Another packet with an accepted message.
    Replay,
}

/// The recently accepted messages of all profiles. A new one replaces the oldest.
pub(super) struct ReplayCache {
    capacity: usize,
    /// The hashes have their own list, because every wrong code is compared with all of them.
    hashes: Vec<u64>,
    accepted: Vec<Accepted>,
    oldest: usize,
}

struct Accepted {
    entry: Entry,
    message: Message,
    at: Instant,
}

impl ReplayCache {
    /// Creates an empty cache for `capacity` messages.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, hashes: Vec::new(), accepted: Vec::new(), oldest: 0 }
    }

    /// Adds an accepted entry, its message and the message's hash.
    pub fn insert(&mut self, entry: &Entry, message: Message, hash: u64, now: Instant) {
        if self.capacity == 0 {
            return;
        }
        let accepted = Accepted { entry: *entry, message, at: now };
        match (self.accepted.get_mut(self.oldest), self.hashes.get_mut(self.oldest)) {
            (Some(oldest), Some(oldest_hash)) => (*oldest, *oldest_hash) = (accepted, hash),
            _ => {
                self.accepted.push(accepted);
                self.hashes.push(hash);
            }
        }
        self.oldest = (self.oldest + 1) % self.capacity;
    }

    /// Looks for the message of `entry` among those accepted on the same knock port.
    pub fn find(&self, entry: &Entry, message: &Message, hash: u64, now: Instant) -> Option<Seen> {
        let place = self.hashes.iter().position(|known| *known == hash)?;
        let known = self.accepted.get(place)?;
        if known.message != *message || known.entry.knock_port != entry.knock_port {
            return None;
        }
        let again = match message {
            // A browser tries again by itself.
            Message::Link(_) => known.entry.source == entry.source,
            _ => known.entry == *entry && now.duration_since(known.at) < TWICE,
        };
        Some(if again { Seen::Again } else { Seen::Replay })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Fields;

    fn entry(seq: u32) -> Entry {
        let fields = Fields { id: 1, seq, ack: 1, win: Some(1) };
        Entry { source: [192, 0, 2, 1].into(), destination: None, source_port: 40000, knock_port: 666, fields }
    }

    fn find(cache: &ReplayCache, entry: &Entry, now: Instant) -> Option<Seen> {
        let message = Message::of(entry).unwrap();
        cache.find(entry, &message, message.hash(entry.knock_port, 1), now)
    }

    fn insert(cache: &mut ReplayCache, entry: &Entry, now: Instant) {
        let message = Message::of(entry).unwrap();
        cache.insert(entry, message, message.hash(entry.knock_port, 1), now);
    }

    #[test]
    fn a_packet_logged_twice_is_not_a_replay_but_a_later_one_is() {
        let (mut cache, now) = (ReplayCache::new(4), Instant::now());
        let known = entry(7);
        assert_eq!(find(&cache, &known, now), None);
        insert(&mut cache, &known, now);
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        assert_eq!(find(&cache, &known, after(999)), Some(Seen::Again));
        assert_eq!(find(&cache, &known, after(1000)), Some(Seen::Replay));
        assert_eq!(find(&cache, &Entry { source: [192, 0, 2, 2].into(), ..known }, after(1)), Some(Seen::Replay));
        assert_eq!(find(&cache, &Entry { knock_port: 667, ..known }, after(1)), None, "another port's message");
    }

    #[test]
    fn the_oldest_message_is_replaced() {
        let (mut cache, now) = (ReplayCache::new(4), Instant::now());
        for seq in 0..10 {
            insert(&mut cache, &entry(seq), now);
        }
        let kept: Vec<u32> = (0..10).filter(|&seq| find(&cache, &entry(seq), now).is_some()).collect();
        assert_eq!(kept, [6, 7, 8, 9]);
    }
}
