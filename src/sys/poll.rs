//! Waiting for a few descriptors (poll(2)).

use super::{check, uninterrupted};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// The maximum number of descriptors to wait for.
const MOST: usize = 4;

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

/// Waits until `fd` is writable or hung up, or `timeout` expires. Returns whether it is ready.
pub fn writable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<[bool; 1]> {
    poll([(Some(fd), libc::POLLOUT)], timeout)
}

fn poll<const N: usize>(
    fds: [(Option<BorrowedFd<'_>>, libc::c_short); N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    const { assert!(N <= MOST) };
    let mut ready = [false; N];
    wait(&fds, &mut ready, milliseconds(timeout))?;
    Ok(ready)
}

/// Waits for at most [`MOST`] descriptors.
fn wait(
    fds: &[(Option<BorrowedFd<'_>>, libc::c_short)],
    ready: &mut [bool],
    milliseconds: libc::c_int,
) -> io::Result<()> {
    // The kernel ignores entries with a negative descriptor.
    let mut polled = [libc::pollfd { fd: -1, events: 0, revents: 0 }; MOST];
    for (polled, (fd, events)) in polled.iter_mut().zip(fds) {
        (polled.fd, polled.events) = (fd.map_or(-1, |fd| fd.as_raw_fd()), *events);
    }
    // SAFETY: the array is valid for reads and writes of its elements.
    uninterrupted(|| check(unsafe { libc::poll(polled.as_mut_ptr(), MOST as libc::nfds_t, milliseconds) }))?;
    for (ready, polled) in ready.iter_mut().zip(polled) {
        *ready = polled.revents != 0;
    }
    Ok(())
}

/// Returns a timeout as poll(2) and epoll_wait(2) take it; -1 for none. It is rounded up: a remainder below 1 ms would
/// otherwise become 0, and the caller would spin.
pub(super) fn milliseconds(timeout: Option<Duration>) -> libc::c_int {
    let rounded_up = timeout.map(|timeout| timeout.saturating_add(Duration::from_micros(999)).as_millis());
    rounded_up.map_or(-1, |milliseconds| milliseconds.try_into().unwrap_or(libc::c_int::MAX))
}
