//! The kernel's clocks that `std` does not read.

use std::mem::MaybeUninit;
use std::time::Duration;

/// The time since the machine started, as the kernel writes it into its log: the least and the most that it
/// may be. The clock itself cannot be read. It keeps pace with one of two that drift apart, as NTP corrects one.
pub fn since_boot() -> (Duration, Duration) {
    let (one, other) = (read(libc::CLOCK_MONOTONIC), read(libc::CLOCK_MONOTONIC_RAW));
    (one.min(other), one.max(other))
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the structure is valid for writes, and zero is a time too, where the kernel does not know the clock.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
