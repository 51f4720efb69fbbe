//! The proof at the end of doctor: a knock on this machine opens a port.
//!
//! This process moves into new namespaces and starts a second daemon there, with the firewall, the log and the users of
//! the configuration, and a profile of its own. A veth pair leads to another namespace, from which our own client
//! knocks. Both namespaces are anonymous, so the kernel deletes them with this process, however it ends.

use super::setup::Setup;
use super::supervisor;
use crate::config::Log;
use crate::diagnosis::Diagnosis;
use crate::error::{Error, Result, quoted};
use crate::klog;
use crate::knocker::Knocker;
use crate::profile::{self, Found, Profile, ProfileConfig};
use crate::search;
use crate::status;
use crate::sys::child::{self, Child};
use crate::sys::{file, links, namespace, poll, privilege, sysctl, tcp};
use crate::wire::Wire;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The addresses of the server, of the client, and of another client (RFC 5737).
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

/// How long the daemon may take to start, and to react to a knock or a connection.
const START: Duration = Duration::from_secs(10);
const REACTION: Duration = Duration::from_secs(3);
/// How long to wait for a connection that must not enter.
const REFUSED: Duration = Duration::from_millis(100);

/// Runs the proof. It moves this process into other namespaces.
pub(super) fn run(diagnosis: &mut Diagnosis, setup: &Setup) {
    match Stage::set_up(setup) {
        Err(error) => diagnosis.note("proof", format_args!("not tried: {error}")),
        Ok(mut stage) => {
            let proved = stage.prove().map_err(|error| match error.advice() {
                Some(_) => error,
                None => error.advise("try the other firewall: set firewall = nft or firewall = iptables in the config"),
            });
            stage.daemon.kill();
            if diagnosis.value("proof", proved).is_some() {
                let Stage { port, log, .. } = &*stage;
                diagnosis.ok(
                    "proof",
                    format_args!(
                        "a knock opens port {port} for its own address only, and one connection enters (in a network \
                         namespace, with {log})"
                    ),
                );
            }
            if !setup.rules.links.is_empty() {
                let what = "no link was tried: only one that is opened elsewhere shows that routers send it here";
                diagnosis.note("proof", format_args!("{what}"));
            }
        }
    }
}

/// The daemon of the proof and a listener in the server's namespace. This process is in the client's.
struct Stage {
    daemon: Child,
    /// The stream of the daemon's log lines, and what has been read from it.
    output: UnixStream,
    lines: String,
    /// The log that the daemon reads.
    log: String,
    /// The port to open, and the program that listens on it.
    port: u16,
    listener: TcpListener,
    /// The client's profile.
    found: Found,
}

impl Stage {
    /// Makes the namespaces and starts the daemon. An error means that the proof is impossible here.
    fn set_up(setup: &Setup) -> Result<Box<Self>> {
        let port = setup.rules.guard.iter().next().unwrap_or(22);
        // All namespaces may share the kernel's log, and the running daemon must not take these knocks for its own.
        let free = |other: &u16| *other != port && !setup.rules.knock_ports.contains(*other);
        let knock_port = (1025..=u16::MAX).find(free).unwrap_or(1);
        let log = log(&setup.config.log);
        let text = config_text(setup, &log, port);
        let name = setup.config.interfaces.first().map_or("eth0", String::as_str);
        let failed = |cause| Error::system("use network namespaces and veth devices", cause);
        let (directory, client, listener) = build(name, port, &text).map_err(failed)?;
        let name = SERVER.to_string();
        let config =
            ProfileConfig { knock_port, ports: Some([port].into_iter().collect()), wire: Wire::Stealth, legacy: false };
        let path = profile::create(&directory.join("profiles"), &name, &config)?;
        let (daemon, output) = start(&directory, &client).map_err(failed)?;
        let (found, log) = (Found { name, path }, klog::describe(&log));
        Ok(Box::new(Self { daemon, output, lines: String::new(), log, port, listener, found }))
    }

    /// Knocks, and tries to connect before and after it.
    fn prove(&mut self) -> Result<()> {
        if !self.logs(": ready", START) {
            let advice = "correct this: the daemon on this machine may fail at its next start";
            return Err(self.failure("a daemon in a namespace of its own does not start").advise(advice));
        }
        // The lines until here do not explain a later failure.
        self.lines.clear();
        self.refuses(CLIENT, "without a knock")?;
        let mut profile = Profile::load(&self.found)?;
        let source = SocketAddr::from((CLIENT, 0));
        Knocker::open_as_is()?.knock(&mut profile, self.port, (SERVER, self.port).into(), Some(source))?;
        if !self.logs("opened port", REACTION) {
            let log = &self.log;
            let advice = format!("if it logged nothing, the knock is missing in {log}: check that it is written");
            return Err(self.failure("a knock opens nothing").advise(advice));
        }
        self.refuses(STRANGER, "from an address that has not knocked")?;
        if !self.enters(CLIENT, REACTION)? {
            return Err(self.failure("a knock opens the port, but no connection enters"));
        }
        self.refuses(CLIENT, "with an opening that another connection has used up")
    }

