//! Armed knocks, which open nothing until a second knock follows: from a client that is far ahead, or during heavy
//! guessing.

use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The second knock must arrive within this time.
const TIME: Duration = Duration::from_secs(60);
/// The second knock's counter must be at most this much higher than the first one's.
pub(super) const STEPS: u32 = 20;
/// The maximum number of armed knocks of one profile, each from its own source.
const SOURCES: usize = 4;

/// An armed knock.
struct Waiting {
    profile: usize,
    counter: u32,
    /// The source that the second knock must come from; `None` means any.
    source: Option<IpAddr>,
    since: Instant,
}

/// All armed knocks, oldest first.
#[derive(Default)]
pub(super) struct Armed(Vec<Waiting>);

impl Armed {
    /// Arms a knock that is far ahead. The highest counter of a profile is kept, so that recorded older messages cannot
    /// displace the client's.
    pub fn arm_ahead(&mut self, profile: usize, counter: u32, now: Instant) {
        if self.ahead(profile, 0, now).is_none_or(|waiting| waiting < counter) {
            self.remove(&|waiting| waiting.profile == profile && waiting.source.is_none());
            self.push(Waiting { profile, counter, source: None, since: now }, now);
        }
    }

    /// Arms a knock whose counter has been burned, for the next knock from the same source.
    pub fn arm_source(&mut self, profile: usize, counter: u32, source: IpAddr, now: Instant) {
        let ours = |waiting: &Waiting| waiting.profile == profile && waiting.source.is_some();
        self.disarm(profile, source);
        if self.0.iter().filter(|waiting| ours(waiting)).count() >= SOURCES {
            if let Some(oldest) = self.0.iter().position(ours) {
                self.0.remove(oldest);
            }
        }
        self.push(Waiting { profile, counter, source: Some(source), since: now }, now);
    }

    fn push(&mut self, waiting: Waiting, now: Instant) {
        self.remove(&|waiting| !waiting.is_fresh(now));
        self.0.push(waiting);
    }

    /// Returns the counter of the armed knock of `profile` that is far ahead of `next`.
    pub fn ahead(&self, profile: usize, next: u64, now: Instant) -> Option<u32> {
        let ours =
            |waiting: &&Waiting| waiting.profile == profile && waiting.source.is_none() && waiting.waits(next, now);
        self.0.iter().find(ours).map(|waiting| waiting.counter)
    }

    /// Returns whether a knock from `source` completes an armed one. `next` is the profile's next counter.
    pub fn is_second(&self, profile: usize, next: u64, counter: u32, source: IpAddr, now: Instant) -> bool {
        self.0.iter().any(|waiting| {
            waiting.profile == profile
                && waiting.source.is_none_or(|only| only == source)
                && (1..=STEPS).contains(&counter.wrapping_sub(waiting.counter))
                && waiting.waits(next, now)
        })
    }

    /// Removes the armed knock of `profile` from `source`.
    pub fn disarm(&mut self, profile: usize, source: IpAddr) {
        self.remove(&|waiting| waiting.profile == profile && waiting.source == Some(source));
    }

    fn remove(&mut self, is_gone: &dyn Fn(&Waiting) -> bool) {
        self.0.retain(|waiting| !is_gone(waiting));
    }
}

impl Waiting {
    fn waits(&self, next: u64, now: Instant) -> bool {
        let overtaken = self.source.is_none() && u64::from(self.counter) < next;
        !overtaken && self.is_fresh(now)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.duration_since(self.since) < TIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn the_second_knock_must_come_soon_with_a_slightly_higher_counter() {
        let (mut armed, now) = (Armed::default(), Instant::now());
        armed.arm_ahead(3, 9000, now);
        let second = |counter, after| armed.is_second(3, 200, counter, OTHER, now + Duration::from_secs(after));
        assert!(!second(9000, 1), "one captured knock is worth nothing");
        assert!(!second(8999, 1) && second(9001, 59) && second(9020, 59) && !second(9021, 59));
        assert!(!second(9001, 60), "too late");
        assert!(!armed.is_second(3, 9001, 9001, SOURCE, now), "it was overtaken");
        assert!(!armed.is_second(4, 200, 9001, SOURCE, now), "another profile");
    }

    #[test]
    fn a_recorded_older_message_does_not_disarm() {
        let (mut armed, now) = (Armed::default(), Instant::now());
        armed.arm_ahead(0, 9000, now);
        armed.arm_ahead(0, 8000, now);
        assert_eq!(armed.ahead(0, 0, now), Some(9000));
        armed.arm_ahead(0, 9500, now);
        assert_eq!(armed.ahead(0, 0, now), Some(9500));
        armed.arm_ahead(0, 8000, now + TIME);
        assert_eq!(armed.ahead(0, 0, now + TIME), Some(8000), "the higher one is forgotten by now");
    }

    #[test]
    fn an_armed_source_counts_for_itself_and_once() {
        let (mut armed, now) = (Armed::default(), Instant::now());
        armed.arm_source(0, 100, SOURCE, now);
        assert!(armed.is_second(0, 101, 101, SOURCE, now) && !armed.is_second(0, 101, 101, OTHER, now));
        armed.disarm(0, SOURCE);
        assert!(!armed.is_second(0, 102, 102, SOURCE, now));
    }

    #[test]
    fn each_profile_has_a_few_armed_sources() {
        let (mut armed, now) = (Armed::default(), Instant::now());
        let source = |last: u32| IpAddr::from([192, 0, 2, last as u8]);
        armed.arm_ahead(0, 9000, now);
        for counter in 0..10 {
            armed.arm_source(0, counter, source(counter), now);
            armed.arm_source(1, counter, SOURCE, now);
        }
        let waits = |counter: &u32| armed.is_second(0, 10, counter + 1, source(*counter), now);
        assert_eq!((0..10).filter(waits).collect::<Vec<_>>(), [6, 7, 8, 9]);
        assert_eq!(armed.0.len(), SOURCES + 2);
        assert_eq!(armed.ahead(0, 10, now), Some(9000));
    }
}
