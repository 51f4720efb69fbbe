//! The destination of the daemon's log lines.

use crate::say;
use crate::sys::process;
use std::io;

/// Standard error or syslog. The supervisor passes the name on to the watcher and the opener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Syslog. Until the daemon is ready, warnings and errors also go to standard error.
    Syslog,
}

impl LogTarget {
    /// Returns the name that is passed to the watcher and the opener.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Syslog => "syslog",
        }
    }

    /// Returns the target with that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Stderr, Self::Syslog].into_iter().find(|log_target| log_target.name() == name)
    }

    /// Sends this process's log lines to the target from now on.
    pub(super) fn open(self) {
        if self == Self::Syslog {
            say::use_syslog();
        }
    }

    /// Detaches from the terminal. This needs /dev/null, so a child calls it before it changes into an empty root
    /// directory.
    pub(super) fn detach_terminal(self) -> io::Result<()> {
        match self {
            Self::Stderr => Ok(()),
            Self::Syslog => process::silence_stderr(),
        }
    }
}
