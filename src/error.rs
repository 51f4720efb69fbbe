//! The error that a person reads: what went wrong with which object, why, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for a result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that ends a program of ours, or leaves a profile out.
#[derive(Debug)]
pub enum Error {
    /// A command line that means nothing (exit 2).
    Usage(String),
    /// The system refused a call: what was tried, its reason.
    System {
        /// What could not be done, as `open "/dev/kmsg"`.
        what: String,
        /// The system's reason.
        cause: io::Error,
        /// What to do, or nothing.
        advice: String,
    },
    /// A file whose content cannot be taken.
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1, or 0 where no line is to blame.
        line: usize,
        /// What is wrong with it.
        why: String,
        /// What to do, or nothing.
        advice: String,
    },
    /// Something we do not do: why, and what to do.
    Refused {
        /// What is refused and why.
        why: String,
        /// What to do, or nothing.
        advice: String,
    },
}

impl Error {
    /// A failed call: `cannot WHAT: CAUSE`.
    #[cold]
    pub fn system(what: impl Into<String>, cause: io::Error) -> Self {
        Self::System { what: what.into(), cause, advice: String::new() }
    }

    /// A failed call on a path: `cannot VERB "PATH": CAUSE`.
    #[cold]
    pub fn path(verb: &str, path: &Path, cause: io::Error) -> Self {
        Self::system(format!("{verb} {path:?}"), cause)
    }

    /// A file's content: `"PATH": WHY`, or `"PATH", line LINE: WHY` where `line` is not 0.
    #[cold]
    pub fn content(path: &Path, line: usize, why: impl Into<String>) -> Self {
        Self::Content { path: path.into(), line, why: why.into(), advice: String::new() }
    }

    /// A refusal.
    #[cold]
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into(), advice: String::new() }
    }

    /// The same error with what to do on its second line.
    #[cold]
    pub fn advise(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Self::Usage(_) => {}
            Self::System { advice, .. } | Self::Content { advice, .. } | Self::Refused { advice, .. } => {
                *advice = text.into();
            }
        }
        self
    }

    /// What to do, where there is something.
    pub fn advice(&self) -> Option<&str> {
        match self {
            Self::Usage(_) => None,
            Self::System { advice, .. } | Self::Content { advice, .. } | Self::Refused { advice, .. } => {
                (!advice.is_empty()).then_some(advice)
            }
        }
    }

    /// The kind of the system's reason, where it is one.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::System { cause, .. } => Some(cause.kind()),
            _ => None,
        }
    }

    /// The exit code: 2 for usage, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Refused { why, .. } => write!(f, "{why}"),
            Self::System { what, cause, .. } => write!(f, "cannot {what}: {}", reason(cause)),
            Self::Content { path, line: 0, why, .. } => write!(f, "{path:?}: {why}"),
            Self::Content { path, line, why, .. } => write!(f, "{path:?}, line {line}: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// The system's words without the number that Rust puts behind them, in lower case.
pub fn reason(cause: &io::Error) -> String {
    let mut text = cause.to_string();
    if let Some(number) = text.rfind('(').filter(|_| cause.raw_os_error().is_some()) {
        text.truncate(number);
        text.truncate(text.trim_end().len());
    }
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    text
}
