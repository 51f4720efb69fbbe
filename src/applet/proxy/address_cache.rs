//! Which addresses the hosts with profiles have: a client may ask for an address, or for another name
//! of such a host.

use super::resolver::{Addresses, Question};
use crate::profile;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long addresses are believed. Then they are asked for again, when somebody connects, who goes by
/// the old ones; unless they are older than this.
const FRESH: Duration = Duration::from_secs(60);
const USABLE: Duration = Duration::from_secs(600);

/// An address, and the interface that a link-local one is behind.
type Place = (IpAddr, u32);

/// The addresses of profiles.
pub struct AddressCache {
    directory: PathBuf,
    known: Vec<(Place, String)>,
    read: Option<Instant>,
    reading: bool,
}

impl AddressCache {
    /// An empty one, of the profiles in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory, known: Vec::new(), read: None, reading: false }
    }

    /// Whether one can go by what it says.
    pub fn is_usable(&self) -> bool {
        self.read.is_some_and(|read| read.elapsed() < USABLE)
    }

    /// Reads the names of the profiles anew, where it is time. Those that are no addresses are to be
    /// asked for.
    pub fn read(&mut self) -> Option<Question> {
        if self.reading || self.read.is_some_and(|read| read.elapsed() < FRESH) {
            return None;
        }
        let profiles = profile::list(&self.directory).unwrap_or_default();
        let is_address = |name: &String| name.parse::<IpAddr>().is_ok();
        let (addresses, names): (Vec<_>, Vec<_>) = profiles.into_iter().map(|found| found.name).partition(is_address);
        self.known.retain(|(_, name)| names.contains(name));
        let literal = |name: String| Some((place(SocketAddr::new(name.parse().ok()?, 0)), name));
        self.known.extend(addresses.into_iter().filter_map(literal));
        self.reading = !names.is_empty();
        if names.is_empty() {
            self.read = Some(Instant::now());
            return None;
        }
        Some(Question::Profiles(names))
    }

    /// Takes the answer. Names that nobody answers for keep the addresses that they had.
    pub fn fill(&mut self, found: Addresses) {
        let answered = |name: &String| found.iter().any(|(other, addresses)| other == name && !addresses.is_empty());
        self.known.retain(|(_, name)| !answered(name));
        for (name, addresses) in found {
            self.known.extend(addresses.into_iter().map(|address| (place(address), name.clone())));
        }
        self.reading = false;
        self.read = Some(Instant::now());
    }

    /// The profile that has one of `addresses`, and those of them that it has.
    pub fn find(&self, addresses: &[SocketAddr]) -> Option<(&str, Vec<SocketAddr>)> {
        let has = |name: &str, address: &SocketAddr| {
            self.known.iter().any(|(known, other)| *known == place(*address) && other == name)
        };
        let (_, name) = self.known.iter().find(|(_, name)| addresses.iter().any(|address| has(name, address)))?;
        Some((name, addresses.iter().copied().filter(|address| has(name, address)).collect()))
    }
}

/// Where an address is: the same link-local one may be behind each interface, and be another host.
fn place(address: SocketAddr) -> Place {
    let zone = match address {
        SocketAddr::V6(address) if address.ip().is_unicast_link_local() => address.scope_id(),
        _ => 0,
    };
    (address.ip().to_canonical(), zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV6;

    #[test]
    fn a_link_local_address_behind_another_interface_is_another_host() {
        let mut address_cache = AddressCache::new("/nonexistent".into());
        let behind = |ip: &str, zone| SocketAddr::from(SocketAddrV6::new(ip.parse().unwrap(), 22, 0, zone));
        let [one, two] = [1, 2].map(|zone| behind("fe80::1", zone));
        address_cache
            .fill(vec![("one.example".into(), vec![one]), ("global.example".into(), vec![behind("fd09::1", 1)])]);
        assert_eq!(address_cache.find(&[two, one]), Some(("one.example", vec![one])));
        assert_eq!(address_cache.find(&[two]), None);
        assert!(address_cache.find(&[behind("fd09::1", 0)]).is_some());
    }

    #[test]
    fn profiles_are_found_by_their_addresses() {
        let directory = std::env::temp_dir().join(format!("knockknock-address_cache-{}", std::process::id()));
        for name in ["10.9.0.1", "host.example", "gone.example", ".hidden"] {
            std::fs::create_dir_all(directory.join(name)).unwrap();
        }
        let [literal, named, alias, other]: [SocketAddr; 4] =
            ["10.9.0.1:22", "10.9.0.2:22", "[::ffff:10.9.0.2]:22", "10.9.0.3:22"].map(|text| text.parse().unwrap());
        let mut address_cache = AddressCache::new(directory.clone());
        let long_ago = |address_cache: &mut AddressCache| address_cache.read = Instant::now().checked_sub(FRESH);
        assert!(!address_cache.is_usable());
        let Some(Question::Profiles(names)) = address_cache.read() else { panic!("there are names") };
        assert_eq!(names, ["gone.example", "host.example"]);
        assert!(address_cache.read().is_none(), "it is being read");
        address_cache.fill(vec![("gone.example".into(), vec![]), ("host.example".into(), vec![named])]);
        assert!(address_cache.is_usable());
        assert!(address_cache.read().is_none(), "it has just been read");
        assert_eq!(address_cache.find(&[literal]), Some(("10.9.0.1", vec![literal])));
        assert_eq!(address_cache.find(&[other, alias]), Some(("host.example", vec![alias])));
        assert_eq!(address_cache.find(&[other]), None);
        // Nobody answers for it now; then it is removed.
        long_ago(&mut address_cache);
        assert!(address_cache.read().is_some() && address_cache.is_usable());
        address_cache.fill(vec![("gone.example".into(), vec![]), ("host.example".into(), vec![])]);
        assert!(address_cache.find(&[named]).is_some());
        std::fs::remove_dir_all(&directory).unwrap();
        long_ago(&mut address_cache);
        assert!(address_cache.read().is_none());
        assert!(
            address_cache.is_usable()
                && address_cache.find(&[named]).is_none()
                && address_cache.find(&[literal]).is_none()
        );
    }
}
