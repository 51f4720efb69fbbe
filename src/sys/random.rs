//! Random numbers from the kernel.

use crate::error::{Error, Result};
use std::io;

/// Fills `bytes` from the kernel's random number generator.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|cause| {
        // Only the error number: the crate's error type would add its messages to the binary.
        let number = cause.raw_os_error().unwrap_or(libc::EIO);
        Error::system("get random numbers", io::Error::from_raw_os_error(number))
    })
}
