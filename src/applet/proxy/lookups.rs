//! Decides which names are resolved next, and tracks who waits for them. It is a pure value and starts no lookup
//! itself.
//!
//! A running lookup cannot be cancelled, and a name that no server answers takes ten seconds or more. Requesting a name
//! is cheap and resolving it is expensive, and everybody who can connect may request one. Three limits keep one source
//! from blocking the others: on names, on running lookups, and on fresh lookups. A waiting lookup is dropped with its
//! last client.

use super::by_id::forget;
use crate::sys::clock::sooner;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The maximum number of names, waiting or being resolved.
const NAMES: Limit = Limit { all: 1024, source: 512 };
/// The maximum number of running lookups. Each has a thread.
const LOOKUPS: Limit = Limit { all: 32, source: 24 };
/// The maximum number of running lookups that started less than [`FRESH`] ago. This keeps slots free for other sources
/// while many names go unanswered.
const FRESH_LOOKUPS: Limit = Limit { all: 16, source: 8 };
const FRESH: Duration = Duration::from_secs(1);

/// A limit in total and for each source.
struct Limit {
    all: usize,
    source: usize,
}

/// The lookups of all clients, in order of arrival. They are few enough for linear search.
#[derive(Default)]
pub struct Lookups {
    lookups: Vec<Lookup>,
}

/// A name that clients are waiting for.
struct Lookup {
    name: String,
    source: IpAddr,
    clients: Vec<u64>,
    /// When it started; `None` while it waits.
    began: Option<Instant>,
}

impl Lookups {
    /// Records that a client from `address` waits for the addresses of `name`; `false` if there are too many names.
    pub fn ask(&mut self, name: &str, client: u64, address: IpAddr) -> bool {
        if let Some(lookup) = self.lookups.iter_mut().find(|lookup| lookup.name == name) {
            lookup.clients.push(client);
            return true;
        }
        let source = network(address);
        let of_source = self.lookups.iter().filter(|lookup| lookup.source == source).count();
        let room = self.lookups.len() < NAMES.all && of_source < NAMES.source;
        if room {
            self.lookups.push(Lookup { name: name.to_owned(), source, clients: vec![client], began: None });
        }
        room
    }

    /// Records that a client is gone. A waiting lookup without clients is dropped.
    pub fn leave(&mut self, client: u64) {
        self.lookups.retain_mut(|lookup| {
            forget(&mut lookup.clients, client);
            lookup.began.is_some() || !lookup.clients.is_empty()
        });
    }

    /// Returns the next lookup to start, if one may start.
    pub fn next(&mut self, now: Instant) -> Option<String> {
        if !self.is_room(now, None, LOOKUPS.all, FRESH_LOOKUPS.all) {
            return None;
        }
        let mut full = None;
        let first = self.lookups.iter().position(|Lookup { source, began, .. }| {
            let candidate = began.is_none() && full != Some(*source);
            let room = candidate && self.is_room(now, Some(*source), LOOKUPS.source, FRESH_LOOKUPS.source);
            if candidate && !room {
                full = Some(*source);
            }
            room
        });
        let lookup = self.lookups.get_mut(first?)?;
        lookup.began = Some(now);
        Some(lookup.name.clone())
    }

    /// Returns whether fewer than `all` lookups, of `source` if given, are running and fewer than `fresh` of them are
    /// fresh.
    fn is_room(&self, now: Instant, source: Option<IpAddr>, all: usize, fresh: usize) -> bool {
        let (mut running, mut running_fresh) = (0, 0);
        for lookup in self.lookups.iter().filter(|lookup| source.is_none_or(|source| lookup.source == source)) {
            running += usize::from(lookup.began.is_some());
            running_fresh += usize::from(lookup.began.is_some_and(|began| now < began + FRESH));
        }
        running < all && running_fresh < fresh
    }

