//! Gives a profile on the server new keys.

use super::create::{Content, check_name, lock, make_locked};
use super::set::REPLACED;
use super::{Counter, Found, ProfileConfig, REVOKED, keys, list};
use crate::error::{Error, Result, quoted};
use std::fs;
use std::path::Path;

/// Gives the profile `name` in `directory` new keys. The old keys stay in the profile `name.replaced` until a knock
/// with the new keys; the watcher then revokes them.
pub fn rotate(directory: &Path, name: &str) -> Result<Found> {
    let _lock = if directory.exists() { Some(lock(directory)?) } else { None };
    let profiles = list(directory)?.profiles;
    let exists = |name: &str| profiles.iter().any(|found| found.name == name);
    let old_name = format!("{name}{REPLACED}");
    let (path, old) = (directory.join(name), directory.join(&old_name));
    if !exists(name) && !exists(&old_name) {
        return Err(super::revoke::missing(directory, name));
    }
    check_name(name)?;
    let moved = match (exists(name), exists(&old_name)) {
        // An earlier rotation was interrupted.
        (false, _) => Ok(()),
        (true, false) => fs::rename(&path, &old),
        (true, true) => {
            if Counter::open(&old.join("counter"))?.next() != REVOKED {
                return Err(Error::refused(format!("the new keys of profile {} have not knocked yet", quoted(name)))
                    .advise(format!("to print their invitation again: knockknock invite {name} HOST --again")));
            }
            fs::remove_dir_all(&old).and_then(|()| fs::rename(&path, &old))
        }
    };
    moved.map_err(|cause| Error::path("rename", &path, cause))?;
    let made = ProfileConfig::load(&old).and_then(|config| {
        let keys = keys::random()?;
        // It shares the knock port with the old profile.
        make_locked(directory, name, &Content { keys: &keys, counter: 0, config: &config }, &|_| Ok(()))
    });
    if made.is_err() {
        let _ = fs::rename(&old, &path);
    }
    Ok(Found { name: name.into(), path: made? })
}
