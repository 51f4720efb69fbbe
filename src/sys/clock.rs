//! Clocks of the kernel, as numbers; `std::time::Instant` does not expose its value.

use std::mem::MaybeUninit;
use std::time::Duration;

/// Returns the smallest and the largest value that the kernel's log clock may have. That clock cannot be read. It keeps
/// pace with one of two that drift apart, because NTP adjusts one of them.
pub fn since_boot() -> (Duration, Duration) {
    let (one, other) = (monotonic(), read(libc::CLOCK_MONOTONIC_RAW));
    (one.min(other), one.max(other))
}

/// Returns the clock of `Instant`, which is also that of TCP timestamps.
pub fn monotonic() -> Duration {
    read(libc::CLOCK_MONOTONIC)
}

/// Returns the seconds since boot, including time in suspension.
pub fn uptime() -> u64 {
    read(libc::CLOCK_BOOTTIME).as_secs()
}

/// Returns the seconds since 1970.
pub fn now() -> u64 {
    read(libc::CLOCK_REALTIME).as_secs()
}

/// Returns the earlier or shorter of two times to wait; `None` is never.
pub fn sooner<T: Ord + Copy>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the structure is valid for writes, and zero is a valid time if the kernel does not know the clock.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
