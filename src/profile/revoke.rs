//! Revokes a profile on the server.

use super::{Counter, list};
use crate::error::{Error, Result};
use crate::sys;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Revokes the profile `name` in `directory` and deletes it. A running daemon opens nothing to it any more when this
/// returns, whether or not the daemon can read its configuration again.
pub fn revoke(directory: &Path, name: &str) -> Result<()> {
    let listing = list(directory)?;
    let found = listing.profiles.into_iter().chain(listing.disabled).find(|found| found.name == name);
    let found = found.ok_or_else(|| {
        Error::refused(format!("there is no profile {name:?} in {directory:?}"))
            .advise("knockknock-daemon --check lists the profiles")
    })?;
    delete(directory, &found.path).map_err(|cause| Error::path("revoke", &found.path, cause))
}

fn delete(directory: &Path, profile: &Path) -> io::Result<()> {
    let directory = File::open(directory)?;
    sys::file::lock(&directory)?;
    // Do this first and on disk: if a later step fails, the profile still opens nothing.
    Counter::revoke(&profile.join("counter"))?;
    fs::remove_dir_all(profile)?;
    directory.sync_all()
}
