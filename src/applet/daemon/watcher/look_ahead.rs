//! The look-ahead table: the next messages of all profiles that list their ports, so that an incoming message is looked
//! up instead of searched for.
//!
//! Each profile has one place for each of its ports and each counter of its span. The span starts at the next counter.
//! Its first counters are the window, which opens; the rest arm, for a client that is far ahead. When a counter is
//! burned, its places are reused for the counter one span higher. Accepting a knock therefore computes only the codes
//! that enter the window; the rest is computed when the log is silent.

use super::armed::STEPS;
use super::code_table::{CodeTable, MAX_PLACES};
use super::loaded_profile::LoadedProfile;
use super::message::Message;

/// How many counters one call of [`LookAhead::fill`] adds.
const FILL: u64 = 64;
/// The number of counters (32 bits).
const COUNTERS: u64 = 1 << 32;

/// A match of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hit {
    /// The profile's number.
    pub profile: usize,
    /// The counter; at least the profile's next one.
    pub counter: u32,
    /// The requested port.
    pub port: u16,
}

/// How many counters the look-ahead covers for each profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// How many counters open, from the next one on.
    pub window: u32,
    /// How many counters after the window arm.
    pub far: u32,
}

/// The look-ahead table of all profiles.
pub(super) struct LookAhead {
    table: CodeTable,
    /// Each profile's places, by number; empty if it lists no ports.
    ranges: Vec<PlaceRange>,
    /// The profiles whose places are not all filled.
    unfilled: Vec<usize>,
    reach: Reach,
    /// How many counters of a profile have places.
    span: u64,
    secret: u64,
}

/// The places of a profile.
struct PlaceRange {
    /// The first place.
    first: u32,
    /// The counter up to which the places are filled.
    filled: u64,
}

#[allow(clippy::indexing_slicing, reason = "profiles and ranges have the same numbers, and each place is in a range")]
impl LookAhead {
    /// Creates the table for `profiles` with the window filled and the rest empty. If there are too many codes, it
    /// reduces first `wanted.far` and then `wanted.window`.
    pub fn new(profiles: &[LoadedProfile], wanted: Reach, secret: u64) -> Self {
        let ports = profiles.iter().map(|profile| profile.held_ports().len()).sum();
        let reach = reach(ports, wanted);
        let span = span(reach);
        let (mut first, mut ranges) = (0, Vec::with_capacity(profiles.len()));
        for profile in profiles {
            ranges.push(PlaceRange { first, filled: profile.next() });
            first += span * profile.held_ports().len() as u32;
        }
        let mut look_ahead = Self {
            ranges,
            table: CodeTable::new(span as usize * ports),
            unfilled: Vec::new(),
            reach,
            span: span.into(),
            secret,
        };
        for (number, profile) in profiles.iter().enumerate().filter(|(_, profile)| !profile.held_ports().is_empty()) {
            look_ahead.fill_to(number, profile, profile.next() + u64::from(reach.window));
            if reach.far > 0 {
                look_ahead.unfilled.push(number);
            }
        }
        look_ahead
    }

    /// Returns how many counters the table covers.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Finds the message with this hash. Returns each matching profile once, with its lowest counter.
    pub fn find(&self, message: &Message, hash: u64, knock_port: u16, profiles: &[LoadedProfile]) -> Vec<Hit> {
        let mut hits: Vec<Hit> = Vec::new();
        for place in self.table.candidates(hash) {
            let hit = self.at(place, profiles);
            let profile = &profiles[hit.profile];
            if profile.knock_port() != knock_port || profile.message(hit.counter, hit.port) != *message {
                continue;
            }
            match hits.iter_mut().find(|known| known.profile == hit.profile) {
                Some(known) if known.counter <= hit.counter => {}
                Some(known) => *known = hit,
                None => hits.push(hit),
            }
        }
        hits
    }

    /// Advances a profile from counter `from` to its current next counter.
    pub fn advance(&mut self, number: usize, from: u64, profile: &LoadedProfile) {
        let ports = profile.held_ports().len() as u64;
        if ports == 0 {
            return;
        }
        let (next, filled) = (profile.next(), self.ranges[number].filled);
        for counter in from..next.min(filled) {
            let first = self.place(number, counter, ports);
            (first..first + ports as usize).for_each(|place| self.table.remove(place));
        }
        self.ranges[number].filled = filled.max(next);
        self.fill_to(number, profile, next + u64::from(self.reach.window));
        let was_full = filled >= self.end(from);
        if was_full && self.ranges[number].filled < self.end(next) {
            self.unfilled.push(number);
        }
    }

