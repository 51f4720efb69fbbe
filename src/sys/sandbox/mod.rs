//! Walls that a process puts around itself and can never take down: an empty root directory, limits,
//! Landlock, a filter of system calls.

pub mod calls;
pub mod landlock;
pub mod seccomp;

use super::check;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::DirBuilderExt;

/// Where an empty directory can be made for a moment: the first that can be written to.
const PLACES: [&str; 3] = ["/run", "/tmp", "/dev/shm"];
/// The largest file that can be written, in bytes: a counter has eleven.
const LARGEST_FILE: libc::rlim_t = 4096;

/// Makes a directory that is no longer anywhere the root and the working directory: nothing is in it,
/// and nothing can ever be made in it. To be called while root.
pub fn empty_root() -> io::Result<()> {
    empty_root_but_here()?;
    std::env::set_current_dir("/")
}

/// The same, and the working directory stays: files are opened there by their bare names.
pub fn empty_root_but_here() -> io::Result<()> {
    let directory = gone_directory()?;
    std::os::unix::fs::chroot(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// A new directory, removed again while it is open.
fn gone_directory() -> io::Result<File> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for place in PLACES {
        let path = format!("{place}/knockknock-{}", std::process::id());
        let opened = DirBuilder::new().mode(0o700).create(&path).and_then(|()| {
            let opened = File::open(&path);
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

/// No new process, and no file beyond a counter's size.
pub fn limits() -> io::Result<()> {
    limit(libc::RLIMIT_NPROC as _, 0)?;
    // Whoever has sent our standard error into a file wants all of it.
    let stderr = io::stderr().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    if !stderr.is_ok_and(|found| found.is_file()) {
        limit(libc::RLIMIT_FSIZE as _, LARGEST_FILE)?;
    }
    // SAFETY: SIG_IGN is no function of ours; a write beyond the limit is then an error and no death.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(())
}

fn limit(resource: libc::c_int, most: libc::rlim_t) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the structure is valid for reads.
    check(unsafe { libc::setrlimit(resource as _, &raw const limit) }).map(drop)
}

/// What this kernel offers, for people.
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
