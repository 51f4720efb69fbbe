//! The profiles of a directory: which there are, and where.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// A profile's place; nothing of it is read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

/// The profiles in `directory`, by name. Names that start with `.` are passed over: one is being
/// made, or was when the power went.
pub fn list(directory: &Path) -> Result<Vec<Found>> {
    let unreadable = |cause| Error::path("read", directory, cause);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.is_empty() && !name.starts_with('.') && path.is_dir() {
            found.push(Found { name: name.into(), path });
        }
    }
    found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The profile called `host` in `directory`, in any case. The name is compared with those that there
/// are and never becomes part of a path. No directory has no profiles.
pub fn find(directory: &Path, host: &str) -> Result<Option<Found>> {
    if !directory.exists() {
        return Ok(None);
    }
    Ok(list(directory)?.into_iter().find(|found| found.name.eq_ignore_ascii_case(host)))
}
