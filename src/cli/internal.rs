//! Starts the applets that only the supervisor or the doctor starts. Their arguments have fixed places.

use super::arguments::{Arguments, text};
use crate::applet::daemon::{self, LogTarget};
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::path::Path;

pub fn watcher(arguments: &Arguments<'_>) -> Result<u8> {
    let (supervisor, log_target, directory) = from_supervisor(arguments)?;
    daemon::watcher(supervisor, log_target, Path::new(directory))
}

pub fn opener(arguments: &Arguments<'_>) -> Result<u8> {
    let (supervisor, log_target, backend) = from_supervisor(arguments)?;
    daemon::opener(supervisor, log_target, text(backend)?, arguments.operands.get(3..).unwrap_or_default())
}

/// Runs the daemon of the doctor's proof.
pub fn proof(arguments: &Arguments<'_>) -> Result<u8> {
    let (doctor, _, directory) = from_supervisor(arguments)?;
    daemon::proof(doctor, Path::new(directory))
}

/// Returns the first arguments of a child of the supervisor: the supervisor's process ID, the log target, and one more.
fn from_supervisor<'a>(arguments: &Arguments<'a>) -> Result<(u32, LogTarget, &'a OsStr)> {
    if let [supervisor, log_target, last, ..] = arguments.operands[..] {
        if let (Ok(supervisor), Some(log_target)) = (text(supervisor)?.parse(), LogTarget::named(text(log_target)?)) {
            return Ok((supervisor, log_target, last));
        }
    }
    Err(Error::refused("only the daemon's supervisor starts this applet"))
}
