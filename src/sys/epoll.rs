//! Waiting for many descriptors (epoll(7)).

use super::{check, check_long, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

/// The maximum number of events returned by one wait.
const BATCH: usize = 128;

/// The changes of one descriptor since the last event for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollEvent {
    /// The token with which the descriptor was added.
    pub token: u64,
    /// A read would return data, end of file or an error.
    pub readable: bool,
    /// A write would succeed or return an error.
    pub writable: bool,
    /// The peer has closed its sending side, or the connection has failed.
    pub ended: bool,
    /// There is urgent data (tcp(7)).
    pub urgent: bool,
}

/// A set of descriptors, each with a token. Events are edge-triggered: each change is reported once.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// Creates an empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes a number and returns a new descriptor.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just opened and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Adds a descriptor. Closing it removes it.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLPRI | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the event is valid for reads, and the descriptor is borrowed.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Waits for events until the time `until` (`None`: no limit), and replaces the contents of `ready` by them. A
    /// signal may end the wait early, without events.
    pub fn wait(&self, ready: &mut Vec<EpollEvent>, until: Option<Instant>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let count = match self.wait_exactly(&mut events, left) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // ENOSYS: the kernel is older than 5.11. EPERM: a container's seccomp filter is.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                self.wait_roughly(&mut events, left).or_else(|error| match error.kind() {
                    io::ErrorKind::Interrupted => Ok(0),
                    _ => Err(error),
                })?
            }
            other => other?,
        };
        ready.clear();
        for event in events.get(..count).unwrap_or_default() {
            let has = |flags: libc::c_int| event.events & flags as u32 != 0;
            let hung_up = has(libc::EPOLLERR | libc::EPOLLHUP);
            let ended = hung_up || has(libc::EPOLLRDHUP);
            ready.push(EpollEvent {
                token: event.u64,
                readable: ended || has(libc::EPOLLIN),
                writable: hung_up || has(libc::EPOLLOUT),
                ended,
                urgent: has(libc::EPOLLPRI),
            });
        }
        Ok(())
    }

    /// Waits with a resolution below 1 ms (epoll_pwait2); returns the number of events.
    fn wait_exactly(&self, events: &mut [libc::epoll_event; BATCH], left: Option<Duration>) -> io::Result<usize> {
        /// `struct __kernel_timespec`: seconds and nanoseconds, 64 bits each on every architecture.
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

    /// Waits with a resolution of 1 ms (epoll_wait); returns the number of events.
    fn wait_roughly(&self, events: &mut [libc::epoll_event; BATCH], left: Option<Duration>) -> io::Result<usize> {
        let (fd, most, milliseconds) = (self.0.as_raw_fd(), BATCH as libc::c_int, poll::milliseconds(left));
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
        // Old kernels and old versions of valgrind lack epoll_pwait2.
        match epoll.wait_exactly(&mut events, Some(Duration::ZERO)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
            count => {
                assert_eq!(count.unwrap(), 0);
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
    fn each_change_is_reported_once() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let epoll = Epoll::new().unwrap();
        epoll.add(&other, 1 << 40).unwrap();
        let (mut ready, soon) = (Vec::new(), || Some(Instant::now() + Duration::from_millis(1)));
        epoll.wait(&mut ready, None).unwrap();
        let writable = EpollEvent { token: 1 << 40, readable: false, writable: true, ended: false, urgent: false };
        assert_eq!(ready, [writable]);
        epoll.wait(&mut ready, soon()).unwrap();
        assert_eq!(ready, []);
        one.write_all(b"x").unwrap();
        epoll.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [EpollEvent { readable: true, ..writable }]);
        drop(one);
        epoll.wait(&mut ready, None).unwrap();
        assert!(ready[0].ended);
        drop(other);
        epoll.wait(&mut ready, soon()).unwrap();
        assert_eq!(ready, []);
    }
}
