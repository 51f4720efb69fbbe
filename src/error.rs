//! The error type. It says what happened, to which object, why, and what to do.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Shorthand for a result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error that ends a program, or that makes the daemon ignore a profile.
///
/// It is one pointer, because nearly every function returns it.
pub struct Error(Box<Parts>);

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
        Self::system(format!("{verb} {}", quoted(path)), cause)
    }

    /// Makes an error that reads `"PATH": WHY`, or `"PATH", line LINE: WHY` when `line` is not 0.
    #[cold]
    pub fn content(path: &Path, line: usize, why: impl fmt::Display) -> Self {
        Self::refused(match line {
            0 => format!("{}: {why}", quoted(path)),
            _ => format!("{}, line {line}: {why}", quoted(path)),
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

    /// Appends what happened in another attempt, if it differs.
    pub fn and(mut self, other: &Self) -> Self {
        let (text, more) = (&mut self.0.text, &other.0.text);
        if text != more {
            *text += "; ";
            *text += more.strip_prefix("cannot connect ").unwrap_or(more);
        }
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

/// Only tests print it. A derived one would use `{:?}` of text; see [`quoted`].
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Error {}

/// Makes an error of a system call in words.
pub fn failure(why: impl Into<String>) -> io::Error {
    io::Error::other(Error::refused(why))
}

/// Returns a name or a path for a message: between quotation marks, which are escaped in it, as are control characters.
/// `{:?}` would do the same, but it has 4 KB of tables of other characters that cannot be printed.
pub fn quoted(name: &(impl AsRef<OsStr> + ?Sized)) -> Quoted<'_> {
    Quoted(name.as_ref().as_bytes())
}

/// Says that `word` is not a port.
pub fn not_a_port(word: &str) -> String {
    format!("{} is not a port from 1 to 65535", quoted(word))
}

/// Says that `word` is not a prefix of links.
pub fn not_a_prefix(word: &str) -> String {
    format!("{} is not an IPv6 prefix of 48 to 80 bits, such as 2001:db8:0:ff::/64", quoted(word))
}

/// Returns whether a character has no glyph of its own, ends a line, or changes the direction of text.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{a0}' | '\u{ad}' | '\u{300}'..='\u{36f}' | '\u{61c}' | '\u{1680}' | '\u{180e}'
        | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}' | '\u{3000}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// See [`quoted`].
pub struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '"' | '\\' => write!(f, "\\{char}")?,
                    '\n' => f.write_str("\\n")?,
                    '\r' => f.write_str("\\r")?,
                    '\t' => f.write_str("\\t")?,
                    _ if char.is_control() || is_invisible(char) => write!(f, "\\u{{{:x}}}", u32::from(char))?,
                    _ => f.write_char(char)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02X}")?;
            }
        }
        f.write_str("\"")
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_debug_quotes_them() {
        let spaces = "\u{a0}\u{1680}\u{2003}\u{202f}\u{205f}\u{3000}\u{2028}";
        let invisible = "\u{ad}\u{301}\u{61c}\u{180e}\u{200b}\u{202e}\u{2066}\u{fe0f}\u{feff}\u{fffb}\u{e0041}";
        for name in ["", "a b", "a \"b\" \\c", "a\n\t\r\x1b\u{85}", "é", spaces, invisible] {
            assert_eq!(quoted(name).to_string(), format!("{name:?}"));
        }
        let path = Path::new(OsStr::from_bytes(b"/x\xff/\xc3\xa9"));
        assert_eq!(quoted(path).to_string(), format!("{path:?}"));
    }
}
