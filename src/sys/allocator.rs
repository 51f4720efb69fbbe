//! The C library's allocator. That of std would also serve types with a larger alignment than malloc(3) gives. There are
//! none.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

/// The alignment of the C library's blocks. glibc's for 32-bit ARM have 8, which is the most that a type needs there.
const ALIGNMENT: usize = 16;

/// malloc(3).
pub struct Malloc;

// SAFETY: malloc(3) and free(3) fulfil the contract for blocks up to their alignment, and larger ones are refused.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: malloc takes any length.
        if layout.align() > ALIGNMENT { ptr::null_mut() } else { unsafe { libc::malloc(layout.size()).cast() } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: calloc takes any length.
        if layout.align() > ALIGNMENT { ptr::null_mut() } else { unsafe { libc::calloc(layout.size(), 1).cast() } }
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller guarantees that it was allocated here.
        unsafe { libc::free(block.cast()) }
    }

    unsafe fn realloc(&self, block: *mut u8, _: Layout, length: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that it was allocated here.
        unsafe { libc::realloc(block.cast(), length).cast() }
    }
}
