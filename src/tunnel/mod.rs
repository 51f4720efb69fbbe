//! Floor 2: a connection behind a knock, for every program that makes some.
//!
//! A knock's opening admits one connection, so those to one host take turns: [`Turnstile`]. When it
//! is there nobody says, and a SYN that comes too early is lost or refused: [`Race`]. Once connected,
//! bytes move both ways: [`Relay`].

mod race;
mod relay;
mod turnstile;

pub use race::{Key, Progress, Race};
pub use relay::{Moved, Relay, Side, Spares};
pub use turnstile::{Pass, Turnstile};

use crate::error::Result;
use crate::profile::{self, Found, Profile};
use std::io;
use std::path::Path;

/// The profile called `host` in `directory`; none where there is no directory.
pub fn find(directory: &Path, host: &str) -> Result<Option<Found>> {
    match profile::find(directory, host.strip_suffix('.').unwrap_or(host)) {
        Err(error) if error.kind() == Some(io::ErrorKind::NotFound) => Ok(None),
        other => other,
    }
}

/// The profile at `found`, if its key may open `port`: to others one connects without a knock.
pub fn profile_for(found: &Found, port: u16) -> Result<Option<Profile>> {
    let profile = Profile::load(found)?;
    let allowed = profile.terms.ports.as_ref().is_none_or(|ports| ports.contains(port));
    Ok(Some(profile).filter(|_| allowed))
}
