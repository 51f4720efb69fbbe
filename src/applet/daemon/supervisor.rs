//! The supervisor: root, and deaf. It makes the rules, starts the watcher and the opener, and waits for
//! signals and children. Nothing that came over a network ever reaches it.

use super::ipc::{CONFIG, OpenerLimits, READY};
use super::opener::RULES_GONE;
use super::{LogTarget, ProfileIndex, say_left_out};
use crate::config::{Config, Log};
use crate::error::{Error, Result};
use crate::firewall::{Backend, Rules};
use crate::klog;
use crate::ports::{PortSet, Ports};
use crate::say;
use crate::sys::privilege::{self, Capability};
use crate::sys::process::{self, Background, Signal, Signals};
use crate::sys::{file, sandbox, socketpair};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// The longest wait before rules that somebody keeps removing are made again: within a second.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);
/// How often a repair is tried before the daemon gives up.
const REPAIR_ATTEMPTS: u32 = 20;
/// Repairs further apart than this are each said; of others, one in this time.
const CALM: Duration = Duration::from_secs(60);

/// What the supervisor works by: the configuration and what it comes to.
pub(super) struct Setup {
    /// The configuration as it is written: the watcher's copy.
    text: String,
    pub(super) config: Config,
    pub(super) backend: Backend,
    pub(super) rules: Rules,
    pub(super) limits: OpenerLimits,
    pub(super) index: ProfileIndex,
}

impl Setup {
    /// Reads the configuration, and of the profiles only their configs.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let text = Config::read(directory)?;
        if text.len() > CONFIG {
            return Err(Error::content(&directory.join("config"), 0, format!("is longer than {CONFIG} bytes")));
        }
        let (config, warnings) = Config::of(directory, &text)?;
        for warning in warnings {
            say::warn(format_args!("{:?}, {warning}", directory.join("config")));
        }
        let index = ProfileIndex::read(directory)?;
        for (found, error) in &index.left_out {
            say_left_out(found, error);
        }
        if index.profiles.is_empty() {
            say::warn(format_args!("there is no profile in {:?}: nobody can knock", directory.join("profiles")));
            say::warn("make one with: knockknock-genprofile NAME KNOCKPORT");
        }
        check_interfaces(&config.interfaces)?;
        klog::check(&config.log)?;
        let rules =
            Rules::new(&config, index.profiles.iter().map(|(_, profile_config)| profile_config.knock_port).collect());
        let backend = Backend::choose(config.firewall, &rules)?;
        let mut allowed = PortSet::empty();
        for (found, profile_config) in &index.profiles {
            match &profile_config.ports {
                None => allowed = PortSet::all(),
                Some(ports) => allowed.extend(ports.iter()),
            }
            for port in
                profile_config.ports.iter().flat_map(Ports::iter).filter(|&port| !backend.can_open(&rules, port))
            {
                say::warn(format_args!(
                    "iptables cannot open port {port} (profile {:?}): it is not in \"guard\"",
                    found.name
                ));
            }
        }
        let limits = OpenerLimits { allowed, guard: config.guard.clone() };
        Ok(Self { text, config, backend, rules, limits, index })
    }
}

/// A guard on a port of a bridge, a bond or a team would never match: what comes in there is its master's.
/// One that is not there yet holds once it is.
fn check_interfaces(names: &[String]) -> Result<()> {
    for name in names {
        let interface = Path::new("/sys/class/net").join(name);
        // A VRF's packets come by their own interface first.
        let kind = fs::read_to_string(interface.join("master/uevent")).unwrap_or_default();
        let of_a_vrf = kind.lines().any(|line| line == "DEVTYPE=vrf");
        let master = fs::read_link(interface.join("master")).ok().filter(|_| !of_a_vrf);
        if let Some(master) = master.as_deref().and_then(Path::file_name) {
            return Err(Error::refused(format!(
                "interface {name:?} is a port of {master:?}: the guard would never match"
            ))
            .advise(format!("name {master:?} itself in the config's \"interfaces\"")));
        }
        if !interface.exists() {
            say::warn(format_args!("there is no interface {name:?} yet: the guard holds there once it comes"));
        }
    }
    Ok(())
}

/// What is kept of root: making rules, starting the other two as what they are, ending them.
const KEPT: &[Capability] = &[
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::DacReadSearch,
    Capability::Syslog,
    Capability::SetUid,
    Capability::SetGid,
    Capability::SetPcap,
    Capability::SysChroot,
    Capability::SysResource,
    Capability::Kill,
];

/// The two others.
struct Children {
    watcher: Child,
    opener: Child,
}

