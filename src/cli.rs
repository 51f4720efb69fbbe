//! The table of applets. Dispatch, usage and help all read it; this file alone names argh.

use crate::applet::daemon::LogTarget;
use crate::applet::{connect, daemon, genprofile, knock, proxy};
use crate::config::{self, DIRECTORY};
use crate::error::{Error, Result};
use crate::knocker::{self, Family};
use crate::say;
use crate::sys::privilege;
use crate::wire::Wire;
use argh::FromArgs;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// An unknown applet's exit code, as a shell's for an unknown command.
const NO_SUCH_APPLET: u8 = 127;

/// The privileges that an applet starts with; what it gives up later is its own affair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Starts {
    /// Without any capability.
    Bare,
    /// As it was started, set-uid root too: it needs a raw socket, and then becomes its caller.
    RawSocket,
    /// As root itself.
    Root,
}

impl Starts {
    /// Sees to it before an argument is parsed. A set-uid binary does for strangers nothing but knock.
    fn enforce(self) -> Result<()> {
        if self != Self::RawSocket && privilege::real_uid() != privilege::effective_uid() {
            return Err(Error::refused("a set-uid binary only knocks").advise("start it as root itself"));
        }
        match self {
            Self::Bare => privilege::keep_only(&[]).map_err(|cause| Error::system("give up capabilities", cause)),
            Self::RawSocket | Self::Root => Ok(()),
        }
    }
}

/// A program in the binary.
struct Applet {
    /// Its name behind `knockknock`.
    name: &'static str,
    /// Its name as a link to the binary.
    alias: &'static str,
    /// What it is for, in one line; empty for what people do not start.
    summary: &'static str,
    /// Its one-letter options as getopt(3) writes them, `:` behind those that take a value.
    letters: &'static str,
    starts: Starts,
    /// Parses the arguments and runs; the exit code.
    run: fn(&[&str]) -> Result<u8>,
}

/// All of them, in the order of the help.
const APPLETS: &[Applet] = &[
    Applet {
        name: "knock",
        alias: "knockknock",
        summary: "open a TCP port on a server for one connection",
        letters: "p:46",
        starts: Starts::RawSocket,
        run: run_knock,
    },
    Applet {
        name: "daemon",
        alias: "knockknock-daemon",
        summary: "open TCP ports to authenticated knocks",
        letters: "",
        starts: Starts::Root,
        run: run_daemon,
    },
    Applet {
        name: "genprofile",
        alias: "knockknock-genprofile",
        summary: "make a profile with new keys",
        letters: "",
        starts: Starts::Bare,
        run: run_genprofile,
    },
    Applet {
        name: "connect",
        alias: "knockknock-connect",
        summary: "knock, connect, and relay standard input and output",
        letters: "46",
        starts: Starts::RawSocket,
        run: run_connect,
    },
    Applet {
        name: "proxy",
        alias: "knockknock-proxy",
        summary: "SOCKS proxy that knocks before it connects",
        letters: "",
        starts: Starts::Root,
        run: run_proxy,
    },
    Applet { name: "watcher", alias: "", summary: "", letters: "", starts: Starts::Root, run: run_watcher },
    Applet { name: "opener", alias: "", summary: "", letters: "", starts: Starts::Root, run: run_opener },
];

/// Sends one SYN that opens a TCP port on a server for one connection. There must be a profile for the
/// host.
#[derive(FromArgs)]
struct KnockArgs {
    /// the TCP port to open
    #[argh(option, short = 'p')]
    port: String,
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option)]
    dir: Option<PathBuf>,
    /// classic or stealth (default: as in the profile's config)
    #[argh(option)]
    wire: Option<String>,
    /// use only IPv4 addresses of the host
    #[argh(switch, short = '4')]
    ipv4: bool,
    /// use only IPv6 addresses of the host
    #[argh(switch, short = '6')]
    ipv6: bool,
    /// the server, by the name of its profile
    #[argh(positional)]
    host: String,
}

/// Reads knocks in the kernel log, and has the firewall admit one connection for each.
#[derive(FromArgs)]
struct DaemonArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, default = "DIRECTORY.into()")]
    dir: PathBuf,
    /// run in the background and log to syslog
    #[argh(switch)]
    background: bool,
    /// check the configuration, print what the daemon would do, and exit
    #[argh(switch)]
    check: bool,
    /// remove the guard and all other rules of the daemon, and exit; stop the daemon first
    #[argh(switch)]
    unguard: bool,
}

