//! Output: log lines to standard error or syslog, and requested text to standard output. Nothing else prints.

use crate::error::{Error, Result};
use crate::sys::{process, terminal};
use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

/// A line's severity, with syslog's numbers (RFC 5424, section 6.2.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error = 3,
    Warning = 4,
    Notice = 5,
}

/// syslog's facility number for daemons.
const DAEMON: u8 = 3;

static NAME: OnceLock<&str> = OnceLock::new();
/// The destination of lines, if it is not standard error alone.
static TARGET: OnceLock<Target> = OnceLock::new();

enum Target {
    /// The journal, by standard error.
    Journal,
    /// Syslog, if it listens. With `copies`, warnings and errors go to standard error as well, and notes never do.
    /// Without, a line goes to standard error if syslog does not take it.
    Syslog { socket: Option<UnixDatagram>, copies: bool },
}

/// Sets the name that each line starts with. Only the first call has an effect.
pub fn set_name(name: &'static str) {
    let _ = NAME.set(name);
}

/// Sends all further lines to syslog. With `copies`, warnings and errors go to standard error as well, and nothing
/// else. Without, lines that syslog does not take go there: it restarts, and a child cannot connect again.
///
/// The socket is connected now, because a child that has given up its root directory cannot find it later. Nothing
/// blocks.
pub fn use_syslog(copies: bool) {
    let connected = UnixDatagram::unbound()
        .and_then(|socket| socket.connect("/dev/log").and_then(|()| socket.set_nonblocking(true)).map(|()| socket));
    let _ = TARGET.set(Target::Syslog { socket: connected.ok(), copies });
}

/// Starts all further lines with their severity, as the journal reads it from standard error (sd-daemon(3)).
pub fn use_journal() {
    let _ = TARGET.set(Target::Journal);
}

/// Reports something that happened as it should.
pub fn note(text: impl Display) {
    line(Severity::Notice, &text);
}

/// Reports something that deserves attention.
pub fn warn(text: impl Display) {
    line(Severity::Warning, &text);
}

/// Reports an error and, on a second line, what to do about it.
pub fn error(error: &Error) {
    lines(Severity::Error, error);
}

/// Reports an error that does not end the program, in the same way.
pub fn warning(error: &Error) {
    lines(Severity::Warning, error);
}

fn lines(severity: Severity, error: &Error) {
    line(severity, error);
    if let Some(advice) = error.advice() {
        line(severity, &advice);
    }
}

/// Prints an applet's usage line to standard error, without the name in front.
pub fn usage(line: &str) {
    let _ = process::standard(2).write_all(format!("{line}\n").as_bytes());
}

/// Prints requested text, such as help, to standard output.
pub fn print(text: &str) -> Result<()> {
    process::standard(1).write_all(text.as_bytes()).map_err(|cause| Error::system("write to standard output", cause))
}

/// Standard output, if it is a terminal.
#[derive(Clone, Copy)]
pub struct Terminal {
    /// The width in characters.
    pub columns: usize,
    /// Whether to use colours.
    pub colours: bool,
}

/// The terminal that [`print()`] prints to, if it is one. NO_COLOR is respected (<https://no-color.org>).
pub fn terminal() -> Option<Terminal> {
    let out = process::standard(1);
    let colours = process::variable("NO_COLOR").is_none_or(|value| value.is_empty());
    out.is_terminal().then(|| Terminal { columns: terminal::width(&*out).unwrap_or(80), colours })
}

fn line(severity: Severity, text: &dyn Display) {
    let text = escaped(&text.to_string());
    let name = NAME.get().unwrap_or(&"knockknock");
    let number = severity as u8;
    let mut line = format!("{name}: {text}\n");
    match TARGET.get() {
        Some(Target::Syslog { socket, copies }) => {
            let message = format!("<{}>{name}[{}]: {text}", DAEMON << 3 | number, std::process::id());
            let sent = socket.as_ref().is_some_and(|socket| socket.send(message.as_bytes()).is_ok());
            let done = if *copies { severity == Severity::Notice } else { sent };
            if done {
                return;
            }
        }
        Some(Target::Journal) => line.insert_str(0, &format!("<{number}>")),
        None => {}
    }
    // A single write keeps lines of several processes apart.
    let _ = process::standard(2).write_all(line.as_bytes());
}

/// The text with control characters written as `\x1b`, because names come from files and packets.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            safe.push_str(&format!("\\x{:02x}", u32::from(char)));
        } else {
            safe.push(char);
        }
    }
    safe
}

/// Returns `text` as a JSON string (RFC 8259, section 7), with all control characters escaped.
pub fn json_string(text: &str) -> String {
    let mut string = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => string.extend(['\\', char]),
            _ if char.is_control() => string.push_str(&format!("\\u{:04x}", u32::from(char))),
            _ => string.push(char),
        }
    }
    string + "\""
}

#[cfg(test)]
mod tests {
    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(super::json_string("a \"b\"\\\n\x1b\u{9b}é"), "\"a \\\"b\\\"\\\\\\u000a\\u001b\\u009bé\"");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(super::escaped("a\x1b[2J\nb\u{85}é"), "a\\x1b[2J\\x0ab\\x85é");
    }
}
