//! The C library's allocator. That of std has a second way for types with a larger alignment, of which there are none.

use std::alloc::{GlobalAlloc, Layout};
use std::ptr;

/// The alignment of the C library's blocks. glibc's for 32-bit ARM have 8, which is the most that a type needs there.
const ALIGNMENT: usize = 16;

/// malloc(3).
pub struct Malloc;

// SAFETY: the C library's functions are such an allocator, for blocks up to its alignment.
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
