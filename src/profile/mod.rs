//! Profiles on disk. A profile is a directory of four files: `cipher.key`, `mac.key`, `counter` and
//! `config`. The client has a copy of the server's profile.

mod choose;
mod config;
mod counter;
mod create;
mod handover;
mod home;
mod invitation;
mod keys;
mod ownership;
mod revoke;
mod rotate;
mod set;

pub use choose::{Wanted, choose};
pub use config::ProfileConfig;
pub use counter::{Counter, REVOKED, SPENT, UNUSED};
pub use create::{check_host, create};
pub use handover::{accept, invite};
pub use home::{ProfileHome, drop_privileges};
pub use invitation::Invitation;
pub use ownership::check_path;
pub use revoke::revoke;
pub use rotate::rotate;
pub use set::{Found, Listing, REPLACED, checksum, find, list};

use crate::error::{Error, Result, quoted};
use crate::wire::{Ciphertext, Keys};
use ownership::{EVERYBODY_WRITES, OTHERS_WRITE, check_owner, failed};
use std::fs;

/// A profile with its secrets. It has no `Debug`, so that no key can be printed.
pub struct Profile {
    /// The name of its directory. On a client this is the server's host name.
    pub name: String,
    /// Its `config`.
    pub config: Box<ProfileConfig>,
    /// The two keys.
    pub keys: Keys,
    /// The counter, held open.
    pub counter: Counter,
}

impl Profile {
    /// Reads a profile with its secrets. An error names the file that caused it.
    pub fn load(found: &Found) -> Result<Box<Self>> {
        let path = &found.path;
        if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
            check_owner(&fs::metadata(above).map_err(|cause| failed("stat", above, cause))?, above, EVERYBODY_WRITES)?;
        }
        check_owner(&fs::metadata(path).map_err(|cause| failed("stat", path, cause))?, path, OTHERS_WRITE)?;
        Ok(Box::new(Self {
            name: found.name.clone(),
            config: ProfileConfig::load(path)?,
            keys: {
                let [cipher, mac] = &**keys::read(path)?;
                Keys::new(cipher, mac)
            },
            counter: Counter::open(&path.join("counter"))?,
        }))
    }

    /// Describes which ports the profile opens: `ports`, or nothing if it is revoked or its counter is spent.
    pub fn opens<'a>(&self, ports: &'a str) -> &'a str {
        if self.counter.next() >= SPENT { "nothing" } else { ports }
    }

    /// Describes the profile, which opens the ports that `ports` describes.
    pub fn describe(&self, ports: &str) -> String {
        let opens = self.opens(ports);
        let (target, wire, counter) = (self.config.target(), self.config.wire.name(), self.counter.next());
        format!("{target}, {wire} wire, opens {opens}, counter {counter}")
    }
}

/// Messages that the loaded profiles compute from the same input, to find profiles with the same keys.
#[derive(Default)]
pub struct KeyIndex(Vec<(Ciphertext, String)>);

impl KeyIndex {
    /// Adds a profile, and refuses one with the keys of another: the two would accept each other's knocks, or neither
    /// could be identified.
    pub fn add(&mut self, profile: &Profile) -> Result<()> {
        let made = profile.keys.seal(0, 1);
        if let Some((_, other)) = self.0.iter().find(|(others, _)| *others == made) {
            return Err(Error::refused(format!("it has the same keys as profile {}", quoted(other)))
                .advise("remove one of them, and make a new profile for each client"));
        }
        self.0.push((made, profile.name.clone()));
        Ok(())
    }
}
