//! Moving bytes between two descriptors inside the kernel, through a pipe as the buffer (splice(2)).

use super::{check, check_length, uninterrupted};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The maximum number of bytes moved by one splice call: 64 KiB, the default capacity of a pipe (pipe(7)).
const MOST: usize = 1 << 16;
/// Bytes moved by one read: 512 always fit into an empty pipe, since POSIX requires PIPE_BUF to be at least that.
const FEW: usize = 512;

/// A private pipe that buffers bytes between two descriptors. splice() holds a pipe's lock while it waits for the other
/// descriptor. If that pipe were shared with another program, the program would block too, so one side is always ours.
pub struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    flags: libc::c_uint,
}

impl Pipe {
    /// Creates an empty pipe whose transfers fail with `WouldBlock` instead of waiting.
    pub fn new() -> io::Result<Self> {
        Self::open(libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK)
    }

    /// Creates an empty pipe whose transfers wait for data, or for room.
    pub fn blocking() -> io::Result<Self> {
        Self::open(libc::SPLICE_F_MOVE)
    }

    fn open(flags: libc::c_uint) -> io::Result<Self> {
        let (output, input) = ends()?;
        Ok(Self { output, input, flags })
    }

    /// Moves available bytes from `from` into the pipe, which must be empty. Returns their number; 0 at end of file.
    pub fn fill(&self, from: BorrowedFd<'_>) -> io::Result<usize> {
        match splice(from, self.input.as_fd(), MOST, self.flags) {
            // Either end of file, or TCP urgent data: only read() can tell them apart.
            Ok(0) => self.fill_by_reading(from),
            other => other,
        }
    }

    /// Fills the pipe with read() and write(). At a TCP urgent byte splice() returns 0 or `WouldBlock`, while read()
    /// returns data.
    pub fn fill_by_reading(&self, from: BorrowedFd<'_>) -> io::Result<usize> {
        let mut buffer = [0; FEW];
        let length = read(from, &mut buffer)?;
        write(self.input.as_fd(), buffer.get(..length).unwrap_or_default())
    }

    /// Moves up to `held` bytes from the pipe to `to`; returns their number.
    pub fn drain(&self, to: BorrowedFd<'_>, held: usize) -> io::Result<usize> {
        splice(self.output.as_fd(), to, held, self.flags)
    }
}

/// Opens a pipe. Returns its ends for reading and for writing.
pub(super) fn ends() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the pointer is valid for writes of two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both were just opened and nothing else owns them.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).into())
}

/// Reads from a descriptor of any kind; std has a type for each.
pub fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer is valid for writes of the length given.
    check_length(unsafe { libc::read(from.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes to a descriptor of any kind.
pub fn write(to: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer is valid for reads of the length given.
    check_length(unsafe { libc::write(to.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize, flags: libc::c_uint) -> io::Result<usize> {
    let (from, to, none) = (from.as_raw_fd(), to.as_raw_fd(), ptr::null_mut());
    // SAFETY: splice takes two borrowed descriptors, and no offsets; it touches no memory of ours.
    uninterrupted(|| check_length(unsafe { libc::splice(from, none, to, none, most, flags) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_pass_through_and_end_of_file_is_reported() {
        let ((mut sender, from), (to, mut receiver)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        from.set_nonblocking(true).unwrap();
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(from.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sender.write_all(b"abc").unwrap();
        drop(sender);
        assert_eq!(pipe.fill(from.as_fd()).unwrap(), 3);
        assert_eq!(pipe.drain(to.as_fd(), 2).unwrap(), 2);
        assert_eq!(pipe.drain(to.as_fd(), 1).unwrap(), 1);
        assert_eq!(pipe.fill(from.as_fd()).unwrap(), 0);
        drop(to);
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"abc");
    }
}
