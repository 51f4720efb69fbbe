//! Moving bytes from one descriptor to another inside the kernel (splice(2)): through a pipe, which
//! holds them on the way.

use super::{check, check_length};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The most bytes asked for at once: a pipe's usual size.
const MOST: usize = 1 << 16;
/// What every empty pipe takes at once.
const FEW: usize = 512;

/// An empty or a filled pipe of our own. While splice waits it keeps everybody else out of the pipes
/// that it is given, so one of the two is always ours.
pub struct Pipe {
    output: OwnedFd,
    input: File,
    flags: libc::c_uint,
}

impl Pipe {
    /// A new, empty one that waits for nobody.
    pub fn new() -> io::Result<Self> {
        Self::open(libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK)
    }

    /// One that waits until there is something to move, or room for it.
    pub fn waiting() -> io::Result<Self> {
        Self::open(libc::SPLICE_F_MOVE)
    }

    fn open(flags: libc::c_uint) -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: the pointer is valid for writes of two descriptors.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
        // SAFETY: both were just opened and are owned by nobody else.
        let [output, input] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Self { output, input: input.into(), flags })
    }

    /// Moves what `from` has into the pipe, which has to be empty; 0 at the end of `from`.
    pub fn fill<F: AsFd>(&self, from: &F) -> io::Result<usize>
    where
        for<'a> &'a F: Read,
    {
        match splice(from.as_fd(), self.input.as_fd(), MOST, self.flags) {
            // It is the end, or an urgent byte of TCP's.
            Ok(0) => self.fill_by_reading(from),
            other => other,
        }
    }

    /// The same by way of memory: splice never goes past an urgent byte, and may say that it would wait.
    pub fn fill_by_reading(&self, mut from: impl Read) -> io::Result<usize> {
        let mut buffer = [0; FEW];
        let length = from.read(&mut buffer)?;
        (&self.input).write(buffer.get(..length).unwrap_or_default())
    }

    /// Moves up to `held` bytes of the pipe to `to`.
    pub fn drain(&self, to: impl AsFd, held: usize) -> io::Result<usize> {
        splice(self.output.as_fd(), to.as_fd(), held, self.flags)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize, flags: libc::c_uint) -> io::Result<usize> {
    loop {
        // SAFETY: splice takes two borrowed descriptors, and no offsets; it touches no memory of ours.
        let moved =
            unsafe { libc::splice(from.as_raw_fd(), ptr::null_mut(), to.as_raw_fd(), ptr::null_mut(), most, flags) };
        match check_length(moved) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_go_through_and_their_end_is_seen() {
        let ((mut sender, from), (to, mut receiver)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        from.set_nonblocking(true).unwrap();
        let pipe = Pipe::new().unwrap();
        assert_eq!(pipe.fill(&from).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        sender.write_all(b"abc").unwrap();
        drop(sender);
        assert_eq!(pipe.fill(&from).unwrap(), 3);
        assert_eq!(pipe.drain(&to, 2).unwrap(), 2);
        assert_eq!(pipe.drain(&to, 1).unwrap(), 1);
        assert_eq!(pipe.fill(&from).unwrap(), 0);
        drop(to);
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"abc");
    }
}
