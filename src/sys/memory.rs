//! Gives memory back to the system.

use std::ffi::c_void;

unsafe extern "C" {
    /// The program's first byte, as the linker defines it.
    safe static __executable_start: c_void;
    /// The end of its code.
    safe static etext: c_void;
}

/// The size of a page. With larger ones the kernel refuses, and nothing is given back.
const PAGE: usize = 4096;
/// How much of the stack is given back at most.
const STACK: usize = 1 << 20;
/// More than the frames of `release_start` and of madvise(2) take.
const FRAMES: usize = 1024;

/// Gives back what the start of this process has used: the program's code and constants, of which those that are still
/// needed come back from the file, and the stack below the caller. Only the main thread does so.
#[inline(never)]
pub fn release_start() {
    let (code, here) = (&raw const __executable_start, 0_u8);
    let end = (&raw const etext).addr() & !(PAGE - 1);
    let unused = ((&raw const here).addr() - FRAMES) & !(PAGE - 1);
    let lowest = (&raw const here).cast::<c_void>().with_addr(unused - STACK);
    // SAFETY: getauxval takes no pointer. It returns where the kernel has put 16 bytes above the main thread's stack.
    let top = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    if top.wrapping_sub(unused) < STACK {
        // SAFETY: nothing has written to code and constants, so the file has the same. Below these frames the main
        // thread's stack is unused, and nothing else is mapped for more than `STACK`.
        unsafe {
            libc::madvise(code.cast_mut(), end - code.addr(), libc::MADV_DONTNEED);
            libc::madvise(lowest.cast_mut(), STACK, libc::MADV_DONTNEED);
        }
    }
}