impl Children {
    /// Starts both and returns when both are ready.
    fn start(directory: &Path, setup: &Setup, log_target: LogTarget) -> Result<Self> {
        let failed = |cause| Error::system("start the watcher and the opener", cause);
        let (to_opener, to_watcher) = socketpair::pair().map_err(failed)?;
        // Left in the socket before either exists, so that neither can have written it.
        to_opener.send(&setup.limits.to_bytes()).map_err(failed)?;
        to_watcher.send(setup.text.as_bytes()).map_err(failed)?;
        let (mut ready, tells) = UnixStream::pair().map_err(failed)?;
        let supervisor = std::process::id().to_string();
        let opener = ["opener", &supervisor, log_target.name(), setup.backend.name()].map(OsStr::new);
        let mut opener = process::restart_self(&opener, Some(to_watcher.into()), tells.into()).map_err(failed)?;
        let log = match setup.config.log {
            Log::Input => None,
            _ => Some(OwnedFd::from(File::open("/dev/null").map_err(failed)?)),
        };
        let watcher =
            [OsStr::new("watcher"), OsStr::new(&supervisor), OsStr::new(log_target.name()), directory.as_os_str()];
        let mut watcher = match process::restart_self(&watcher, log, to_opener.into()) {
            Ok(watcher) => watcher,
            Err(cause) => {
                process::end(&mut opener);
                return Err(failed(cause));
            }
        };
        let mut said = [0; 1];
        if ready.read(&mut said).ok() != Some(READY.len()) || said != *READY {
            // Whoever cannot go on ends by itself, once it has said why.
            let how = |child: &mut Child| {
                let how = process::ended_soon(child).map_or("no answer".into(), |status| status.to_string());
                process::end(child);
                how
            };
            let (watcher, opener) = (how(&mut watcher), how(&mut opener));
            let why = format!("the watcher ({watcher}) and the opener ({opener}) could not start; see above");
            return Err(Error::refused(why));
        }
        Ok(Self { watcher, opener })
    }

    fn stop(mut self) {
        process::end(&mut self.watcher);
        process::end(&mut self.opener);
    }
}

