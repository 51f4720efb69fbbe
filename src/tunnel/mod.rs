//! Floor 2: a connection behind a knock, for every program that makes some.
//!
//! A knock's opening admits one connection, so those to one host take turns: [`KnockLock`]. When it
//! is there nobody says, and a SYN that comes too early is lost or refused: [`Race`]. Once connected,
//! bytes move both ways: [`Relay`].

mod knock_lock;
mod race;
mod relay;

pub use knock_lock::{KnockLock, Turn};
pub use race::{KnockSetup, Progress, Race};
pub use relay::{Moved, Relay, Side, Spares};

use crate::error::Result;
use crate::profile::{self, Found, ProfileConfig};
use std::io;
use std::path::Path;

/// The profile called `host` in `directory`; none where there is no directory.
pub fn find(directory: &Path, host: &str) -> Result<Option<Found>> {
    match profile::find(directory, host.strip_suffix('.').unwrap_or(host)) {
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        other => other,
    }
}

/// Whether the profile at `found` may open `port`: to others one connects without a knock.
pub fn opens(found: &Found, port: u16) -> Result<bool> {
    Ok(ProfileConfig::load(&found.path)?.ports.is_none_or(|ports| ports.contains(port)))
}
