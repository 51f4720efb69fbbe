//! Notifications of changes in a directory or a file (inotify(7)).

use super::{check, check_length};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A non-blocking queue of change notifications.
pub struct Inotify(OwnedFd);

/// A watch descriptor, as [`Inotify::watch`] returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(i32);

/// The event mask for the names in a directory: an entry is created, deleted, moved, or has its permissions changed.
pub const NAMES: u32 = libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_DELETE | libc::IN_ATTRIB;
/// The event mask for a file's content: it is written or truncated.
pub const CONTENT: u32 = libc::IN_MODIFY;

impl Inotify {
    /// Creates an empty queue.
    pub fn new() -> io::Result<Self> {
        // SAFETY: inotify_init1 takes no pointer and returns a new descriptor, which nothing else owns.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Subscribes to the events of `mask` on `path`.
    pub fn watch(&self, path: &Path, mask: u32) -> io::Result<Watch> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `path` is a C string that lives through the call.
        check(unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) }).map(Watch)
    }

    /// Ends a subscription.
    pub fn unwatch(&self, watch: Watch) {
        // SAFETY: inotify_rm_watch takes two numbers and touches no memory of ours.
        unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), watch.0) };
    }

    /// Empties the queue. Returns `true` if an event concerned the directory entry `name`, or if the queue overflowed.
    /// Events for a file's content alone do not count.
    pub fn drain(&self, name: &OsStr) -> io::Result<bool> {
        let mut found = false;
        let mut buffer = [0; 4096];
        loop {
            // SAFETY: the pointer is valid for writes of the length given.
            let read = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            match check_length(read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) => return Err(error),
                Ok(length) => found |= names(buffer.get(..length).unwrap_or_default(), name.as_bytes()),
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether one of the `struct inotify_event`s (watch, mask, cookie, length, name) in a buffer concerns `name`, or
/// reports a queue overflow.
fn names(mut events: &[u8], name: &[u8]) -> bool {
    while let [_, _, _, _, m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3, rest @ ..] = events {
        let mask = u32::from_ne_bytes([*m0, *m1, *m2, *m3]);
        let length = u32::from_ne_bytes([*l0, *l1, *l2, *l3]) as usize;
        let padded = rest.get(..length).unwrap_or_default();
        let end = padded.iter().position(|&byte| byte == 0).unwrap_or(padded.len());
        if mask & libc::IN_Q_OVERFLOW != 0 || (mask & NAMES != 0 && padded.get(..end) == Some(name)) {
            return true;
        }
        events = rest.get(length..).unwrap_or_default();
    }
    false
}