    /// Returns when another lookup may start even if no running one finishes.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let (mut waiting, mut due) = (false, None);
        for lookup in &self.lookups {
            match lookup.began.map(|began| began + FRESH) {
                None => waiting = true,
                Some(stale) if stale > now => due = sooner(due, Some(stale)),
                Some(_) => {}
            }
        }
        due.filter(|_| waiting)
    }

    /// Records that a lookup has finished. Returns the clients that waited for it.
    pub fn answered(&mut self, name: &str) -> Vec<u64> {
        let found = self.lookups.iter().position(|lookup| lookup.name == name);
        found.map_or(Vec::new(), |index| self.lookups.remove(index).clients)
    }
}

/// Returns the source that an address is counted as. An IPv6 host can use any address of its /64 network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 3));

    /// Begins what may begin; how many lookups that are.
    fn begin(lookups: &mut Lookups, now: Instant) -> usize {
        std::iter::from_fn(|| lookups.next(now)).count()
    }

    #[test]
    fn a_name_that_two_clients_ask_for_is_resolved_once() {
        let (mut lookups, now) = (Lookups::default(), Instant::now());
        for client in [1, 2] {
            assert!(lookups.ask("host", client, LOCAL));
        }
        assert_eq!(lookups.next(now).as_deref(), Some("host"));
        assert_eq!(lookups.next(now), None);
        assert!(lookups.ask("host", 3, LOCAL));
        lookups.leave(1);
        assert_eq!(lookups.answered("host"), [2, 3]);
        assert!(lookups.lookups.is_empty());
    }

    #[test]
    fn a_lookup_is_dropped_with_its_last_client() {
        let (mut lookups, now) = (Lookups::default(), Instant::now());
        for client in 0..100_000 {
            assert!(lookups.ask(&format!("n{client}"), client, LOCAL));
            begin(&mut lookups, now);
            lookups.leave(client);
        }
        assert_eq!(lookups.lookups.len(), FRESH_LOOKUPS.source, "running lookups continue");
        assert!(lookups.ask("localhost", 0, LOCAL));
        assert_eq!((lookups.next(now), lookups.due(now)), (None, Some(now + FRESH)));
        assert_eq!(lookups.next(now + FRESH).as_deref(), Some("localhost"), "nothing is in front of it");
    }

    #[test]
    fn slow_names_delay_others_by_a_second() {
        let (mut lookups, mut now) = (Lookups::default(), Instant::now());
        for client in 0..500 {
            assert!(lookups.ask(&format!("slow{client}"), client, LOCAL));
        }
        for _ in 0..3 {
            assert_eq!(begin(&mut lookups, now), FRESH_LOOKUPS.source);
            now = lookups.due(now).unwrap();
        }
        assert_eq!((begin(&mut lookups, now), lookups.due(now)), (0, None), "until one is answered");
        lookups.answered("slow0");
        assert_eq!(begin(&mut lookups, now), 1);
    }

    #[test]
    fn one_source_leaves_room_for_the_others() {
        let (mut lookups, mut now) = (Lookups::default(), Instant::now());
        for client in 0..600 {
            assert_eq!(lookups.ask(&format!("n{client}"), client, LOCAL), client < NAMES.source as u64);
        }
        for _ in 0..10 {
            begin(&mut lookups, now);
            now += FRESH;
        }
        assert_eq!(lookups.lookups.iter().filter(|lookup| lookup.began.is_some()).count(), LOOKUPS.source);
        assert!(lookups.ask("other", 1000, OTHER));
        assert_eq!(lookups.next(now).as_deref(), Some("other"));
    }

    #[test]
    fn the_number_of_names_is_limited() {
        let mut lookups = Lookups::default();
        let source = |number: u64| IpAddr::from(Ipv6Addr::from_bits(u128::from(number) << 64 | u128::from(number)));
        for client in 0..NAMES.all as u64 {
            assert!(lookups.ask(&format!("n{client}"), client, source(client)));
        }
        assert!(!lookups.ask("one more", 5000, LOCAL));
        assert!(lookups.ask("n0", 5001, LOCAL), "it is looked up anyway");
        lookups.leave(1);
        assert!(lookups.ask("one more", 5000, LOCAL));
    }

    #[test]
    fn an_ipv6_host_is_one_source() {
        let [one, two, three] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(network(one), network(two));
        assert_ne!(network(one), network(three));
        assert_eq!(network("::ffff:127.0.0.1".parse().unwrap()), LOCAL);
    }
}
