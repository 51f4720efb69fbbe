//! Hands a profile over: from the server into an invitation, and from an invitation to the client.

use super::create::{Content, lock, make};
use super::{Found, Invitation, Profile, keys};
use crate::error::{Error, Result, quoted};
use std::path::{Path, PathBuf};

/// Creates an invitation for a server's profile, for a client that calls the server `host`.
///
/// Handing a profile over sets its counter to 1. A counter above 0 is therefore refused, unless `again` is set: two
/// clients with the same keys would use the same counters.
pub fn invite(found: &Found, host: &str, again: bool) -> Result<Invitation> {
    // Otherwise a rotation could replace the profile between its counter and its keys.
    let _lock = lock(found.path.parent().unwrap_or(&found.path))?;
    let Profile { config, mut counter, .. } = *Profile::load(found)?;
    counter.lock()?;
    match counter.next() {
        0 => counter.hand_over().map_err(|cause| Error::path("write", counter.path(), cause))?,
        _ if again => {}
        _ => {
            let (name, why) = (&found.name, format!("profile {} was handed out or used before", quoted(&found.name)));
            return Err(Error::refused(why).advise(format!(
                "for another client choose another name; for the same client, whose copy is lost: \
                 knockknock invite {name} {host} --again"
            )));
        }
    }
    Ok(Invitation { host: host.into(), config, counter: counter.next(), keys: keys::read(&found.path)? })
}

/// Creates the profile of `invitation` in a client's `directory`, with the name `host`, and returns the profile's path.
///
/// Refuses a name that exists or is invalid, and keys that another profile has.
pub fn accept(directory: &Path, host: &str, invitation: &Invitation) -> Result<PathBuf> {
    let Invitation { config, keys, counter, .. } = invitation;
    make(directory, host, &Content { keys, counter: *counter, config }, &|other| {
        if keys::read(&other.path).is_ok_and(|found| found == *keys) {
            // Both would use the same counters.
            let why = format!("profile {} has the keys of this invitation already", quoted(&other.name));
            return Err(Error::refused(why)
                .advise("for another host name, rename its directory; each client needs an invitation of its own"));
        }
        Ok(())
    })
}
