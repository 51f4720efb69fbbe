//! What searches among counters may cost, for the profiles that list no ports: a little time for each source, so that hostile lines can neither buy much of
//! it nor use up somebody else's.

use super::keyed_hash::keyed_hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The sources share this many accounts, by a hash that nobody can foresee.
const ACCOUNTS: usize = 64;
/// An account that is used up is full again after this time.
const FILL: Duration = Duration::from_secs(12);
/// Each second of search costs this many seconds of refill. All accounts together use about 5 % of a
/// processor, after an initial burst of 0.64 s.
const PRICE: u32 = 1200;
/// Searches for a port that is not listed, in each [`DENIED_PORT_TIME`]: enough for somebody who mistypes a
/// port, too few to be a burden.
const DENIED_PORT_SEARCHES: u32 = 60;
const DENIED_PORT_TIME: Duration = Duration::from_secs(60);

/// The accounts of the sources, and one for ports that are not listed.
pub(super) struct SearchBudget {
    /// A secret number, which makes the hash of a source unforeseeable.
    secret: u64,
    /// When each account will be full again.
    full_at: [Option<Instant>; ACCOUNTS],
    /// How many searches for a port that is not listed there were, and since when.
    denied_port: (u32, Option<Instant>),
}

impl SearchBudget {
    /// Full accounts, which sources share by a hash that `secret` decides.
    pub fn new(secret: u64) -> Self {
        Self { secret, full_at: [None; ACCOUNTS], denied_port: (0, None) }
    }

    /// Whether an entry from `source` may still cost a search. One search may overdraw the account.
    pub fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        self.account(source).is_none_or(|full_at| full_at < now + FILL)
    }

    /// Pays for the time that a search has taken.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        let account = self.account(source);
        *account = Some(account.map_or(now, |full_at| full_at.max(now)) + spent * PRICE);
    }

    /// Whether a search for a port that is not listed may be made; it is counted as made.
    pub fn take_denied_port(&mut self, now: Instant) -> bool {
        let (searches, since) = &mut self.denied_port;
        if since.is_none_or(|since| now.duration_since(since) >= DENIED_PORT_TIME) {
            (*searches, *since) = (0, Some(now));
        }
        *searches = searches.saturating_add(1);
        *searches <= DENIED_PORT_SEARCHES
    }

    fn account(&mut self, source: IpAddr) -> &mut Option<Instant> {
        // Whoever has one IPv6 address has its whole network.
        let network = match source {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let number = keyed_hash(self.secret, network) as usize % ACCOUNTS;
        #[allow(clippy::indexing_slicing, reason = "the number is below the length")]
        &mut self.full_at[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_searches_on_is_stopped_and_others_are_not() {
        let (mut budget, now) = (SearchBudget::new(0x0123_4567_89ab_cdef), Instant::now());
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
    fn sources_share_other_accounts_with_another_secret() {
        let shared = |secret| {
            let (mut budget, now) = (SearchBudget::new(secret), Instant::now());
            budget.charge([10, 0, 0, 1].into(), FILL, now);
            (0..=u16::MAX).filter(|&low| !budget.allows([11, 0, (low >> 8) as u8, low as u8].into(), now)).collect()
        };
        let (one, other): (Vec<u16>, Vec<u16>) = (shared(1), shared(2));
        let both = one.iter().filter(|low| other.contains(low)).count();
        assert!((700..1400).contains(&one.len()) && both < 100, "{} {} {both}", one.len(), other.len());
    }

    #[test]
    fn one_long_search_is_paid_for_in_full() {
        let (mut budget, now) = (SearchBudget::new(1), Instant::now());
        let source = IpAddr::from([192, 0, 2, 1]);
        budget.charge(source, Duration::from_millis(300), now);
        assert!(!budget.allows(source, now + Duration::from_secs(347)));
        assert!(budget.allows(source, now + Duration::from_secs(349)));
    }

    #[test]
    fn ports_that_are_not_listed_are_searched_for_60_times_a_minute() {
        let (mut budget, now) = (SearchBudget::new(1), Instant::now());
        let searches = (0..200).filter(|&search| budget.take_denied_port(now + Duration::from_secs(search / 4)));
        assert_eq!(searches.count(), 60);
        assert!(budget.take_denied_port(now + Duration::from_secs(60)));
    }
}
