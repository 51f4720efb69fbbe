//! The one mouth: every line that a person reads leaves here, to standard error or to syslog.

use crate::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;

/// How a line is to be taken; the numbers are syslog's (RFC 5424, section 6.2.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Severity {
    Error = 3,
    Warning = 4,
    Notice = 5,
}

/// syslog's facility for daemons.
const DAEMON: u8 = 3;

static NAME: OnceLock<&str> = OnceLock::new();
/// Set where lines are for syslog; empty where there is none.
static SYSLOG: OnceLock<Option<UnixDatagram>> = OnceLock::new();

/// Sets the name that stands before each line. The first call counts.
pub fn set_name(name: &'static str) {
    let _ = NAME.set(name);
}

/// From here on, lines go to syslog, where there is one, and only warnings and errors to standard error
/// too. The socket stays connected when the way to it is gone; a syslog that does not listen stops nobody.
pub fn use_syslog() {
    let connected = UnixDatagram::unbound()
        .and_then(|socket| socket.connect("/dev/log").and_then(|()| socket.set_nonblocking(true)).map(|()| socket));
    let _ = SYSLOG.set(connected.ok());
}

/// Says that something happened as it should.
pub fn note(text: impl Display) {
    line(Severity::Notice, &text.to_string());
}

/// Says that something needs a look.
pub fn warn(text: impl Display) {
    line(Severity::Warning, &text.to_string());
}

/// Says an error, and on a second line what to do.
pub fn error(error: &Error) {
    line(Severity::Error, &error.to_string());
    if let Some(advice) = error.advice() {
        line(Severity::Error, advice);
    }
}

/// Prints what was asked for, such as help, to standard output.
pub fn answer(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn line(severity: Severity, text: &str) {
    let text = escaped(text);
    let name = NAME.get().unwrap_or(&"knockknock");
    if let Some(syslog) = SYSLOG.get() {
        let priority = DAEMON << 3 | severity as u8;
        if let Some(socket) = syslog {
            let _ = socket.send(format!("<{priority}>{name}[{}]: {text}", std::process::id()).as_bytes());
        }
        if severity == Severity::Notice {
            return;
        }
    }
    // One write, so that lines of several processes do not mix.
    let _ = std::io::stderr().write_all(format!("{name}: {text}\n").as_bytes());
}

/// The text with its control characters as `\x1b`: names come from files and from packets.
fn escaped(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(super::escaped("a\x1b[2J\nb\u{85}é"), "a\\x1b[2J\\x0ab\\x85é");
    }
}
