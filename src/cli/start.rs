//! Starts each applet: parses its arguments with argh and calls it. Only this file names argh.

use super::arguments::Arguments;
use super::values::{address, duration, family, link_count, port, port_list, prefix, wire};
use crate::applet::{accept, connect, daemon, doctor, genprofile, invite, knock, links, proxy, revoke, status};
use crate::config::DIRECTORY;
use crate::error::{Error, Result, lower_first, quoted};
use crate::knocker::Family;
use crate::ports::{self, Ports};
use crate::profile::{ProfileHome, Wanted};
use crate::say;
use crate::search;
use crate::wire::Wire;
use argh::{EarlyExit, FromArgs};
use std::net::IpAddr;
use std::path::Path;

/// Sends one SYN that opens a TCP port on a server for one connection. There must be a profile for the
/// host.
#[derive(FromArgs)]
struct KnockArgs {
    /// the TCP port to open
    #[argh(option, short = 'p', from_str_fn(port))]
    port: u16,
    /// use only IPv4 addresses of the host
    #[argh(switch, short = '4')]
    ipv4: bool,
    /// use only IPv6 addresses of the host
    #[argh(switch, short = '6')]
    ipv6: bool,
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// return when the port has answered a test connection, after a second knock
    #[argh(switch)]
    wait: bool,
    /// print what was sent
    #[argh(switch, short = 'v')]
    verbose: bool,
    /// the server, by the name of its profile
    #[argh(positional)]
    host: String,
}

/// Reads knocks in the kernel log, and opens a TCP port for each, for one connection.
#[derive(FromArgs)]
struct DaemonArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// run in the background and log to syslog
    #[argh(switch)]
    background: bool,
    /// check the configuration, print what the daemon would do, and exit
    #[argh(switch)]
    check: bool,
    /// lift the guard after this time, such as 10m, unless a knock has opened a port
    #[argh(option)]
    trial: Option<String>,
    /// remove the guard and all other rules of the daemon, and exit; stop the daemon first
    #[argh(switch)]
    unguard: bool,
}

/// Creates a profile with new keys. Copy its directory to the client.
#[derive(FromArgs)]
struct GenprofileArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the only ports that the profile may open, such as 22,443 (default: those in guard, or any port)
    #[argh(option, from_str_fn(port_list))]
    ports: Option<Ports>,
    /// make links with this IPv6 prefix, such as 2001:db8:0:ff::/64, instead of knocks
    #[argh(option)]
    links: Option<String>,
    /// stealth, or classic for a client of knockknock 0.8 (default: stealth if the ports are known)
    #[argh(option, from_str_fn(wire))]
    wire: Option<Wire>,
    /// the name of the profile
    #[argh(positional)]
    name: String,
    /// the knock port (default: that of the other profiles, or a free one)
    #[argh(positional)]
    knockport: Option<String>,
}

/// Prints an invitation, a line from which knockknock accept creates the client's profile. Creates the profile on the
/// server if it does not exist.
#[derive(FromArgs)]
struct InviteArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the only ports that a new profile may open, such as 22,443 (default: those in guard, or any port)
    #[argh(option, from_str_fn(port_list))]
    ports: Option<Ports>,
    /// invite with a profile that was handed out or used before
    #[argh(switch)]
    again: bool,
    /// the name of the profile
    #[argh(positional)]
    name: String,
    /// this server, by the name that the client types for it
    #[argh(positional)]
    host: String,
}

/// Creates a profile from the line that knockknock invite printed on the server. Reads the line from standard input.
#[derive(FromArgs)]
struct AcceptArgs {
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the name to type for the server (default: the name in the line)
    #[argh(option, long = "as")]
    host: Option<String>,
}

/// Gives a profile on the server new keys, and prints a line for knockknock accept. The old keys work until the first
/// knock with the new ones.
#[derive(FromArgs)]
struct RotateArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the name of the profile
    #[argh(positional)]
    name: String,
    /// this server, by the name that the client types for it
    #[argh(positional)]
    host: String,
}

/// Revokes a profile on the server and deletes it. A running daemon accepts none of its knocks any more.
#[derive(FromArgs)]
struct RevokeArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the name of the profile
    #[argh(positional)]
    name: String,
}

/// Knocks, connects, and relays standard input and output. Connects without a knock if there is no
/// profile for the host. In ~/.ssh/config: ProxyCommand knockknock connect %h %p
#[derive(FromArgs)]
struct ConnectArgs {
    /// use only IPv4 addresses of the host
    #[argh(switch, short = '4')]
    ipv4: bool,
    /// use only IPv6 addresses of the host
    #[argh(switch, short = '6')]
    ipv6: bool,
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the server, by the name of its profile
    #[argh(positional)]
    host: String,
    /// the port to open and to connect to
    #[argh(positional, from_str_fn(port))]
    port: u16,
}

