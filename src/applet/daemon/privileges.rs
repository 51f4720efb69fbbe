//! What each of the three processes may do, and how it gives up the rest.

use super::LogTarget;
use crate::config::Config;
use crate::error::{Error, Result, reason};
use crate::say;
use crate::sys::privilege::{self, Account, Capability, User};
use crate::sys::sandbox;
use std::path::Path;

/// What the supervisor keeps of root: making rules, and starting, becoming and ending the two others.
const SUPERVISOR: &[Capability] = &[
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::DacReadSearch,
    Capability::Syslog,
    Capability::SetUid,
    Capability::SetGid,
    Capability::SetPcap,
    Capability::SysChroot,
    Capability::SysResource,
    Capability::Kill,
];

/// Gives up what the supervisor does not need. The programs that it starts have the same capabilities.
pub(super) fn limit_supervisor() -> Result<()> {
    privilege::keep_and_pass_on(SUPERVISOR, SUPERVISOR).map_err(|cause| Error::system("give up capabilities", cause))
}

/// The users of the watcher and the opener on a system without accounts for them: ids in a range that
/// neither Debian nor systemd assigns.
const WATCHER: User = User { uid: 65526, gid: 65526 };
const OPENER: User = User { uid: 65527, gid: 65527 };

/// The watcher's user: the account that the config names, else `knockknock`, else a fixed id.
pub(super) fn watcher_user(config: &Config) -> Result<User> {
    let Some(name) = &config.user else {
        return Ok(Account::named("knockknock").map_or(WATCHER, |account| account.user));
    };
    let refused = |why| Err(Error::refused(format!("user = {name:?}: {why}")).advise("correct \"user\" in the config"));
    match Account::named(name) {
        Some(account) if account.user.uid != 0 => Ok(account.user),
        Some(_) => refused("the watcher must not be root"),
        None => refused("there is no such user"),
    }
}

/// The opener's user: `knockknock-fw`, else a fixed id.
pub(super) fn opener_user() -> User {
    Account::named("knockknock-fw").map_or(OPENER, |account| account.user)
}

/// What the watcher or the opener keeps when it stops being root.
pub(super) struct Kept<'a> {
    /// Whose ids it has from then on.
    pub(super) user: User,
    /// Its further groups.
    pub(super) groups: &'a [u32],
    /// Its capabilities.
    pub(super) capabilities: &'a [Capability],
    /// Whether it can open the files of its working directory for reading.
    pub(super) working_directory: bool,
    /// Its system calls, in groups.
    pub(super) calls: &'a [&'a [libc::c_long]],
}

/// Stops being root, for good, and keeps only what `kept` says. Fails where that cannot be done, or where
/// the parent process is no longer `supervisor`.
///
/// Resource limits, Landlock and the filter of system calls come on top: a kernel without one of these
/// is a warning.
pub(super) fn drop_root(kept: &Kept<'_>, supervisor: u32, log_target: LogTarget) -> Result<()> {
    log_target.detach_terminal().map_err(|cause| Error::system("detach from the terminal", cause))?;
    let empty_root = if kept.working_directory { sandbox::empty_root_but_here } else { sandbox::empty_root };
    empty_root().map_err(|cause| Error::system("change into an empty root directory", cause))?;
    privilege::become_user(kept.user, kept.groups, kept.capabilities)
        .and_then(|()| privilege::not_dumpable())
        .and_then(|()| privilege::die_with(supervisor))
        .map_err(|cause| Error::system("drop root's privileges", cause))?;

    // An open working directory leads out of the empty root, so there a missing Landlock is worth a warning.
    let directory = kept.working_directory.then_some(Path::new("."));
    let landlock = match sandbox::landlock::restrict(directory) {
        Err(_) if directory.is_none() && sandbox::landlock::version().is_err() => Ok(()),
        restricted => restricted,
    };
    let walls = [
        ("limit its resources", sandbox::limits()),
        ("confine its access to files (Landlock)", landlock),
        ("filter its system calls (seccomp)", sandbox::seccomp::allow(kept.calls)),
    ];
    for (wall, built) in walls {
        if let Err(cause) = built {
            say::warn(format_args!("cannot {wall}: {}", reason(&cause)));
        }
    }
    Ok(())
}
