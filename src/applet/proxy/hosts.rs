//! What the proxy knows of hosts: their addresses and their profiles.

use super::address_cache::AddressCache;
use super::client::ClientEvent;
use super::resolver::{Question, Resolved, Resolver};
use super::socks::Reply;
use crate::error::{Error, Result};
use crate::profile;
use crate::say;
use crate::tunnel;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

/// Finds hosts, and remembers which clients wait for an answer.
pub struct Hosts {
    /// Where the profiles are.
    directory: PathBuf,
    resolver: Resolver,
    /// The names that are being resolved, and who waits for each.
    lookups: Vec<(String, u64)>,
    address_cache: AddressCache,
    /// The clients that wait for the address cache.
    cache_waiters: Vec<u64>,
}

impl Hosts {
    /// With the profiles in `directory`.
    pub fn new(directory: PathBuf) -> io::Result<Self> {
        let (lookups, cache_waiters) = (Vec::new(), Vec::new());
        Ok(Self {
            directory,
            resolver: Resolver::new()?,
            lookups,
            address_cache: AddressCache::default(),
            cache_waiters,
        })
    }

    /// Readable while there are [`Hosts::answers`].
    pub fn bell(&self) -> &UnixStream {
        &self.resolver.bell
    }

    /// Asks for the addresses of `name` on behalf of a client.
    pub fn look_up(&mut self, client: u64, name: String) {
        if self.lookups.iter().all(|(asked, _)| *asked != name) {
            self.resolver.ask(Question::Host(name.clone()));
        }
        self.lookups.push((name, client));
    }

    /// The clients that waited for what the resolver has found, and their events.
    pub fn answers(&mut self) -> Vec<(u64, ClientEvent)> {
        let mut events = Vec::new();
        for answer in self.resolver.answers() {
            match answer {
                Resolved::Host(name, addresses) => {
                    let lookups = std::mem::take(&mut self.lookups).into_iter();
                    let (these, others): (Vec<_>, Vec<_>) = lookups.partition(|(asked, _)| *asked == name);
                    self.lookups = others;
                    events.extend(these.iter().map(|(_, client)| (*client, ClientEvent::Resolved(addresses.clone()))));
                }
                Resolved::Profiles(found) => {
                    self.address_cache.fill(found, Instant::now());
                    events.extend(self.cache_waiters.drain(..).map(|client| (client, ClientEvent::CacheFilled)));
                }
            }
        }
        events
    }

    /// Finds the profile of a host, by its name or by its addresses. The answer is the client's next event.
    pub fn find_profile(&mut self, client: u64, host: String, addresses: Vec<SocketAddr>, wait: bool) -> ClientEvent {
        match self.find(client, host, addresses, wait) {
            Ok(event) => event,
            Err(error) => failed(&error),
        }
    }

    fn find(&mut self, client: u64, host: String, addresses: Vec<SocketAddr>, wait: bool) -> Result<ClientEvent> {
        let now = Instant::now();
        if let Some(found) = tunnel::find(&self.directory, &host)? {
            return self.decide(found, addresses);
        }
        if self.address_cache.is_stale(now) {
            self.refresh(now);
        }
        if wait && !self.address_cache.is_usable(now) {
            self.cache_waiters.push(client);
            return Ok(ClientEvent::NotKnownYet(host, addresses));
        }
        let Some((name, known)) = self.address_cache.find(&addresses) else {
            return Ok(ClientEvent::NoProfile(addresses));
        };
        match tunnel::find(&self.directory, name)? {
            Some(found) => self.decide(found, known),
            None => Ok(ClientEvent::NoProfile(addresses)),
        }
    }

    /// Whether to knock: the profile's key may not open the port.
    fn decide(&self, found: profile::Found, addresses: Vec<SocketAddr>) -> Result<ClientEvent> {
        let port = addresses.first().map_or(0, SocketAddr::port);
        Ok(match tunnel::opens(&found, port)? {
            true => ClientEvent::Profile(found, addresses),
            false => ClientEvent::NoKnockNeeded(addresses),
        })
    }

    fn refresh(&mut self, now: Instant) {
        // A directory that cannot be read is reported when a profile is looked for by its name.
        let profiles = profile::list(&self.directory).unwrap_or_default();
        let names = self.address_cache.refresh(profiles.into_iter().map(|found| found.name).collect(), now);
        if !names.is_empty() {
            self.resolver.ask(Question::Profiles(names));
        }
    }
}

/// Reports a failure that the proxy's owner has to look at; the client's event of it.
pub fn failed(error: &Error) -> ClientEvent {
    say::error(error);
    ClientEvent::Failed(Reply::Failed)
}
