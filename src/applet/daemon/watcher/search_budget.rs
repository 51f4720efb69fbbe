//! What a search far ahead may cost: a little time for each source, so that hostile lines can neither
//! buy much of it nor use up somebody else's.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources share this many accounts, by a hash that nobody can foresee.
const ACCOUNTS: usize = 64;
/// How long an account that is used up takes to fill again.
const FILL: Duration = Duration::from_secs(12);
/// How long it takes to earn a moment of searching: this many such moments. With all accounts in use
/// without a pause, searching takes a twentieth of a processor, and what they hold at first two thirds of a second.
const PRICE: u32 = 1200;

/// The accounts: when each will be full again.
pub struct SearchBudget {
    hasher: RandomState,
    full_at: [Option<Instant>; ACCOUNTS],
}

impl SearchBudget {
    /// Full accounts.
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), full_at: [None; ACCOUNTS] }
    }

    /// Whether a line from `source` may still cost a search. One search may overdraw the account.
    pub fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        self.account(source).is_none_or(|full_at| full_at < now + FILL)
    }

    /// Pays for the time that a search has taken.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        let account = self.account(source);
        *account = Some(account.map_or(now, |full_at| full_at.max(now)) + spent * PRICE);
    }

    fn account(&mut self, source: IpAddr) -> &mut Option<Instant> {
        // Who has one IPv6 address has its whole network.
        let network = match source {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let number = self.hasher.hash_one(network) as usize % ACCOUNTS;
        let [rest @ .., last] = &mut self.full_at;
        rest.get_mut(number).unwrap_or(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_searches_on_is_stopped_and_others_are_not() {
        let (mut budget, now) = (SearchBudget::new(), Instant::now());
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let hostile = address(0x0a00_0001);
        let mut spent = Duration::ZERO;
        while budget.allows(hostile, now) {
            budget.charge(hostile, Duration::from_millis(2), now);
            spent += Duration::from_millis(2);
        }
        assert_eq!(spent, FILL / PRICE);
        assert!(budget.allows(hostile, now + Duration::from_secs(3)), "2 ms are earned in 2.4 s");
        let refused = (0x0b00_0000..0x0b00_1000).filter(|&number| !budget.allows(address(number), now)).count();
        assert!((1..200).contains(&refused), "the 64th part of 4,096 shares its account: {refused}");
    }

    #[test]
    fn one_long_search_is_paid_for_in_full() {
        let (mut budget, now) = (SearchBudget::new(), Instant::now());
        let source = IpAddr::from([192, 0, 2, 1]);
        budget.charge(source, Duration::from_millis(300), now);
        assert!(!budget.allows(source, now + Duration::from_secs(347)));
        assert!(budget.allows(source, now + Duration::from_secs(349)));
    }
}
