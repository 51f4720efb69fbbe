//! Floor 1: keys on disk. A profile is a directory of four files: `cipher.key`, `mac.key`, `counter`
//! and `config`; the client's copy is the server's.

mod config;
mod counter;
mod create;
mod keys;
mod ownership;
mod set;

pub use config::ProfileConfig;
pub use counter::{Counter, SPENT};
pub use create::{Fresh, create};
pub use ownership::check_directory;
pub use set::{Found, find, list};

use crate::error::{Error, Result};
use crate::wire::Keys;
use ownership::{EVERYBODY_WRITES, OTHERS_WRITE, own};
use std::fs;

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
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            let found = fs::metadata(above).map_err(|cause| Error::path("look at", above, cause))?;
            own(&found, above, EVERYBODY_WRITES)?;
        }
        own(&fs::metadata(path).map_err(|cause| Error::path("look at", path, cause))?, path, OTHERS_WRITE)?;
        Ok(Self {
            name: found.name.clone(),
            config: ProfileConfig::load(path)?,
            keys: Keys::new(&*keys::read(&path.join("cipher.key"))?, &*keys::read(&path.join("mac.key"))?),
            counter: Counter::open(&path.join("counter"))?,
        })
    }
}
