//! The start of the program: `main`, as the C library calls it. [`begin`] does what this program needs of std's runtime,
//! which has 3 KB.

use std::ffi::{CStr, OsStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::process;

/// Defines the program's entry point, which passes the arguments to `$run` and exits with the code that it returns.
#[macro_export]
macro_rules! entry_point {
    ($run:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(_: ::std::ffi::c_int, words: *const *const ::std::ffi::c_char) -> ::std::ffi::c_int {
            // SAFETY: the C library calls this once, with the arguments.
            let arguments = unsafe { $crate::sys::start::begin(words) };
            ::std::ffi::c_int::from($run(arguments))
        }
    };
}

/// Prepares the process as std does, and returns its arguments. `std::env::args` is empty with musl.
///
/// # Safety
///
/// `words` must be a list of strings, each ended by a null byte, and a null pointer.
pub unsafe fn begin(words: *const *const c_char) -> Vec<OsString> {
    // Otherwise the next file to be opened would become standard input, output or error.
    for descriptor in 0..=2 {
        if is_closed(descriptor) && !opens_null(descriptor) {
            process::abort();
        }
    }
    // SAFETY: SIG_IGN is no function of ours; a write to a closed pipe then fails with EPIPE.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let (mut arguments, mut at) = (Vec::new(), words);
    // SAFETY: the caller guarantees it.
    unsafe {
        while !(*at).is_null() {
            arguments.push(OsStr::from_bytes(CStr::from_ptr(*at).to_bytes()).to_owned());
            at = at.add(1);
        }
    }
    arguments
}

fn is_closed(descriptor: c_int) -> bool {
    // SAFETY: fcntl takes two numbers here, and touches no memory.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) == -1 }
}

/// Opens /dev/null, and returns whether it is this descriptor: the lowest that is free.
fn opens_null(descriptor: c_int) -> bool {
    // SAFETY: the path ends with a null byte.
    unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) == descriptor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_bytes_and_there_may_be_none() {
        let words = [c"knockknock".as_ptr(), c"".as_ptr(), c"\xff\n".as_ptr(), std::ptr::null()];
        // SAFETY: lists of strings, each ended by a null byte, and a null pointer.
        let (all, none) = unsafe { (begin(words.as_ptr()), begin(words[3..].as_ptr())) };
        assert_eq!(all, ["knockknock".as_ref(), "".as_ref(), OsStr::from_bytes(b"\xff\n")]);
        assert!(none.is_empty());
    }
}