    /// Fills some more places. Returns `false` when all are filled.
    pub fn fill(&mut self, profiles: &[LoadedProfile]) -> bool {
        let Some(&number) = self.unfilled.last() else { return false };
        let profile = &profiles[number];
        self.fill_to(number, profile, self.ranges[number].filled + FILL);
        if self.ranges[number].filled >= self.end(profile.next()) {
            self.unfilled.pop();
        }
        true
    }

    /// Returns whether there are places to fill.
    pub fn is_filling(&self) -> bool {
        !self.unfilled.is_empty()
    }

    /// Fills a profile's places up to counter `end`, limited by its span.
    fn fill_to(&mut self, number: usize, profile: &LoadedProfile, end: u64) {
        let ports = profile.held_ports();
        let from = self.ranges[number].filled;
        let end = end.min(self.end(profile.next()));
        for counter in from..end {
            let first = self.place(number, counter, ports.len() as u64);
            for (place, &port) in (first..).zip(ports) {
                let hash = profile.message(counter as u32, port).hash(profile.knock_port(), self.secret);
                self.table.insert(place, hash);
            }
        }
        self.ranges[number].filled = end.max(from);
    }

    /// Returns the end of the span that starts at `next`.
    fn end(&self, next: u64) -> u64 {
        (next + self.span).min(COUNTERS)
    }

    /// Returns the first place of a counter.
    fn place(&self, number: usize, counter: u64, ports: u64) -> usize {
        self.ranges[number].first as usize + (counter % self.span * ports) as usize
    }

    /// Returns the profile, counter and port of a filled place.
    fn at(&self, place: usize, profiles: &[LoadedProfile]) -> Hit {
        // A profile without places has the same `first` as the next profile, so take the last match.
        let number = self.ranges.partition_point(|range| range.first as usize <= place) - 1;
        let profile = &profiles[number];
        let (ports, next) = (profile.held_ports(), profile.next());
        let offset = place - self.ranges[number].first as usize;
        let (row, column) = ((offset / ports.len()) as u64, offset % ports.len());
        let counter = next + (row + self.span - next % self.span) % self.span;
        Hit { profile: number, counter: counter as u32, port: ports[column] }
    }
}

/// Reduces `wanted` to what the table has room for, if all profiles together list `ports` ports.
fn reach(ports: usize, wanted: Reach) -> Reach {
    let room = MAX_PLACES.checked_div(ports).map_or(u32::MAX, |room| room as u32);
    let window = wanted.window.min(room).max(1);
    // A far-ahead knock is useless without room for the second knock.
    let far = (room - window.min(room)).saturating_sub(STEPS).min(wanted.far);
    Reach { window, far }
}

