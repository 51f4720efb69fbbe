//! The clock that the kernel writes into the TCP timestamps of one connection (RFC 7323, section 3).
//!
//! A timestamp value is CLOCK_MONOTONIC, in milliseconds unless the route asks for microseconds, plus an offset. The kernel draws the offset for the
//! connection's addresses and, since 2026, for its ports as well (`secure_tcp_ts_off` in
//! net/core/secure_seq.c). getsockopt(TCP_TIMESTAMP) returns the value of this moment, but since Linux 6.7
//! with its lowest bit saying the unit (`do_tcp_getsockopt` in net/ipv4/tcp.c): 0 is milliseconds. Two readings,
//! one in an even and one in an odd millisecond, give the exact offset all the same.

use super::{check, sockopt};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// How often a reading is repeated where the clock's millisecond changes meanwhile.
const TRIES: usize = 8;
const MILLISECOND: Duration = Duration::from_millis(1);
/// A sleep lasts longer than asked for by the timer slack, 50 µs, and the time to wake up.
const WAKE_UP: Duration = Duration::from_micros(150);

/// The unit in which a connection's timestamps count: the route's feature `tcp_usec_ts` asks for microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As RFC 7323 suggests.
    Milliseconds,
    /// Since Linux 6.7.
    Microseconds,
}

/// One reading: what the kernel gave, less the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The value minus the clock at which it was read, modulo 2^32.
    difference: u32,
    /// Whether that clock was odd.
    odd: bool,
    unit: Unit,
}

/// The offset of a connection's timestamps, and their unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampClock {
    offset: u32,
    unit: Unit,
}

impl Unit {
    fn now(self) -> io::Result<u32> {
        let now = now()?;
        Ok(match self {
            Self::Milliseconds => now.as_millis(),
            Self::Microseconds => now.as_micros(),
        } as u32)
    }
}

impl Reading {
    /// Reads the timestamp of `socket`, whose connection has been prepared.
    pub fn take(socket: &impl AsRawFd, unit: Unit) -> io::Result<Self> {
        let mut before = unit.now()?;
        for _ in 0..TRIES {
            let value = sockopt::get(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP)? as u32;
            let after = unit.now()?;
            // A microsecond passes meanwhile; nobody can see it in a packet.
            if before == after || unit == Unit::Microseconds {
                return Ok(Self { difference: value.wrapping_sub(after), odd: after % 2 != 0, unit });
            }
            before = after;
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Takes a second reading, now or in exactly a millisecond, and computes the offset from both.
    ///
    /// Waiting for the next tick instead would be shorter, but then most packets would leave right behind a
    /// tick, and whoever sees their timestamps and the time could tell them from others.
    pub fn clock(self, socket: &impl AsRawFd) -> io::Result<TimestampClock> {
        let unit = self.unit;
        if unit == Unit::Microseconds {
            return Ok(TimestampClock { offset: self.difference, unit });
        }
        for _ in 0..TRIES {
            let began = now()?;
            if let Some(offset) = self.offset(Self::take(socket, unit)?) {
                return Ok(TimestampClock { offset, unit });
            }
            std::thread::sleep(MILLISECOND - WAKE_UP);
            while now()? < began + MILLISECOND {}
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// The offset, where the readings fell into milliseconds of different parity. The kernel clears the
    /// lowest bit of the value, so one of the two is exact and the other at most one too small.
    fn offset(self, other: Self) -> Option<u32> {
        let exact = if other.difference == self.difference.wrapping_add(1) { other } else { self };
        (self.odd != other.odd).then_some(exact.difference)
    }
}

impl TimestampClock {
    /// The value that a segment sent now carries.
    pub fn now(&self) -> io::Result<u32> {
        Ok(self.unit.now()?.wrapping_add(self.offset))
    }
}

/// CLOCK_MONOTONIC; `std::time::Instant` does not show its number.
fn now() -> io::Result<Duration> {
    // SAFETY: all-zero bytes are a valid timespec.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is valid for writes.
    check(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) })?;
    Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel gives at `millisecond` for a connection with this offset.
    fn reading(millisecond: u32, offset: u32, clears_bit: bool) -> Reading {
        let value = millisecond.wrapping_add(offset);
        let value = if clears_bit { value & !1 } else { value };
        Reading { difference: value.wrapping_sub(millisecond), odd: millisecond % 2 != 0, unit: Unit::Milliseconds }
    }

    #[test]
    fn two_readings_of_different_parity_give_the_exact_offset() {
        for offset in [0, 1, 2, 4_000_000_001, u32::MAX - 1, u32::MAX] {
            for clears_bit in [false, true] {
                for (first, second) in [(1000, 1001), (1001, 1002), (1000, 1777), (u32::MAX, 0), (7, 8)] {
                    let (one, other) = (reading(first, offset, clears_bit), reading(second, offset, clears_bit));
                    assert_eq!(one.offset(other), Some(offset), "{offset} {first} {second} {clears_bit}");
                }
                let same = reading(1000, offset, clears_bit).offset(reading(1002, offset, clears_bit));
                assert_eq!(same, None, "the lowest bit is not known yet");
            }
        }
    }
}
