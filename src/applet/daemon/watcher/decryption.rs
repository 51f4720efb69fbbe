//! Decrypts classic messages whose port cannot be predicted: from profiles that list no ports or too many, and for
//! ports that are not listed. It tries every possible counter, so its cost is limited.

use super::armed::{Armed, STEPS};
use super::loaded_profile::LoadedProfile;
use super::look_ahead::{Hit, Reach};
use super::search_budget::SearchBudget;
use crate::wire::{Ciphertext, Entry, Wire};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The maximum number of SYNs that wait for a far-ahead search.
const FAR_SEARCHES: usize = 64;

/// The classic profiles whose messages are decrypted, and the limits for that.
pub(super) struct Decryption {
    /// Profiles whose messages are not in the look-ahead table.
    unheld: Numbers,
    /// Profiles that list ports.
    listing: Numbers,
    reach: Reach,
    budget: SearchBudget,
    /// SYNs that wait for a far-ahead search, in order.
    far_searches: Vec<Entry>,
}

/// Pairs of knock port and profile number, in ascending order.
struct Numbers(Vec<(u16, usize)>);

impl Numbers {
    fn select(profiles: &[LoadedProfile], wanted: fn(&LoadedProfile) -> bool) -> Self {
        let mut numbers = Vec::new();
        for (number, profile) in profiles.iter().enumerate() {
            if profile.wire() == Wire::Classic && wanted(profile) {
                let pair = (profile.knock_port(), number);
                numbers.insert(numbers.partition_point(|other| *other < pair), pair);
            }
        }
        Self(numbers)
    }

    /// Returns the pairs with a knock port.
    fn on(&self, knock_port: u16) -> &[(u16, usize)] {
        let first = self.0.partition_point(|&(port, _)| port < knock_port);
        let end = self.0.partition_point(|&(port, _)| port <= knock_port);
        self.0.get(first..end).unwrap_or_default()
    }
}

#[allow(clippy::indexing_slicing, reason = "a profile's number is its place in the list, which never changes")]
impl Decryption {
    /// Creates the decryption for the classic profiles among `profiles`.
    pub fn new(profiles: &[LoadedProfile], reach: Reach, secret: u64) -> Self {
        Self {
            unheld: Numbers::select(profiles, |profile| profile.held_ports().is_empty()),
            listing: Numbers::select(profiles, LoadedProfile::lists_ports),
            reach,
            budget: SearchBudget::new(secret),
            far_searches: Vec::new(),
        }
    }

    /// Decrypts a message with the counters of the window, and with those that may follow an armed knock. A hit may be
    /// for a port that is not listed.
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
        for &(_, number) in self.unheld.on(knock_port) {
            let profile = &profiles[number];
            let found = profile.decrypt(ciphertext, profile.next(), window, true).or_else(|| {
                let first = armed.ahead(number, profile.next(), now)?;
                profile.decrypt(ciphertext, u64::from(first) + 1, STEPS, true)
            });
            add(&mut hits, number, found);
        }
        if hits.is_empty() {
            for &(_, number) in self.listing.on(knock_port) {
                if !self.budget.take_denied_port(now) {
                    break;
                }
                let profile = &profiles[number];
                let found = profile.decrypt(ciphertext, profile.next(), window, false);
                add(&mut hits, number, found);
            }
        }
        hits
    }

    /// Queues an unexplained SYN for a far-ahead search, if its source has budget left.
    pub fn postpone(&mut self, entry: &Entry, now: Instant) {
        let worth = self.reach.far > 0 && !self.unheld.on(entry.knock_port).is_empty();
        if worth && self.far_searches.len() < FAR_SEARCHES && self.budget.allows(entry.source, now) {
            self.far_searches.push(*entry);
        }
    }

    /// Returns the next SYN to search for.
    pub fn next_far_search(&self) -> Option<&Entry> {
        self.far_searches.first()
    }

    /// Removes the first SYN from the queue. Returns it unless its source has used up its budget meanwhile.
    pub fn take_far_search(&mut self, now: Instant) -> Option<Entry> {
        if self.far_searches.is_empty() {
            return None;
        }
        let entry = self.far_searches.remove(0);
        self.budget.allows(entry.source, now).then_some(entry)
    }

    /// Decrypts the message of a SYN with all counters of the window and beyond, as far as `reach` allows.
    pub fn find_far(&self, entry: &Entry, profiles: &[LoadedProfile]) -> Vec<Hit> {
        let number = self.reach.window.saturating_add(self.reach.far);
        let mut hits = Vec::new();
        let Some(ciphertext) = entry.ciphertext() else { return hits };
        for &(_, profile) in self.unheld.on(entry.knock_port) {
            let found = profiles[profile].decrypt(&ciphertext, profiles[profile].next(), number, true);
            add(&mut hits, profile, found);
        }
        hits
    }

    /// Charges `source` for a search that took `spent`.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        self.budget.charge(source, spent, now);
    }
}

/// Adds what was found in the message with the keys of a profile.
fn add(hits: &mut Vec<Hit>, profile: usize, found: Option<(u32, u16)>) {
    if let Some((counter, port)) = found {
        hits.push(Hit { profile, counter, port });
    }
}