/// Finds out why a knock does not work. With a host it checks this client, and knocks; without one it checks the daemon
/// on this machine, as root.
#[derive(FromArgs)]
struct DoctorArgs {
    /// the TCP port to open (default: 22, or the first that the profile lists)
    #[argh(option, short = 'p', from_str_fn(port))]
    port: Option<u16>,
    /// use only IPv4 addresses of the host
    #[argh(switch, short = '4')]
    ipv4: bool,
    /// use only IPv6 addresses of the host
    #[argh(switch, short = '6')]
    ipv6: bool,
    /// directory of the profiles (default: ~/.knockknock, or /etc/knockknock.d without a host)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// print JSON, one object a line
    #[argh(switch)]
    json: bool,
    /// the server, by the name of its profile
    #[argh(positional)]
    host: Option<String>,
}

/// SOCKS proxy (4, 4a and 5) that knocks before it connects to a host with a profile, and connects to
/// other hosts without a knock.
#[derive(FromArgs)]
struct ProxyArgs {
    /// the address to listen on (default: 127.0.0.1)
    #[argh(option, default = "IpAddr::from([127, 0, 0, 1])", from_str_fn(address))]
    listen: IpAddr,
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the user to run as (default: the user who called sudo)
    #[argh(option)]
    user: Option<String>,
    /// serve other machines too, and connect to hosts with a profile only
    #[argh(switch)]
    allow_remote: bool,
    /// run in the background and log to syslog
    #[argh(switch)]
    background: bool,
    /// the port to listen on
    #[argh(positional, from_str_fn(port))]
    listenport: u16,
}

/// Prints the state of the daemon, for root on a server; otherwise the caller's profiles.
#[derive(FromArgs)]
struct StatusArgs {
    /// directory of the config and the profiles (default: /etc/knockknock.d), or of a client's profiles
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// print JSON
    #[argh(switch)]
    json: bool,
    /// repeat every second
    #[argh(switch)]
    watch: bool,
}

/// Prints one-time links to a server, with a profile for links. A connection to a link from any device, such as by a
/// browser, opens the port for one connection.
#[derive(FromArgs)]
struct LinksArgs {
    /// the TCP port to open
    #[argh(option, short = 'p', from_str_fn(port))]
    port: u16,
    /// how many links to print, up to 1000 (default: 20)
    #[argh(option, short = 'n')]
    number: Option<String>,
    /// the port in the links (default: none, which is 80)
    #[argh(option)]
    link_port: Option<String>,
    /// directory of the profiles (default: ~/.knockknock)
    #[argh(option, long = "dir")]
    _dir: Option<Directory>,
    /// the server, by the name of its profile
    #[argh(positional)]
    host: String,
}

/// Marks that `--dir` was given. Its value is in [`Arguments::directory`], since a path need not be UTF-8.
struct Directory;

impl argh::FromArgValue for Directory {
    fn from_arg_value(_: &str) -> std::result::Result<Self, String> {
        Ok(Self)
    }
}

/// Parses `arguments` into `T` and calls `start`, or prints the requested help.
fn parsed<T: FromArgs>(arguments: &Arguments<'_>, start: impl FnOnce(T) -> Result<u8>) -> Result<u8> {
    match T::from_args(&[&arguments.command], &arguments.words) {
        Ok(args) => start(args),
        Err(exit) => not_started(exit),
    }
}

/// Prints the help that was requested, or returns an error for a wrong command line.
fn not_started(EarlyExit { mut output, status }: EarlyExit) -> Result<u8> {
    if status.is_ok() {
        lower_first(&mut output);
        return say::print(&output).map(|()| 0);
    }
    Err(Error::usage(message(&output)))
}

/// Converts argh's message to our format: one line that starts in lower case.
fn message(output: &str) -> String {
    // argh puts each missing argument on a line of its own, indented.
    let mut text = search::replace(&search::replace(output.trim_ascii(), "\n    ", "\n"), "\n", " ");
    if let Some(word) = text.strip_prefix("Unrecognized argument: ") {
        let kind = if word.starts_with('-') { "unknown option" } else { "unexpected argument" };
        return format!("{kind} {}", quoted(word));
    }
    lower_first(&mut text);
    text
}

