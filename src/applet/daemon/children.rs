//! Starts and stops the watcher and the opener.

use super::LogTarget;
use super::child_exit::ChildExit;
use super::ipc::{OPENED, READY};
use super::setup::Setup;
use crate::config::Log;
use crate::error::{Error, Result};
use crate::sys::child::{self, Child};
use crate::sys::socketpair;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A message from the opener.
pub(super) enum OpenerMessage {
    /// Both children are ready.
    Ready,
    /// A knock has opened a port.
    PortOpened,
    /// No message: it has exited.
    Exited,
}

/// The two running child processes.
pub(super) struct Children {
    watcher: Child,
    opener: Child,
    /// The socket on which the opener sends [`READY`], then [`OPENED`], each once.
    from_opener: UnixStream,
    /// Whether [`READY`] has arrived.
    pub(super) ready: bool,
}

impl Children {
    /// Starts both processes. The opener inherits `owner`, the socket that owns the rules, if there is one.
    pub(super) fn start(
        directory: &Path,
        setup: &Setup,
        log_target: LogTarget,
        owner: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        let failed = |cause| Error::system("start the watcher and the opener", cause);
        let (to_opener, to_watcher) = socketpair::pair().map_err(failed)?;
        // Sent before either child exists, so neither can have forged them.
        to_opener.send(&setup.limits.to_bytes()).map_err(failed)?;
        to_watcher.send(setup.text.as_bytes()).map_err(failed)?;
        let (from_opener, to_supervisor) = UnixStream::pair().map_err(failed)?;
        let (supervisor, log_name) = (std::process::id().to_string(), log_target.name());
        let owned = if owner.is_some() { " owned" } else { "" };
        let backend = setup.backend.name().to_owned() + owned;
        let opener = ["opener", &supervisor, log_name, &backend].map(OsStr::new);
        let mut opener =
            child::restart_self(&opener, Some(to_watcher.as_fd()), to_supervisor.as_fd(), owner).map_err(failed)?;
        let log = match setup.config.log {
            Log::Input => None,
            _ => Some(File::open("/dev/null").map_err(failed)?),
        };
        let watcher = [OsStr::new("watcher"), supervisor.as_ref(), log_name.as_ref(), directory.as_os_str()];
        match child::restart_self(&watcher, log.as_ref().map(AsFd::as_fd), to_opener.as_fd(), None) {
            Ok(watcher) => Ok(Self { watcher, opener, from_opener, ready: false }),
            Err(cause) => {
                opener.kill();
                Err(failed(cause))
            }
        }
    }

    /// Becomes readable when the opener is ready or has exited.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.from_opener.as_fd()
    }

    /// Reads the opener's message. An invalid one kills the opener.
    pub(super) fn receive(&mut self) -> OpenerMessage {
        let mut message = [0; READY.len()];
        let length = self.from_opener.read(&mut message).unwrap_or(0);
        match (self.ready, message.get(..length).unwrap_or_default()) {
            (false, READY) => {
                self.ready = true;
                OpenerMessage::Ready
            }
            (true, OPENED) => OpenerMessage::PortOpened,
            _ => {
                self.opener.kill();
                OpenerMessage::Exited
            }
        }
    }

    /// Returns the meaning of the children's exits; `None` if both are running. If one has exited, it waits briefly for
    /// the other.
    pub(super) fn exit(&mut self) -> Option<ChildExit> {
        let (mut watcher, mut opener) = (self.watcher.try_wait(), self.opener.try_wait());
        match (watcher, opener) {
            (Some(_), None) => opener = self.opener.wait_briefly(),
            // The opener exits with code 1 when the watcher is gone, and may be reaped first.
            (None, Some(status)) if !self.ready || status.code() == Some(1) => watcher = self.watcher.wait_briefly(),
            _ => {}
        }
        ChildExit::from_statuses(self.ready, watcher, opener)
    }

    /// Stops both processes, if they run. The opener comes first, because the watcher holds the locks of the counters
    /// of its requests.
    pub(super) fn stop(children: &mut Option<Self>) {
        if let Some(mut children) = children.take() {
            children.opener.kill();
            children.watcher.kill();
        }
    }
}
