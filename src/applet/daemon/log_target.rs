//! The destination of the daemon's log lines.

use crate::say;
use crate::sys::process;
use std::io;

/// The supervisor chooses it, and passes its name on to the watcher and the opener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard error, connected to the journal: each line starts with its severity.
    Journal,
    /// Syslog, or standard error while no syslog daemon listens, because procd logs every line of standard error as an
    /// error.
    Procd,
    /// Syslog. Until the daemon is ready, warnings and errors also go to standard error.
    Syslog,
}

impl LogTarget {
    /// Returns the target for a daemon in the background, or in the foreground that of whatever started it.
    pub(super) fn choose(background: bool) -> Self {
        match background {
            true => Self::Syslog,
            false if process::parent_is("procd") => Self::Procd,
            false if process::stderr_is_journal() => Self::Journal,
            false => Self::Stderr,
        }
    }

    /// Returns the name that is passed to the watcher and the opener.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Journal => "journal",
            Self::Procd => "procd",
            Self::Syslog => "syslog",
        }
    }

    /// Returns the target with that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Stderr, Self::Journal, Self::Procd, Self::Syslog].into_iter().find(|target| target.name() == name)
    }

    /// Sends this process's log lines to the target from now on.
    pub(super) fn open(self) {
        match self {
            Self::Stderr => {}
            Self::Journal => say::use_journal(),
            Self::Procd => say::use_syslog(false),
            Self::Syslog => say::use_syslog(true),
        }
    }

    /// Detaches from the terminal. This needs /dev/null, so a child calls it before it changes into an empty root
    /// directory.
    pub(super) fn detach_terminal(self) -> io::Result<()> {
        match self {
            Self::Syslog => process::silence_stderr(),
            _ => Ok(()),
        }
    }
}
