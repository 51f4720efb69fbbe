//! Sleeping until one of many descriptors has something new (epoll(7)).

use super::check;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// The most events taken at once.
const BATCH: usize = 128;

/// What a descriptor has since it was last told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number that it was added with.
    pub token: u64,
    /// It can be read, or its end or failure can.
    pub readable: bool,
    /// It can be written, or its failure can be told.
    pub writable: bool,
    /// The other side sends no more.
    pub ended: bool,
    /// It has failed.
    pub failed: bool,
}

/// A set of descriptors, each with a number. Each change is told once (edge-triggered).
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes a number and returns a new descriptor.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and is owned by nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor until it is closed.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the event is valid for reads, and the descriptor is borrowed.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Sleeps until there are events or it is `until` (never, where `None`), and puts them in place of
    /// those in `ready`. A signal may end the sleep early.
    pub fn wait(&self, ready: &mut Vec<Event>, until: Option<Instant>) -> io::Result<()> {
        // Rounded up, so that the last part of a millisecond does not spin.
        let left = until.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_micros(999));
        let milliseconds = left.map_or(-1, |left| left.as_millis().try_into().unwrap_or(libc::c_int::MAX));
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        // SAFETY: the array is valid for writes of BATCH events.
        let count =
            check(unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), BATCH as i32, milliseconds) });
        let count = match count {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other?,
        };
        ready.clear();
        ready.extend(events.iter().take(count as usize).map(|event| {
            let has = |flags: libc::c_int| event.events & flags as u32 != 0;
            let failed = has(libc::EPOLLERR);
            let hung_up = failed || has(libc::EPOLLHUP);
            let ended = hung_up || has(libc::EPOLLRDHUP);
            Event {
                token: event.u64,
                readable: ended || has(libc::EPOLLIN),
                writable: hung_up || has(libc::EPOLLOUT),
                ended,
                failed,
            }
        }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn each_change_is_told_once() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&other, 1 << 40).unwrap();
        let (mut ready, soon) = (Vec::new(), || Some(Instant::now() + Duration::from_millis(1)));
        epoll.wait(&mut ready, None).unwrap();
        let writable = Event { token: 1 << 40, readable: false, writable: true, ended: false, failed: false };
        assert_eq!(ready, [writable]);
        epoll.wait(&mut ready, soon()).unwrap();
        assert_eq!(ready, []);
        one.write_all(b"x").unwrap();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [Event { readable: true, ..writable }]);
        drop(one);
        epoll.wait(&mut ready, None).unwrap();
        assert!(ready[0].ended);
        drop(other);
        epoll.wait(&mut ready, soon()).unwrap();
        assert_eq!(ready, []);
    }
}
