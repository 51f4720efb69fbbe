//! The clock of the TCP timestamps of one connection (RFC 7323, section 3).
//!
//! A timestamp value is CLOCK_MONOTONIC plus an offset, in milliseconds unless the route asks for microseconds.
//! The kernel derives the offset from the connection's addresses and, since 2026, from its ports as well
//! (`secure_tcp_ts_off` in net/core/secure_seq.c). getsockopt(TCP_TIMESTAMP) returns the current value, but since
//! Linux 6.7 its lowest bit is the unit, 0 for milliseconds (`do_tcp_getsockopt` in net/ipv4/tcp.c). Two readings,
//! one in an even and one in an odd millisecond, still give the exact offset.

use super::clock::monotonic;
use super::sockopt;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Attempts at one reading; a reading is exact if the clock's millisecond does not change during it.
const TRIES: usize = 8;
const MILLISECOND: Duration = Duration::from_millis(1);
/// A sleep overshoots by the timer slack, 50 µs, and the time to wake up.
const WAKE_UP: Duration = Duration::from_micros(150);

/// The unit of a connection's timestamps: milliseconds, or microseconds if the route has the feature `tcp_usec_ts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The default of Linux, within the range that RFC 7323 (section 5.4) allows.
    Milliseconds,
    /// Only with `tcp_usec_ts`, since Linux 6.7.
    Microseconds,
}

/// One reading of the kernel's timestamp value and of the clock, taken at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The timestamp value minus the clock, modulo 2^32.
    difference: u32,
    /// Whether the clock was odd.
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
    fn now(self) -> u32 {
        let now = monotonic();
        (match self {
            Self::Milliseconds => now.as_millis(),
            Self::Microseconds => now.as_micros(),
        }) as u32
    }
}

impl Reading {
    /// Reads the timestamp of `socket`, which must have a prepared connection. The reading is off by the time that it
    /// took if the clock ticks during every attempt.
    pub fn take(socket: &impl AsRawFd, unit: Unit) -> io::Result<Self> {
        let (mut before, mut tries) = (unit.now(), 0);
        loop {
            let value = sockopt::get(socket, libc::IPPROTO_TCP, libc::TCP_TIMESTAMP)? as u32;
            let after = unit.now();
            tries += 1;
            // In microseconds the two clocks always differ by a few, which no packet reveals.
            if before == after || unit == Unit::Microseconds || tries == TRIES {
                return Ok(Self { difference: value.wrapping_sub(after), odd: after % 2 != 0, unit });
            }
            before = after;
        }
    }

    /// Takes a second reading, now or in exactly a millisecond, and computes the offset from both. On a machine that is
    /// too slow for exact readings the offset is that of the first one.
    ///
    /// Waiting for the next tick would take less time, but then most packets would leave right after a tick, and an
    /// observer with an accurate clock could distinguish them.
    pub fn clock(self, socket: &impl AsRawFd) -> io::Result<TimestampClock> {
        let unit = self.unit;
        if unit == Unit::Microseconds {
            return Ok(TimestampClock { offset: self.difference, unit });
        }
        for _ in 0..TRIES {
            let began = monotonic();
            if let Some(offset) = self.offset(Self::take(socket, unit)?) {
                return Ok(TimestampClock { offset, unit });
            }
            std::thread::sleep(MILLISECOND - WAKE_UP);
            while monotonic() < began + MILLISECOND {}
        }
        Ok(TimestampClock { offset: self.difference, unit })
    }

    /// Computes the offset; `None` unless one reading was taken in an even and the other in an odd millisecond.
    /// The kernel clears the lowest bit of the value, so one of the two is exact and the other at most 1 too small.
    fn offset(self, other: Self) -> Option<u32> {
        let exact = if other.difference == self.difference.wrapping_add(1) { other } else { self };
        (self.odd != other.odd).then_some(exact.difference)
    }
}

impl TimestampClock {
    /// Returns the timestamp value of a segment that is sent now.
    pub fn now(&self) -> u32 {
        self.unit.now().wrapping_add(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reading at `millisecond` of a connection with this offset.
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
                assert_eq!(same, None, "two even readings leave the lowest bit unknown");
            }
        }
    }
}
