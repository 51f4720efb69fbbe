//! Files: locks.

use super::check;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Waits until this process alone holds the lock of `file` (flock(2)); closing the file gives it back.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }).map(drop)
}

/// The same without waiting; `WouldBlock` when somebody else holds it.
pub fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Gives the lock back.
pub fn unlock(file: &File) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}
