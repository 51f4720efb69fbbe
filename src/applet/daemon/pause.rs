//! The back-off before the children are restarted.

use std::time::{Duration, Instant};

/// The shortest (other than zero) and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// After this time without a restart the pause is zero again.
pub(super) const CALM: Duration = Duration::from_secs(60);

/// The back-off: it doubles with each restart, and is zero again after [`CALM`].
#[derive(Default)]
pub(super) struct Pause {
    /// When the last pause began, and how long it is.
    last: Option<(Instant, Duration)>,
}

impl Pause {
    /// Begins the next pause.
    pub(super) fn begin(&mut self, now: Instant) {
        let (shortest, longest) = PAUSES;
        let length = match self.last {
            Some((began, length)) if now - began < CALM => (2 * length).clamp(shortest, longest),
            _ => Duration::ZERO,
        };
        self.last = Some((now, length));
    }

    /// Returns the rest of the pause.
    pub(super) fn left(&self, now: Instant) -> Duration {
        self.last.map_or(Duration::ZERO, |(began, length)| length.saturating_sub(now - began))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_and_resets_after_a_quiet_minute() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        assert_eq!(pause.left(now), Duration::ZERO);
        let mut lengths = Vec::new();
        for _ in 0..9 {
            pause.begin(now);
            lengths.push(pause.left(now).as_millis());
            now += pause.left(now);
            assert_eq!(pause.left(now), Duration::ZERO);
        }
        assert_eq!(lengths, [0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);
        pause.begin(now + CALM);
        assert_eq!(pause.left(now + CALM), Duration::ZERO);
    }
}
