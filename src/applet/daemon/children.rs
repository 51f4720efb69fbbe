//! The watcher and the opener, as the supervisor starts and ends them.

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

/// The watcher and the opener.
pub(super) struct Children {
    watcher: Child,
    opener: Child,
    /// What the opener says: [`READY`], once.
    says: UnixStream,
    /// Whether it has said that.
    pub(super) ready: bool,
}

impl Children {
    /// Starts both.
    pub(super) fn start(directory: &Path, setup: &Setup, log_target: LogTarget) -> Result<Self> {
        let failed = |cause| Error::system("start the watcher and the opener", cause);
        let (to_opener, to_watcher) = socketpair::pair().map_err(failed)?;
        // Left in the socket before either exists, so that neither can have written it.
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

    /// Readable when the opener says something, or ends.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.says.as_fd()
    }

    /// Reads whether both are ready. An opener that says anything else is ended.
    pub(super) fn hear_ready(&mut self) -> bool {
        let mut said = [0; READY.len()];
        self.ready = self.says.read(&mut said).is_ok_and(|length| length == READY.len()) && said == *READY;
        if !self.ready {
            process::end(&mut self.opener);
        }
        self.ready
    }

    /// How the watcher and the opener ended, as far as they have. Where one has, the other may soon.
    pub(super) fn ends(&mut self) -> (Option<ExitStatus>, Option<ExitStatus>) {
        let (watcher, opener) = (self.watcher.try_wait().ok().flatten(), self.opener.try_wait().ok().flatten());
        match (watcher, opener) {
            (Some(_), None) => (watcher, process::ended_soon(&mut self.opener)),
            // An opener that finds the watcher gone may be the first to be seen.
            (None, Some(status)) if !self.ready || status.code() == Some(1) => {
                (process::ended_soon(&mut self.watcher), opener)
            }
            _ => (watcher, opener),
        }
    }

    /// Ends both.
    pub(super) fn stop(mut self) {
        process::end(&mut self.watcher);
        process::end(&mut self.opener);
    }
}
