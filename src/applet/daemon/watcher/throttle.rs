//! Limits how many guesses are tolerated each day: a leaky counter of the codes that wrong guesses could have hit.

use std::time::{Duration, Instant};

/// The time in which the counter drains by its limit.
const DAY: Duration = Duration::from_secs(86_400);

/// The leaky counter, stored as the time at which it will be empty.
pub(super) struct Throttle {
    /// The time in which the counter drains by one code.
    code: Duration,
    empty_at: Option<Instant>,
}

impl Throttle {
    /// Creates an empty counter that drains by `limit` codes a day and holds as many.
    pub fn new(limit: u32) -> Self {
        // Rounded up, so that it never drains more than the limit in a day.
        let nanoseconds = (DAY.as_nanos() as u64).div_ceil(limit.max(1).into());
        Self { code: Duration::from_nanos(nanoseconds), empty_at: None }
    }

    /// Returns whether there is room for a guess that could hit one of `codes` codes.
    pub fn has_room(&self, codes: u32, now: Instant) -> bool {
        self.after(codes, now) <= now + DAY
    }

    /// Counts a wrong guess that could have hit one of `codes` codes; `false` if there is no room.
    ///
    /// A guess without room is not counted. It could not have opened anything by itself.
    pub fn count(&mut self, codes: u32, now: Instant) -> bool {
        let after = self.after(codes, now);
        let room = after <= now + DAY;
        if room {
            self.empty_at = Some(after);
        }
        room
    }

    fn after(&self, codes: u32, now: Instant) -> Instant {
        self.empty_at.map_or(now, |empty_at| empty_at.max(now)) + self.code * codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_allows_its_limit_and_no_more() {
        let (mut throttle, now) = (Throttle::new(1 << 28), Instant::now());
        let guesses = (0..200_000).take_while(|_| throttle.count(2000, now)).count();
        assert_eq!(guesses, 134_217, "2^28 / 2,000");
        assert!(!throttle.has_room(2000, now));
        assert!(throttle.has_room(2000, now + Duration::from_secs(1)), "3,107 codes are forgotten in a second");
        let minutes = (1..=1440).map(|minute| now + Duration::from_secs(60 * minute));
        let day: usize = minutes.map(|minute| (0..200).filter(|_| throttle.count(2000, minute)).count()).sum();
        assert!((134_000..=134_217).contains(&day), "{day} in the day after");
    }

    #[test]
    fn a_guess_over_the_limit_does_not_extend_the_throttling() {
        let (mut throttle, now) = (Throttle::new(1000), Instant::now());
        while throttle.count(10, now) {}
        for _ in 0..1000 {
            assert!(!throttle.count(10, now));
        }
        assert!(throttle.has_room(10, now + DAY / 100 + Duration::from_secs(1)));
        assert!(
            !throttle.has_room(20, now + DAY / 100 + Duration::from_secs(1)),
            "a port with more codes waits longer"
        );
    }
}
