//! Who owns a profile's files, and who else can read or change them.

use crate::error::{Error, Result};
use crate::sys::privilege;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The modes that let others write, and that let them do anything.
pub(super) const OTHERS_WRITE: u32 = 0o022;
const OTHERS: u32 = 0o077;

/// Refuses a file that somebody else owns, or can read or write, or that is no regular file.
pub(super) fn private(file: &File, path: &Path) -> Result<()> {
    let found = file.metadata().map_err(|cause| Error::path("look at", path, cause))?;
    if !found.is_file() {
        return Err(Error::content(path, 0, "is not a regular file"));
    }
    own(&found, path, OTHERS)
}

/// Refuses what somebody else owns, or what others can get at by a mode in `forbidden`.
pub(super) fn own(found: &Metadata, path: &Path, forbidden: u32) -> Result<()> {
    let mode = found.mode() & 0o7777;
    if mode & forbidden != 0 {
        let (why, advice) = match forbidden {
            OTHERS => ("read", ", and make new keys if somebody may have seen them"),
            _ => ("change", ""),
        };
        let why = format!("others can {why} it (mode {mode:04o})");
        return Err(Error::content(path, 0, why).advise(format!("chmod {:03o} {path:?}{advice}", mode & !forbidden)));
    }
    let uids = [0, privilege::effective_uid(), privilege::real_uid()];
    if !uids.contains(&found.uid()) {
        let why = format!("belongs to user {}, who could change it", found.uid());
        return Err(Error::content(path, 0, why).advise(format!("chown {} {path:?}", privilege::effective_uid())));
    }
    Ok(())
}
