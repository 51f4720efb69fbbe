//! Floor 1: keys on disk. A profile is a directory of four files: `cipher.key`, `mac.key`, `counter`
//! and `config`; the client's copy is the server's.

mod config;
mod counter;
mod create;
mod set;

pub use config::ProfileConfig;
pub use counter::{Counter, SPENT};
pub use create::{Fresh, create};
pub use set::{Found, find, list};

use crate::error::{Error, Result};
use crate::sys::privilege;
use crate::wire::Keys;
use base64ct::{Base64, Encoding};
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::Zeroizing;

/// A key's length, in bytes.
const KEY: usize = 16;

/// A profile with its secrets. Without `Debug`: no key is printed anywhere.
pub struct Profile {
    /// The directory's name: on a client the server's.
    pub name: String,
    /// What its `config` says.
    pub config: ProfileConfig,
    /// Both keys.
    pub keys: Keys,
    /// The counter, held open.
    pub counter: Counter,
}

impl Profile {
    /// Reads a profile, secrets and all. The error names the file that is to blame.
    pub fn load(found: &Found) -> Result<Self> {
        let path = &found.path;
        own(&fs::metadata(path).map_err(|cause| Error::path("look at", path, cause))?, path, OTHERS_WRITE)?;
        Ok(Self {
            name: found.name.clone(),
            config: ProfileConfig::load(path)?,
            keys: Keys::new(&*key(&path.join("cipher.key"))?, &*key(&path.join("mac.key"))?),
            counter: Counter::open(&path.join("counter"))?,
        })
    }
}

/// Reads 16 bytes in base64 (standard alphabet, padded), from a file that only its owner can read.
fn key(path: &Path) -> Result<Zeroizing<[u8; KEY]>> {
    let mut text = Zeroizing::new([0; 64]);
    let text = read_private(path, &mut *text)?;
    let mut key = Zeroizing::new([0; KEY]);
    let decoded = Base64::decode(text.trim_ascii(), &mut *key).map(<[u8]>::len);
    if decoded != Ok(KEY) {
        let why = format!("is not a key: {KEY} bytes in base64 are needed");
        return Err(Error::content(path, 0, why).advise("copy the profile again, or make a new one on both sides"));
    }
    Ok(key)
}

/// Reads a short file that holds a secret into `buffer`, and refuses it where others can read it.
fn read_private<'a>(path: &Path, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|cause| Error::path("open", path, cause))?;
    private(&file, path)?;
    // One read gives the whole of so short a file.
    let length = file.read(buffer).map_err(|cause| Error::path("read", path, cause))?;
    Ok(buffer.get(..length).unwrap_or_default())
}

/// The modes that let others write, and that let them do anything.
const OTHERS_WRITE: u32 = 0o022;
const OTHERS: u32 = 0o077;

/// Refuses a file that somebody else owns, or can read or write, or that is no regular file.
fn private(file: &File, path: &Path) -> Result<()> {
    let found = file.metadata().map_err(|cause| Error::path("look at", path, cause))?;
    if !found.is_file() {
        return Err(Error::content(path, 0, "is not a regular file"));
    }
    own(&found, path, OTHERS)
}

/// Refuses what somebody else owns, or what others can get at by a mode in `forbidden`.
fn own(found: &Metadata, path: &Path, forbidden: u32) -> Result<()> {
    let mode = found.mode() & 0o7777;
    if mode & forbidden != 0 {
        let (why, advice) = match forbidden {
            OTHERS => ("read", ", and make new keys if somebody may have seen them"),
            _ => ("change", ""),
        };
        let why = format!("others can {why} it (mode {mode:04o})");
        return Err(Error::content(path, 0, why).advise(format!("chmod {:03o} {path:?}{advice}", mode & !forbidden)));
    }
    let uids = [0, privilege::effective_uid(), privilege::real_uid()];
    if !uids.contains(&found.uid()) {
        let why = format!("belongs to user {}, who could change it", found.uid());
        return Err(Error::content(path, 0, why).advise(format!("chown {} {path:?}", privilege::effective_uid())));
    }
    Ok(())
}
