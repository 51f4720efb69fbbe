//! Decrypting classic messages whose port nobody can foresee: those of profiles that list no ports, or more
//! than are held, and those for a port that is not listed. Every counter that may be meant is tried, so what
//! this may cost is limited.

use super::armed::{Armed, STEPS};
use super::loaded_profile::LoadedProfile;
use super::look_ahead::{Hit, Reach};
use super::search_budget::SearchBudget;
use crate::wire::{Ciphertext, Entry, Wire};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// This many SYNs wait for a search far ahead at most.
const FAR_SEARCHES: usize = 64;

/// The classic profiles whose messages are decrypted, and what may be spent on that.
pub(super) struct Decryption {
    /// Those whose messages are not held.
    unheld: Numbers,
    /// Those that list ports.
    listing: Numbers,
    reach: Reach,
    budget: SearchBudget,
    /// The SYNs that a search far ahead may explain, in order.
    far_searches: VecDeque<Entry>,
}

/// Knock ports and the numbers of profiles, ascending.
struct Numbers(Vec<(u16, usize)>);

impl Numbers {
    fn of(profiles: &[LoadedProfile], wanted: impl Fn(&LoadedProfile) -> bool) -> Self {
        let numbered = profiles.iter().enumerate();
        let wanted = numbered.filter(|(_, profile)| profile.wire() == Wire::Classic && wanted(profile));
        let mut numbers: Vec<_> = wanted.map(|(number, profile)| (profile.knock_port(), number)).collect();
        numbers.sort_unstable();
        Self(numbers)
    }

    /// The numbers of the profiles on a knock port.
    fn on(&self, knock_port: u16) -> impl Iterator<Item = usize> {
        let first = self.0.partition_point(|&(port, _)| port < knock_port);
        let from = self.0.iter().skip(first);
        from.take_while(move |&&(port, _)| port == knock_port).map(|&(_, number)| number)
    }
}

#[allow(clippy::indexing_slicing, reason = "a profile's number is its place in the list, which never changes")]
impl Decryption {
    /// For the classic ones among `profiles`.
    pub fn new(profiles: &[LoadedProfile], reach: Reach, secret: u64) -> Self {
        Self {
            unheld: Numbers::of(profiles, |profile| profile.held_ports().is_empty()),
            listing: Numbers::of(profiles, LoadedProfile::lists_ports),
            reach,
            budget: SearchBudget::new(secret),
            far_searches: VecDeque::new(),
        }
    }

    /// Decrypts a message with the counters of the window, and with those that may follow a knock far ahead.
    /// A hit may be for a port that is not listed.
    pub fn find(
        &mut self,
        knock_port: u16,
        ciphertext: &Ciphertext,
        profiles: &[LoadedProfile],
        armed: &Armed,
        now: Instant,
    ) -> Vec<Hit> {
        let window = self.reach.window;
        let mut hits = Vec::new();
        for number in self.unheld.on(knock_port) {
            let profile = &profiles[number];
            let found = profile.decrypt(ciphertext, profile.next(), window, true).or_else(|| {
                let first = armed.ahead(number, profile.next(), now)?;
                profile.decrypt(ciphertext, u64::from(first) + 1, STEPS, true)
            });
            hits.extend(found.map(|(counter, port)| Hit { profile: number, counter, port }));
        }
        if hits.is_empty() {
            for number in self.listing.on(knock_port).take_while(|_| self.budget.take_denied_port(now)) {
                let profile = &profiles[number];
                let found = profile.decrypt(ciphertext, profile.next(), window, false);
                hits.extend(found.map(|(counter, port)| Hit { profile: number, counter, port }));
            }
        }
        hits
    }

    /// Remembers a SYN that nothing explains for a search far ahead, where its source may cost one.
    pub fn postpone(&mut self, entry: &Entry, now: Instant) {
        let worth = self.reach.far > 0 && self.unheld.on(entry.knock_port).next().is_some();
        if worth && self.far_searches.len() < FAR_SEARCHES && self.budget.allows(entry.source, now) {
            self.far_searches.push_back(*entry);
        }
    }

    /// The SYN that the next search far ahead is for.
    pub fn next_far_search(&self) -> Option<&Entry> {
        self.far_searches.front()
    }

    /// Takes the first SYN that waits, unless the searches before have used up what its source had.
    pub fn take_far_search(&mut self, now: Instant) -> Option<Entry> {
        let entry = self.far_searches.pop_front()?;
        self.budget.allows(entry.source, now).then_some(entry)
    }

    /// Decrypts the message of a SYN with the counters of the window and with those far ahead.
    pub fn find_far(&self, entry: &Entry, profiles: &[LoadedProfile]) -> Vec<Hit> {
        let number = self.reach.window.saturating_add(self.reach.far);
        let hit = |profile: usize| {
            let ciphertext = entry.ciphertext()?;
            let (counter, port) = profiles[profile].decrypt(&ciphertext, profiles[profile].next(), number, true)?;
            Some(Hit { profile, counter, port })
        };
        self.unheld.on(entry.knock_port).filter_map(hit).collect()
    }

    /// Charges `source` for a search that took `spent`.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        self.budget.charge(source, spent, now);
    }
}