/// Makes a profile with new keys. Copy its directory to the client.
#[derive(FromArgs)]
struct GenprofileArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, default = "DIRECTORY.into()")]
    dir: PathBuf,
    /// the only ports that the profile may open, such as 22,443 (default: those in guard, or any port)
    #[argh(option)]
    ports: Option<String>,
    /// stealth, or classic for a client of knockknock 0.8 (default: stealth)
    #[argh(option, default = "\"stealth\".into()")]
    wire: String,
    /// the name of the profile
    #[argh(positional)]
    name: String,
    /// the port to which it knocks; no two profiles can have the same one
    #[argh(positional)]
    knockport: String,
}

/// Knocks, connects, and relays standard input and output. Connects without a knock if there is no
/// profile for the host. In ~/.ssh/config: ProxyCommand knockknock connect %h %p
#[derive(FromArgs)]
struct ConnectArgs {
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option)]
    dir: Option<PathBuf>,
    /// use only IPv4 addresses of the host
    #[argh(switch, short = '4')]
    ipv4: bool,
    /// use only IPv6 addresses of the host
    #[argh(switch, short = '6')]
    ipv6: bool,
    /// the server, by the name of its profile
    #[argh(positional)]
    host: String,
    /// the port to open and to connect to
    #[argh(positional)]
    port: String,
}

/// SOCKS proxy (4, 4a and 5) that knocks before it connects to a host with a profile, and connects to
/// other hosts without a knock.
#[derive(FromArgs)]
struct ProxyArgs {
    /// the address to listen on (default: 127.0.0.1)
    #[argh(option, default = "\"127.0.0.1\".into()")]
    listen: String,
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option)]
    dir: Option<PathBuf>,
    /// the user to become (default: the user who called sudo)
    #[argh(option)]
    user: Option<String>,
    /// serve other machines too, and connect to hosts with a profile only
    #[argh(switch)]
    allow_remote: bool,
    /// run in the background and log to syslog
    #[argh(switch)]
    background: bool,
    /// the port to listen on
    #[argh(positional)]
    listenport: String,
}

/// What [`parse`] found.
enum Parsed<T> {
    /// Arguments to run with.
    Args(T),
    /// Help was asked for and given.
    Helped,
}

/// Runs what `argv` asks for and returns the exit code.
pub fn main(argv: Vec<OsString>) -> u8 {
    let (program, args) = match argv.split_first() {
        Some((program, args)) => (PathBuf::from(program), args),
        None => (PathBuf::from("knockknock"), &[][..]),
    };
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&program, &args) {
        Dispatch::Run(applet, args) => run(applet, args),
        Dispatch::Help => {
            say::answer(&help());
            0
        }
        Dispatch::Version => {
            say::answer(&version());
            0
        }
        Dispatch::Usage => {
            say::error(&Error::Usage("what is to be done? knockknock --help lists it".into()));
            2
        }
        Dispatch::Unknown(name) => {
            let error = Error::refused(format!("there is no applet {name:?}"));
            // Under a name of its own the binary has no host.
            let name = if name.starts_with("knockknock-") { "HOST" } else { &name };
            let advice = format!("to knock: knockknock -p PORT {name}; knockknock --help lists the applets");
            say::error(&error.advise(advice));
            NO_SUCH_APPLET
        }
    }
}

