//! A loaded profile: its keys and counter, and what it makes of a message.

use crate::ports::Ports;
use crate::profile::ProfileConfig;
use crate::wire::{Ciphertext, Keys, Unsealed};
use std::time::{Duration, Instant};

/// A client that ran ahead has to knock twice within this time, and its second knock may have one of this
/// many counters after the first one's.
const ARMED_TIME: Duration = Duration::from_secs(60);
const ARMED_WINDOW: u32 = 20;

/// A profile with its keys, without its files.
pub struct LoadedProfile {
    config: ProfileConfig,
    keys: Keys,
    /// The next counter that is accepted.
    next: u64,
    /// The counter that the disk has.
    stored: u64,
    armed: Option<Armed>,
}

/// A knock far ahead of the window, which waits for a second one.
struct Armed {
    ciphertext: Ciphertext,
    counter: u32,
    at: Instant,
}

/// How far a message is searched for.
pub(super) struct SearchLimits {
    /// How many counters are tried from the expected one on.
    pub window: u32,
    /// How many counters are tried after the window, for a client that ran ahead.
    pub far: u32,
    /// Whether a tag for a port that is not allowed is searched for.
    pub denied_port: bool,
}

/// What a message is to a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A knock that nobody has used: store the counter, then open the port.
    Open(Unsealed),
    /// A knock that nobody has used, for a port that the profile may not open: store the counter.
    PortNotAllowed(Unsealed),
    /// A knock far ahead of the window: arm, and open nothing.
    Ahead(Unsealed),
    /// The second knock of a client that ran ahead: store the counter, then open the port.
    CaughtUp(Unsealed),
    /// The knock that armed, again.
    Replay,
    /// Not made with this profile's keys and the next counters.
    WrongTag,
}

impl LoadedProfile {
    /// A profile whose counter stands at `next`, in memory and on disk.
    pub fn new(config: ProfileConfig, keys: Keys, next: u64) -> Self {
        Self { config, keys, next, stored: next, armed: None }
    }

    /// The port that its knocks go to.
    pub(super) fn knock_port(&self) -> u16 {
        self.config.knock_port
    }

    /// Whether its config lists the ports that it may open.
    pub(super) fn lists_ports(&self) -> bool {
        self.config.ports.is_some()
    }

    /// The next counter that is accepted.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Whether the disk has what memory has.
    pub(super) fn is_stored(&self) -> bool {
        self.stored == self.next
    }

    /// Judges a message that came to the knock port.
    pub(super) fn judge(&self, ciphertext: &Ciphertext, limits: &SearchLimits, now: Instant) -> Verdict {
        let allowed = self.config.ports.as_ref();
        if let Some(unsealed) = self.search(ciphertext, self.next, limits.window, allowed) {
            return Verdict::Open(unsealed);
        }
        if let Some(armed) = self.armed(now) {
            if armed.ciphertext == *ciphertext {
                return Verdict::Replay;
            }
            let after = u64::from(armed.counter) + 1;
            if let Some(unsealed) = self.search(ciphertext, after, ARMED_WINDOW, allowed) {
                return Verdict::CaughtUp(unsealed);
            }
        }
        if limits.denied_port && allowed.is_some() {
            if let Some(unsealed) = self.search(ciphertext, self.next, limits.window, None) {
                return Verdict::PortNotAllowed(unsealed);
            }
        }
        let beyond = self.next.saturating_add(limits.window.into());
        self.search(ciphertext, beyond, limits.far, allowed).map_or(Verdict::WrongTag, Verdict::Ahead)
    }

    /// Tries `number` counters from `first` on, as far as there are so many.
    fn search(&self, ciphertext: &Ciphertext, first: u64, number: u32, only: Option<&Ports>) -> Option<Unsealed> {
        let first = u32::try_from(first).ok()?;
        let last = first.saturating_add(number.checked_sub(1)?);
        self.keys.unseal(ciphertext, first..=last, self.config.knock_port, only)
    }

    /// Uses up the counters up to and with the message's, in memory: nothing is accepted twice even where
    /// the disk refuses.
    pub(super) fn use_up(&mut self, unsealed: Unsealed) {
        self.next = self.next.max(u64::from(unsealed.counter()) + 1);
    }

    /// Remembers a message far ahead: the next one may open. The highest counter stays armed, so that
    /// nobody can disarm a client by older messages that were recorded.
    pub(super) fn arm(&mut self, ciphertext: Ciphertext, unsealed: Unsealed, now: Instant) {
        let counter = unsealed.counter();
        if self.armed(now).is_none_or(|armed| armed.counter < counter) {
            self.armed = Some(Armed { ciphertext, counter, at: now });
        }
    }

    /// The message that is armed: a late one, or one whose counter is used up by now, is not.
    fn armed(&self, now: Instant) -> Option<&Armed> {
        let waits = |armed: &&Armed| u64::from(armed.counter) >= self.next && now.duration_since(armed.at) < ARMED_TIME;
        self.armed.as_ref().filter(waits)
    }

