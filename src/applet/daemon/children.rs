//! Starts and stops the watcher and the opener.

use super::LogTarget;
use super::ipc::READY;
use super::setup::Setup;
use crate::config::Log;
use crate::error::{Error, Result};
use crate::sys::{process, socketpair};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

/// The two running child processes.
pub(super) struct Children {
    watcher: Child,
    opener: Child,
    /// The pipe on which the opener sends [`READY`] once.
    says: UnixStream,
    /// Whether [`READY`] has arrived.
    pub(super) ready: bool,
}

impl Children {
    /// Starts both processes.
    pub(super) fn start(directory: &Path, setup: &Setup, log_target: LogTarget) -> Result<Self> {
        let failed = |cause| Error::system("start the watcher and the opener", cause);
        let (to_opener, to_watcher) = socketpair::pair().map_err(failed)?;
        // Sent before either child exists, so neither can have forged them.
        to_opener.send(&setup.limits.to_bytes()).map_err(failed)?;
        to_watcher.send(setup.text.as_bytes()).map_err(failed)?;
        let (says, tells) = UnixStream::pair().map_err(failed)?;
        let (supervisor, log_name) = (std::process::id().to_string(), log_target.name());
        let opener = ["opener", &supervisor, log_name, setup.backend.name()].map(OsStr::new);
        let mut opener = process::restart_self(&opener, OwnedFd::from(to_watcher), tells.into()).map_err(failed)?;
        let log = match setup.config.log {
            Log::Input => Stdio::inherit(),
            _ => Stdio::null(),
        };
        let watcher = [OsStr::new("watcher"), supervisor.as_ref(), log_name.as_ref(), directory.as_os_str()];
        match process::restart_self(&watcher, log, to_opener.into()) {
            Ok(watcher) => Ok(Self { watcher, opener, says, ready: false }),
            Err(cause) => {
                process::end(&mut opener);
                Err(failed(cause))
            }
        }
    }

    /// Becomes readable when the opener is ready or has exited.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.says.as_fd()
    }

    /// Reads the opener's message. An opener that sends anything but [`READY`] is killed.
    pub(super) fn hear_ready(&mut self) -> bool {
        let mut said = [0; READY.len()];
        self.ready = self.says.read(&mut said).is_ok_and(|length| length == READY.len()) && said == *READY;
        if !self.ready {
            process::end(&mut self.opener);
        }
        self.ready
    }

    /// Returns the exit statuses of children that have exited. If one has, it waits briefly for the other.
    pub(super) fn ends(&mut self) -> (Option<ExitStatus>, Option<ExitStatus>) {
        let (watcher, opener) = (self.watcher.try_wait().ok().flatten(), self.opener.try_wait().ok().flatten());
        match (watcher, opener) {
            (Some(_), None) => (watcher, process::ended_soon(&mut self.opener)),
            // The opener exits with code 1 when the watcher is gone, and may be reaped first.
            (None, Some(status)) if !self.ready || status.code() == Some(1) => {
                (process::ended_soon(&mut self.watcher), opener)
            }
            _ => (watcher, opener),
        }
    }

    /// Stops both processes.
    pub(super) fn stop(mut self) {
        process::end(&mut self.watcher);
        process::end(&mut self.opener);
    }
}
