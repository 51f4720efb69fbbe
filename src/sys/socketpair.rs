//! A connected pair of sockets that keep message boundaries (SOCK_SEQPACKET).

use super::{check, check_length, uninterrupted};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One end of the pair. Each message arrives whole or not at all.
pub struct Channel(OwnedFd);

/// Creates a connected pair.
pub fn pair() -> io::Result<(Channel, Channel)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the pointer is valid for writes of two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both were just opened and nothing else owns them.
    Ok(fds.map(|fd| Channel(unsafe { OwnedFd::from_raw_fd(fd) })).into())
}

impl Channel {
    /// Sends one message. A closed peer is the error EPIPE, without SIGPIPE.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer is valid for reads of the length given.
        let sent =
            unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL) };
        check_length(sent).map(drop)
    }

    /// Waits for one message and returns its length in bytes; 0 when the peer has closed. For a message longer than
    /// `buffer` that is its full length (MSG_TRUNC), so that it cannot be mistaken for one that fits.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive_with(libc::MSG_TRUNC, buffer)
    }

    /// Like [`Channel::receive`], but the message can be received again.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive_with(libc::MSG_TRUNC | libc::MSG_PEEK, buffer)
    }

    fn receive_with(&self, flags: libc::c_int, buffer: &mut [u8]) -> io::Result<usize> {
        let (fd, bytes, most) = (self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the pointer is valid for writes of the length given.
        uninterrupted(|| check_length(unsafe { libc::recv(fd, bytes, most, flags) }))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(end: Channel) -> Self {
        end.0
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_or_reports_its_full_length() {
        let (a, b) = pair().unwrap();
        a.send(b"one").unwrap();
        a.send(&[7; 100]).unwrap();
        let mut buffer = [0; 10];
        assert_eq!(b.peek(&mut buffer).unwrap(), 3);
        assert_eq!(b.receive(&mut buffer).unwrap(), 3);
        assert_eq!(b.receive(&mut buffer).unwrap(), 100);
        drop(a);
        assert_eq!(b.receive(&mut buffer).unwrap(), 0);
        assert!(b.send(b"x").is_err());
    }
}
