//! What a SYN to a knock port means. Deciding only: nothing here reads, writes or asks.

use crate::ports::Ports;
use crate::profile::Profile;
use crate::wire::{Ciphertext, Entry, Unsealed};
use std::time::{Duration, Instant};

/// How many accepted messages are remembered, to tell a replay from a wrong tag.
const REMEMBERED: usize = 16;
/// How many counters behind a knock that was far ahead its second may have, and how soon it must come.
const STEPS: u32 = 20;
const SOON: Duration = Duration::from_secs(60);
/// Two log rules show one packet twice within this time.
const TWICE: Duration = Duration::from_secs(1);

/// What to do about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A knock that nobody has used: burn the counter, then open the port.
    Open(Unsealed),
    /// A knock that nobody has used, for a port that its key may not open: burn the counter.
    NotAllowed(Unsealed),
    /// A knock far ahead of the window: arm, and open nothing.
    Ahead(Unsealed),
    /// The next knock of a sender that is far ahead: burn the counter, then open the port.
    CaughtUp(Unsealed),
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
pub struct ReplayCache {
    accepted: Vec<Ciphertext>,
    oldest: usize,
    last: Option<(Entry, Instant)>,
    armed: Option<Armed>,
}

/// A knock far ahead that waits for its second.
struct Armed {
    ciphertext: Ciphertext,
    counter: u32,
    at: Instant,
}

/// How much trying a SYN is worth.
pub struct SearchLimits {
    /// How many counters are tried from the expected one on.
    pub window: u32,
    /// How many behind these, for a sender that ran ahead.
    pub far: u32,
    /// Whether a knock for a port that is not allowed is worth the search for its tag.
    pub denied_port: bool,
}

impl ReplayCache {
    /// Remembers an accepted entry.
    pub fn accept(&mut self, entry: &Entry, ciphertext: Ciphertext, now: Instant) {
        self.last = Some((*entry, now));
        match self.accepted.get_mut(self.oldest) {
            Some(oldest) => *oldest = ciphertext,
            None => self.accepted.push(ciphertext),
        }
        self.oldest = (self.oldest + 1) % REMEMBERED;
        self.armed = None;
    }

    /// Remembers a knock that was far ahead: the next one may open.
    pub fn arm(&mut self, ciphertext: Ciphertext, unsealed: Unsealed, now: Instant) {
        self.armed = Some(Armed { ciphertext, counter: unsealed.counter(), at: now });
    }
}

