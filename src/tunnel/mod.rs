//! Connections that begin with a knock, for all programs that connect.
//!
//! An opening admits one connection, so clients of one profile take turns ([`KnockLock`]). A [`Race`] knocks and
//! attempts to connect as its schedule says. Once connected, a [`Relay`] copies bytes in both directions.

mod blocking;
mod knock_lock;
mod opening_delay;
mod race;
mod relay;
mod schedule;

pub use blocking::{connect, wait_for_turn};
pub use knock_lock::{KnockLock, Turn};
pub use opening_delay::OpeningDelay;
pub use race::{KnockSetup, Progress, Race};
pub use relay::{Moved, Relay, Side, SparePipes};

use crate::error::Result;
use crate::profile::{Found, ProfileConfig};

/// Returns whether the profile at `found` may open `port`. Connections to other ports begin without a knock. It is an
/// error if the profile is for links.
pub fn opens(found: &Found, port: u16) -> Result<bool> {
    let config = ProfileConfig::load(&found.path)?;
    config.check_knocks(&found.name)?;
    Ok(config.ports.is_none_or(|ports| ports.contains(port)))
}
