//! The knock lock of a profile. A client holds it from its knock until it is connected, across all processes that use
//! the profile. There is at most one opening for a source address and port, so a second knock in between would be
//! wasted.

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

/// The held lock: the right to knock and connect. Dropping it releases the lock.
pub struct Turn {
    /// Closing the file releases the lock. `None` if the file system has no locks.
    _locked: Option<File>,
}

impl KnockLock {
    /// Creates the knock lock of the profile at `found`.
    pub fn new(found: &Found) -> Self {
        Self { directory: found.path.clone() }
    }

    /// Takes the lock; `None` if another client or process holds it, or that of the counter, for which a knock would
    /// wait.
    pub fn try_lock(&self) -> Result<Option<Turn>> {
        let file = sys::file::open(&self.directory, libc::O_RDONLY)
            .map_err(|cause| Error::path("open", &self.directory, cause))?;
        let counter = sys::file::open_small(&self.directory.join("counter"), false);
        let busy = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
        match sys::file::try_lock(&file) {
            Ok(()) if counter.is_ok_and(|counter| sys::file::try_lock(&counter).as_ref().is_err_and(busy)) => Ok(None),
            Ok(()) => Ok(Some(Turn { _locked: Some(file) })),
            Err(error) if busy(&error) => Ok(None),
            // NFS cannot lock directories. Then two clients may knock at the same time and one of them has to knock
            // again, which is better than refusing both.
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
