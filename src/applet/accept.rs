//! accept: creates a client's profile from the line that invite printed.

use crate::error::{Error, Result, quoted};
use crate::profile::{self, Invitation, ProfileHome};
use crate::say;
use crate::sys::file::LONGEST;
use crate::sys::{poll, process};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long to wait for more of the same paste after a line.
const PASTE: Duration = Duration::from_millis(100);

/// Creates a profile in `home` from the invitation on standard input. Its host is `host`, or the one in the invitation.
pub fn run(home: &ProfileHome, host: Option<&str>) -> Result<()> {
    profile::drop_privileges(home.user)?;
    let text = read().map_err(|cause| Error::system("read standard input", cause))?;
    let line = std::str::from_utf8(text.trim_ascii()).unwrap_or_default();
    let invitation = Invitation::decode(line).ok_or_else(|| {
        Error::refused("this is not an invitation, or it is damaged, truncated or doubled")
            .advise("copy the whole line that knockknock invite printed, and nothing else")
    })?;
    let host = host.unwrap_or(&invitation.host);
    if let Some(found) = home.find(host)? {
        return Err(Error::refused(format!("{} has a profile already", quoted(host))).advise(
            match invitation.config.wire.prefix() {
                // It may be used beside the profile that knocks.
                Some(_) => "choose another name for the links: knockknock accept --as NAME".to_owned(),
                None => format!("to keep it, but disabled: mv {0} {0}.off", quoted(&found.path)),
            },
        ));
    }
    let path = profile::accept(&home.directory, host, &invitation)?;
    say::note(format_args!("created {}", quoted(&path)));
    Ok(())
}

/// Reads the line and any input right after it, so that a line pasted twice is detected and does not reach the shell.
fn read() -> io::Result<Zeroizing<Vec<u8>>> {
    let mut input = File::from(process::inherited(0));
    if input.is_terminal() {
        say::note("paste the line that knockknock invite printed, and press Enter");
    }
    // Allocated once, because a growing string leaves copies of the keys in memory.
    let mut text = Zeroizing::new(vec![0; LONGEST]);
    let mut length = 0;
    loop {
        let (read, free) = text.split_at_mut(length);
        let timeout = read.contains(&b'\n').then_some(PASTE);
        if poll::readable([input.as_fd()], timeout)? == [false] {
            break;
        }
        match input.read(free)? {
            0 => break,
            more => length += more,
        }
    }
    text.truncate(length);
    Ok(text)
}
