//! Floor 0: the kernel's calls. The only unsafe code of the project; it knows nothing of knocks.
//!
//! Each unsafe call stands alone in a small safe function. What `std` offers is used from `std`.
#![allow(unsafe_code)]

#[cfg(feature = "hooks")]
pub mod attempt;
pub mod epoll;
pub mod file;
pub mod inotify;
pub mod links;
pub mod listeners;
pub mod memory;
pub mod netlink;
pub mod nf_tables;
pub mod pipe;
pub mod poll;
pub mod privilege;
pub mod process;
pub mod raw;
pub mod route;
pub mod rtnetlink;
pub mod sandbox;
mod sockaddr;
pub mod socketpair;
mod sockopt;
pub mod sysctl;
pub mod tcp;
pub mod tcp_timestamp;

use std::io;

/// Turns a C return of -1 into the error that `errno` holds.
fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// The same for calls that return a length.
fn check_length(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// The same for `syscall`.
fn check_long(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
