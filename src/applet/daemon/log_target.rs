//! Where the daemon's lines go.

use crate::say;
use crate::sys::process;
use std::io;

/// Standard error or syslog. The supervisor tells the watcher and the opener by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// To standard error.
    Stderr,
    /// To syslog; until the daemon is ready, warnings and errors go to standard error too.
    Syslog,
}

impl LogTarget {
    /// Its name as an argument of the watcher and the opener.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Syslog => "syslog",
        }
    }

    /// The target with that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Stderr, Self::Syslog].into_iter().find(|log_target| log_target.name() == name)
    }

    /// Sends this process's lines there from now on.
    pub(super) fn open(self) {
        if self == Self::Syslog {
            say::use_syslog();
        }
    }

    /// Detaches from the terminal. Needs /dev/null, so a child calls it before its root directory is empty.
    pub(super) fn detach_terminal(self) -> io::Result<()> {
        match self {
            Self::Stderr => Ok(()),
            Self::Syslog => process::silence_stderr(),
        }
    }
}