/// Judges `entry`, which came to `profile`'s knock port.
pub fn judge(
    profile: &Profile,
    replay_cache: &ReplayCache,
    entry: &Entry,
    limits: &SearchLimits,
    now: Instant,
) -> Verdict {
    let Some(ciphertext) = entry.ciphertext() else { return Verdict::Empty };
    if replay_cache.accepted.contains(&ciphertext) {
        let same =
            replay_cache.last.as_ref().is_some_and(|(last, at)| last == entry && now.duration_since(*at) < TWICE);
        return if same { Verdict::Same } else { Verdict::Replay };
    }
    let knock_port = profile.config.knock_port;
    let allowed = profile.config.ports.as_ref();
    let search = |from: u64, number: u32, only: Option<&Ports>| {
        let first = u32::try_from(from).ok()?;
        let last = first.saturating_add(number.checked_sub(1)?);
        profile.keys.unseal(&ciphertext, first..=last, knock_port, only)
    };
    let next = profile.counter.next();
    if let Some(unsealed) = search(next, limits.window, allowed) {
        return Verdict::Open(unsealed);
    }
    if let Some(armed) = replay_cache.armed.as_ref().filter(|armed| now.duration_since(armed.at) < SOON) {
        if armed.ciphertext == ciphertext {
            return Verdict::Replay;
        }
        if let Some(unsealed) = search(u64::from(armed.counter) + 1, STEPS, allowed) {
            return Verdict::CaughtUp(unsealed);
        }
    }
    if limits.denied_port && allowed.is_some() {
        if let Some(unsealed) = search(next, limits.window, None) {
            return Verdict::NotAllowed(unsealed);
        }
    }
    let beyond = next.saturating_add(limits.window.into());
    search(beyond, limits.far, allowed).map_or(Verdict::WrongTag, Verdict::Ahead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Counter, ProfileConfig};
    use crate::wire::{Keys, Wire};
    use std::os::unix::fs::PermissionsExt;

    const NEAR: SearchLimits = SearchLimits { window: 20, far: 0, denied_port: true };
    const FAR: SearchLimits = SearchLimits { window: 20, far: 10_000, denied_port: true };

    fn profile(next: u32) -> Profile {
        let path = std::env::temp_dir().join(format!("knockknock-judge-{}-{next}", std::process::id()));
        std::fs::write(&path, format!("{next}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let counter = Counter::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let config = ProfileConfig { knock_port: 666, ports: Some(Ports::parse("22").unwrap()), wire: Wire::Classic };
        Profile { name: "gate".into(), config, keys: Keys::new(&[1; 16], &[2; 16]), counter }
    }

    fn knock(profile: &Profile, counter: u32, port: u16) -> Entry {
        let sealed = profile.keys.seal(Wire::Classic, counter, 666, port);
        let fields = sealed.fields().unwrap();
        let source = [192, 0, 2, 1].into();
        Entry { source, source_port: 40000, knock_port: 666, fields, options_logged: false }
    }

    /// The counter that a verdict is about.
    fn about(verdict: Verdict) -> (&'static str, u32) {
        match verdict {
            Verdict::Open(unsealed) => ("open", unsealed.counter()),
            Verdict::NotAllowed(unsealed) => ("not allowed", unsealed.counter()),
            Verdict::Ahead(unsealed) => ("ahead", unsealed.counter()),
            Verdict::CaughtUp(unsealed) => ("caught up", unsealed.counter()),
            Verdict::Same => ("same", 0),
            Verdict::Replay => ("replay", 0),
            Verdict::WrongTag => ("wrong tag", 0),
            Verdict::Empty => ("empty", 0),
        }
    }

    #[test]
    fn the_window_opens_and_what_is_behind_it_does_not() {
        let (profile, replay_cache, now) = (profile(100), ReplayCache::default(), Instant::now());
        let judged = |counter, port| about(judge(&profile, &replay_cache, &knock(&profile, counter, port), &NEAR, now));
        assert_eq!(judged(99, 22), ("wrong tag", 0));
        assert_eq!(judged(100, 22), ("open", 100));
        assert_eq!(judged(119, 22), ("open", 119));
        assert_eq!(judged(120, 22), ("wrong tag", 0));
        assert_eq!(judged(100, 23), ("not allowed", 100));
    }

    #[test]
    fn a_sender_that_ran_ahead_needs_two_knocks() {
        let (profile, mut replay_cache, now) = (profile(200), ReplayCache::default(), Instant::now());
        let first = knock(&profile, 9000, 22);
        let Verdict::Ahead(unsealed) = judge(&profile, &replay_cache, &first, &FAR, now) else { panic!("not ahead") };
        replay_cache.arm(first.ciphertext().unwrap(), unsealed, now);

        let judged =
            |entry: &Entry, after| about(judge(&profile, &replay_cache, entry, &FAR, now + Duration::from_secs(after)));
        assert_eq!(judged(&first, 1), ("replay", 0), "one captured knock is worth nothing");
        assert_eq!(judged(&knock(&profile, 8999, 22), 1), ("ahead", 8999));
        assert_eq!(judged(&knock(&profile, 9001, 22), 59), ("caught up", 9001));
        assert_eq!(judged(&knock(&profile, 9020, 22), 59), ("caught up", 9020));
        assert_eq!(judged(&knock(&profile, 9021, 22), 59), ("ahead", 9021));
        assert_eq!(judged(&knock(&profile, 9001, 22), 60), ("ahead", 9001), "too late");
        assert_eq!(judged(&knock(&profile, 200, 22), 1), ("open", 200), "the window comes first");
    }

    #[test]
    fn far_has_an_end() {
        let (profile, replay_cache, now) = (profile(300), ReplayCache::default(), Instant::now());
        let judged =
            |counter, limits| about(judge(&profile, &replay_cache, &knock(&profile, counter, 22), limits, now));
        assert_eq!(judged(10_319, &FAR), ("ahead", 10_319));
        assert_eq!(judged(10_320, &FAR), ("wrong tag", 0));
        assert_eq!(judged(1000, &NEAR), ("wrong tag", 0));
        assert_eq!(judged(1000, &SearchLimits { far: 0, ..FAR }), ("wrong tag", 0));
    }
}
