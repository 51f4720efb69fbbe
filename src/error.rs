//! The error type. It says what happened, to which object, why, and what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for a result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error that ends a program, or that makes the daemon ignore a profile.
#[derive(Debug)]
pub enum Error {
    /// A wrong command line (exit code 2); the usage line follows it.
    Usage(String),
    /// A failed system call.
    System {
        /// What failed, such as `open "/dev/kmsg"`.
        what: String,
        /// The reason.
        cause: io::Error,
        /// What to do; may be empty.
        advice: String,
    },
    /// A file with unusable content or attributes.
    Content {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1; 0 for the whole file.
        line: usize,
        /// What is wrong with it.
        why: String,
        /// What to do; may be empty.
        advice: String,
    },
    /// A request that is refused.
    Refused {
        /// What is refused, and why.
        why: String,
        /// What to do; may be empty.
        advice: String,
    },
}

impl Error {
    /// Makes an error that reads `cannot WHAT: CAUSE`.
    #[cold]
    pub fn system(what: impl Into<String>, cause: io::Error) -> Self {
        Self::System { what: what.into(), cause, advice: String::new() }
    }

    /// Makes an error that reads `cannot VERB "PATH": CAUSE`.
    #[cold]
    pub fn path(verb: &str, path: &Path, cause: io::Error) -> Self {
        Self::system(format!("{verb} {path:?}"), cause)
    }

    /// Makes an error that reads `"PATH": WHY`, or `"PATH", line LINE: WHY` when `line` is not 0.
    #[cold]
    pub fn content(path: &Path, line: usize, why: impl Into<String>) -> Self {
        Self::Content { path: path.into(), line, why: why.into(), advice: String::new() }
    }

    /// Makes an error that reads as `why` does.
    #[cold]
    pub fn refused(why: impl Into<String>) -> Self {
        Self::Refused { why: why.into(), advice: String::new() }
    }

    /// Sets what to do about the error.
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

    /// What to do about the error.
    pub fn advice(&self) -> Option<&str> {
        match self {
            Self::Usage(_) => None,
            Self::System { advice, .. } | Self::Content { advice, .. } | Self::Refused { advice, .. } => {
                (!advice.is_empty()).then_some(advice)
            }
        }
    }

    /// The kind of the failed system call's reason.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::System { cause, .. } => Some(cause.kind()),
            _ => None,
        }
    }

    /// The exit code: 2 for a wrong command line, otherwise 1.
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

/// The system's description of an error in lower case, without the error number that Rust appends.
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
