//! Notifications of changes in a directory or a file (inotify(7)).

use super::check;
use super::pipe::read;
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

/// The mask for names in a directory: one is created, deleted or moved.
pub const NAMES: u32 = libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_MOVED_FROM | libc::IN_DELETE;
/// Like [`NAMES`], and for changes of permissions.
pub const NAMES_AND_RIGHTS: u32 = NAMES | libc::IN_ATTRIB;
/// The mask for a directory itself: it is moved or deleted.
pub const ITSELF: u32 = libc::IN_MOVE_SELF | libc::IN_DELETE_SELF;
/// The mask for a file's content: it is written or truncated.
pub const CONTENT: u32 = libc::IN_MODIFY;

impl Inotify {
    /// Creates an empty queue.
    pub fn new() -> io::Result<Self> {
        // SAFETY: inotify_init1 takes no pointer and returns a new descriptor, which nothing else owns.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Subscribes to the changes of `mask` at `path`, in addition to earlier subscriptions.
    pub fn watch(&self, path: &Path, mask: u32) -> io::Result<Watch> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mask = mask | libc::IN_MASK_ADD;
        // SAFETY: `path` is a C string that lives through the call.
        check(unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), mask) }).map(Watch)
    }

    /// Ends a subscription.
    pub fn unwatch(&self, watch: Watch) {
        // SAFETY: inotify_rm_watch takes two numbers and touches no memory of ours.
        unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), watch.0) };
    }

    /// Empties the queue and calls `each` with the watch of the directory and the changed name. The name is empty for
    /// the directory itself. The watch is `None` if events were lost. Changes of content are not reported.
    pub fn drain(&self, mut each: impl FnMut(Option<Watch>, &OsStr)) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match read(self.0.as_fd(), &mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
                Ok(length) => names(buffer.get(..length).unwrap_or_default(), &mut each),
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Calls `each` for the names in a buffer of `struct inotify_event`s (watch, mask, cookie, length, name).
fn names(mut events: &[u8], each: &mut impl FnMut(Option<Watch>, &OsStr)) {
    while let [w0, w1, w2, w3, m0, m1, m2, m3, _, _, _, _, l0, l1, l2, l3, rest @ ..] = events {
        let watch = i32::from_ne_bytes([*w0, *w1, *w2, *w3]);
        let mask = u32::from_ne_bytes([*m0, *m1, *m2, *m3]);
        let length = u32::from_ne_bytes([*l0, *l1, *l2, *l3]) as usize;
        let padded = rest.get(..length).unwrap_or_default();
        let end = padded.iter().position(|&byte| byte == 0).unwrap_or(padded.len());
        let name = OsStr::from_bytes(padded.get(..end).unwrap_or_default());
        if mask & libc::IN_Q_OVERFLOW != 0 {
            each(None, name);
        } else if mask & (NAMES_AND_RIGHTS | ITSELF) != 0 {
            each(Some(Watch(watch)), name);
        }
        events = rest.get(length..).unwrap_or_default();
    }
}
