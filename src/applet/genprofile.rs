//! genprofile: makes a profile with new keys.

use crate::config;
use crate::error::Result;
use crate::ports::Ports;
use crate::profile::{self, Fresh, ProfileConfig};
use crate::say;
use crate::wire::Wire;
use std::path::Path;

/// Makes profile `name` with `knock_port` under `directory`. Its key may open the ports in `allowed`, or
/// the guarded ports of the config when `allowed` is `None`.
pub fn run(directory: &Path, name: &str, knock_port: u16, allowed: Option<Ports>, wire: Wire) -> Result<()> {
    let ports = match allowed {
        Some(allowed) => Some(allowed),
        None => config::guard(directory)?,
    };
    let config = ProfileConfig { knock_port, ports, wire };
    let path = profile::create(&directory.join("profiles"), &Fresh { name, config: &config })?;
    say::note(format_args!("made {path:?}; copy it to the client as ~/.knockknock/SERVERHOST"));
    Ok(())
}
