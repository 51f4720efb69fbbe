//! Landlock (linux/landlock.h): a process gives up its access to the file system, and to TCP if the kernel's version
//! supports it.

use crate::sys::{check_long, file};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `struct landlock_ruleset_attr`: the access rights that are denied unless a rule allows them.
#[repr(C)]
#[derive(Default)]
struct Handled {
    files: u64,
    network: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed in C too.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    directory: i32,
}

/// `LANDLOCK_ACCESS_FS_READ_FILE`.
const READ_FILE: u64 = 1 << 2;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: libc::c_uint = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_int = 1;

/// Returns the kernel's Landlock ABI version; an error if it has no Landlock.
pub fn version() -> io::Result<u32> {
    // SAFETY: with this flag the kernel reads no memory and only returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Handled>(), 0usize, VERSION) };
    check_long(version).map(|version| version as u32)
}

/// Restricts this process for good: the only files it can open are those below `directory` (if given), for reading.
/// With version 4 it also loses TCP bind and connect, with version 6 signals to other processes. Needs no_new_privs.
pub fn restrict(directory: Option<&Path>) -> io::Result<()> {
    let handled = handled(version()?);
    // SAFETY: the structure is valid for reads of the size given. The kernel accepts a longer structure than it knows
    // if the rest is zero.
    let ruleset = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const handled, size_of::<Handled>(), 0 as libc::c_uint)
    };
    // SAFETY: the descriptor was just opened and nothing else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(check_long(ruleset)? as libc::c_int) };
    if let Some(directory) = directory {
        let directory = file::open(directory, libc::O_RDONLY)?;
        let beneath = Beneath { allowed: READ_FILE, directory: directory.as_raw_fd() };
        let none: libc::c_uint = 0;
        // SAFETY: the structure is valid for reads, and both descriptors are open.
        let added = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const beneath, none)
        };
        check_long(added)?;
    }
    // SAFETY: landlock_restrict_self takes a descriptor and flags.
    let restricted = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0 as libc::c_uint) };
    check_long(restricted).map(drop)
}

/// Returns all access rights that an ABI version knows: the first 13 to 16 rights for files, bind and connect for TCP
/// (from 4), abstract sockets and signals as scopes (from 6).
fn handled(version: u32) -> Handled {
    let files = match version {
        0 | 1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    Handled {
        files: (1 << files) - 1,
        network: if version >= 4 { 0b11 } else { 0 },
        scoped: if version >= 6 { 0b11 } else { 0 },
    }
}