/// What a command line asks for.
enum Dispatch<'a> {
    Run(&'static Applet, &'a [&'a str]),
    Help,
    Version,
    Usage,
    Unknown(String),
}

fn dispatch<'a>(program: &Path, args: &'a [&'a str]) -> Dispatch<'a> {
    let name = file_name(program);
    let by_alias = |name: &str| APPLETS.iter().find(|applet| applet.alias == name && !applet.alias.is_empty());
    let applet = by_alias(&name).or_else(|| through_links(program).and_then(|name| by_alias(&name)));
    match applet {
        Some(applet) if applet.name != "knock" => return Dispatch::Run(applet, args),
        None if name.starts_with("knockknock-") => return Dispatch::Unknown(name),
        // Under any other name it is knockknock.
        _ => {}
    }
    match args {
        [] => Dispatch::Usage,
        ["--help" | "-h" | "help"] => Dispatch::Help,
        ["--version" | "-V"] => Dispatch::Version,
        [first, ..] if first.starts_with('-') => {
            by_alias("knockknock").map_or(Dispatch::Usage, |knock| Dispatch::Run(knock, args))
        }
        [first, rest @ ..] => match APPLETS.iter().find(|applet| applet.name == *first) {
            Some(applet) => Dispatch::Run(applet, rest),
            None => Dispatch::Unknown((*first).to_owned()),
        },
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The first name of an applet on the chain of links that `program` starts.
fn through_links(program: &Path) -> Option<String> {
    let mut link = if program.components().count() > 1 {
        program.to_owned()
    } else {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())?
    };
    for _ in 0..40 {
        let target = std::fs::read_link(&link).ok()?;
        link = link.parent()?.join(target);
        let name = file_name(&link);
        if APPLETS.iter().any(|applet| applet.alias == name) {
            return Some(name);
        }
    }
    None
}

fn run(applet: &'static Applet, args: &[&str]) -> u8 {
    say::set_name(if applet.alias.is_empty() { "knockknock-daemon" } else { applet.alias });
    let done = applet.starts.enforce().and_then(|()| {
        let args = split(applet.letters, args);
        (applet.run)(&args.iter().map(String::as_str).collect::<Vec<_>>())
    });
    match done {
        Ok(code) => code,
        Err(error) => {
            say::error(&error);
            error.exit_code()
        }
    }
}

/// Splits what getopt_long(3) takes in one word and argh does not: `-p22`, `-4p22`, `--port=22`;
/// `-h` is `--help`.
fn split(letters: &str, args: &[&str]) -> Vec<String> {
    let mut words = Vec::new();
    let mut args = args.iter();
    for arg in args.by_ref() {
        if *arg == "--" {
            words.push("--".into());
            break;
        }
        if let Some((name, value)) = arg.strip_prefix("--").and_then(|long| long.split_once('=')) {
            words.extend([format!("--{name}"), value.into()]);
        } else if let Some(bundle) =
            arg.strip_prefix('-').filter(|bundle| !bundle.is_empty() && !bundle.starts_with('-'))
        {
            unbundle(letters, bundle, &mut words);
        } else {
            words.push((*arg).into());
        }
    }
    words.extend(args.map(|arg| (*arg).into()));
    words
}

fn unbundle(letters: &str, bundle: &str, words: &mut Vec<String>) {
    let mut rest = bundle.chars();
    while let Some(letter) = rest.next() {
        match letters.split_once(letter) {
            None if letter == 'h' => words.push("--help".into()),
            Some((_, behind)) if behind.starts_with(':') => {
                words.push(format!("-{letter}"));
                if !rest.as_str().is_empty() {
                    words.push(rest.as_str().into());
                }
                return;
            }
            // What is unknown is argh's to refuse.
            _ => words.push(format!("-{letter}")),
        }
    }
}

fn parse<T: FromArgs>(command: &str, args: &[&str]) -> Result<Parsed<T>> {
    match T::from_args(&[command], args) {
        Ok(args) => Ok(Parsed::Args(args)),
        Err(exit) if exit.status.is_ok() => {
            say::answer(&exit.output);
            Ok(Parsed::Helped)
        }
        Err(exit) => {
            let why: Vec<&str> = exit.output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            Err(Error::Usage(format!("{} ({command} --help tells more)", why.join(" "))))
        }
    }
}

/// Parses into `$kind` and runs `$body` with it.
macro_rules! applet {
    ($command:literal, $kind:ty, $args:expr, |$parsed:ident| $body:expr) => {
        match parse::<$kind>($command, $args)? {
            Parsed::Helped => Ok(0),
            Parsed::Args($parsed) => $body,
        }
    };
}

fn run_knock(args: &[&str]) -> Result<u8> {
    applet!("knockknock", KnockArgs, args, |knock| {
        let port = config::typed_port(&knock.port)?;
        let directory = knock.dir.unwrap_or_else(knocker::directory);
        let wire = knock.wire.as_deref().map(typed_wire).transpose()?;
        knock::run(&directory, &knock.host, port, family(knock.ipv4, knock.ipv6)?, wire).map(|()| 0)
    })
}

fn run_daemon(args: &[&str]) -> Result<u8> {
    applet!("knockknock-daemon", DaemonArgs, args, |options| {
        match (options.check, options.unguard, options.background) {
            (true, false, false) => daemon::check(&options.dir)?,
            (false, true, false) => daemon::unguard(&options.dir)?,
            (false, false, background) => daemon::supervisor(&options.dir, background)?,
            _ => return Err(Error::Usage("--check, --unguard and --background exclude each other".into())),
        }
        Ok(0)
    })
}

fn run_genprofile(args: &[&str]) -> Result<u8> {
    applet!("knockknock-genprofile", GenprofileArgs, args, |new| {
        let wire = typed_wire(&new.wire)?;
        genprofile::run(&new.dir, &new.name, &new.knockport, new.ports.as_deref(), wire).map(|()| 0)
    })
}

fn run_connect(args: &[&str]) -> Result<u8> {
    applet!("knockknock connect", ConnectArgs, args, |to| {
        let port = config::typed_port(&to.port)?;
        let directory = to.dir.unwrap_or_else(knocker::directory);
        connect::run(&directory, &to.host, port, family(to.ipv4, to.ipv6)?).map(|()| 0)
    })
}

fn run_proxy(args: &[&str]) -> Result<u8> {
    applet!("knockknock-proxy", ProxyArgs, args, |wanted| {
        let (port, address) = (config::typed_port(&wanted.listenport)?, proxy::typed_address(&wanted.listen)?);
        let ProxyArgs { dir: directory, user, allow_remote, background, .. } = wanted;
        let listen = (address, port).into();
        proxy::run(proxy::ProxyOptions { listen, directory, user, allow_remote, background }).map(|()| 0)
    })
}

fn run_watcher(args: &[&str]) -> Result<u8> {
    by_supervisor(args, |supervisor, log_target, directory| {
        daemon::watcher(supervisor, log_target, Path::new(directory))
    })
}

fn run_opener(args: &[&str]) -> Result<u8> {
    by_supervisor(args, daemon::opener)
}

/// Runs what the supervisor alone starts: its process id, where lines go, and one thing more.
fn by_supervisor(args: &[&str], run: impl FnOnce(u32, LogTarget, &str) -> Result<u8>) -> Result<u8> {
    if let [supervisor, log_target, last] = *args {
        if let (Ok(supervisor), Some(log_target)) = (supervisor.parse(), LogTarget::named(log_target)) {
            return run(supervisor, log_target, last);
        }
    }
    Err(Error::Usage("the daemon's supervisor starts this".into()))
}

fn typed_wire(name: &str) -> Result<Wire> {
    Wire::named(name).ok_or_else(|| Error::Usage(format!("{name:?} is no wire: classic or stealth")))
}

fn family(v4: bool, v6: bool) -> Result<Family> {
    match (v4, v6) {
        (false, false) => Ok(Family::Any),
        (true, false) => Ok(Family::V4),
        (false, true) => Ok(Family::V6),
        (true, true) => Err(Error::Usage("-4 and -6 exclude each other".into())),
    }
}

fn help() -> String {
    let mut text = String::from(
        "knockknock: one SYN opens one port for one connection\n\n\
         Usage: knockknock -p PORT HOST\n       knockknock APPLET [ARGUMENT ...]\n       knockknock-APPLET [ARGUMENT ...]\n\nApplets:\n",
    );
    for applet in APPLETS.iter().filter(|applet| !applet.summary.is_empty()) {
        text.push_str(&format!("  {:<12} {}\n", applet.name, applet.summary));
    }
    text.push_str("\nknockknock APPLET --help lists an applet's options; knockknock --version prints the version.\n");
    text
}

fn version() -> String {
    format!("knockknock {} ({}, {})\n", env!("CARGO_PKG_VERSION"), env!("KNOCKKNOCK_COMMIT"), env!("KNOCKKNOCK_TARGET"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_getopt_does() {
        let cases: &[(&[&str], &[&str])] = &[
            (&["-p22", "host"], &["-p", "22", "host"]),
            (&["--port=22", "host"], &["--port", "22", "host"]),
            (&["-4p22", "host"], &["-4", "-p", "22", "host"]),
            (&["-p", "22", "-h"], &["-p", "22", "--help"]),
            (&["-p", "22", "--", "-host"], &["-p", "22", "--", "-host"]),
            (&["-"], &["-"]),
            (&["-x"], &["-x"]),
        ];
        for (given, wanted) in cases {
            assert_eq!(split("p:46", given), *wanted);
        }
    }

    #[test]
    fn names_and_aliases_are_unique() {
        for (i, one) in APPLETS.iter().enumerate() {
            for other in APPLETS.iter().skip(i + 1) {
                assert_ne!(one.name, other.name);
                assert!(one.alias != other.alias || one.alias.is_empty());
            }
        }
    }
}
