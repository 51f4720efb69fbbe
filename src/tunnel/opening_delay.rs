//! An estimate of the delay between a knock and its opening, learnt from earlier connections.

use std::time::Duration;

/// The initial estimate, and its bounds.
const INITIAL: Duration = Duration::from_millis(3);
const SHORTEST: Duration = Duration::from_micros(500);
const LONGEST: Duration = Duration::from_millis(20);

/// The time from a knock to the first attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpeningDelay(Duration);

impl Default for OpeningDelay {
    fn default() -> Self {
        Self(INITIAL)
    }
}

impl OpeningDelay {
    /// Returns the current estimate.
    pub fn get(self) -> Duration {
        self.0
    }

    /// Adjusts the estimate by whether the `first` attempt won. It converges where three of five first attempts win, so
    /// few packets are sent and little time is lost.
    pub fn learn(&mut self, first: bool) {
        self.0 = (self.0 * if first { 92 } else { 113 } / 100).clamp(SHORTEST, LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_settles_where_three_in_five_first_attempts_win() {
        // Openings are there after 0 to 4 ms, as the reader of /dev/kmsg is woken.
        let mut delay = OpeningDelay::default();
        let mut wins = 0;
        for knock in 0..4000 {
            let first = delay.get() > Duration::from_micros(knock * 997 % 4000);
            wins += u32::from(first && knock >= 2000);
            delay.learn(first);
        }
        assert!((1100..1300).contains(&wins), "{wins} of 2000");
        // After half a millisecond, as with nflog.
        for _ in 0..100 {
            delay.learn(delay.get() > Duration::from_micros(500));
        }
        assert!(delay.get() < Duration::from_millis(1), "{delay:?}");
    }
}
