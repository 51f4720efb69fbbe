//! The knock lock of a profile: from the knock until it is connected, one client has it, among all
//! processes that use the profile. An opening is one at a time for a source address and a port, so a
//! second knock in between would be wasted.

use crate::error::{Error, Result};
use crate::profile::Found;
use crate::sys;
use std::fs::File;
use std::io;
use std::path::PathBuf;

/// The lock of a profile's directory (flock(2)).
pub struct KnockLock {
    directory: PathBuf,
}

/// The right to knock and connect. Dropping it lets the next client go.
pub struct Turn {
    /// Closing the file gives the lock back. `None` where the file system has no locks.
    _locked: Option<File>,
}

impl KnockLock {
    /// The knock lock of the profile at `found`.
    pub fn new(found: &Found) -> Self {
        Self { directory: found.path.clone() }
    }

    /// Takes the lock; `None` while another client or process has it.
    pub fn try_lock(&self) -> Result<Option<Turn>> {
        let file = File::open(&self.directory).map_err(|cause| Error::path("open", &self.directory, cause))?;
        match sys::file::try_lock(&file) {
            Ok(()) => Ok(Some(Turn { _locked: Some(file) })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // NFS has no locks for directories. Two clients may then knock at once, and one of them
            // has to knock again; that is better than none.
            Err(_) => Ok(Some(Turn { _locked: None })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_turn_at_a_time() {
        let path = std::env::temp_dir().join(format!("knockknock-turns-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let found = Found { name: "turns".into(), path };
        let turn = KnockLock::new(&found).try_lock().unwrap();
        assert!(turn.is_some());
        assert!(KnockLock::new(&found).try_lock().unwrap().is_none());
        drop(turn);
        assert!(KnockLock::new(&found).try_lock().unwrap().is_some());
        std::fs::remove_dir(found.path).unwrap();
    }
}
