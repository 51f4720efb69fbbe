//! Creates a profile, which appears complete or not at all.

use super::ProfileConfig;
use super::keys::KEY;
use super::set::{DISABLED, UNFINISHED, list};
use crate::error::{Error, Result};
use crate::sys;
use crate::wire::Wire;
use base64ct::{Base64, Encoding};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A profile to create. Its keys come from the kernel's random number generator.
pub struct Fresh<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its config.
    pub config: &'a ProfileConfig,
}

/// Creates a profile in `directory`, which need not exist, and returns the profile's path.
///
/// Refuses a name that exists or is invalid, and a knock port that another profile uses. In that case nothing is
/// changed.
pub fn create(directory: &Path, fresh: &Fresh<'_>) -> Result<PathBuf> {
    check_name(fresh.name)?;
    let path = directory.join(fresh.name);
    make_directory(directory).map_err(|cause| {
        Error::path("make", directory, cause).advise("run as root, or name another place with --dir")
    })?;
    let parent = File::open(directory).map_err(|cause| Error::path("open", directory, cause))?;
    // Lock the directory, so that no two processes find the same knock port free.
    sys::file::lock(&parent).map_err(|cause| Error::path("lock", directory, cause))?;
    refuse_collisions(directory, &path, fresh)?;
    let aside = directory.join(format!(".{}{UNFINISHED}", fresh.name));
    // A power failure may have left an incomplete profile here.
    let _ = fs::remove_dir_all(&aside);
    let made =
        write_aside(&aside, fresh.config).and_then(|()| fs::rename(&aside, &path)).and_then(|()| parent.sync_all());
    made.map_err(|cause| {
        let _ = fs::remove_dir_all(&aside);
        Error::path("write", &path, cause)
    })?;
    Ok(path)
}

fn check_name(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "is empty"
    } else if name.starts_with('.') {
        "starts with \".\""
    } else if DISABLED.iter().any(|end| name.ends_with(end)) {
        "ends like that of a disabled profile"
    } else if name.contains('/') {
        "has a \"/\""
    } else if name.contains(char::is_control) {
        "has control characters"
    } else if name.len() > 240 {
        "is too long"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!("{name:?} cannot be the name of a profile: it {why}")))
}

fn refuse_collisions(directory: &Path, path: &Path, fresh: &Fresh<'_>) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::refused(format!("profile {:?} exists", fresh.name))
            .advise(format!("choose another name, or remove {path:?} first")));
    }
    let listing = list(directory)?;
    // A disabled profile keeps its knock port for when it is enabled again.
    for other in listing.profiles.iter().chain(&listing.disabled) {
        // A profile that cannot be read has no knock port that could collide.
        let Ok(config) = ProfileConfig::load(&other.path) else { continue };
        let classic = [config.wire, fresh.config.wire].contains(&Wire::Classic);
        if classic && config.knock_port == fresh.config.knock_port {
            let why = format!("profile {:?} has knock port {} already", other.name, fresh.config.knock_port);
            return Err(Error::refused(why).advise("choose another knock port: only stealth profiles can share one"));
        }
    }
    Ok(())
}

fn write_aside(aside: &Path, config: &ProfileConfig) -> io::Result<()> {
    make_directory(aside)?;
    write(&aside.join("cipher.key"), &*random_key()?)?;
    write(&aside.join("mac.key"), &*random_key()?)?;
    write(&aside.join("counter"), b"0000000000\n")?;
    write(&aside.join("config"), config.to_text().as_bytes())?;
    File::open(aside)?.sync_all()
}

/// Creates a directory with mode 0700, and its missing parents, whatever the umask is.
fn make_directory(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    path.parent().map_or(Ok(()), make_directory)?;
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Returns 16 random bytes in base64 and a newline.
fn random_key() -> io::Result<Zeroizing<[u8; 25]>> {
    let mut key = Zeroizing::new([0; KEY]);
    getrandom::fill(&mut *key).map_err(io::Error::other)?;
    let mut line = Zeroizing::new([b'\n'; 25]);
    let (text, _newline) = line.split_at_mut(24);
    Base64::encode(&*key, text).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(line)
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}
