//! daemon: tails the kernel's log and has the firewall open ports. Three processes:
//!
//! - the supervisor is root and deaf: it makes the rules, starts the other two and waits;
//! - the watcher has the keys and no privilege: it reads the log and can only ask;
//! - the opener has one privilege and no key: it reads fixed bytes and puts elements into a set.
//!
//! `ipc` is all that they can say to each other.

mod check;
mod children;
mod hooks;
pub mod ipc;
mod log_target;
mod opener;
mod pause;
mod privileges;
mod setup;
mod supervisor;
pub mod watcher;

pub use check::run as check;
pub use log_target::LogTarget;
pub use opener::run as opener;
pub use supervisor::run as supervisor;
pub use watcher::run as watcher;

use crate::error::Result;
use crate::{firewall, say};
use std::path::Path;

/// Removes the guard and all our rules. Refuses while a daemon runs on `directory` and would make them again.
pub fn unguard(directory: &Path) -> Result<()> {
    setup::must_be_root()?;
    let _lock = if directory.exists() { Some(setup::lock(directory)?) } else { None };
    firewall::unguard()?;
    say::note("the guard is gone: guarded ports are open to everybody, until the daemon starts");
    Ok(())
}
