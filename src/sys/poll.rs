//! Waiting for a few descriptors (poll(2)).

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Waits until one of `fds` is readable or hung up, or `timeout` expires (`None`: no timeout).
/// Returns which descriptors are ready. A signal restarts the wait with the full timeout.
pub fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> io::Result<[bool; N]> {
    poll(fds.map(|fd| (Some(fd), libc::POLLIN)), timeout)
}

/// Waits like [`readable`], for descriptors of which some are missing. A missing descriptor is never ready.
pub fn readable_of<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    poll(fds.map(|fd| (fd, libc::POLLIN)), timeout)
}

/// Waits until `fd` is readable or hung up, the list of mounts has changed since the last call, or `timeout` has
/// passed. `mounts` is an open /proc/self/mountinfo.
pub fn readable_or_mounted(
    fd: BorrowedFd<'_>,
    mounts: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<[bool; 2]> {
    // The list is always readable; a change is an exceptional condition (proc_pid_mountinfo(5)).
    poll([(Some(fd), libc::POLLIN), (mounts, libc::POLLPRI)], timeout)
}

/// Waits until `fd` is writable or hung up.
pub fn writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    poll([(Some(fd), libc::POLLOUT)], None).map(drop)
}

fn poll<const N: usize>(
    fds: [(Option<BorrowedFd<'_>>, libc::c_short); N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    // The kernel ignores entries with a negative descriptor.
    let number = |fd: Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd());
    let mut polled = fds.map(|(fd, events)| libc::pollfd { fd: number(fd), events, revents: 0 });
    // Rounded up: otherwise a timeout below 1 ms would become 0, and the caller would spin.
    let milliseconds = timeout.map_or(-1, |t| i32::try_from(t.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
    loop {
        // SAFETY: the array is valid for reads and writes of N elements, and the descriptors are borrowed.
        let polled_now = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
        match check(polled_now) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(polled.map(|fd| fd.revents != 0)),
        }
    }
}
