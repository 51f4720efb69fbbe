//! The command line: selects an applet by argv, runs it, and maps its result to an exit code.

mod applets;
mod arguments;
mod internal;
mod start;
mod values;

use crate::error::{Error, Result, quoted};
use crate::say;
use crate::sys::{child, process};
use applets::{APPLETS, Applet};
use arguments::Arguments;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The exit code for an unknown applet, as of a shell for an unknown command.
const NO_SUCH_APPLET: u8 = 127;

const VERSION: &str = concat!(
    "knockknock ",
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("KNOCKKNOCK_COMMIT"),
    ", ",
    env!("KNOCKKNOCK_TARGET"),
    ")\n"
);

/// What the command line requests.
enum Dispatch<'a> {
    /// An applet, the command as typed, and the arguments.
    Run(&'static Applet, String, &'a [OsString]),
    Help,
    Version,
    Usage,
    Unknown(&'a OsStr),
}

/// Runs `argv` and returns the exit code.
pub fn main(argv: Vec<OsString>) -> u8 {
    let (program, args) = match argv.split_first() {
        Some((program, args)) => (Path::new(program), args),
        None => (Path::new("knockknock"), &[][..]),
    };
    let (done, usage) = match dispatch(program, args) {
        Dispatch::Run(applet, command, args) => {
            say::set_name(if applet.is_public() { applet.alias } else { "knockknock-daemon" });
            (run(applet, &command, args), applet_usage(applet, &command))
        }
        Dispatch::Help => (say::print(&help()).map(|()| 0), usage()),
        Dispatch::Version => (say::print(VERSION).map(|()| 0), usage()),
        Dispatch::Usage => {
            say::usage(&usage());
            return 2;
        }
        Dispatch::Unknown(name) => {
            say::error(&unknown(name));
            return NO_SUCH_APPLET;
        }
    };
    let error = match done {
        Ok(code) => return code,
        Err(error) => error,
    };
    say::error(&error);
    if error.exit_code() == 2 {
        say::usage(&usage);
    }
    error.exit_code()
}

fn dispatch<'a>(program: &'a Path, args: &'a [OsString]) -> Dispatch<'a> {
    let name = program.file_name().unwrap_or_default();
    match by_alias(name).or_else(|| through_links(program)) {
        Some(applet) if applet.name != "knock" => return Dispatch::Run(applet, applet.alias.into(), args),
        None if is_prefixed(name) => return Dispatch::Unknown(name),
        // Under any other name the binary acts as knockknock.
        _ => {}
    }
    let Some((first, rest)) = args.split_first() else { return Dispatch::Usage };
    match first.as_bytes() {
        b"--help" | b"-h" | b"help" => Dispatch::Help,
        b"--version" | b"-V" => Dispatch::Version,
        [b'-', ..] => by_alias("knockknock".as_ref())
            .map_or(Dispatch::Usage, |knock| Dispatch::Run(knock, knock.alias.into(), args)),
        _ => match APPLETS.iter().find(|applet| first == applet.name) {
            Some(applet) => Dispatch::Run(applet, format!("knockknock {}", applet.name), rest),
            None => Dispatch::Unknown(first),
        },
    }
}

fn by_alias(name: &OsStr) -> Option<&'static Applet> {
    APPLETS.iter().find(|applet| applet.is_public() && applet.alias == name)
}

/// Returns whether `name` is like an alias. A user who types such a name does not want to knock at it.
fn is_prefixed(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"knockknock-")
}

/// Returns the applet of the first alias in the chain of symbolic links that starts at `program`.
fn through_links(program: &Path) -> Option<&'static Applet> {
    let mut link = if program.as_os_str().as_bytes().contains(&b'/') {
        program.to_owned()
    } else {
        child::find(program.as_os_str(), process::variable("PATH")?, Path::is_file)?
    };
    // The kernel's own limit (MAXSYMLINKS in linux/namei.h).
    for _ in 0..40 {
        let target = std::fs::read_link(&link).ok()?;
        link = link.parent()?.join(target);
        if let Some(applet) = link.file_name().and_then(by_alias) {
            return Some(applet);
        }
    }
    None
}

fn run(applet: &Applet, command: &str, args: &[OsString]) -> Result<u8> {
    applet.privileges.enforce()?;
    let arguments = match applet.is_public() {
        true => Arguments::split(command.into(), applet.letters, args)?,
        false => Arguments::raw(args),
    };
    (applet.run)(&arguments)
}

fn unknown(name: &OsStr) -> Error {
    let host = name.to_str().filter(|_| !is_prefixed(name)).unwrap_or("HOST");
    let advice = format!("to knock: knockknock -p PORT {host}; to list the applets: knockknock --help");
    Error::refused(format!("unknown applet {}", quoted(name))).advise(advice)
}

fn usage() -> String {
    APPLETS.first().map_or_else(String::new, |knock| applet_usage(knock, knock.alias))
}

fn applet_usage(applet: &Applet, command: &str) -> String {
    format!("usage: {command} {} (see {command} --help)", applet.usage)
}

fn help() -> String {
    let mut text = String::from(
        "knockknock: one SYN opens one port for one connection\n\n\
         usage: knockknock -p PORT HOST\n       knockknock APPLET [ARGUMENT ...]\n       knockknock-APPLET [ARGUMENT ...]\n\nApplets:\n",
    );
    for applet in APPLETS.iter().filter(|applet| applet.is_public()) {
        text.push_str(&format!("  {:<12} {}\n", applet.name, applet.summary));
    }
    text.push_str("\nknockknock APPLET --help lists an applet's options; knockknock --version prints the version.\n");
    text
}
