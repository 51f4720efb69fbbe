//! The daemon: reads the kernel log and opens ports in the firewall. It is three processes:
//!
//! - the supervisor is root and reads nothing from the network: it makes the rules, starts the other two and waits;
//! - the watcher has the keys and no privileges: it reads the log and sends requests to the opener;
//! - the opener has at most one capability and no keys: it reads requests of fixed length and adds openings.
//!
//! `ipc` has every message between them.

mod check;
mod child_exit;
mod children;
mod configuration;
mod doctor;
mod hooks;
pub mod ipc;
mod link_routes;
mod log_target;
mod opener;
mod pause;
mod privileges;
mod proof;
mod setup;
mod supervisor;
mod trial;
mod unused_openings;
pub mod watcher;

pub use check::run as check;
pub use doctor::run as doctor;
pub use log_target::LogTarget;
pub use opener::run as opener;
pub use proof::daemon as proof;
pub use supervisor::run as supervisor;
pub use watcher::run as watcher;

use crate::error::Result;
use crate::{firewall, say};
use std::path::Path;

/// Removes the guard and all our rules. Refuses while a daemon runs on `directory`, because it would make them again.
pub fn unguard(directory: &Path) -> Result<()> {
    setup::must_be_root()?;
    let _lock = if directory.exists() { Some(setup::lock(directory)?) } else { None };
    firewall::unguard()?;
    say::note("removed the guard: until the daemon starts, only other firewalls close the guarded ports");
    Ok(())
}
