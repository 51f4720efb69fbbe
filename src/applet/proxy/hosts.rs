//! Finds the addresses and profiles of hosts.

use super::address_cache::AddressCache;
use super::by_id::forget;
use super::client::ClientEvent;
use super::lookups::Lookups;
use super::resolver::{Question, Resolver};
use super::socks::Reply;
use crate::error::{Error, Result};
use crate::profile::{self, ProfileConfig};
use crate::sys::local_addresses::LocalAddresses;
use crate::tunnel;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

/// Resolves hosts and tracks which clients wait for an answer.
pub struct Hosts {
    /// The directory of the profiles.
    directory: PathBuf,
    resolver: Resolver,
    lookups: Lookups,
    address_cache: AddressCache,
    /// Clients that wait for the address cache.
    cache_waiters: Vec<u64>,
    /// Detects addresses of this machine, if clients must not connect to them.
    local_addresses: Option<LocalAddresses>,
}

impl Hosts {
    /// Uses the profiles in `directory`. `foreign_only` refuses addresses of this machine.
    pub fn new(directory: PathBuf, foreign_only: bool) -> Result<Box<Self>> {
        let local_addresses = foreign_only.then(LocalAddresses::new).transpose()?;
        Ok(Box::new(Self {
            directory,
            resolver: Resolver::new().map_err(|cause| Error::system("make a pair of sockets", cause))?,
            lookups: Lookups::default(),
            address_cache: AddressCache::default(),
            cache_waiters: Vec::new(),
            local_addresses,
        }))
    }

    /// Becomes readable when there are [`Hosts::answers`].
    pub fn wakeup(&self) -> &UnixStream {
        &self.resolver.wakeup
    }

    /// Requests the addresses of `name` for a client from `source`.
    pub fn look_up(&mut self, client: u64, source: IpAddr, name: &str) -> Result<()> {
        if self.lookups.ask(name, client, source) {
            return Ok(());
        }
        Err(Error::refused("too many names are waiting for the name server: further ones are refused"))
    }

    /// Records that a client is gone or waits for something else.
    pub fn leave(&mut self, client: u64) {
        self.lookups.leave(client);
        forget(&mut self.cache_waiters, client);
    }

    /// Starts the lookups that may start now.
    pub fn resolve(&mut self) {
        while let Some(name) = self.lookups.next(Instant::now()) {
            self.resolver.ask(Question::Host, vec![name]);
        }
    }

    /// Returns when to call [`Hosts::resolve`] without an event.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        self.lookups.due(now)
    }

    /// Returns the clients whose lookups have finished, and their events.
    pub fn answers(&mut self) -> Vec<(u64, ClientEvent)> {
        let mut events = Vec::new();
        for (question, found) in self.resolver.answers() {
            match question {
                Question::Host => {
                    for (name, addresses) in found {
                        for client in self.lookups.answered(&name) {
                            events.push((client, ClientEvent::Resolved(addresses.clone())));
                        }
                    }
                }
                Question::Profiles => {
                    self.address_cache.fill(found, Instant::now());
                    for client in std::mem::take(&mut self.cache_waiters) {
                        events.push((client, ClientEvent::CacheFilled));
                    }
                }
            }
        }
        events
    }

    /// Finds the profile of a host by its name or its addresses, and keeps only `addresses` that the profile is for.
    /// Returns the client's next event.
    pub fn find_profile(
        &mut self,
        client: u64,
        host: &str,
        addresses: &mut Vec<SocketAddr>,
        wait: bool,
    ) -> Result<ClientEvent> {
        // Otherwise whoever controls the DNS of a profile's name could open this machine's own services.
        addresses.retain(|address| !self.is_forbidden(address.ip()));
        if addresses.is_empty() {
            return Ok(ClientEvent::Failed(Reply::NotAllowed));
        }
        self.find(client, host, addresses, wait)
    }

    fn is_forbidden(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let Some(local_addresses) = &self.local_addresses else { return false };
        // connect() to the unspecified address reaches this machine, although its route is not local.
        address.is_unspecified() || local_addresses.is_local(address).unwrap_or(true)
    }

    fn find(&mut self, client: u64, host: &str, addresses: &mut Vec<SocketAddr>, wait: bool) -> Result<ClientEvent> {
        let now = Instant::now();
        let mut found = profile::find(&self.directory, host)?;
        if found.is_none() {
            if self.address_cache.is_stale(now) {
                self.refresh(now)?;
            }
            if wait && !self.address_cache.is_usable(now) {
                self.cache_waiters.push(client);
                return Ok(ClientEvent::CacheNotFilled);
            }
            if let Some((name, known)) = self.address_cache.find(addresses) {
                found = profile::find(&self.directory, name)?;
                if found.is_some() {
                    *addresses = known;
                }
            }
        }
        let Some(found) = found else { return Ok(ClientEvent::NoProfile) };
        let port = addresses.first().map_or(0, SocketAddr::port);
        Ok(if tunnel::opens(&found, port)? { ClientEvent::Profile(found) } else { ClientEvent::NoKnockNeeded })
    }

    fn refresh(&mut self, now: Instant) -> Result<()> {
        let mut profiles = Vec::new();
        for found in profile::list(&self.directory)?.profiles {
            // A profile for links cannot knock. An unreadable one is reported when it is used.
            let config = ProfileConfig::load(&found.path);
            if !config.is_ok_and(|config| config.wire.prefix().is_some()) {
                profiles.push(found.name);
            }
        }
        let names = self.address_cache.refresh(profiles, now);
        if !names.is_empty() {
            self.resolver.ask(Question::Profiles, names);
        }
        Ok(())
    }
}
