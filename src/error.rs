//! The error type. It says what happened, to which object, why, and what to do.

use std::fmt;
use std::io;
use std::path::Path;

/// Shorthand for a result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error that ends a program, or that makes the daemon ignore a profile.
///
/// It is one pointer, because nearly every function returns it.
#[derive(Debug)]
pub struct Error(Box<Parts>);

#[derive(Debug)]
struct Parts {
    /// What happened, to which object, and why.
    text: String,
    /// What to do; may be empty.
    advice: String,
    /// The kind of the system's error, if a system call has failed.
    kind: Option<io::ErrorKind>,
    /// Whether the command line is wrong.
    usage: bool,
}

impl Error {
    fn new(text: String, kind: Option<io::ErrorKind>, usage: bool) -> Self {
        Self(Box::new(Parts { text, advice: String::new(), kind, usage }))
    }

    /// Makes an error for a wrong command line (exit code 2); the usage line follows it.
    #[cold]
    pub fn usage(why: impl Into<String>) -> Self {
        Self::new(why.into(), None, true)
    }

    /// Makes an error that reads `cannot WHAT: CAUSE`.
    #[cold]
    pub fn system(what: impl fmt::Display, cause: io::Error) -> Self {
        Self::new(format!("cannot {what}: {}", reason(&cause)), Some(cause.kind()), false)
    }

    /// Makes an error that reads `cannot VERB "PATH": CAUSE`.
    #[cold]
    pub fn path(verb: &str, path: &Path, cause: io::Error) -> Self {
        Self::system(format!("{verb} {path:?}"), cause)
    }

    /// Makes an error that reads `"PATH": WHY`, or `"PATH", line LINE: WHY` when `line` is not 0.
    #[cold]
    pub fn content(path: &Path, line: usize, why: impl fmt::Display) -> Self {
        Self::refused(match line {
            0 => format!("{path:?}: {why}"),
            _ => format!("{path:?}, line {line}: {why}"),
        })
    }

    /// Makes an error that reads as `why` does.
    #[cold]
    pub fn refused(why: impl Into<String>) -> Self {
        Self::new(why.into(), None, false)
    }

    /// Sets what to do about the error.
    #[cold]
    pub fn advise(self, text: impl Into<String>) -> Self {
        self.advised(text.into())
    }

    #[inline(never)]
    fn advised(mut self, text: String) -> Self {
        self.0.advice = text;
        self
    }

    /// Returns what to do about the error.
    pub fn advice(&self) -> Option<&str> {
        Some(&*self.0.advice).filter(|advice| !advice.is_empty())
    }

    /// Returns the kind of the system's error, if a system call has failed.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        self.0.kind
    }

    /// Returns the exit code: 2 for a wrong command line, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        if self.0.usage { 2 } else { 1 }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Error {}

/// Returns the system's description of an error in lower case, without the error number that Rust appends.
pub fn reason(cause: &io::Error) -> String {
    let mut text = cause.to_string();
    let number = text.as_bytes().iter().rposition(|&byte| byte == b'(');
    if let Some(number) = number.filter(|_| cause.raw_os_error().is_some()) {
        text.truncate(number);
        text.truncate(text.trim_ascii_end().len());
    }
    lower_first(&mut text);
    text
}

/// Makes the first letter lower case.
pub fn lower_first(text: &mut str) {
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_lowercase();
    }
}
