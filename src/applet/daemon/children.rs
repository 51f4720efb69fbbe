//! Starts and stops the watcher and the opener.

use super::LogTarget;
use super::child_exit::ChildExit;
use super::ipc::{OPENED, READY};
use super::opener::{OWNED, REPLACES};
use super::setup::Setup;
use crate::config::Log;
use crate::error::{Error, Result};
use crate::sys::child::{self, Child};
use crate::sys::file;
use crate::sys::socketpair::{self, Channel};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// How many openers in a row may fail to open a port before both children are restarted.
const MAX_FAILURES: u32 = 5;

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
    /// The opener's end of the channel between the two. It outlives an opener, and so do requests in it.
    to_watcher: Channel,
    /// The number of consecutive openers that could not open a port.
    failures: u32,
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
        // Sent before either child exists, so neither can have forged it.
        to_watcher.send(setup.text.as_bytes()).map_err(failed)?;
        let (supervisor, log_name) = (std::process::id().to_string(), log_target.name());
        let (mut opener, from_opener) = start_opener(setup, log_target, &to_watcher, false, owner).map_err(failed)?;
        let log = match setup.config.log {
            Log::Input => None,
            _ => Some(file::open("/dev/null".as_ref(), libc::O_RDONLY).map_err(failed)?),
        };
        let watcher = [OsStr::new("watcher"), supervisor.as_ref(), log_name.as_ref(), directory.as_os_str()];
        match child::restart_self(&watcher, log.as_ref().map(AsFd::as_fd), to_opener.as_fd(), None) {
            Ok(watcher) => Ok(Self { watcher, opener, to_watcher, failures: 0, from_opener, ready: false }),
            Err(cause) => {
                opener.kill();
                Err(failed(cause))
            }
        }
    }

    /// Starts another opener in place of one that has exited, for the same watcher and its requests. `repeated` means
    /// that the exited one had replaced another and answered no request. Returns `false` if too many have failed in a
    /// row, or if the watcher has exited too.
    pub(super) fn replace_opener(
        &mut self,
        repeated: bool,
        setup: &Setup,
        log_target: LogTarget,
        owner: Option<BorrowedFd<'_>>,
    ) -> bool {
        self.failures = if repeated { self.failures + 1 } else { 0 };
        if self.watcher.try_wait().is_some() || self.failures > MAX_FAILURES {
            return false;
        }
        let started = start_opener(setup, log_target, &self.to_watcher, true, owner);
        started.is_ok_and(|(opener, from_opener)| {
            (self.opener, self.from_opener) = (opener, from_opener);
            true
        })
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

/// Starts an opener, which `replaces` another or not. Returns it, and the socket on which it sends its messages.
fn start_opener(
    setup: &Setup,
    log_target: LogTarget,
    to_watcher: &Channel,
    replaces: bool,
    owner: Option<BorrowedFd<'_>>,
) -> io::Result<(Child, UnixStream)> {
    let (mut from_opener, to_supervisor) = UnixStream::pair()?;
    from_opener.write_all(&setup.limits.to_bytes())?;
    let (supervisor, log_name, backend) = (std::process::id().to_string(), log_target.name(), setup.backend.name());
    let mut opener = vec![OsStr::new("opener"), supervisor.as_ref(), log_name.as_ref(), backend.as_ref()];
    opener.extend(replaces.then_some(OsStr::new(REPLACES)));
    opener.extend(owner.map(|_| OsStr::new(OWNED)));
    let opener = child::restart_self(&opener, Some(to_watcher.as_fd()), to_supervisor.as_fd(), owner)?;
    Ok((opener, from_opener))
}
