//! Limits the time spent on far-ahead searches for profiles that list no ports. Each source has a small budget, so
//! hostile SYNs can neither cause much work nor use up another source's budget.

use super::keyed_hash::keyed_hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// The number of accounts. A keyed hash assigns sources to them.
const ACCOUNTS: usize = 64;
/// The time in which an empty account fills up.
const FILL: Duration = Duration::from_secs(12);
/// Each second of search costs this many seconds of refill. All accounts together use about 5 % of a
/// processor, after an initial burst: 10 ms for each account, or one search if that takes longer.
const PRICE: u32 = 1200;
/// The maximum number of searches for unlisted ports in each [`DENIED_PORT_TIME`]: enough for a user who mistypes a
/// port, too few to be a burden.
const DENIED_PORT_SEARCHES: u32 = 60;
const DENIED_PORT_TIME: Duration = Duration::from_secs(60);

/// The accounts of the sources, and one for unlisted ports.
pub(super) struct SearchBudget {
    /// The key of the hash.
    secret: u64,
    /// The time at which each account is full again.
    full_at: [Option<Instant>; ACCOUNTS],
    /// The number of searches for unlisted ports, and when counting began.
    denied_port: (u32, Option<Instant>),
}

impl SearchBudget {
    /// Creates full accounts. `secret` is the key of the hash that assigns sources to them.
    pub fn new(secret: u64) -> Self {
        Self { secret, full_at: [None; ACCOUNTS], denied_port: (0, None) }
    }

    /// Returns whether `source` may cause another search. One search may overdraw the account.
    pub fn allows(&mut self, source: IpAddr, now: Instant) -> bool {
        self.account(source).is_none_or(|full_at| full_at < now + FILL)
    }

    /// Charges `source` for a search that took `spent`.
    pub fn charge(&mut self, source: IpAddr, spent: Duration, now: Instant) {
        let account = self.account(source);
        *account = Some(account.map_or(now, |full_at| full_at.max(now)) + spent * PRICE);
    }

    /// Counts a search for an unlisted port. Returns whether it may be made.
    pub fn take_denied_port(&mut self, now: Instant) -> bool {
        let (searches, since) = &mut self.denied_port;
        if since.is_none_or(|since| now.duration_since(since) >= DENIED_PORT_TIME) {
            (*searches, *since) = (0, Some(now));
        }
        *searches = searches.saturating_add(1);
        *searches <= DENIED_PORT_SEARCHES
    }

    fn account(&mut self, source: IpAddr) -> &mut Option<Instant> {
        // A host controls the whole /64 network of its IPv6 address.
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
    fn a_source_over_its_budget_is_stopped_and_others_are_not() {
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
    fn another_secret_assigns_sources_to_other_accounts() {
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
    fn a_long_search_is_charged_in_full() {
        let (mut budget, now) = (SearchBudget::new(1), Instant::now());
        let source = IpAddr::from([192, 0, 2, 1]);
        budget.charge(source, Duration::from_millis(300), now);
        assert!(!budget.allows(source, now + Duration::from_secs(347)));
        assert!(budget.allows(source, now + Duration::from_secs(349)));
    }

    #[test]
    fn unlisted_ports_get_60_searches_a_minute() {
        let (mut budget, now) = (SearchBudget::new(1), Instant::now());
        let searches = (0..200).filter(|&search| budget.take_denied_port(now + Duration::from_secs(search / 4)));
        assert_eq!(searches.count(), 60);
        assert!(budget.take_denied_port(now + Duration::from_secs(60)));
    }
}
