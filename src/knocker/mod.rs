//! Sends a knock, for all programs that do: burn a counter, compute the message, send one SYN.

mod fingerprint;
mod resolve;

pub use resolve::{Family, addresses, describe, ipv4_first, resolve};

use crate::error::{Error, Result};
use crate::profile::{self, Counter, Profile, ProfileConfig, SPENT};
use crate::sys::privilege::User;
use crate::sys::raw::RawSockets;
use crate::sys::route::Route;
use crate::sys::sysctl;
use crate::wire::seal::Fields;
use crate::wire::{Syn, Wire};
use fingerprint::Noise;
use std::env;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// Sends knocks. It holds raw sockets and no other privileges.
pub struct Knocker {
    raw: RawSockets,
}

/// A knock that was sent.
pub struct SentKnock {
    /// Its source address.
    pub source: SocketAddr,
    /// How it differs from a connection's SYN, if it does.
    pub difference: Option<&'static str>,
}

impl Knocker {
    /// Opens the raw sockets, switches to `user` if there is one, and drops all privileges. The caller must not read
    /// profiles earlier.
    pub fn open(user: Option<User>) -> Result<Rc<Self>> {
        let knocker = Self::open_as_is();
        if let (Ok(knocker), Some(user)) = (&knocker, user) {
            let given = knocker.raw.change_owner(user.uid);
            given.map_err(|cause| Error::system(format!("give the raw sockets to user {}", user.uid), cause))?;
        }
        // Drop them without raw sockets too: a program that continues without them needs no privileges.
        profile::drop_privileges(user)?;
        knocker
    }

    /// Opens the raw sockets and leaves privileges as they are.
    pub fn open_as_is() -> Result<Rc<Self>> {
        let raw = RawSockets::open().map_err(|cause| {
            let binary = env::current_exe().unwrap_or_else(|_| "knockknock".into());
            let advice = format!("run as root, or: setcap cap_net_raw+ep {}", binary.to_string_lossy());
            Error::system("open a raw socket", cause).advise(advice)
        })?;
        Ok(Rc::new(Self { raw }))
    }

    /// Sends one knock for `port`. The port of `destination` is ignored; `source` is the source address to use, if given.
    ///
    /// The counter is burned on disk, under the profile's lock, before the packet is sent.
    pub fn knock(
        &self,
        profile: &mut Profile,
        port: u16,
        destination: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<SentKnock> {
        profile.config.check_knocks(&profile.name)?;
        profile.config.check_may_open(&profile.name, port)?;
        let destination = canonical(destination, profile.config.knock_port);
        let route = route(destination, source.map(|source| canonical(source, 0)))?;
        let (from, to) = (route.source.ip(), destination.ip());
        let noise = Noise::new()?;
        let template = fingerprint::template(&route, &noise);
        if profile.config.wire == Wire::Stealth {
            fingerprint::require_flow_labels(destination)?;
        }
        let mut syn = Syn {
            source: from,
            destination: to,
            source_port: route.port.unwrap_or_else(|| noise.port()),
            knock_port: profile.config.knock_port,
            fields: burn(profile, port)?,
            flow_high: noise.flow_high(),
            template,
        };
        if let Some(timestamp) = &mut syn.template.options.timestamp {
            if let Some(clock) = route.timestamp_clock() {
                *timestamp = clock.now();
            }
        }
        let packet =
            syn.emit().ok_or_else(|| Error::refused("source and destination have different address families"))?;
        self.raw
            .send(&packet, from, destination)
            .map_err(|cause| Error::system(format!("send the knock to {to}"), cause))?;
        Ok(SentKnock { source: route.source, difference: difference(&route) })
    }
}

fn route(destination: SocketAddr, source: Option<SocketAddr>) -> Result<Box<Route>> {
    Route::to(destination, source)
        .map_err(|cause| Error::system(format!("find a route to {}", destination.ip()), cause))
}

/// Returns how a knock over `route` differs from a connection's SYN.
fn difference(route: &Route) -> Option<&'static str> {
    let differs = "this kernel cannot prepare a connection: the knock's source port and timestamp are random";
    route.port.is_none().then_some(differs)
}

/// Describes the knock that this machine would send to `destination`, and how it differs from a connection's SYN.
pub fn describe_route(destination: SocketAddr) -> Result<(String, Option<&'static str>)> {
    let route = route(canonical(destination, destination.port()), None)
        .map_err(|error| error.advise(format!("ip route get {} shows what is missing", destination.ip())))?;
    let timestamps = if sysctl::number("net/ipv4/tcp_timestamps") == Some(0) { "without" } else { "with" };
    let text = format!("from {}, MTU {}, {timestamps} timestamps", route.source.ip(), route.mtu);
    Ok((text, difference(&route)))
}

/// Returns `address` with `port`; an IPv4-mapped IPv6 address becomes an IPv4 address.
pub fn canonical(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => (v4, port).into(),
        IpAddr::V6(_) => address,
    }
}

/// Burns the next counter whose message survives transmission, and returns the header fields that carry the message.
fn burn(profile: &mut Profile, port: u16) -> Result<Fields> {
    profile.counter.lock()?;
    let burned = burn_locked(profile, port);
    profile.counter.unlock();
    burned
}

fn burn_locked(profile: &mut Profile, port: u16) -> Result<Fields> {
    let mut next = profile.counter.next();
    loop {
        let counter = u32::try_from(next).ok().filter(|_| next < SPENT).ok_or_else(|| spent(&profile.counter))?;
        next += 1;
        let fields = match profile.config.wire {
            Wire::Classic => profile.keys.seal(counter, port).fields(),
            Wire::Stealth => profile.keys.code(counter, port).fields(),
            Wire::Link(_) => return Err(ProfileConfig::cannot_knock(&profile.name)),
        };
        if let Some(fields) = fields {
            let stored = profile.counter.store(next);
            return stored.map(|_| fields).map_err(|cause| Error::path("write", profile.counter.path(), cause));
        }
    }
}

fn spent(counter: &Counter) -> Error {
    Error::content(counter.path(), 0, "is spent: every counter has been used")
        .advise("make a new profile on both sides")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::Prefix;
    use crate::profile::Found;
    use std::fs;

    #[test]
    fn a_profile_for_links_burns_no_counter() {
        let directory = env::temp_dir().join(format!("knockknock-burn-{}", std::process::id()));
        let wire = Wire::Link(Prefix::parse("2001:db8:0:ff::/64").unwrap());
        let config = ProfileConfig { knock_port: 0, ports: Some([22].into_iter().collect()), wire, legacy: false };
        let path = profile::create(&directory, "links", &config).unwrap();
        let mut profile = Profile::load(&Found { name: "links".to_owned(), path }).unwrap();
        let error = burn(&mut profile, 22).err().unwrap();
        assert_eq!(error.to_string(), "profile \"links\" is for links and cannot knock");
        assert!(profile.counter.is_unused());
        fs::remove_dir_all(directory).unwrap();
    }
}
