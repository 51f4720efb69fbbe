//! knock: one SYN, and done.

use crate::error::{Error, Result};
use crate::knocker::{self, Family, Knocker};
use crate::profile::{self, Profile};
use crate::wire::Wire;
use std::path::Path;

/// Knocks at `host` for `port`, with its profile in `directory`; `wire` overrides the profile's.
pub fn run(directory: &Path, host: &str, port: u16, family: Family, wire: Option<Wire>) -> Result<()> {
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
    let wire = wire.unwrap_or(profile.config.wire);
    let addresses = knocker::resolve(host, port, family)?;
    addresses.first().map_or(Ok(()), |&first| knocker.knock(&mut profile, wire, port, first, None).map(drop))
}
