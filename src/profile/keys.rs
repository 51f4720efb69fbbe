//! Reads the files `cipher.key` and `mac.key`.

use super::ownership::{failed, private};
use crate::error::{Error, Result};
use crate::sys::file;
use base64ct::{Base64, Encoding};
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// The length of a key in bytes.
pub(super) const KEY: usize = 16;

/// Reads a key: 16 bytes in base64 (standard alphabet, padded), in a file that only its owner can read. Only the first
/// line counts, as in version 0.8.
pub(super) fn read(path: &Path) -> Result<Zeroizing<[u8; KEY]>> {
    let mut file = file::open_small(path, false).map_err(|cause| failed("open", path, cause))?;
    private(&file, path)?;
    let mut text = Zeroizing::new([0; 64]);
    // A single read returns all of so short a file.
    let length = file.read(&mut *text).map_err(|cause| failed("read", path, cause))?;
    let text = text.get(..length).unwrap_or_default();
    let mut key = Zeroizing::new([0; KEY]);
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let decoded = Base64::decode(line.trim_ascii(), &mut *key).map(<[u8]>::len);
    if decoded != Ok(KEY) {
        let why = format!("is not a key: {KEY} bytes in base64 are needed");
        return Err(Error::content(path, 0, why).advise("copy the profile again, or make a new one on both sides"));
    }
    Ok(key)
}
