//! Checks the owner and mode of a profile's files.

use crate::error::{Error, Result, quoted};
use crate::sys::privilege;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Permission bits: world-writable, writable by group or others, any access by group or others.
pub(super) const EVERYBODY_WRITES: u32 = 0o002;
pub(super) const OTHERS_WRITE: u32 = 0o022;
const OTHERS: u32 = 0o077;

/// Refuses a file that another user owns, or that group or others can access.
pub(super) fn check_private(file: &File, path: &Path) -> Result<()> {
    check_owner(&file.metadata().map_err(|cause| failed("stat", path, cause))?, path, OTHERS)
}

/// Refuses a file or directory that another user owns, can write to, or can replace because of the owner or mode of a
/// parent directory. Whoever can write there could restore old counters.
pub fn check_path(path: &Path) -> Result<()> {
    let failed = |cause| Error::path("stat", path, cause);
    let path = path.canonicalize().map_err(failed)?;
    for part in path.ancestors() {
        let found = fs::metadata(part).map_err(failed)?;
        let is_parent = part.as_os_str() != path.as_os_str();
        // In a sticky directory such as /tmp, users can rename only their own files.
        let is_sticky_parent = is_parent && found.mode() & libc::S_ISVTX != 0;
        // A container's own directories may be in one of the host.
        if !is_parent || !privilege::is_outside_user(found.uid()) {
            check_owner(&found, part, if is_sticky_parent { 0 } else { OTHERS_WRITE })?;
        }
    }
    Ok(())
}

/// Refuses a file of another user, and a mode that has a bit of `forbidden`.
pub(super) fn check_owner(found: &Metadata, path: &Path, forbidden: u32) -> Result<()> {
    let mode = found.mode() & 0o7777;
    if mode & forbidden != 0 {
        let (why, advice) = match forbidden {
            OTHERS => ("read", " # and make new keys if somebody may have seen them"),
            _ => ("change", ""),
        };
        let why = format!("others can {why} it (mode {mode:04o})");
        return Err(Error::content(path, 0, why).advise(format!(
            "chmod {:03o} {}{advice}",
            mode & !forbidden,
            quoted(path)
        )));
    }
    let uids = [0, privilege::effective_uid(), privilege::real_uid()];
    if !uids.contains(&found.uid()) {
        let why = format!("belongs to user {}, who could change it", found.uid());
        let advice = format!(
            "chown {} {} # if it is yours; otherwise run this as user {}",
            privilege::effective_uid(),
            quoted(path),
            found.uid()
        );
        return Err(Error::content(path, 0, why).advise(advice));
    }
    Ok(())
}

/// The error for a failed call on a profile's file, with advice. If permission was denied, it names the owner.
pub(super) fn failed(verb: &str, path: &Path, cause: io::Error) -> Error {
    let advice = match cause.kind() {
        io::ErrorKind::PermissionDenied => advice(path),
        io::ErrorKind::NotFound => Some("make a new profile on both sides".to_owned()),
        io::ErrorKind::ReadOnlyFilesystem => {
            Some("see dmesg for errors of the disk, and mount it writable again".to_owned())
        }
        _ => None,
    };
    let error = Error::path(verb, path, cause);
    match advice {
        Some(advice) => error.advise(advice),
        None => error,
    }
}

/// Returns advice for a file that this user may not read; `None` if ownership is not the cause.
fn advice(path: &Path) -> Option<String> {
    let (uid, gid) = (privilege::effective_uid(), privilege::real_gid());
    // The deepest part of the path that can be stat'ed is the one that denies access.
    let (shut, found) = path.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)))?;
    let owner = found.uid();
    if owner == uid {
        return Some(format!("chmod u+rwX {}", quoted(shut)));
    }
    // Name the whole profile, or the topmost directory of root's below the user's own, rather than a single file.
    let top = if found.is_file() { shut.parent()? } else { shut };
    let of_user = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() == uid);
    let top = top.ancestors().find(|path| of_user(path) || path.parent().is_some_and(of_user));
    match top.filter(|_| owner == 0) {
        Some(top) => Some(format!("as root: chown -R {uid}:{gid} {}", quoted(top))),
        None => Some(format!(
            "{} belongs to user {owner}: run this as that user, or name other profiles with --dir",
            quoted(shut)
        )),
    }
}
