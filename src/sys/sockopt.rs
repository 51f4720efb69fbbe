//! Socket options (getsockopt(2), setsockopt(2)).

use super::check;
use std::io;
use std::os::fd::AsRawFd;

/// Reads an integer option.
pub(super) fn get(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: value and size are valid for writes, and size is value's size.
    check(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) })?;
    Ok(value)
}

/// Sets an option.
pub(super) fn set<T>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: T) -> io::Result<()> {
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: value is valid for reads of its size.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) }).map(drop)
}