/// Returns the number of counters with places, including those of second knocks.
fn span(reach: Reach) -> u32 {
    reach.window + if reach.far > 0 { reach.far + STEPS } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use crate::profile::ProfileConfig;
    use crate::wire::{Keys, Wire};

    const REACH: Reach = Reach { window: 4, far: 10 };

    fn profile(number: u8, wire: Wire, ports: &str, next: u64) -> LoadedProfile {
        let ports = Some(Ports::parse(ports).unwrap()).filter(|ports| !ports.is_empty());
        let config = ProfileConfig { knock_port: 666, ports, wire, legacy: false };
        LoadedProfile::new(config, Keys::new(&[number; 16], &[number; 16]), next)
    }

    /// The counters of a profile whose message for `port` is found, from 0 to 200.
    fn held(look_ahead: &LookAhead, profiles: &[LoadedProfile], number: usize, port: u16) -> Vec<u32> {
        let found = |&counter: &u32| {
            let message = profiles[number].message(counter, port);
            let hits = look_ahead.find(&message, message.hash(666, look_ahead.secret), 666, profiles);
            assert!(hits.iter().all(|hit| *hit == Hit { profile: number, counter, port }));
            !hits.is_empty()
        };
        (0..200).filter(found).collect()
    }

    #[test]
    fn the_window_is_filled_at_once_and_the_rest_later() {
        let profiles = [
            profile(1, Wire::Stealth, "22,443", 100),
            profile(2, Wire::Classic, "", 5),
            profile(3, Wire::Classic, "80", 7),
        ];
        let mut look_ahead = LookAhead::new(&profiles, REACH, 9);
        for port in [22, 443] {
            assert_eq!(held(&look_ahead, &profiles, 0, port), (100..104).collect::<Vec<_>>());
        }
        assert_eq!(held(&look_ahead, &profiles, 2, 80), (7..11).collect::<Vec<_>>());
        while look_ahead.fill(&profiles) {}
        for port in [22, 443] {
            assert_eq!(held(&look_ahead, &profiles, 0, port), (100..134).collect::<Vec<_>>());
        }
        assert_eq!(held(&look_ahead, &profiles, 2, 80), (7..41).collect::<Vec<_>>());
        assert!(held(&look_ahead, &profiles, 0, 80).is_empty(), "a port that is not listed");
        assert!(held(&look_ahead, &profiles, 1, 80).is_empty(), "a profile without a list");
    }

    #[test]
    fn burned_counters_leave_the_table_and_new_ones_enter() {
        let mut profiles = [profile(1, Wire::Stealth, "22,443", 100)];
        let mut look_ahead = LookAhead::new(&profiles, REACH, 9);
        for next in [101, 102, 104, 104, 120, 150, 151] {
            let from = profiles[0].next();
            profiles[0].use_up_to(next);
            look_ahead.advance(0, from, &profiles[0]);
            let least = next as u32..next as u32 + 4;
            assert!(held(&look_ahead, &profiles, 0, 443).starts_with(&least.collect::<Vec<_>>()), "from {next} on");
            if next % 2 == 0 {
                while look_ahead.fill(&profiles) {}
                assert_eq!(held(&look_ahead, &profiles, 0, 22), (next as u32..next as u32 + 34).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_last_counter_is_held_and_nothing_after_it() {
        let mut profiles = [profile(1, Wire::Stealth, "22", COUNTERS - 6)];
        let mut look_ahead = LookAhead::new(&profiles, REACH, 9);
        while look_ahead.fill(&profiles) {}
        for next in COUNTERS - 6..=COUNTERS {
            let from = profiles[0].next();
            profiles[0].use_up_to(next);
            look_ahead.advance(0, from, &profiles[0]);
            let found = |counter: u32| {
                let message = profiles[0].message(counter, 22);
                !look_ahead.find(&message, message.hash(666, 9), 666, &profiles).is_empty()
            };
            let held: Vec<u32> = (u32::MAX - 8..=u32::MAX).chain(0..50).filter(|&counter| found(counter)).collect();
            assert_eq!(held, (next..COUNTERS).map(|counter| counter as u32).collect::<Vec<_>>());
        }
        assert!(!look_ahead.fill(&profiles));
    }

    #[test]
    fn a_code_of_two_profiles_finds_both() {
        let profiles = [
            profile(1, Wire::Stealth, "22", 100),
            profile(1, Wire::Stealth, "22", 102),
            profile(1, Wire::Classic, "22", 102),
        ];
        let look_ahead = LookAhead::new(&profiles, REACH, 9);
        let message = profiles[0].message(103, 22);
        let mut hits = look_ahead.find(&message, message.hash(666, 9), 666, &profiles);
        hits.sort_by_key(|hit| hit.profile);
        assert_eq!(hits, [0, 1].map(|profile| Hit { profile, counter: 103, port: 22 }));
    }

    #[test]
    fn too_many_codes_reduce_the_far_counters_first_then_the_window() {
        let wanted = Reach { window: 20, far: 10_000 };
        assert_eq!(reach(0, wanted), wanted);
        assert_eq!(reach(104, wanted), wanted);
        assert_eq!(reach(105, wanted), Reach { window: 20, far: 9946 });
        assert_eq!(reach(10_000, wanted), Reach { window: 20, far: 64 });
        assert_eq!(reach(40_000, wanted), Reach { window: 20, far: 0 });
        assert_eq!(reach(100_000, wanted), Reach { window: 10, far: 0 });
        assert_eq!(reach(MAX_PLACES, wanted), Reach { window: 1, far: 0 });
        for ports in [1, 7, 105, 10_000, 99_999, MAX_PLACES] {
            assert!(span(reach(ports, wanted)) as usize * ports <= MAX_PLACES);
        }
    }
}
