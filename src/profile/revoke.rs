//! Revokes a profile on the server.

use super::create::lock;
use super::set::{REPLACED, enabled_name};
use super::{Counter, Found, Listing, list};
use crate::error::{Error, Result, quoted};
use crate::sys::file;
use std::fs;
use std::io;
use std::path::Path;

/// Revokes the profile `name` in `directory` and deletes it, with the keys that it replaces. Without an enabled profile
/// of this name, it revokes the disabled one. Once this returns, a running daemon opens nothing to them, even if the
/// daemon cannot read its configuration again.
pub fn revoke(directory: &Path, name: &str) -> Result<()> {
    let revoke_all = || {
        let profiles = of_name(directory, name)?;
        each(&profiles, &|profile| Counter::revoke(&profile.join("counter")))?;
        Ok(profiles)
    };
    // Do this first and on disk: if a later step fails or waits, the profiles still open nothing.
    if revoke_all()?.is_empty() {
        return Err(missing(directory, name));
    }
    let _lock = lock(directory)?;
    // Meanwhile, the profile may have been given new keys.
    each(&revoke_all()?, &|profile| fs::remove_dir_all(profile))?;
    file::open(directory, libc::O_RDONLY)
        .and_then(|opened| opened.sync_all())
        .map_err(|cause| Error::path("revoke", directory, cause))
}

/// Lists the profiles that are revoked with `name`.
fn of_name(directory: &Path, name: &str) -> Result<Vec<Found>> {
    let Listing { mut profiles, mut disabled, .. } = *list(directory)?;
    let enabled = enabled_name(name);
    let is_enabled = profiles.iter().any(|found| found.name == enabled);
    if name != enabled {
        // The name is that of a disabled profile. The listing has the keys that it replaces among the disabled ones
        // too.
        profiles.clear();
    }
    profiles.append(&mut disabled);
    let replaced = format!("{enabled}{REPLACED}");
    profiles.retain(|found| {
        found.name == name || found.enabled_name() == replaced || !is_enabled && found.enabled_name() == name
    });
    Ok(profiles)
}

fn each(profiles: &[Found], step: &dyn Fn(&Path) -> io::Result<()>) -> Result<()> {
    profiles.iter().try_for_each(|Found { path, .. }| step(path).map_err(|cause| Error::path("revoke", path, cause)))
}

/// Returns the error for a name without a profile.
pub(super) fn missing(directory: &Path, name: &str) -> Error {
    Error::refused(format!("there is no profile {} in {}", quoted(name), quoted(directory)))
        .advise("knockknock-daemon --check lists the profiles")
}