    /// Waits until the daemon has logged `words`. Returns `false` if it exits or does not log them in time.
    fn logs(&mut self, words: &str, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        while !search::contains(self.lines.as_bytes(), words.as_bytes()) {
            let left = until.saturating_duration_since(Instant::now());
            let mut buffer = [0; 1024];
            if !poll::readable([self.output.as_fd()], Some(left)).is_ok_and(|[ready]| ready) {
                return false;
            }
            let length = self.output.read(&mut buffer).unwrap_or(0);
            self.lines += &String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            if length == 0 {
                return false;
            }
        }
        true
    }

    /// Returns an error that says what went wrong and what the daemon has logged.
    fn failure(&self, what: &str) -> Error {
        let log = search::replace(self.lines.trim_ascii_end(), "knockknock-daemon: ", "");
        let log = search::replace(&log, "\n", "; ");
        Error::refused(format!("{what}; its log: {}", quoted(&log)))
    }

    /// Returns an error if a connection from `source` reaches the listener.
    fn refuses(&self, source: Ipv4Addr, how: &str) -> Result<()> {
        match self.enters(source, REFUSED)? {
            true => Err(Error::refused(format!("port {} accepts a connection {how}", self.port))),
            false => Ok(()),
        }
    }

    /// Returns whether a connection from `source` reaches the listener.
    fn enters(&self, source: Ipv4Addr, patience: Duration) -> Result<bool> {
        let failed = |cause| Error::system("connect in a network namespace", cause);
        let stream = tcp::connect((SERVER, self.port).into(), Some((source, 0).into())).map_err(failed)?;
        tcp::complete(&stream).and_then(|()| tcp::reset(&stream)).map_err(failed)?;
        let [ready] = poll::readable([self.listener.as_fd()], Some(patience)).map_err(failed)?;
        Ok(ready && self.listener.accept().map_err(failed)?.1.ip() == source)
    }
}

/// Makes the two namespaces, with a veth pair between them, and a directory with the daemon's config. Returns the
/// directory, the client's namespace, and a listener in the server's, which this process is in.
fn build(name: &str, port: u16, config: &str) -> io::Result<(PathBuf, File, TcpListener)> {
    let home = status::make_home()?;
    let server = namespace::isolate(&home)?;
    let client = namespace::new_network()?;
    links::connect(name, &server)?;
    links::add_address(CLIENT)?;
    links::add_address(STRANGER)?;
    namespace::enter(&server)?;
    links::add_address(SERVER)?;
    let listener = tcp::listen((SERVER, port).into())?;
    let directory = home.join("proof");
    file::create_directory(&directory)?;
    file::create_private(&directory.join("config"), config.as_bytes())?;
    Ok((directory, client, listener))
}

/// Starts the daemon, and moves this process into the client's namespace. Also returns the stream of its log lines.
fn start(directory: &Path, client: &File) -> io::Result<(Child, UnixStream)> {
    let (output, end) = UnixStream::pair()?;
    let own = std::process::id().to_string();
    let args = [OsStr::new("proof"), own.as_ref(), "stderr".as_ref(), directory.as_os_str()];
    let daemon = child::start_copy(&args, end.as_fd())?;
    namespace::enter(client)?;
    Ok((daemon, output))
}

/// Returns the log to read: the configured one if it can be used in a network namespace, or else an NFLOG group.
fn log(configured: &Log) -> Log {
    // The target LOG writes only for the first namespace unless this is 1; other namespaces cannot see the setting.
    let all = sysctl::number("net/netfilter/nf_log_all_netns") != Some(0);
    match configured {
        Log::Nflog(_) => configured.clone(),
        Log::Kmsg | Log::File(_) if all => configured.clone(),
        _ => Log::Nflog(1),
    }
}

/// Returns the config of the daemon: as configured, with one guarded port.
fn config_text(setup: &Setup, log: &Log, port: u16) -> String {
    let config = &setup.config;
    let log = match log {
        Log::File(path) => path.clone(),
        Log::Nflog(group) => format!("nflog:{group}"),
        _ => "kmsg".to_owned(),
    };
    let (backend, mark) = (setup.backend.name(), config.mark);
    let mut text = format!("[main]\nfirewall = {backend}\nlog = {log}\nguard = {port}\nmark = {mark}\n");
    for name in &config.interfaces {
        text += &format!("interfaces = {name}\n");
    }
    if let Some(user) = &config.user {
        text += &format!("user = {user}\n");
    }
    text
}

/// Runs the daemon of the proof, which ends with the process `doctor`.
pub fn daemon(doctor: u32, directory: &Path) -> Result<u8> {
    privilege::die_with(doctor).map_err(|cause| Error::system("follow its parent", cause))?;
    supervisor::run(directory, false, None).map(|()| 0)
}
