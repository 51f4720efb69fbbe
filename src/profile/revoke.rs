//! Revokes a profile on the server.

use super::set::REPLACED;
use super::{Counter, list};
use crate::error::{Error, Result};
use crate::sys;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Revokes the profile `name` in `directory` and deletes it, with the keys that it replaces. A running daemon opens
/// nothing to it any more when this returns, even if the daemon cannot read its configuration again.
pub fn revoke(directory: &Path, name: &str) -> Result<()> {
    let listing = list(directory)?;
    let replaced = format!("{name}{REPLACED}");
    let mut is_missing = true;
    for found in listing.profiles.iter().chain(&listing.disabled) {
        if found.name == name || found.name == replaced {
            delete(directory, &found.path).map_err(|cause| Error::path("revoke", &found.path, cause))?;
            is_missing = false;
        }
    }
    if is_missing { Err(missing(directory, name)) } else { Ok(()) }
}

/// Returns the error for a name without a profile.
pub(super) fn missing(directory: &Path, name: &str) -> Error {
    Error::refused(format!("there is no profile {name:?} in {directory:?}"))
        .advise("knockknock-daemon --check lists the profiles")
}

fn delete(directory: &Path, profile: &Path) -> io::Result<()> {
    let directory = File::open(directory)?;
    sys::file::lock(&directory)?;
    // Do this first and on disk: if a later step fails, the profile still opens nothing.
    Counter::revoke(&profile.join("counter"))?;
    fs::remove_dir_all(profile)?;
    directory.sync_all()
}
