//! Caches the addresses of hosts with profiles, because a client may request a host by its address or by another name.

use super::resolver::Addresses;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// An entry is fresh for 60 s. After that the next client triggers a refresh but still uses the stale
/// entry, for up to 600 s.
const FRESH: Duration = Duration::from_secs(60);
const USABLE: Duration = Duration::from_secs(600);

/// An address, and the scope ID of a link-local one.
type ScopedAddress = (IpAddr, u32);

/// Maps addresses to profiles.
#[derive(Default)]
pub struct AddressCache {
    entries: Vec<(ScopedAddress, String)>,
    filled: Option<Instant>,
    refreshing: bool,
}

impl AddressCache {
    /// Returns whether its entries may be used.
    pub fn is_usable(&self, now: Instant) -> bool {
        self.filled.is_some_and(|filled| now < filled + USABLE)
    }

    /// Returns whether a refresh is due: the entries are stale, and no refresh is in progress.
    pub fn is_stale(&self, now: Instant) -> bool {
        !self.refreshing && self.filled.is_none_or(|filled| now >= filled + FRESH)
    }

    /// Begins a refresh for these profiles. Returns the names to resolve; pass the result to [`AddressCache::fill`]. A
    /// profile named by an address needs no resolver.
    pub fn refresh(&mut self, profiles: Vec<String>, now: Instant) -> Vec<String> {
        let (mut literal, mut names) = (Vec::new(), Vec::new());
        for profile in profiles {
            match profile.parse() {
                Ok(address) => literal.push((scoped(SocketAddr::new(address, 0)), profile)),
                Err(_) => names.push(profile),
            }
        }
        self.keep_names(&|name| names.iter().any(|other| other == name));
        self.entries.append(&mut literal);
        self.refreshing = !names.is_empty();
        if names.is_empty() {
            self.filled = Some(now);
        }
        names
    }

    /// Stores the addresses of all names. A name that was not resolved keeps its old addresses.
    pub fn fill(&mut self, found: Addresses, now: Instant) {
        for (name, addresses) in found {
            if !addresses.is_empty() {
                self.keep_names(&|known| known != name);
            }
            for address in addresses {
                self.entries.push((scoped(address), name.clone()));
            }
        }
        self.refreshing = false;
        self.filled = Some(now);
    }

    fn keep_names(&mut self, keep: &dyn Fn(&str) -> bool) {
        self.entries.retain(|(_, name)| keep(name));
    }

    /// Returns the first profile that has one of `addresses`, and those that it has.
    pub fn find(&self, addresses: &[SocketAddr]) -> Option<(&str, Vec<SocketAddr>)> {
        let has = |name: &str, address: SocketAddr| {
            self.entries.iter().any(|(known, other)| *known == scoped(address) && other == name)
        };
        let (_, name) = self.entries.iter().find(|(_, name)| addresses.iter().any(|&address| has(name, address)))?;
        let mut found = Vec::new();
        for &address in addresses {
            if has(name, address) {
                found.push(address);
            }
        }
        Some((name, found))
    }
}

/// A link-local address may be a different host on each interface.
fn scoped(address: SocketAddr) -> ScopedAddress {
    let scope = match address {
        SocketAddr::V6(address) if address.ip().is_unicast_link_local() => address.scope_id(),
        _ => 0,
    };
    (address.ip().to_canonical(), scope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV6;

    #[test]
    fn a_link_local_address_on_another_interface_is_another_host() {
        let mut cache = AddressCache::default();
        let scoped_address = |ip: &str, scope| SocketAddr::from(SocketAddrV6::new(ip.parse().unwrap(), 22, 0, scope));
        let [one, two] = [1, 2].map(|scope| scoped_address("fe80::1", scope));
        let found =
            vec![("one.example".into(), vec![one]), ("global.example".into(), vec![scoped_address("fd09::1", 1)])];
        cache.fill(found, Instant::now());
        assert_eq!(cache.find(&[two, one]), Some(("one.example", vec![one])));
        assert_eq!(cache.find(&[two]), None);
        assert!(cache.find(&[scoped_address("fd09::1", 0)]).is_some());
    }

    #[test]
    fn profiles_are_found_by_their_addresses() {
        let profiles = || ["10.9.0.1", "gone.example", "host.example"].map(String::from).to_vec();
        let [literal, named, alias, other]: [SocketAddr; 4] =
            ["10.9.0.1:22", "10.9.0.2:22", "[::ffff:10.9.0.2]:22", "10.9.0.3:22"].map(|text| text.parse().unwrap());
        let (mut cache, mut now) = (AddressCache::default(), Instant::now());
        assert!(cache.is_stale(now) && !cache.is_usable(now));
        assert_eq!(cache.refresh(profiles(), now), ["gone.example", "host.example"]);
        assert!(!cache.is_stale(now), "a refresh is under way");
        cache.fill(vec![("gone.example".into(), vec![]), ("host.example".into(), vec![named])], now);
        assert!(cache.is_usable(now) && !cache.is_stale(now));
        assert_eq!(cache.find(&[literal]), Some(("10.9.0.1", vec![literal])));
        assert_eq!(cache.find(&[other, alias]), Some(("host.example", vec![alias])));
        assert_eq!(cache.find(&[other]), None);
        // Its name has no answer now; then the profile is removed.
        now += FRESH;
        assert!(cache.is_stale(now) && cache.is_usable(now));
        cache.refresh(profiles(), now);
        cache.fill(vec![("gone.example".into(), vec![]), ("host.example".into(), vec![])], now);
        assert!(cache.find(&[named]).is_some());
        now += USABLE;
        assert!(!cache.is_usable(now));
        assert!(cache.refresh(Vec::new(), now).is_empty());
        assert!(cache.is_usable(now), "there is nothing to resolve");
        assert!(cache.find(&[named]).is_none() && cache.find(&[literal]).is_none());
    }
}
