//! knock: one SYN, and done.

use crate::error::{Error, Result};
use crate::knocker::{Family, Knocker};
use crate::profile::{self, Profile};
use crate::wire::Wire;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

/// Knocks at `host` for `port`, with its profile in `directory`; `wire` overrides the profile's.
pub fn run(directory: &Path, host: &str, port: u16, family: Family, wire: Option<Wire>) -> Result<()> {
    let knocker = Knocker::open()?;
    let found = profile::find(directory, host)?.ok_or_else(|| {
        let advice = format!(
            "copy its directory from the server: scp -r root@{host}:/etc/knockknock.d/profiles/NAME {:?}",
            directory.join(host)
        );
        Error::refused(format!("no profile for {host:?} in {directory:?}")).advise(advice)
    })?;
    let mut profile = Profile::load(&found)?;
    let destination = resolve(host, family)?;
    let wire = wire.unwrap_or(profile.terms.wire);
    knocker.knock(&mut profile, wire, port, destination, None).map(drop)
}

/// The first address of `host` that the system's resolver gives in `family`.
fn resolve(host: &str, family: Family) -> Result<SocketAddr> {
    let mut addresses =
        (host, 0).to_socket_addrs().map_err(|cause| Error::system(format!("find the address of {host:?}"), cause))?;
    addresses.find(|address| family.has(address)).ok_or_else(|| {
        Error::refused(format!("{host:?} has no address of the family asked for")).advise("leave out -4 or -6")
    })
}
