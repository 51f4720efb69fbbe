//! Sleeping until a descriptor has something.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Sleeps until one of `fds` is readable or hung up, or `timeout` has passed (never, where `None`);
/// says which of them are. A signal does not wake it.
pub fn readable<const N: usize>(fds: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> io::Result<[bool; N]> {
    poll(fds.map(Some), libc::POLLIN, timeout)
}

/// The same for descriptors that are not all there; one that is not is never readable.
pub fn readable_of<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    poll(fds, libc::POLLIN, timeout)
}

/// Sleeps until `fd` is writable or hung up.
pub fn writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    poll([Some(fd)], libc::POLLOUT, None).map(drop)
}

fn poll<const N: usize>(
    fds: [Option<BorrowedFd<'_>>; N],
    events: libc::c_short,
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    // The kernel passes over a negative descriptor.
    let number = |fd: Option<BorrowedFd<'_>>| fd.map_or(-1, |fd| fd.as_raw_fd());
    let mut polled = fds.map(|fd| libc::pollfd { fd: number(fd), events, revents: 0 });
    // Rounded up, so that a timeout of less than a millisecond does not spin.
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
