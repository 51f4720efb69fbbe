//! Loads the profiles, while the watcher is still root.

use super::MAX_PORTS;
use super::loaded_profile::LoadedProfile;
use crate::applet::daemon::setup::{ProfileIndex, left_out};
use crate::error::{Error, Result};
use crate::profile::{Counter, Found, KeyIndex, Profile, REPLACED};
use crate::say;
use crate::sys::process;
use std::path::Path;

/// The profiles, split into parallel lists with the same order.
#[derive(Default)]
pub(super) struct Profiles {
    pub(super) names: Vec<String>,
    pub(super) counters: Vec<Counter>,
    pub(super) loaded: Vec<LoadedProfile>,
    /// The profiles with new keys whose old keys are still valid.
    pub(super) replacements: Vec<Replacement>,
}

/// Two profiles with the keys of one client.
#[derive(Debug, PartialEq)]
pub(super) struct Replacement {
    /// The profile with the new keys.
    pub(super) new: usize,
    /// The profile with the old keys, which is revoked when the new keys have knocked.
    pub(super) old: usize,
}

impl Profiles {
    /// Loads the profiles in the order of their knock ports. A profile that cannot be read is reported and ignored.
    pub(super) fn load(directory: &Path) -> Result<Self> {
        // The supervisor has already reported the profiles whose config cannot be used.
        let index = ProfileIndex::read(directory)?.profiles;
        let files = index.len() as u32 + 64;
        process::raise_file_limit(files)
            .map_err(|cause| Error::system("allow enough open files for the counters", cause))?;
        let (mut profiles, mut room, mut key_index) = (Self::default(), MAX_PORTS, KeyIndex::default());
        profiles.loaded.reserve_exact(index.len());
        for (found, _) in &index {
            if let Err(error) = profiles.add(found, &mut room, &mut key_index) {
                say::warning(&left_out(found, &error));
            }
        }
        profiles.replacements = replacements(&profiles.names);
        Ok(profiles)
    }

    /// Loads one profile, if there is `room` for its ports and no other has the same keys.
    fn add(&mut self, found: &Found, room: &mut usize, key_index: &mut KeyIndex) -> Result<()> {
        let profile = Profile::load(found)?;
        key_index.add(&profile)?;
        let Profile { name, config, keys, counter } = *profile;
        let loaded = LoadedProfile::new(*config, keys, counter.next());
        *room = room
            .checked_sub(loaded.held_ports().len())
            .ok_or_else(|| Error::refused(format!("all profiles together list more than {MAX_PORTS} ports")))?;
        self.names.push(name);
        self.loaded.push(loaded);
        self.counters.push(counter);
        Ok(())
    }
}

/// Finds the profiles with old keys by their names.
fn replacements(names: &[String]) -> Vec<Replacement> {
    let mut replacements = Vec::new();
    for (old, name) in names.iter().enumerate() {
        let new = name.strip_suffix(REPLACED).and_then(|name| names.iter().position(|other| other == name));
        if let Some(new) = new {
            replacements.push(Replacement { new, old });
        }
    }
    replacements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_with_new_keys_replaces_the_one_of_its_name() {
        let names = ["bob.replaced", "ann", "bob", "cid.replaced", "ann.replaced"].map(str::to_owned);
        let wanted = [Replacement { new: 2, old: 0 }, Replacement { new: 1, old: 4 }];
        assert_eq!(replacements(&names), wanted, "the new keys of cid are disabled");
    }
}
