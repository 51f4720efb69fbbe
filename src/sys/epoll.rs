//! Sleeping until one of many descriptors has something new (epoll(7)).

use super::{check, check_long};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
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
    /// A byte of it is urgent (tcp(7)).
    pub urgent: bool,
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
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the event is valid for reads, and the descriptor is borrowed.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Sleeps until there are events or it is `until` (never, where `None`), and puts them in place of
    /// those in `ready`. A signal may end the sleep early.
    pub fn wait(&self, ready: &mut Vec<Event>, until: Option<Instant>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let count = match self.wait_exactly(&mut events, left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // The kernel is older than 5.11, or a container's rules are.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                self.wait_roughly(&mut events, left).or_else(|error| match error.kind() {
                    io::ErrorKind::Interrupted => Ok(0),
                    _ => Err(error),
                })?
            }
            other => other?,
        };
        ready.clear();
        ready.extend(events.iter().take(count).map(|event| {
            let has = |flags: libc::c_int| event.events & flags as u32 != 0;
            let hung_up = has(libc::EPOLLERR | libc::EPOLLHUP);
            let ended = hung_up || has(libc::EPOLLRDHUP);
            Event {
                token: event.u64,
                readable: ended || has(libc::EPOLLIN),
                writable: hung_up || has(libc::EPOLLOUT),
                ended,
                urgent: has(libc::EPOLLPRI),
            }
        }));
        Ok(())
    }

    /// To the microsecond; how many events there are.
    fn wait_exactly(&self, events: &mut [libc::epoll_event; BATCH], left: Option<Duration>) -> io::Result<usize> {
        /// `struct __kernel_timespec`, of 64 bits everywhere.
        #[repr(C)]
        struct Timespec([i64; 2]);
        let left = left.map(|left| Timespec([left.as_secs() as i64, left.subsec_nanos().into()]));
        let (fd, most) = (self.0.as_raw_fd(), BATCH as libc::c_int);
        let timeout = left.as_ref().map_or(ptr::null(), ptr::from_ref);
        let mask: *const libc::sigset_t = ptr::null();
        // SAFETY: the array is valid for writes of BATCH events, and the timeout for reads where there is one.
        check_long(unsafe { libc::syscall(libc::SYS_epoll_pwait2, fd, events.as_mut_ptr(), most, timeout, mask, 0) })
            .map(|count| count as usize)
    }

    /// To the next millisecond: rounded up, so that the last part of one does not spin.
    fn wait_roughly(&self, events: &mut [libc::epoll_event; BATCH], left: Option<Duration>) -> io::Result<usize> {
        let left = left.map(|left| (left + Duration::from_micros(999)).as_millis());
        let milliseconds = left.map_or(-1, |left| left.try_into().unwrap_or(libc::c_int::MAX));
        let (fd, most) = (self.0.as_raw_fd(), BATCH as libc::c_int);
        // SAFETY: the array is valid for writes of BATCH events.
        check(unsafe { libc::epoll_wait(fd, events.as_mut_ptr(), most, milliseconds) }).map(|count| count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn both_ways_to_wait_agree() {
        let epoll = Epoll::new().unwrap();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        let short = Duration::from_micros(2500);
        let mut ways = vec![Epoll::wait_roughly as fn(&Epoll, &mut _, _) -> _];
        // An old kernel does not have it, and an old valgrind does not know it.
        match epoll.wait_exactly(&mut events, Some(Duration::ZERO)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
            nothing => {
                assert_eq!(nothing.unwrap(), 0);
                ways.push(Epoll::wait_exactly);
            }
        }
        for wait in ways {
            let began = Instant::now();
            assert_eq!(wait(&epoll, &mut events, Some(short)).unwrap(), 0);
            assert!(began.elapsed() >= short);
            let (one, _other) = UnixStream::pair().unwrap();
            epoll.add(&one, 7).unwrap();
            assert_eq!(wait(&epoll, &mut events, None).unwrap(), 1);
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&other, 1 << 40).unwrap();
        let (mut ready, soon) = (Vec::new(), || Some(Instant::now() + Duration::from_millis(1)));
        epoll.wait(&mut ready, None).unwrap();
        let writable = Event { token: 1 << 40, readable: false, writable: true, ended: false, urgent: false };
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
