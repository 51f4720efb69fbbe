//! Starts each applet: turns its arguments into values and calls it.

use super::arguments::{Arguments, text};
use crate::applet::daemon::LogTarget;
use crate::applet::{connect, daemon, genprofile, knock, proxy};
use crate::config::DIRECTORY;
use crate::error::{Error, Result};
use crate::knocker::Family;
use crate::ports::{self, Ports};
use crate::profile::ProfileHome;
use crate::wire::Wire;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub fn knock(args: &Arguments) -> Result<u8> {
    let options = knock::KnockOptions {
        port: port(args.text_of("--port")?.unwrap_or_default())?,
        family: family(args)?,
        wire: args.text_of("--wire")?.map(wire).transpose()?,
        wait: args.has("--wait"),
        verbose: args.has("--verbose"),
    };
    knock::run(&client_home(args)?, args.operand(0)?, &options).map(|()| 0)
}

pub fn daemon(args: &Arguments) -> Result<u8> {
    let directory = server_directory(args);
    match (args.has("--check"), args.has("--unguard"), args.has("--background")) {
        (true, false, false) => daemon::check(directory)?,
        (false, true, false) => daemon::unguard(directory)?,
        (false, false, background) => daemon::supervisor(directory, background)?,
        _ => return Err(Error::Usage("--check, --unguard and --background exclude each other".into())),
    }
    Ok(0)
}

pub fn genprofile(args: &Arguments) -> Result<u8> {
    let (name, knock_port) = (args.operand(0)?, args.operand(1)?);
    if ports::port(name).is_some() && ports::port(knock_port).is_none() {
        return Err(Error::Usage(format!("the name comes first, then the knock port: {knock_port} {name}")));
    }
    let allowed = args.text_of("--ports")?.map(|list| {
        let ports = Ports::parse(list).map_err(|word| Error::Usage(not_a_port(&word)))?;
        if ports.is_empty() { Err(Error::Usage("--ports lists no port".into())) } else { Ok(ports) }
    });
    let wire = args.text_of("--wire")?.map_or(Ok(Wire::Stealth), wire)?;
    genprofile::run(server_directory(args), name, port(knock_port)?, allowed.transpose()?, wire).map(|()| 0)
}

pub fn connect(args: &Arguments) -> Result<u8> {
    let (host, port) = (args.operand(0)?, port(args.operand(1)?)?);
    connect::run(&client_home(args)?, host, port, family(args)?).map(|()| 0)
}

pub fn proxy(args: &Arguments) -> Result<u8> {
    let port = port(args.operand(0)?)?;
    let address = args.text_of("--listen")?.unwrap_or("127.0.0.1");
    let address: IpAddr = address.parse().map_err(|_| Error::Usage(format!("{address:?} is not an IP address")))?;
    proxy::run(proxy::ProxyOptions {
        listen: (address, port).into(),
        directory: args.value("--dir").map(PathBuf::from),
        user: args.text_of("--user")?.map(str::to_owned),
        allow_remote: args.has("--allow-remote"),
        background: args.has("--background"),
    })
    .map(|()| 0)
}

pub fn watcher(args: &Arguments) -> Result<u8> {
    by_supervisor(args, |supervisor, log_target, directory| daemon::watcher(supervisor, log_target, directory.as_ref()))
}

pub fn opener(args: &Arguments) -> Result<u8> {
    by_supervisor(args, |supervisor, log_target, backend| daemon::opener(supervisor, log_target, text(backend)?))
}

/// Runs a child of the supervisor. Its arguments are the supervisor's process id, where log lines go, and
/// one more.
fn by_supervisor(args: &Arguments, run: impl FnOnce(u32, LogTarget, &OsString) -> Result<u8>) -> Result<u8> {
    if let [supervisor, log_target, last] = args.operands() {
        if let (Ok(supervisor), Some(log_target)) = (text(supervisor)?.parse(), LogTarget::named(text(log_target)?)) {
            return run(supervisor, log_target, last);
        }
    }
    Err(Error::refused("only the daemon's supervisor starts this applet"))
}

fn client_home(args: &Arguments) -> Result<ProfileHome> {
    ProfileHome::of_caller(args.value("--dir").map(Path::new))
}

fn server_directory(args: &Arguments) -> &Path {
    Path::new(args.value("--dir").unwrap_or(DIRECTORY.as_ref()))
}

fn port(typed: &str) -> Result<u16> {
    ports::port(typed).ok_or_else(|| Error::Usage(not_a_port(typed)))
}

fn not_a_port(typed: &str) -> String {
    format!("{typed:?} is not a port from 1 to 65535")
}

fn wire(name: &str) -> Result<Wire> {
    Wire::named(name).ok_or_else(|| Error::Usage(format!("{name:?} is not a wire: use classic or stealth")))
}

fn family(args: &Arguments) -> Result<Family> {
    match (args.has("--ipv4"), args.has("--ipv6")) {
        (false, false) => Ok(Family::Any),
        (true, false) => Ok(Family::V4),
        (false, true) => Ok(Family::V6),
        (true, true) => Err(Error::Usage("-4 and -6 exclude each other".into())),
    }
}