    /// Takes over the counter that the disk has. It is higher than expected where somebody raised it.
    pub(super) fn set_stored(&mut self, stored: u64) {
        self.stored = stored;
        self.next = self.next.max(stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Wire;

    const NEAR: SearchLimits = SearchLimits { window: 20, far: 0, denied_port: true };
    const FAR: SearchLimits = SearchLimits { window: 20, far: 10_000, denied_port: true };

    fn profile(next: u64) -> LoadedProfile {
        let config = ProfileConfig {
            knock_port: 666,
            ports: Some(Ports::parse("22").unwrap()),
            wire: Wire::Classic,
            legacy: false,
        };
        LoadedProfile::new(config, Keys::new(&[1; 16], &[2; 16]), next)
    }

    fn knock(counter: u32, port: u16) -> Ciphertext {
        Keys::new(&[1; 16], &[2; 16]).seal(Wire::Classic, counter, 666, port)
    }

    /// The counter that a verdict is about.
    fn about(verdict: Verdict) -> (&'static str, u32) {
        match verdict {
            Verdict::Open(unsealed) => ("open", unsealed.counter()),
            Verdict::PortNotAllowed(unsealed) => ("not allowed", unsealed.counter()),
            Verdict::Ahead(unsealed) => ("ahead", unsealed.counter()),
            Verdict::CaughtUp(unsealed) => ("caught up", unsealed.counter()),
            Verdict::Replay => ("replay", 0),
            Verdict::WrongTag => ("wrong tag", 0),
        }
    }

    #[test]
    fn the_window_opens_and_what_is_behind_it_does_not() {
        let (profile, now) = (profile(100), Instant::now());
        let judged = |counter, port| about(profile.judge(&knock(counter, port), &NEAR, now));
        assert_eq!(judged(99, 22), ("wrong tag", 0));
        assert_eq!(judged(100, 22), ("open", 100));
        assert_eq!(judged(119, 22), ("open", 119));
        assert_eq!(judged(120, 22), ("wrong tag", 0));
        assert_eq!(judged(100, 23), ("not allowed", 100));
    }

    #[test]
    fn a_client_that_ran_ahead_needs_two_knocks() {
        let (mut profile, now) = (profile(200), Instant::now());
        let first = knock(9000, 22);
        let Verdict::Ahead(unsealed) = profile.judge(&first, &FAR, now) else { panic!("not ahead") };
        profile.arm(first, unsealed, now);

        let judged = |message, after| about(profile.judge(&message, &FAR, now + Duration::from_secs(after)));
        assert_eq!(judged(first, 1), ("replay", 0), "one captured knock is worth nothing");
        assert_eq!(judged(knock(8999, 22), 1), ("ahead", 8999));
        assert_eq!(judged(knock(9001, 22), 59), ("caught up", 9001));
        assert_eq!(judged(knock(9020, 22), 59), ("caught up", 9020));
        assert_eq!(judged(knock(9021, 22), 59), ("ahead", 9021));
        assert_eq!(judged(knock(9001, 22), 60), ("ahead", 9001), "too late");
        assert_eq!(judged(knock(200, 22), 1), ("open", 200), "the window comes first");
    }

    #[test]
    fn an_older_message_that_was_recorded_does_not_disarm() {
        let (mut profile, now) = (profile(200), Instant::now());
        for counter in [9000, 8000] {
            let Verdict::Ahead(unsealed) = profile.judge(&knock(counter, 22), &FAR, now) else { panic!("not ahead") };
            profile.arm(knock(counter, 22), unsealed, now);
        }
        let Verdict::Open(unsealed) = profile.judge(&knock(205, 22), &FAR, now) else { panic!("not near") };
        profile.use_up(unsealed);
        assert_eq!(about(profile.judge(&knock(9001, 22), &FAR, now)), ("caught up", 9001));
    }

    #[test]
    fn far_has_an_end() {
        let (profile, now) = (profile(300), Instant::now());
        let judged = |counter, limits| about(profile.judge(&knock(counter, 22), limits, now));
        assert_eq!(judged(10_319, &FAR), ("ahead", 10_319));
        assert_eq!(judged(10_320, &FAR), ("wrong tag", 0));
        assert_eq!(judged(1000, &NEAR), ("wrong tag", 0));
    }

    #[test]
    fn the_last_counters_are_accepted_and_nothing_after_them() {
        let (mut profile, now) = (profile(u64::from(u32::MAX) - 1), Instant::now());
        for counter in [u32::MAX - 1, u32::MAX] {
            let Verdict::Open(unsealed) = profile.judge(&knock(counter, 22), &FAR, now) else { panic!("{counter}") };
            profile.use_up(unsealed);
        }
        for counter in [0, 1, u32::MAX] {
            assert_eq!(about(profile.judge(&knock(counter, 22), &FAR, now)), ("wrong tag", 0), "{counter}");
        }
    }

    #[test]
    fn a_counter_that_somebody_raised_disarms() {
        let (mut profile, now) = (profile(0), Instant::now());
        let Verdict::Ahead(unsealed) = profile.judge(&knock(100, 22), &FAR, now) else { panic!("not ahead") };
        profile.arm(knock(100, 22), unsealed, now);
        profile.set_stored(110);
        assert_eq!(about(profile.judge(&knock(101, 22), &FAR, now)), ("wrong tag", 0), "it may have been used");
        assert_eq!(about(profile.judge(&knock(110, 22), &FAR, now)), ("open", 110));
    }
}
