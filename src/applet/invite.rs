//! invite and rotate: print the line with which a client gets its profile.

use crate::config;
use crate::error::{Error, Result, quoted};
use crate::ports::Ports;
use crate::profile::{self, Found, Wanted};
use crate::say;
use std::path::Path;

/// Prints an invitation for a client that calls this server `host`: with the profile `name` in `directory`, or with a
/// new one.
pub fn run(directory: &Path, name: &str, host: &str, ports: Option<Ports>, again: bool) -> Result<()> {
    profile::check_host(host)?;
    let profiles = directory.join("profiles");
    let is_new = profile::list(&profiles)?.profiles.iter().all(|found| found.name != name);
    if !is_new && ports.is_some() {
        return Err(Error::refused(format!("profile {} exists, and --ports applies only to a new one", quoted(name)))
            .advise("omit --ports, or choose another name"));
    }
    let path = if is_new {
        let config = profile::choose(directory, Wanted { ports, ..Wanted::default() })?;
        profile::create(&profiles, name, &config)?
    } else {
        profiles.join(name)
    };
    print(directory, &Found { name: name.into(), path }, host, again, is_new)
}

/// Gives the profile `name` in `directory` new keys, and prints an invitation with them. The old keys work until the
/// first knock with the new ones.
pub fn rotate(directory: &Path, name: &str, host: &str) -> Result<()> {
    profile::check_host(host)?;
    let found = profile::rotate(&directory.join("profiles"), name)?;
    print(directory, &found, host, false, true)
}

fn print(directory: &Path, found: &Found, host: &str, again: bool, is_new: bool) -> Result<()> {
    let invitation = profile::invite(found, host, again)?;
    if is_new {
        config::mention_reload(directory);
    }
    say::warn(
        "anyone with this line can knock, because it contains the keys. On the client, paste it into: knockknock accept",
    );
    let mut line = invitation.encode();
    line.push('\n');
    say::print(&line)
}
