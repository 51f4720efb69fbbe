//! Terminal properties.

use super::check;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

/// Returns the number of columns; `None` if it is not a terminal or its size is unknown.
pub fn width(terminal: &impl AsRawFd) -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: the structure is valid for writes, and zeroes are a size too.
    let size = unsafe {
        check(libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr())).ok()?;
        size.assume_init()
    };
    Some(size.ws_col.into()).filter(|&columns| columns > 0)
}
