//! genprofile: makes a profile with new keys.

use crate::config;
use crate::error::{Error, Result};
use crate::ports::Ports;
use crate::profile::{self, Fresh, ProfileConfig};
use crate::say;
use crate::sys::{file, listeners};
use crate::wire::Wire;
use std::fs::File;
use std::io;
use std::path::Path;

/// Makes profile `name` with `knock_port` under `directory`. Its key may open the ports in `allowed`, or
/// the guarded ports of the config when `allowed` is `None`.
pub fn run(directory: &Path, name: &str, knock_port: u16, allowed: Option<Ports>, wire: Wire) -> Result<()> {
    let guard = config::guard(directory)?;
    let is_in = |ports: &Option<Ports>| ports.as_ref().is_some_and(|ports| ports.contains(knock_port));
    let taken = if is_in(&guard) {
        Some("it is guarded")
    } else if is_in(&allowed) {
        Some("it is one of the ports to open")
    } else if listeners::listens(knock_port) {
        Some("a program listens there")
    } else {
        None
    };
    if let Some(why) = taken {
        let error = Error::refused(format!("port {knock_port} cannot be a knock port: {why}"));
        return Err(error.advise("choose a port on which nothing listens"));
    }
    let config = ProfileConfig { knock_port, ports: allowed.or(guard), wire, legacy: false };
    let path = profile::create(&directory.join("profiles"), &Fresh { name, config: &config })?;
    say::note(format_args!("made {path:?}; copy it to the client as ~/.knockknock/SERVERHOST"));
    if daemon_runs(directory) {
        say::note("the running daemon does not know it yet: systemctl reload knockknock-daemon, or send it SIGHUP");
    }
    Ok(())
}

/// Whether a daemon holds the lock of `directory`.
fn daemon_runs(directory: &Path) -> bool {
    let locked = File::open(directory).and_then(|directory| file::try_lock(&directory));
    locked.is_err_and(|cause| cause.kind() == io::ErrorKind::WouldBlock)
}
