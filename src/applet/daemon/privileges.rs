//! The privileges of the three processes, and how each drops the rest.

use super::LogTarget;
use crate::config::Config;
use crate::error::{Error, Result, quoted, reason};
use crate::say;
use crate::sys::privilege::{self, Account, Capability, User};
use crate::sys::sandbox;
use std::io;
use std::path::Path;

/// The supervisor's capabilities: to make rules; to start the other two processes, switch to their users, and kill
/// them.
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

/// Drops all other capabilities. Programs that the supervisor starts have the same ones.
pub(super) fn limit_supervisor() -> Result<()> {
    privilege::keep_and_pass_on(SUPERVISOR, SUPERVISOR).map_err(|cause| Error::system("drop capabilities", cause))
}

/// The users of the watcher and the opener if no accounts exist for them. Neither Debian nor systemd assigns these IDs.
const WATCHER: User = User { uid: 65526, gid: 65526 };
const OPENER: User = User { uid: 65527, gid: 65527 };

/// Returns the watcher's user: the account named in the config, or `knockknock`, or a fixed ID.
pub(super) fn watcher_user(config: &Config) -> Result<User> {
    let Some(name) = &config.user else {
        return Ok(Account::named("knockknock").map_or(WATCHER, |account| account.user));
    };
    let refused =
        |why| Err(Error::refused(format!("user = {}: {why}", quoted(name))).advise("correct \"user\" in the config"));
    match Account::named(name) {
        Some(account) if account.user.uid != 0 => Ok(account.user),
        Some(_) => refused("the watcher must not be root"),
        None => refused("there is no such user"),
    }
}

/// Returns the opener's user: `knockknock-fw`, or a fixed ID.
pub(super) fn opener_user() -> User {
    Account::named("knockknock-fw").map_or(OPENER, |account| account.user)
}

/// The privileges that the watcher or the opener keeps when it drops root.
pub(super) struct Kept<'a> {
    /// The user to switch to.
    pub(super) user: User,
    /// Supplementary groups.
    pub(super) groups: &'a [u32],
    /// Capabilities to keep.
    pub(super) capabilities: &'a [Capability],
    /// Whether it may open files in its working directory for reading.
    pub(super) working_directory: bool,
    /// Allowed system calls, in groups.
    pub(super) calls: &'a [&'a [libc::c_long]],
}

/// Drops root permanently and keeps only `kept`. Fails if that is impossible, or if the parent process is no longer
/// `supervisor`.
///
/// Resource limits, Landlock and the system call filter are applied as well. If the kernel lacks one of them, it logs a
/// warning.
pub(super) fn drop_root(kept: &Kept<'_>, supervisor: u32, log_target: LogTarget) -> Result<()> {
    log_target.detach_terminal().map_err(|cause| Error::system("detach from the terminal", cause))?;
    let empty_root = if kept.working_directory { sandbox::empty_root_keeping_directory } else { sandbox::empty_root };
    empty_root().map_err(|cause| Error::system("change into an empty root directory", cause))?;
    privilege::become_user(kept.user, kept.groups, kept.capabilities)
        .and_then(|()| privilege::disable_dumps())
        .and_then(|()| privilege::die_with(supervisor))
        .map_err(|cause| Error::system("drop root's privileges", cause))?;

    // An open working directory leads out of the empty root, so in that case a missing Landlock is worth a warning.
    let directory = kept.working_directory.then_some(Path::new("."));
    let landlock = match sandbox::landlock::restrict(directory) {
        Err(_) if directory.is_none() && sandbox::landlock::version().is_err() => Ok(()),
        restricted => restricted,
    };
    warn_unless("set resource limits", sandbox::limits());
    warn_unless("restrict access to files (Landlock)", landlock);
    warn_unless("filter system calls (seccomp)", sandbox::seccomp::allow(kept.calls));
    Ok(())
}

fn warn_unless(step: &str, done: io::Result<()>) {
    if let Err(cause) = done {
        say::warn(format_args!("cannot {step}: {}", reason(&cause)));
    }
}
