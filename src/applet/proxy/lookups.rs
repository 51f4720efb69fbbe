//! Which names are resolved next, and who waits for them. A value: it starts no lookup itself.
//!
//! A lookup under way cannot be stopped, and a name that no server answers takes ten seconds and more.
//! So names are cheap to ask for and expensive to resolve, and whoever can connect may ask. Three limits
//! keep one source from blocking the others: names at once, lookups under way, and fresh lookups. A
//! lookup that waits is dropped with its last client.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The most names at once: waiting, or under way.
const NAMES: Limit = Limit { all: 1024, source: 512 };
/// The most lookups under way. Each has a thread.
const LOOKUPS: Limit = Limit { all: 32, source: 24 };
/// The most lookups that began less than [`FRESH`] ago. When they are many, slower ones do not count, so
/// names that nobody answers hold up the others for no longer than this.
const FRESH_LOOKUPS: Limit = Limit { all: 16, source: 8 };
const FRESH: Duration = Duration::from_secs(1);
/// How often to say that names are refused.
const NOTICE: Duration = Duration::from_secs(60);

/// How many there may be, and how many of one source.
struct Limit {
    all: usize,
    source: usize,
}

/// The lookups of all clients.
#[derive(Default)]
pub struct Lookups {
    lookups: HashMap<Rc<str>, Lookup>,
    /// The names of the lookups under way, with their sources and when they began.
    started: Vec<(Rc<str>, IpAddr, Instant)>,
    sources: HashMap<IpAddr, LookupSource>,
    /// The name that each client waits for.
    clients: HashMap<u64, Rc<str>>,
    last_ticket: u64,
    /// When it was last said that names are refused.
    said: Option<Instant>,
}

/// A name that clients wait for.
struct Lookup {
    name: Rc<str>,
    source: IpAddr,
    clients: BTreeSet<u64>,
    /// Its place in the order, until it is under way.
    ticket: Option<u64>,
}

/// What the clients of one source have asked for.
#[derive(Default)]
struct LookupSource {
    /// How many names wait or are under way.
    names: usize,
    /// The names that wait, in their order.
    waiting: BTreeMap<u64, Rc<str>>,
}

/// A name was refused, because there are as many as there may be.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyNames {
    /// How many there are.
    pub names: usize,
    /// Whether it is time to say so.
    pub say: bool,
}

impl Lookups {
    /// Takes in that a client from `address` waits for the addresses of `name`.
    pub fn ask(&mut self, name: &str, client: u64, address: IpAddr, now: Instant) -> Result<(), TooManyNames> {
        if !self.lookups.contains_key(name) {
            self.add(name, network(address), now)?;
        }
        if let Some(lookup) = self.lookups.get_mut(name) {
            lookup.clients.insert(client);
            self.clients.insert(client, Rc::clone(&lookup.name));
        }
        Ok(())
    }

    fn add(&mut self, name: &str, source: IpAddr, now: Instant) -> Result<(), TooManyNames> {
        let of_source = self.sources.get(&source).map_or(0, |source| source.names);
        if self.lookups.len() >= NAMES.all || of_source >= NAMES.source {
            let say = self.said.is_none_or(|said| now >= said + NOTICE);
            self.said = if say { Some(now) } else { self.said };
            return Err(TooManyNames { names: self.lookups.len(), say });
        }
        self.last_ticket += 1;
        let (name, ticket) = (Rc::<str>::from(name), self.last_ticket);
        let lookup = Lookup { name: Rc::clone(&name), source, clients: BTreeSet::new(), ticket: Some(ticket) };
        self.lookups.insert(Rc::clone(&name), lookup);
        let source = self.sources.entry(source).or_default();
        source.names += 1;
        source.waiting.insert(ticket, name);
        Ok(())
    }

    /// Takes in that a client is gone. A lookup that nobody waits for any more does not begin.
    pub fn leave(&mut self, client: u64) {
        let Some(name) = self.clients.remove(&client) else { return };
        let Some(lookup) = self.lookups.get_mut(&name) else { return };
        lookup.clients.remove(&client);
        if lookup.clients.is_empty() && lookup.ticket.is_some() {
            self.remove(&name);
        }
    }

    /// The next lookup to begin, if one may.
    pub fn next(&mut self, now: Instant) -> Option<Rc<str>> {
        let fresh = |began: &Instant| now < *began + FRESH;
        let count = |of: Option<IpAddr>| {
            let these = self.started.iter().filter(|(_, source, _)| of.is_none_or(|of| of == *source));
            these.fold((0, 0), |(all, young), (_, _, began)| (all + 1, young + usize::from(fresh(began))))
        };
        let (all, young) = count(None);
        if all >= LOOKUPS.all || young >= FRESH_LOOKUPS.all {
            return None;
        }
        let first = self.sources.iter().filter_map(|(address, source)| {
            let ticket = source.waiting.keys().next()?;
            let (all, young) = count(Some(*address));
            (all < LOOKUPS.source && young < FRESH_LOOKUPS.source).then_some((*ticket, *address))
        });
        let (ticket, address) = first.min()?;
        let name = self.sources.get_mut(&address)?.waiting.remove(&ticket)?;
        self.lookups.get_mut(&name)?.ticket = None;
        self.started.push((Rc::clone(&name), address, now));
        Some(name)
    }

