//! revoke: makes the keys of a profile worthless at once.

use crate::config;
use crate::error::{Result, quoted};
use crate::profile;
use crate::say;
use std::path::Path;

/// Revokes the profile `name` in `directory`.
pub fn run(directory: &Path, name: &str) -> Result<()> {
    profile::revoke(&directory.join("profiles"), name)?;
    let daemon =
        if config::daemon_runs(directory) { "the running daemon opens nothing to it" } else { "no daemon runs" };
    say::note(format_args!("profile {} is revoked: {daemon}", quoted(name)));
    Ok(())
}
