//! Namespaces of this process (namespaces(7)). They have no names, so the kernel deletes them with their last process.

use super::{check, file};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Moves this process into a new network namespace and a new mount namespace, in which `directory` is empty, in memory,
/// and private to root. Returns the network namespace.
pub fn isolate(directory: &Path) -> io::Result<File> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: unshare takes a number.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // Without this the mount would appear in the old namespace too.
    mount(c"/", libc::MS_REC | libc::MS_PRIVATE, ptr::null())?;
    mount(&directory, libc::MS_NOSUID | libc::MS_NODEV, c"mode=700".as_ptr())?;
    new_network()
}

fn mount(directory: &std::ffi::CStr, flags: libc::c_ulong, options: *const libc::c_char) -> io::Result<()> {
    let kind = c"tmpfs".as_ptr();
    // SAFETY: all strings live through the call, and the options may be null.
    check(unsafe { libc::mount(kind, directory.as_ptr(), kind, flags, options.cast()) }).map(drop)
}

/// Moves this process into a new network namespace, and returns it.
pub fn new_network() -> io::Result<File> {
    // SAFETY: unshare takes a number.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    file::open("/proc/self/ns/net".as_ref(), libc::O_RDONLY)
}

/// Moves this process into a network namespace. Its open sockets stay in theirs.
pub fn enter(network: &File) -> io::Result<()> {
    // SAFETY: setns takes a descriptor, which `network` keeps open, and a number.
    check(unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}
