//! Lists the profiles in a directory, and finds the one for a host.

use super::keys;
use super::ownership::failed;
use crate::error::{Error, Result};
use crate::status;
use crate::sys::file;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Name suffixes that disable a profile.
pub const DISABLED: [&str; 2] = [".off", ".disabled"];

/// Suffix of an unfinished profile; its name also has a leading dot.
pub(super) const UNFINISHED: &str = ".new";

/// Name suffix of a profile whose keys are being replaced. A knock with the profile of the name without it revokes it.
pub const REPLACED: &str = ".replaced";

/// A profile's name and directory. Nothing in the directory has been read yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

impl Found {
    /// Returns the name without the suffix that disables the profile.
    pub fn enabled_name(&self) -> &str {
        enabled_name(&self.name)
    }
}

/// Returns `name` without the suffix that disables a profile.
pub(super) fn enabled_name(name: &str) -> &str {
    DISABLED.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// The content of a directory of profiles, by name.
#[derive(Debug, Default)]
pub struct Listing {
    /// Enabled profiles.
    pub profiles: Vec<Found>,
    /// Profiles disabled by a suffix, and the keys that they replace.
    pub disabled: Vec<Found>,
    /// Profiles with an invalid name, and the reason.
    pub left_out: Vec<(Found, Error)>,
}

/// Returns a checksum of the profiles in `directory`: their names and configs, and which files hold their keys, with
/// which modes and since when. Reads no key.
pub fn checksum(directory: &Path) -> u64 {
    let mut bytes = Vec::new();
    for found in list(directory).unwrap_or_default().profiles {
        bytes.extend_from_slice(found.name.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(&file::read_small(&found.path.join("config")).unwrap_or_default());
        for key in keys::FILES {
            bytes.extend_from_slice(file::version(&found.path.join(key)).unwrap_or_default().as_flattened());
        }
    }
    status::checksum(&bytes)
}

/// Lists the profiles in `directory`. A directory that does not exist has none. Any other failure is an error, because
/// a program that continued without a profile would connect without a knock.
pub fn list(directory: &Path) -> Result<Box<Listing>> {
    let unreadable = |cause| failed("read", directory, cause);
    let entries = match fs::read_dir(directory) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Box::default()),
        entries => entries.map_err(unreadable)?,
    };
    let mut listing = Box::<Listing>::default();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        // An entry that cannot be stat'ed, such as a dead link, counts as a profile: reading it reports the reason.
        if fs::metadata(&path).is_ok_and(|found| !found.is_dir()) {
            continue;
        }
        let name = path.file_name().unwrap_or_default();
        let found = Found { name: name.to_string_lossy().into_owned(), path: path.clone() };
        if name.to_str().is_none() {
            listing.left_out.push((found, misnamed("is not UTF-8")));
        } else if !found.name.starts_with('.') {
            let disabled = found.name != found.enabled_name();
            let list = if disabled { &mut listing.disabled } else { &mut listing.profiles };
            // Sorted by name.
            list.insert(list.partition_point(|other| other.name < found.name), found);
        // Other hidden directories belong to other programs, or to a genprofile that has not finished.
        } else if path.join("cipher.key").exists() && !found.name.ends_with(UNFINISHED) {
            listing.left_out.push((found, misnamed("starts with \".\"")));
        }
    }
    // Old keys are disabled with the profile that replaces them. If there is no such profile, a rotation was
    // interrupted.
    let mut replaced = Vec::new();
    for name in listing.disabled.iter().map(Found::enabled_name) {
        if listing.profiles.iter().all(|found| found.name != name) {
            replaced.push(format!("{name}{REPLACED}"));
        }
    }
    for found in std::mem::take(&mut listing.profiles) {
        let list = if replaced.contains(&found.name) { &mut listing.disabled } else { &mut listing.profiles };
        list.push(found);
    }
    Ok(listing)
}

fn misnamed(why: &str) -> Error {
    Error::refused(format!("its name {why}")).advise("rename its directory, or remove it")
}

/// Returns the profile for `host` in `directory`. The host name is compared with the profile names and never becomes
/// part of a path.
pub fn find(directory: &Path, host: &str) -> Result<Option<Box<Found>>> {
    let mut profiles = list(directory)?.profiles;
    let exact = profiles.iter().position(|found| found.name == host);
    let index = exact.or_else(|| profiles.iter().position(|found| is_same_host(&found.name, host)));
    Ok(index.map(|index| Box::new(profiles.swap_remove(index))))
}

/// Returns whether two names mean the same host: they differ only in case or a final dot, or are spellings of one
/// address.
pub fn is_same_host(one: &str, other: &str) -> bool {
    let (one, other) = (one.strip_suffix('.').unwrap_or(one), other.strip_suffix('.').unwrap_or(other));
    let address = |name: &str| name.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    one.eq_ignore_ascii_case(other) || address(one).is_some_and(|one| address(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_spellings_mean_the_same_host() {
        for (one, other) in [
            ("host.example", "HOST.example."),
            ("host.example.", "host.example"),
            ("fd09::1", "FD09:0:0::0001"),
            ("10.9.0.1", "::ffff:10.9.0.1"),
            ("fe80::1%eth0", "FE80::1%eth0"),
        ] {
            assert!(is_same_host(one, other), "{one} {other}");
        }
        for (one, other) in [("host", "host.example"), ("host", "host.."), ("10.9.0.1", "10.9.0.10"), ("", "host")] {
            assert!(!is_same_host(one, other), "{one} {other}");
        }
    }
}