pub fn knock(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: KnockArgs| {
        let family = family(args.ipv4, args.ipv6)?;
        let options = knock::KnockOptions { port: args.port, family, wait: args.wait, verbose: args.verbose };
        at_home(arguments, &|home| knock::run(home, &args.host, &options).map(|()| 0))
    })
}

pub fn daemon(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: DaemonArgs| {
        let directory = server_directory(arguments);
        let trial = args.trial.map(|typed| duration(&typed)).transpose()?;
        match (args.check, args.unguard, args.background || trial.is_some()) {
            (true, false, false) => daemon::check(directory)?,
            (false, true, false) => daemon::unguard(directory)?,
            (false, false, _) => daemon::supervisor(directory, args.background, trial)?,
            _ => return Err(Error::usage("--check and --unguard exclude other options")),
        }
        Ok(0)
    })
}

pub fn genprofile(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: GenprofileArgs| {
        let (name, typed) = (&args.name, args.knockport.as_deref());
        if let Some(typed) = typed.filter(|typed| ports::port(name).is_some() && ports::port(typed).is_none()) {
            return Err(Error::usage(format!("the name comes first, then the knock port: {typed} {name}")));
        }
        let knock_port = typed.map(port).transpose().map_err(Error::usage)?;
        let links = args.links.as_deref().map(prefix).transpose()?;
        let wanted = Wanted { knock_port, ports: args.ports, links, wire: args.wire };
        genprofile::run(server_directory(arguments), name, wanted).map(|()| 0)
    })
}

pub fn invite(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: InviteArgs| {
        let directory = server_directory(arguments);
        invite::run(directory, &args.name, &args.host, args.ports, args.again).map(|()| 0)
    })
}

pub fn accept(arguments: &Arguments<'_>) -> Result<u8> {
    // Not named in the error: it may be the line with the keys.
    if !arguments.operands.is_empty() {
        return Err(Error::usage("the line is read from standard input, not from the command line"));
    }
    parsed(arguments, |args: AcceptArgs| {
        at_home(arguments, &|home| accept::run(home, args.host.as_deref()).map(|()| 0))
    })
}

pub fn rotate(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: RotateArgs| {
        invite::rotate(server_directory(arguments), &args.name, &args.host).map(|()| 0)
    })
}

pub fn revoke(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: RevokeArgs| revoke::run(server_directory(arguments), &args.name).map(|()| 0))
}

pub fn connect(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: ConnectArgs| {
        let family = family(args.ipv4, args.ipv6)?;
        at_home(arguments, &|home| connect::run(home, &args.host, args.port, family).map(|()| 0))
    })
}

pub fn doctor(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: DoctorArgs| {
        let family = family(args.ipv4, args.ipv6)?;
        let Some(host) = args.host else {
            if args.port.is_some() || family != Family::Any {
                return Err(Error::usage("-p, -4 and -6 need a host"));
            }
            return daemon::doctor(server_directory(arguments), args.json);
        };
        let options = doctor::DoctorOptions { port: args.port, family, json: args.json };
        at_home(arguments, &|home| doctor::run(home, &host, &options))
    })
}

pub fn proxy(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: ProxyArgs| {
        proxy::run(&proxy::ProxyOptions {
            listen: (args.listen, args.listenport).into(),
            directory: arguments.directory,
            user: args.user.as_deref(),
            allow_remote: args.allow_remote,
            background: args.background,
        })
        .map(|()| 0)
    })
}

pub fn status(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: StatusArgs| {
        let options = status::StatusOptions { json: args.json, watch: args.watch };
        arguments.directory.map_or(Ok(()), status::check)?;
        let directory = server_directory(arguments);
        if status::is_server(directory) {
            status::server(directory, &options).map(|()| 0)
        } else {
            at_home(arguments, &|home| status::client(home, &options).map(|()| 0))
        }
    })
}

pub fn links(arguments: &Arguments<'_>) -> Result<u8> {
    parsed(arguments, |args: LinksArgs| {
        let number = args.number.as_deref().map_or(Ok(20), link_count)?;
        let link_port = args.link_port.as_deref().map(port).transpose().map_err(Error::usage)?;
        at_home(arguments, &|home| links::run(home, &args.host, args.port, number, link_port).map(|()| 0))
    })
}

/// Runs a client's applet with the caller's profiles.
fn at_home(arguments: &Arguments<'_>, run: &dyn Fn(&ProfileHome) -> Result<u8>) -> Result<u8> {
    run(&*ProfileHome::for_caller(arguments.directory)?)
}

fn server_directory<'a>(arguments: &Arguments<'a>) -> &'a Path {
    arguments.directory.unwrap_or(Path::new(DIRECTORY))
}
