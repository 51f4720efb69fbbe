//! Safe wrappers around system calls: the only unsafe code of the project, and nothing about knocks.
//!
//! Each wrapper holds as little unsafe code as possible. Calls that `std` already wraps are
//! repeated here only if its wrapper is much larger.
#![allow(unsafe_code)]

pub mod allocator;
#[cfg(feature = "hooks")]
pub mod attempt;
pub mod child;
pub mod clock;
pub mod epoll;
pub mod file;
pub mod inotify;
pub mod links;
pub mod listeners;
pub mod local_addresses;
pub mod memory;
pub mod namespace;
pub mod netlink;
pub mod nf_tables;
pub mod pipe;
pub mod poll;
pub mod privilege;
pub mod process;
pub mod random;
pub mod raw;
pub mod resolver;
pub mod route;
pub mod rtnetlink;
pub mod sandbox;
mod sockaddr;
pub mod socketpair;
mod sockopt;
pub mod start;
pub mod sysctl;
pub mod tcp;
pub mod tcp_timestamp;
pub mod terminal;
pub mod thread;

use std::io;

/// Converts the return value of a C function: -1 becomes the error in `errno`.
fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Converts a returned length: a negative one becomes the error in `errno`.
fn check_length(returned: isize) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// Repeats a call while a signal interrupts it.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Converts the return value of `syscall`: -1 becomes the error in `errno`.
fn check_long(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}