/// Why the supervisor woke with something to do.
enum Wakeup {
    Reload(Box<Setup>),
    RulesGone,
    End,
    ChildEnded(&'static str, ExitStatus),
}

/// Runs the daemon on `directory`, in the foreground or in the background.
pub fn run(directory: &Path, background: bool) -> Result<()> {
    must_be_root()?;
    process::close_inherited().map_err(|cause| Error::system("close what was left open", cause))?;
    // First of all: a SIGHUP that comes early waits, and does not end what is just starting.
    let signals = Signals::hold().map_err(|cause| Error::system("hold signals back", cause))?;
    let _lock = lock(directory)?;
    let log_target = if background { LogTarget::Syslog } else { LogTarget::Stderr };
    log_target.open();
    privilege::keep_and_pass_on(KEPT, KEPT).map_err(|cause| Error::system("give up capabilities", cause))?;
    let mut setup = Setup::read(directory)?;
    let background = if background {
        let started = Background::start().map_err(|cause| Error::system("go into the background", cause))?;
        Some(started)
    } else {
        None
    };
    let mut repairs = BackOff::default();
    let mut children = start_with_rules(directory, &setup, log_target, &mut repairs, false)?;
    for warning in setup.backend.foreign_rule_warnings(&setup.rules) {
        say::warn(warning);
    }
    say_ready(&setup);
    if let Some(background) = background {
        background
            .ready(setup.config.log == Log::Input)
            .map_err(|cause| Error::system("let go of the terminal", cause))?;
    }

    loop {
        match wait(&signals, directory, &mut children)? {
            Wakeup::Reload(read) => {
                children.stop();
                let old = std::mem::replace(&mut setup, *read);
                children = match start_with_rules(directory, &setup, log_target, &mut repairs, false) {
                    Ok(children) => children,
                    Err(error) => {
                        say_unchanged(&error);
                        setup = old;
                        start_with_rules(directory, &setup, log_target, &mut repairs, false)?
                    }
                };
                say_ready(&setup);
            }
            Wakeup::RulesGone => {
                children.stop();
                repairs.wait();
                children = start_with_rules(directory, &setup, log_target, &mut repairs, true)?;
                if repairs.is_worth_saying() {
                    say::warn("somebody removed our firewall rules; they were made again");
                }
            }
            Wakeup::End => {
                children.stop();
                say::note("ended; the guard stays, and knocks open nothing until the daemon runs again");
                return Ok(());
            }
            Wakeup::ChildEnded(which, status) => {
                children.stop();
                // Whatever it was: the guard is the last thing to see to.
                setup.backend.make(&setup.rules)?;
                return Err(Error::refused(format!("the {which} ended ({status}); the guard stays")));
            }
        }
    }
}

/// Makes the rules and starts the other two, until both are there. What somebody took away before the
/// opener listened nobody has told of: the rules are looked at once it does.
///
/// A failure ends it, unless it is `patient`, as while somebody else holds iptables' lock.
fn start_with_rules(
    directory: &Path,
    setup: &Setup,
    log_target: LogTarget,
    back_off: &mut BackOff,
    patient: bool,
) -> Result<Children> {
    let mut failure = Error::refused("somebody removes our firewall rules while they are made");
    for _ in 0..REPAIR_ATTEMPTS {
        let started = setup.backend.make(&setup.rules).and_then(|()| Children::start(directory, setup, log_target));
        match started {
            Ok(children) if setup.backend.stands(&setup.rules) => return Ok(children),
            Ok(children) => children.stop(),
            Err(error) if patient => failure = error,
            Err(error) => {
                // Whatever it was: the guard is the last thing to see to.
                let _ = setup.backend.make(&setup.rules);
                return Err(error);
            }
        }
        back_off.wait();
    }
    Err(failure)
}

fn wait(signals: &Signals, directory: &Path, children: &mut Children) -> Result<Wakeup> {
    loop {
        match signals.wait().map_err(|cause| Error::system("wait for signals", cause))? {
            Signal::End => return Ok(Wakeup::End),
            Signal::Reload => match Setup::read(directory) {
                Ok(setup) => return Ok(Wakeup::Reload(Box::new(setup))),
                Err(error) => say_unchanged(&error),
            },
            Signal::Child => {
                let watcher = children.watcher.try_wait().ok().flatten();
                // Without the watcher the opener ends too; why it did, where it was the first, counts more.
                let opener = match watcher {
                    Some(_) => process::ended_soon(&mut children.opener),
                    None => children.opener.try_wait().ok().flatten(),
                };
                if opener.is_some_and(|status| status.code() == Some(RULES_GONE.into())) {
                    return Ok(Wakeup::RulesGone);
                }
                // An opener that finds nobody at the other end says nothing new.
                if let Some(status) = watcher {
                    return Ok(Wakeup::ChildEnded("watcher", status));
                }
                if let Some(status) = opener {
                    return Ok(Wakeup::ChildEnded("opener", status));
                }
            }
        }
    }
}

fn say_unchanged(error: &Error) {
    say::error(error);
    say::warn("the configuration stays as it was");
}

/// Making rules and becoming others is root's.
pub(super) fn must_be_root() -> Result<()> {
    if privilege::effective_uid() == 0 {
        return Ok(());
    }
    Err(Error::refused("the daemon must be started as root").advise("it gives root up where it meets the network"))
}

/// Opens the directory of the config and the profiles.
pub(super) fn open(directory: &Path) -> Result<File> {
    File::open(directory).map_err(|cause| {
        let advice = match cause.kind() {
            io::ErrorKind::PermissionDenied => "run as root",
            _ => "make a first profile with: knockknock-genprofile NAME KNOCKPORT",
        };
        Error::path("open", directory, cause).advise(advice)
    })
}

/// Only one daemon at a time may use the counters of a directory.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let opened = open(directory)?;
    file::try_lock(&opened).map_err(|_| {
        Error::refused(format!("another daemon runs on {directory:?}"))
            .advise("stop it first, or send it SIGHUP to read its configuration again")
    })?;
    Ok(opened)
}

fn say_ready(setup: &Setup) {
    let guard = match setup.rules.guard.is_empty() {
        true => "no ports".to_owned(),
        false => format!("ports {}", setup.rules.guard),
    };
    say::note(format_args!("confined: {}", sandbox::describe()));
    say::note(format_args!(
        "ready: reads {}, guards {guard} with {}, {} profiles",
        klog::describe(&setup.config.log),
        setup.backend.name(),
        setup.rules.knock_ports.iter().count()
    ));
}

/// Waits longer each time that the rules have to be made again soon.
#[derive(Default)]
struct BackOff {
    last: Option<Instant>,
    said: Option<Instant>,
    next: Duration,
}

impl BackOff {
    fn wait(&mut self) {
        if self.last.is_none_or(|last| last.elapsed() > CALM) {
            self.next = Duration::ZERO;
        }
        std::thread::sleep(self.next);
        self.next = (2 * self.next).clamp(Duration::from_millis(50), LONGEST_BACK_OFF);
        self.last = Some(Instant::now());
    }

    /// Whether it is time to say something again.
    fn is_worth_saying(&mut self) -> bool {
        let worth = self.said.is_none_or(|said| said.elapsed() > CALM);
        if worth {
            self.said = Some(Instant::now());
        }
        worth
    }
}
