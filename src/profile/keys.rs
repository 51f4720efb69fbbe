//! Reads the files `cipher.key` and `mac.key`.

use super::ownership::{check_private, failed};
use crate::error::{Error, Result};
use crate::sys::file;
use base64ct::{Base64, Encoding};
use std::io::Read;
use std::path::Path;
use zeroize::Zeroizing;

/// The length of a key in bytes.
pub(super) const KEY: usize = 16;

/// The keys of a profile: the cipher key, then the mac key. In a box, because each move would leave a copy in memory.
pub(super) type RawKeys = Box<Zeroizing<[[u8; KEY]; 2]>>;

/// The files of the two keys.
pub(super) const FILES: [&str; 2] = ["cipher.key", "mac.key"];

/// Returns keys from the kernel's random number generator.
pub(super) fn random() -> Result<RawKeys> {
    let mut keys = RawKeys::default();
    crate::sys::random::fill(keys.as_flattened_mut())?;
    Ok(keys)
}

/// Reads both keys of `profile`.
pub(super) fn read(profile: &Path) -> Result<RawKeys> {
    let mut keys = RawKeys::default();
    for (key, name) in keys.iter_mut().zip(FILES) {
        read_one(&profile.join(name), key)?;
    }
    Ok(keys)
}

/// Reads a key: 16 bytes in base64 (standard alphabet, padded), in a file that only its owner can read. Only the first
/// line counts, as in version 0.8.
fn read_one(path: &Path, key: &mut [u8; KEY]) -> Result<()> {
    let mut file = file::open_small(path, false).map_err(|cause| failed("open", path, cause))?;
    check_private(&file, path)?;
    let mut text = Zeroizing::new([0; 64]);
    // A single read returns all of so short a file.
    let length = file.read(&mut *text).map_err(|cause| failed("read", path, cause))?;
    let text = text.get(..length).unwrap_or_default();
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let decoded = Base64::decode(line.trim_ascii(), key).map(<[u8]>::len);
    if decoded != Ok(KEY) {
        let why = format!("is not a key: {KEY} bytes in base64 are needed");
        return Err(Error::content(path, 0, why).advise("make a new profile on both sides"));
    }
    Ok(())
}
