//! Floor 2: one knock, for every program that sends some. Burn a counter, seal, send one SYN.

mod fingerprint;

use crate::error::{Error, Result};
use crate::profile::{Counter, Profile, SPENT};
use crate::sys::privilege::{self, Account, User};
use crate::sys::raw::RawSockets;
use crate::sys::route::Route;
use crate::wire::seal::Fields;
use crate::wire::{Syn, Wire};
use fingerprint::Noise;
use std::env;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Which of a host's addresses may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The first that there is.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    /// Whether `address` is of this family.
    pub fn has(self, address: &SocketAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Somebody who can knock: it holds raw sockets, and nothing else that others could not have.
pub struct Knocker {
    raw: RawSockets,
}

impl Knocker {
    /// Opens the raw sockets, gives up everything that was needed for it, and becomes the one who
    /// typed the command. Profiles are read only after this.
    pub fn open() -> Result<Self> {
        Self::open_as(None)
    }

    /// The same, but becomes `user` where one is given.
    pub fn open_as(user: Option<User>) -> Result<Self> {
        let knocker = Self::open_as_is();
        let user = user.or_else(caller);
        if let (Ok(knocker), Some(user)) = (&knocker, user) {
            let given = knocker.raw.give_to(user.uid);
            given.map_err(|cause| Error::system(format!("give the raw sockets to user {}", user.uid), cause))?;
        }
        // Without raw sockets too: what needs none goes on as nobody special.
        give_up_privileges(user)?;
        knocker
    }

    /// Opens the raw sockets and leaves privileges to the caller.
    pub fn open_as_is() -> Result<Self> {
        let raw = RawSockets::open().map_err(|cause| {
            let binary = env::current_exe().unwrap_or_else(|_| "knockknock".into());
            let advice = format!("run as root, or: setcap cap_net_raw+ep {}", binary.display());
            Error::system("open a raw socket", cause).advise(advice)
        })?;
        Ok(Self { raw })
    }

    /// Sends one knock for `port` and returns the address that it left from. Of `destination` the
    /// port is ignored; `source`, where given, is the address to send from.
    ///
    /// The counter is burnt on disk, under the profile's lock, before the packet leaves.
    pub fn knock(
        &self,
        profile: &mut Profile,
        wire: Wire,
        port: u16,
        destination: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<SocketAddr> {
        if profile.config.ports.as_ref().is_some_and(|ports| !ports.contains(port)) {
            return Err(Error::refused(format!("profile {:?} may not open port {port}", profile.name))
                .advise("its config's \"ports\" lists those that it may open, on both sides"));
        }
        let destination = canonical(destination, profile.config.knock_port);
        let route = Route::to(destination, source.map(|source| canonical(source, 0)))
            .map_err(|cause| Error::system(format!("find a way to {}", destination.ip()), cause))?;
        let noise = Noise::new()?;
        let template = fingerprint::template(&route, &noise);
        if wire == Wire::Stealth {
            fingerprint::require_stealth_fields(&template, destination)?;
        }
        let mut syn = Syn {
            source: route.source.ip(),
            destination: destination.ip(),
            source_port: route.port.unwrap_or_else(|| noise.port()),
            knock_port: profile.config.knock_port,
            fields: burn(profile, wire, port)?,
            flow_high: noise.flow_high(),
            template,
        };
        if let Some(timestamp) = &mut syn.template.options.timestamp {
            if let Some(clock) = route.timestamp_clock() {
                *timestamp = clock.now().unwrap_or(*timestamp);
            }
        }
        let packet = syn.emit().ok_or_else(|| Error::refused("the addresses are of two families"))?;
        self.raw
            .send(&packet, route.source.ip(), destination)
            .map_err(|cause| Error::system(format!("send the knock to {}", destination.ip()), cause))?;
        Ok(route.source)
    }
}

/// `address` with `port`, and an IPv4 address that was written as one of IPv6 as what it is.
pub fn canonical(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => (v4, port).into(),
        IpAddr::V6(_) => address,
    }
}

/// Takes the next counter whose message arrives as it is, and makes sure on disk that nobody takes
/// it again.
fn burn(profile: &mut Profile, wire: Wire, port: u16) -> Result<Fields> {
    profile.counter.lock()?;
    let burnt = burn_locked(profile, wire, port);
    profile.counter.unlock();
    burnt
}

fn burn_locked(profile: &mut Profile, wire: Wire, port: u16) -> Result<Fields> {
    let mut next = profile.counter.next();
    loop {
        let counter = u32::try_from(next).ok().filter(|_| next < SPENT).ok_or_else(|| spent(&profile.counter))?;
        next += 1;
        let sealed = profile.keys.seal(wire, counter, profile.config.knock_port, port);
        if let Some(fields) = sealed.fields() {
            let stored = profile.counter.store(next);
            return stored.map(|_| fields).map_err(|cause| Error::path("write", profile.counter.path(), cause));
        }
    }
}

fn spent(counter: &Counter) -> Error {
    Error::content(counter.path(), 0, "is spent: every counter has been used")
        .advise("make a new profile on both sides")
}

/// The one who typed the command, where that is somebody else: sudo's caller, or the one who started
/// a set-uid program.
fn caller() -> Option<User> {
    let number = |name: &str| env::var(name).ok()?.parse().ok();
    match (privilege::real_uid(), privilege::effective_uid()) {
        (0, 0) => {
            let uid = number("SUDO_UID").filter(|&uid: &u32| uid != 0)?;
            Some(User { uid, gid: number("SUDO_GID")? })
        }
        (real, effective) if real != effective => Some(User { uid: real, gid: privilege::real_gid() }),
        _ => None,
    }
}

/// Gives up every privilege: becomes `user`, or stays who it is without capabilities.
fn give_up_privileges(user: Option<User>) -> Result<()> {
    let dropped = match user {
        Some(user) => privilege::become_user(user, &[user.gid], &[]),
        None => privilege::keep_only(&[]),
    };
    dropped.map_err(|cause| Error::system("give up root's privileges", cause))
}

/// The addresses of `host` that the system's resolver gives in `family`, with `port`; at least one.
pub fn resolve(host: &str, port: u16, family: Family) -> Result<Vec<SocketAddr>> {
    let mut addresses =
        addresses(host, port).map_err(|cause| Error::system(format!("find the address of {host:?}"), cause))?;
    addresses.retain(|address| family.has(address));
    if addresses.is_empty() {
        return Err(
            Error::refused(format!("{host:?} has no address of the family asked for")).advise("leave out -4 or -6")
        );
    }
    Ok(addresses)
}

/// All addresses of `host` that the system's resolver gives. A name is asked for in lower case: to
/// musl's resolver others do not stand in /etc/hosts.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    // What stands behind a % is the name of an interface, which is as it is.
    let name = if host.contains('%') { host.to_owned() } else { host.to_ascii_lowercase() };
    (name.as_str(), port).to_socket_addrs().map(Iterator::collect)
}

/// Where a client's profiles are unless `--dir` says otherwise: `.knockknock` in the home of the one
/// who typed the command.
pub fn directory() -> PathBuf {
    let home = match caller() {
        Some(user) => Account::of(user.uid).map(|account| account.home),
        None => env::var_os("HOME").map(PathBuf::from),
    };
    let home = home.or_else(|| Account::of(privilege::real_uid()).map(|account| account.home));
    home.unwrap_or_else(|| "/".into()).join(".knockknock")
}
