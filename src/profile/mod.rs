//! Profiles on disk. A profile is a directory of four files: `cipher.key`, `mac.key`, `counter` and
//! `config`. The client has a copy of the server's profile.

mod config;
mod counter;
mod create;
mod home;
mod keys;
mod ownership;
mod set;

pub use config::{MAX_STEALTH_PORTS, ProfileConfig};
pub use counter::{Counter, SPENT};
pub use create::{Fresh, create};
pub use home::ProfileHome;
pub use ownership::check_directory;
pub use set::{Found, Listing, find, list};

use crate::error::Result;
use crate::wire::Keys;
use ownership::{EVERYBODY_WRITES, OTHERS_WRITE, failed, own};
use std::fs;

/// A profile with its secrets. It has no `Debug`, so that no key can be printed.
pub struct Profile {
    /// The name of its directory. On a client this is the server's host name.
    pub name: String,
    /// Its `config`.
    pub config: ProfileConfig,
    /// The two keys.
    pub keys: Keys,
    /// The counter, held open.
    pub counter: Counter,
}

impl Profile {
    /// Reads a profile with its secrets. An error names the file that caused it.
    pub fn load(found: &Found) -> Result<Self> {
        let path = &found.path;
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            own(&fs::metadata(above).map_err(|cause| failed("look at", above, cause))?, above, EVERYBODY_WRITES)?;
        }
        own(&fs::metadata(path).map_err(|cause| failed("look at", path, cause))?, path, OTHERS_WRITE)?;
        Ok(Self {
            name: found.name.clone(),
            config: ProfileConfig::load(path)?,
            keys: Keys::new(&*keys::read(&path.join("cipher.key"))?, &*keys::read(&path.join("mac.key"))?),
            counter: Counter::open(&path.join("counter"))?,
        })
    }
}
