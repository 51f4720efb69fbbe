//! The sandbox that a process enters for good: an empty root directory, resource limits, Landlock and a system call
//! filter.

pub mod calls;
pub mod landlock;
pub mod seccomp;

use super::{check, file, process};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Directories to try, in this order, for a short-lived empty directory.
const PLACES: [&str; 3] = ["/run", "/tmp", "/dev/shm"];
/// The limit for the size of a written file, in bytes: a counter file has 11.
const LARGEST_FILE: libc::rlim_t = 4096;

/// Changes the root and working directory to a deleted directory, which is empty and in which no file can ever be
/// created. Needs root.
pub fn empty_root() -> io::Result<()> {
    empty_root_keeping_directory()?;
    std::env::set_current_dir("/")
}

/// Changes the root like [`empty_root`], but keeps the working directory, whose files can still be opened by name.
pub fn empty_root_keeping_directory() -> io::Result<()> {
    let directory = deleted_directory()?;
    std::os::unix::fs::chroot(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// Creates a directory, opens it and deletes it.
fn deleted_directory() -> io::Result<File> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for place in &PLACES {
        let path = format!("{place}/knockknock-{}", std::process::id());
        let opened = file::create_directory(path.as_ref()).and_then(|()| {
            let opened = file::open(path.as_ref(), libc::O_RDONLY);
            std::fs::remove_dir(&path)?;
            opened
        });
        match opened {
            Ok(directory) => return Ok(directory),
            Err(cause) => failure = cause,
        }
    }
    Err(failure)
}

/// Limits the process: it can start no other process, and write no file larger than `LARGEST_FILE`.
pub fn limits() -> io::Result<()> {
    limit(libc::RLIMIT_NPROC as _, 0)?;
    // Standard error may be redirected to a file, which grows beyond that size.
    if !process::standard(2).metadata().is_ok_and(|found| found.is_file()) {
        limit(libc::RLIMIT_FSIZE as _, LARGEST_FILE)?;
    }
    // SAFETY: SIG_IGN is no function of ours; a write beyond the limit then fails with EFBIG.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(())
}

fn limit(resource: libc::c_int, most: libc::rlim_t) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure is valid for reads.
    check(unsafe { libc::prlimit(0, resource as _, &raw const limit, ptr::null_mut()) }).map(drop)
}

/// Describes the sandbox that this kernel supports, for the log.
pub fn describe() -> String {
    let landlock = match landlock::version() {
        Ok(version) => format!("Landlock {version}"),
        Err(_) => "no Landlock in this kernel".to_owned(),
    };
    let calls = match seccomp::available() {
        true if seccomp::TESTED => "other system calls kill",
        true => "other system calls are refused and logged",
        false => "no filter of system calls in this kernel",
    };
    format!("empty root, {landlock}, {calls}")
}
