//! daemon: tails the kernel's log and has the firewall open ports. Three processes:
//!
//! - the supervisor is root and deaf: it makes the rules, starts the other two and waits;
//! - the watcher has the keys and no privilege: it reads the log and can only ask;
//! - the opener has one privilege and no key: it reads fixed bytes and puts elements into a set.
//!
//! `ipc` is all that they can say to each other.

mod check;
mod hooks;
pub mod ipc;
mod opener;
mod supervisor;
pub mod watcher;

pub use check::run as check;
pub use opener::run as opener;
pub use supervisor::run as supervisor;
pub use watcher::run as watcher;

use crate::config::Config;
use crate::error::{Error, Result, reason};
use crate::firewall;
use crate::profile::{self, Found, ProfileConfig};
use crate::say;
use crate::sys::privilege::{Account, User};
use crate::sys::{process, sandbox};
use std::path::Path;

/// The users that the watcher and the opener become where the system has no account for them: ids
/// that no account has, in a range that Debian and systemd leave alone.
const WATCHER: User = User { uid: 65526, gid: 65526 };
const OPENER: User = User { uid: 65527, gid: 65527 };

/// The watcher's user: `user` of the config, else `knockknock`, else a fixed id.
fn watcher_user(config: &Config) -> User {
    let name = config.user.as_deref().unwrap_or("knockknock");
    Account::named(name).map_or(WATCHER, |account| account.user)
}

/// The opener's user.
fn opener_user() -> User {
    Account::named("knockknock-fw").map_or(OPENER, |account| account.user)
}

/// Where the daemon's lines go. The watcher and the opener are told by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// To standard error.
    Stderr,
    /// To syslog; until it is ready to standard error too.
    Syslog,
}

impl LogTarget {
    fn name(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Syslog => "syslog",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Stderr, Self::Syslog].into_iter().find(|log_target| log_target.name() == name)
    }

    fn open(self) {
        if self == Self::Syslog {
            say::use_syslog();
        }
    }

    /// Lets go of a terminal. To be called while /dev/null can be opened.
    fn detach_terminal(self) -> std::io::Result<()> {
        match self {
            Self::Stderr => Ok(()),
            Self::Syslog => process::silence_stderr(),
        }
    }
}

/// Puts up the walls that stand by name and not by user: system calls, files, processes. One that cannot
/// be had is a warning; Landlock only where the log's `directory` is open, which leads out of an empty root.
fn confine(directory: Option<&Path>, calls: &[&[libc::c_long]]) {
    let files = match sandbox::landlock::restrict(directory) {
        Err(_) if directory.is_none() && sandbox::landlock::version().is_err() => Ok(()),
        closed => closed,
    };
    let walls = [
        ("limit its resources", sandbox::limits()),
        ("close what the log's directory leads to (Landlock)", files),
        ("filter its system calls (seccomp)", sandbox::seccomp::allow(calls)),
    ];
    for (wall, built) in walls {
        if let Err(cause) = built {
            say::warn(format_args!("cannot {wall}: {}", reason(&cause)));
        }
    }
}

/// Takes the guard and all our rules away, where no daemon on `directory` would make them again.
pub fn unguard(directory: &Path) -> Result<()> {
    supervisor::must_be_root()?;
    let _lock = if directory.exists() { Some(supervisor::lock(directory)?) } else { None };
    firewall::unguard()?;
    say::note("the guard is gone: guarded ports are open to everybody, until the daemon starts");
    Ok(())
}

/// What the supervisor may know of the profiles.
struct ProfileIndex {
    /// Names and configs, one for each knock port, in the order of these.
    profiles: Vec<(Found, ProfileConfig)>,
    /// Those that cannot be had, and why.
    left_out: Vec<(Found, Error)>,
}

impl ProfileIndex {
    /// Reads the config of every profile in `directory`, and nothing secret.
    fn read(directory: &Path) -> Result<Self> {
        let directory = directory.join("profiles");
        let found = if directory.exists() { profile::list(&directory)? } else { Vec::new() };
        let (mut claims, mut left_out) = (Vec::with_capacity(found.len()), Vec::new());
        for found in found {
            match ProfileConfig::load(&found.path) {
                Ok(profile_config) => claims.push((found, profile_config)),
                Err(error) => left_out.push((found, error)),
            }
        }
        // Of several on one knock port the first by name has it.
        claims.sort_by_key(|(_, profile_config)| profile_config.knock_port);
        let mut profiles: Vec<(Found, ProfileConfig)> = Vec::with_capacity(claims.len());
        for (found, profile_config) in claims {
            match profiles.last().filter(|(_, taken)| taken.knock_port == profile_config.knock_port) {
                None => profiles.push((found, profile_config)),
                Some((first, _)) => {
                    let why = format!("profile {:?} has knock port {} already", first.name, profile_config.knock_port);
                    let error = Error::refused(why).advise("give one of them another knock port, on both sides");
                    left_out.push((found, error));
                }
            }
        }
        Ok(Self { profiles, left_out })
    }
}

/// Says that a profile is left out, and why.
fn say_left_out(found: &Found, error: &Error) {
    say::warn(format_args!("profile {:?} is left out:", found.name));
    say::error(error);
}
