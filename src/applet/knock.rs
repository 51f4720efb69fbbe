//! knock: sends one SYN and exits.

use crate::error::{Error, Result};
use crate::knocker::{self, Family, Knocker};
use crate::profile::{self, Profile};
use crate::say;
use crate::wire::Wire;
use std::path::Path;

/// How to knock.
pub struct KnockOptions {
    /// The port to open.
    pub port: u16,
    /// Which of the host's addresses to use.
    pub family: Family,
    /// The wire, instead of the profile's.
    pub wire: Option<Wire>,
    /// Whether to say what was sent.
    pub verbose: bool,
}

/// Knocks at `host` with its profile in `directory`.
pub fn run(directory: &Path, host: &str, options: &KnockOptions) -> Result<()> {
    let knocker = Knocker::open()?;
    let found = profile::find(directory, host)?.ok_or_else(|| {
        let advice = format!(
            "copy its directory from the server: mkdir -p {directory:?} && \
             scp -r root@{host}:/etc/knockknock.d/profiles/NAME {:?}",
            directory.join(host)
        );
        Error::refused(format!("no profile for {host:?} in {directory:?}")).advise(advice)
    })?;
    let mut profile = Profile::load(&found)?;
    let wire = options.wire.unwrap_or(profile.config.wire);
    let addresses = knocker::resolve(host, options.port, options.family)?;
    let Some(&address) = addresses.first() else { return Ok(()) };
    let source = knocker.knock(&mut profile, wire, options.port, address, None)?;
    if options.verbose {
        let (to, knock_port) = (address.ip(), profile.config.knock_port);
        say::note(format_args!(
            "sent a knock for port {} with profile {:?}: from {}, to {to}, knock port {knock_port}, {} wire",
            options.port,
            profile.name,
            source.ip(),
            wire.name()
        ));
    }
    Ok(())
}
