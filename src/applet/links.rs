//! links: prints one-time links, with which any device can knock.

use crate::error::{Error, Result, quoted};
use crate::profile::{self, Profile, ProfileHome, SPENT};
use crate::say;
use std::fmt::Write;

/// Prints `number` links that open `port`, with the profile of `host` in `home`. Their counters are burned first.
/// `link_port` is the port in the links.
pub fn run(home: &ProfileHome, host: &str, port: u16, number: u16, link_port: Option<u16>) -> Result<()> {
    profile::drop_privileges(home.user)?;
    let found = home.find(host)?.ok_or_else(|| home.missing(host))?;
    let Profile { name, config, keys, mut counter } = *Profile::load(&found)?;
    let Some(prefix) = config.wire.prefix() else {
        return Err(Error::refused(format!("profile {} is for knocks, not for links", quoted(&name)))
            .advise("make one for links on the server: knockknock genprofile --links PREFIX/64 NAME"));
    };
    config.check_may_open(&name, port)?;
    counter.lock()?;
    let first = counter.next();
    let end = first + u64::from(number);
    if end > SPENT {
        return Err(
            Error::content(counter.path(), 0, "has too few counters left").advise("make a new profile on both sides")
        );
    }
    counter.store(end).map_err(|cause| Error::path("write", counter.path(), cause))?;
    say::warn(
        "each link is a one-time password: print the list, and send it by no messenger, whose preview uses links up",
    );
    let link_port = link_port.map_or_else(String::new, |port| format!(":{port}"));
    let mut text = String::new();
    for (row, counter) in (1..).zip(first..end) {
        let _ = writeln!(text, "{row:4}  http://[{}]{link_port}/", keys.link(prefix, counter as u32, port));
    }
    say::print(&text)
}
