//! genprofile: creates a profile with new keys.

use crate::config;
use crate::error::{Result, quoted};
use crate::profile::{self, Wanted};
use crate::say;
use std::path::Path;

/// Creates the profile `name` in `directory`.
pub fn run(directory: &Path, name: &str, wanted: Wanted) -> Result<()> {
    let config = profile::choose(directory, wanted)?;
    let path = profile::create(&directory.join("profiles"), name, &config)?;
    say::note(format_args!(
        "created {} ({}, {} wire); to hand it to the client: knockknock invite {name} HOST",
        quoted(&path),
        config.target(),
        config.wire.name()
    ));
    config::mention_reload(directory);
    Ok(())
}
