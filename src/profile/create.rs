//! Creates a profile, which appears complete or not at all.

use super::ProfileConfig;
use super::home::check_spelling;
use super::keys::{self, RawKeys};
use super::set::{DISABLED, Found, REPLACED, UNFINISHED, list};
use crate::error::{Error, Result, quoted};
use crate::sys::file::{self, create_private};
use crate::wire::Wire;
use base64ct::{Base64, Encoding};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Creates a profile with new keys in a server's `directory`, which need not exist, and returns the profile's path.
///
/// Refuses a name that exists or is invalid, and a knock port that another profile uses, unless both are stealth. In
/// that case nothing is changed.
pub fn create(directory: &Path, name: &str, config: &ProfileConfig) -> Result<PathBuf> {
    let keys = keys::random()?;
    make(directory, name, &Content { keys: &keys, counter: 0, config }, &|other| {
        if other.name.strip_suffix(REPLACED) == Some(name) {
            // The new profile would enable the old keys, and its first knock would revoke them.
            return Err(Error::refused(format!("profile {} has older keys of {}", quoted(&other.name), quoted(name)))
                .advise(format!("choose another name, or revoke them first: knockknock revoke {}", other.name)));
        }
        // A profile that cannot be read has no knock port that could collide.
        let Ok(found) = ProfileConfig::load(&other.path) else { return Ok(()) };
        let classic = [found.wire, config.wire].contains(&Wire::Classic);
        if classic && found.knock_port == config.knock_port {
            let why = format!("profile {} has knock port {} already", quoted(&other.name), config.knock_port);
            return Err(Error::refused(why).advise("choose another knock port: only stealth profiles can share one"));
        }
        Ok(())
    })
}

/// The contents of a profile's files.
pub(super) struct Content<'a> {
    pub(super) keys: &'a RawKeys,
    pub(super) counter: u64,
    pub(super) config: &'a ProfileConfig,
}

/// Creates a profile, unless its name exists or `check` refuses one of the other profiles.
pub(super) fn make(
    directory: &Path,
    name: &str,
    content: &Content<'_>,
    check: &dyn Fn(&Found) -> Result<()>,
) -> Result<PathBuf> {
    check_name(name)?;
    make_directory(directory).map_err(|cause| {
        Error::path("make", directory, cause).advise("run as root, or name another place with --dir")
    })?;
    let _lock = lock(directory)?;
    make_locked(directory, name, content, check)
}

/// Locks a directory of profiles, so that no two processes find the same knock port free, and none renames what another
/// deletes.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(file::LOCK);
    let locked = file::open_private(&path).and_then(|file| file::lock(&file).map(|()| file));
    locked.map_err(|cause| Error::path("lock", &path, cause))
}

/// Creates a profile like [`make`], in a directory that exists and that the caller has locked.
pub(super) fn make_locked(
    directory: &Path,
    name: &str,
    content: &Content<'_>,
    check: &dyn Fn(&Found) -> Result<()>,
) -> Result<PathBuf> {
    let path = directory.join(name);
    if fs::symlink_metadata(&path).is_ok() {
        return Err(Error::refused(format!("profile {} exists", quoted(name)))
            .advise(format!("choose another name, or remove {} first", quoted(&path))));
    }
    let listing = list(directory)?;
    // A disabled profile keeps its knock port and its keys for when it is enabled again.
    listing.profiles.iter().chain(&listing.disabled).try_for_each(check)?;
    let aside = directory.join(format!(".{name}{UNFINISHED}"));
    // A power failure may have left an incomplete profile here.
    let _ = fs::remove_dir_all(&aside);
    let made = write_aside(&aside, content)
        .and_then(|()| fs::rename(&aside, &path))
        .and_then(|()| file::open(directory, libc::O_RDONLY)?.sync_all());
    made.map_err(|cause| {
        let _ = fs::remove_dir_all(&aside);
        Error::path("write", &path, cause)
    })?;
    Ok(path)
}

/// Refuses a host for which `accept` could not create a profile.
pub fn check_host(host: &str) -> Result<()> {
    check_spelling(host)?;
    check_name(host)
}

pub(super) fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.starts_with('.') {
        "starts with \".\""
    } else if DISABLED.iter().any(|end| name.ends_with(end)) {
        "ends with the suffix of a disabled profile"
    } else if name.ends_with(REPLACED) {
        "ends with the suffix of replaced keys"
    } else if name.contains('/') {
        "contains \"/\""
    } else if name.contains(char::is_control) {
        "contains control characters"
    } else if name.len() > 240 {
        "is too long"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("{} cannot be the name of a profile: it {why}", quoted(name))))
}

fn write_aside(aside: &Path, content: &Content<'_>) -> io::Result<()> {
    make_directory(aside)?;
    for (key, name) in content.keys.iter().zip(keys::FILES) {
        // 16 bytes in base64, and a newline.
        let mut line = Zeroizing::new([b'\n'; 25]);
        let (text, _newline) = line.split_at_mut(24);
        Base64::encode(key, text).map_err(|_| io::ErrorKind::InvalidData)?;
        create_private(&aside.join(name), &*line)?;
    }
    // Without leading zeros, because the counter is unused, but as long as later.
    create_private(&aside.join("counter"), format!("{:\n<11}", content.counter).as_bytes())?;
    create_private(&aside.join("config"), content.config.to_text().as_bytes())?;
    file::open(aside, libc::O_RDONLY)?.sync_all()
}

/// Creates a directory with mode 0700, and its missing parents, whatever the umask is.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make_directory)?;
    // Another process may have created it just now.
    if file::ensure_directory(path)? {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn several_processes_make_the_first_profile_at_once() {
        for round in 0..100 {
            let base = std::env::temp_dir().join(format!("knockknock-first-{}-{round}", std::process::id()));
            let (directory, barrier) = (base.join("etc/profiles"), Barrier::new(4));
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        barrier.wait();
                        make_directory(&directory).unwrap();
                    });
                }
            });
            assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
            fs::remove_dir_all(base).unwrap();
        }
    }
}