    /// When another lookup may begin without an answer to one under way.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let waiting = self.lookups.len() > self.started.len();
        self.started.iter().map(|(_, _, began)| *began + FRESH).filter(|due| waiting && *due > now).min()
    }

    /// Takes in that a lookup is over. Returns the clients that waited for it.
    pub fn answered(&mut self, name: &str) -> BTreeSet<u64> {
        self.started.retain(|(started, ..)| **started != *name);
        let clients = self.remove(name);
        clients.iter().for_each(|client| drop(self.clients.remove(client)));
        clients
    }

    fn remove(&mut self, name: &str) -> BTreeSet<u64> {
        let Some(lookup) = self.lookups.remove(name) else { return BTreeSet::new() };
        if let Some(source) = self.sources.get_mut(&lookup.source) {
            source.names -= 1;
            lookup.ticket.map(|ticket| source.waiting.remove(&ticket));
            if source.names == 0 {
                self.sources.remove(&lookup.source);
            }
        }
        lookup.clients
    }
}

/// The source that an address counts as: one IPv6 host has a network of 64 bits to choose from.
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
            lookups.ask("host", client, LOCAL, now).unwrap();
        }
        assert_eq!(lookups.next(now).as_deref(), Some("host"));
        assert_eq!(lookups.next(now), None);
        lookups.ask("host", 3, LOCAL, now).unwrap();
        lookups.leave(1);
        assert_eq!(lookups.answered("host"), BTreeSet::from([2, 3]));
        assert!(lookups.lookups.is_empty() && lookups.clients.is_empty() && lookups.sources.is_empty());
    }

    #[test]
    fn a_lookup_is_dropped_with_its_last_client() {
        let (mut lookups, now) = (Lookups::default(), Instant::now());
        for client in 0..100_000 {
            lookups.ask(&format!("n{client}"), client, LOCAL, now).unwrap();
            begin(&mut lookups, now);
            lookups.leave(client);
        }
        assert_eq!(lookups.lookups.len(), FRESH_LOOKUPS.source, "what is under way goes on");
        assert!(lookups.clients.is_empty());
        lookups.ask("localhost", 0, LOCAL, now).unwrap();
        assert_eq!((lookups.next(now), lookups.due(now)), (None, Some(now + FRESH)));
        assert_eq!(lookups.next(now + FRESH).as_deref(), Some("localhost"), "nothing is in front of it");
    }

    #[test]
    fn slow_names_hold_up_others_for_a_second() {
        let (mut lookups, mut now) = (Lookups::default(), Instant::now());
        for client in 0..500 {
            lookups.ask(&format!("slow{client}"), client, LOCAL, now).unwrap();
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
            let asked = lookups.ask(&format!("n{client}"), client, LOCAL, now);
            assert_eq!(asked.is_ok(), client < NAMES.source as u64);
        }
        for _ in 0..10 {
            begin(&mut lookups, now);
            now += FRESH;
        }
        assert_eq!(lookups.started.len(), LOOKUPS.source);
        lookups.ask("other", 1000, OTHER, now).unwrap();
        assert_eq!(lookups.next(now).as_deref(), Some("other"));
    }

    #[test]
    fn the_names_are_limited_and_it_is_said_now_and_then() {
        let (mut lookups, now) = (Lookups::default(), Instant::now());
        let source = |number: u64| IpAddr::from(Ipv6Addr::from_bits(u128::from(number) << 64 | u128::from(number)));
        for client in 0..NAMES.all as u64 {
            lookups.ask(&format!("n{client}"), client, source(client), now).unwrap();
        }
        let refused = |say| Err(TooManyNames { names: NAMES.all, say });
        assert_eq!(lookups.ask("one more", 5000, LOCAL, now), refused(true));
        assert_eq!(lookups.ask("one more", 5000, LOCAL, now), refused(false));
        assert_eq!(lookups.ask("one more", 5000, LOCAL, now + NOTICE), refused(true));
        assert_eq!(lookups.ask("n0", 5001, LOCAL, now), Ok(()), "it is looked up anyway");
        lookups.leave(1);
        assert_eq!(lookups.ask("one more", 5000, LOCAL, now), Ok(()));
    }

    #[test]
    fn an_ipv6_host_is_one_source() {
        let [one, two, three] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(network(one), network(two));
        assert_ne!(network(one), network(three));
        assert_eq!(network("::ffff:127.0.0.1".parse().unwrap()), LOCAL);
    }
}
