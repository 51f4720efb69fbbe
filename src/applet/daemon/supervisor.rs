//! The keeper: root, and deaf. It makes the rules, starts the worker and the helper, and waits for
//! signals and children. Nothing that came over a network ever reaches it.

use super::ipc::{CONFIG, Plan, READY};
use super::opener::RULES_GONE;
use super::{Census, Mouth, say_left_out};
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
const REPAIRS: u32 = 20;
/// Repairs further apart than this are each said; of others, one in this time.
const CALM: Duration = Duration::from_secs(60);

/// What the keeper works by: the configuration and what it comes to.
pub(super) struct Orders {
    /// The configuration as it is written: the worker's copy.
    text: String,
    pub(super) config: Config,
    pub(super) backend: Backend,
    pub(super) rules: Rules,
    pub(super) plan: Plan,
    pub(super) census: Census,
}

impl Orders {
    /// Reads the configuration, and of the profiles only their terms.
    pub(super) fn read(directory: &Path) -> Result<Self> {
        let text = Config::read(directory)?;
        if text.len() > CONFIG {
            return Err(Error::content(&directory.join("config"), 0, format!("is longer than {CONFIG} bytes")));
        }
        let (config, warnings) = Config::of(directory, &text)?;
        for warning in warnings {
            say::warn(format_args!("{:?}, {warning}", directory.join("config")));
        }
        let census = Census::take(directory)?;
        for (found, error) in &census.left_out {
            say_left_out(found, error);
        }
        if census.profiles.is_empty() {
            say::warn(format_args!("there is no profile in {:?}: nobody can knock", directory.join("profiles")));
            say::warn("make one with: knockknock-genprofile NAME KNOCKPORT");
        }
        check_interfaces(&config.interfaces)?;
        klog::check(&config.log)?;
        let rules = Rules::new(&config, census.profiles.iter().map(|(_, terms)| terms.knock_port).collect());
        let backend = Backend::choose(config.firewall, &rules)?;
        let mut allowed = PortSet::empty();
        for (found, terms) in &census.profiles {
            match &terms.ports {
                None => allowed = PortSet::all(),
                Some(ports) => allowed.extend(ports.iter()),
            }
            for port in terms.ports.iter().flat_map(Ports::iter).filter(|&port| !backend.can_open(&rules, port)) {
                say::warn(format_args!(
                    "iptables cannot open port {port} (profile {:?}): it is not in \"guard\"",
                    found.name
                ));
            }
        }
        let plan = Plan { allowed, guard: config.guard.clone() };
        Ok(Self { text, config, backend, rules, plan, census })
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
    worker: Child,
    helper: Child,
}

impl Children {
    /// Starts both and returns when both are ready.
    fn start(directory: &Path, orders: &Orders, mouth: Mouth) -> Result<Self> {
        let failed = |cause| Error::system("start the worker and the helper", cause);
        let (to_helper, to_worker) = socketpair::pair().map_err(failed)?;
        // Left in the socket before either exists, so that neither can have written it.
        to_helper.send(&orders.plan.to_bytes()).map_err(failed)?;
        to_worker.send(orders.text.as_bytes()).map_err(failed)?;
        let (mut ready, tells) = UnixStream::pair().map_err(failed)?;
        let keeper = std::process::id().to_string();
        let helper = ["helper", &keeper, mouth.name(), orders.backend.name()].map(OsStr::new);
        let mut helper = process::restart_self(&helper, Some(to_worker.into()), tells.into()).map_err(failed)?;
        let log = match orders.config.log {
            Log::Input => None,
            _ => Some(OwnedFd::from(File::open("/dev/null").map_err(failed)?)),
        };
        let worker = [OsStr::new("worker"), OsStr::new(&keeper), OsStr::new(mouth.name()), directory.as_os_str()];
        let mut worker = match process::restart_self(&worker, log, to_helper.into()) {
            Ok(worker) => worker,
            Err(cause) => {
                process::end(&mut helper);
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
            let (worker, helper) = (how(&mut worker), how(&mut helper));
            let why = format!("the worker ({worker}) and the helper ({helper}) could not start; see above");
            return Err(Error::refused(why));
        }
        Ok(Self { worker, helper })
    }

    fn stop(mut self) {
        process::end(&mut self.worker);
        process::end(&mut self.helper);
    }
}

/// Why the keeper woke with something to do.
enum Event {
    Reload(Box<Orders>),
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
    let mouth = if background { Mouth::Syslog } else { Mouth::Stderr };
    mouth.open();
    privilege::keep_and_pass_on(KEPT, KEPT).map_err(|cause| Error::system("give up capabilities", cause))?;
    let mut orders = Orders::read(directory)?;
    let background = if background {
        let started = Background::start().map_err(|cause| Error::system("go into the background", cause))?;
        Some(started)
    } else {
        None
    };
    let mut repairs = BackOff::default();
    let mut children = stand_up(directory, &orders, mouth, &mut repairs, false)?;
    for warning in orders.backend.look_around(&orders.rules) {
        say::warn(warning);
    }
    say_ready(&orders);
    if let Some(background) = background {
        background
            .ready(orders.config.log == Log::Input)
            .map_err(|cause| Error::system("let go of the terminal", cause))?;
    }

    loop {
        match wait(&signals, directory, &mut children)? {
            Event::Reload(read) => {
                children.stop();
                let old = std::mem::replace(&mut orders, *read);
                children = match stand_up(directory, &orders, mouth, &mut repairs, false) {
                    Ok(children) => children,
                    Err(error) => {
                        say_unchanged(&error);
                        orders = old;
                        stand_up(directory, &orders, mouth, &mut repairs, false)?
                    }
                };
                say_ready(&orders);
            }
            Event::RulesGone => {
                children.stop();
                repairs.wait();
                children = stand_up(directory, &orders, mouth, &mut repairs, true)?;
                if repairs.is_worth_saying() {
                    say::warn("somebody removed our firewall rules; they were made again");
                }
            }
            Event::End => {
                children.stop();
                say::note("ended; the guard stays, and knocks open nothing until the daemon runs again");
                return Ok(());
            }
            Event::ChildEnded(which, status) => {
                children.stop();
                // Whatever it was: the guard is the last thing to see to.
                orders.backend.make(&orders.rules)?;
                return Err(Error::refused(format!("the {which} ended ({status}); the guard stays")));
            }
        }
    }
}

/// Makes the rules and starts the other two, until both are there. What somebody took away before the
/// helper listened nobody has told of: the rules are looked at once it does.
///
/// A failure ends it, unless it is `patient`, as while somebody else holds iptables' lock.
fn stand_up(
    directory: &Path,
    orders: &Orders,
    mouth: Mouth,
    back_off: &mut BackOff,
    patient: bool,
) -> Result<Children> {
    let mut failure = Error::refused("somebody removes our firewall rules while they are made");
    for _ in 0..REPAIRS {
        let started = orders.backend.make(&orders.rules).and_then(|()| Children::start(directory, orders, mouth));
        match started {
            Ok(children) if orders.backend.stands(&orders.rules) => return Ok(children),
            Ok(children) => children.stop(),
            Err(error) if patient => failure = error,
            Err(error) => {
                // Whatever it was: the guard is the last thing to see to.
                let _ = orders.backend.make(&orders.rules);
                return Err(error);
            }
        }
        back_off.wait();
    }
    Err(failure)
}

fn wait(signals: &Signals, directory: &Path, children: &mut Children) -> Result<Event> {
    loop {
        match signals.wait().map_err(|cause| Error::system("wait for signals", cause))? {
            Signal::End => return Ok(Event::End),
            Signal::Reload => match Orders::read(directory) {
                Ok(orders) => return Ok(Event::Reload(Box::new(orders))),
                Err(error) => say_unchanged(&error),
            },
            Signal::Child => {
                let worker = children.worker.try_wait().ok().flatten();
                // Without the worker the helper ends too; why it did, where it was the first, counts more.
                let helper = match worker {
                    Some(_) => process::ended_soon(&mut children.helper),
                    None => children.helper.try_wait().ok().flatten(),
                };
                if helper.is_some_and(|status| status.code() == Some(RULES_GONE.into())) {
                    return Ok(Event::RulesGone);
                }
                // A helper that finds nobody at the other end says nothing new.
                if let Some(status) = worker {
                    return Ok(Event::ChildEnded("worker", status));
                }
                if let Some(status) = helper {
                    return Ok(Event::ChildEnded("helper", status));
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

fn say_ready(orders: &Orders) {
    let guard = match orders.rules.guard.is_empty() {
        true => "no ports".to_owned(),
        false => format!("ports {}", orders.rules.guard),
    };
    say::note(format_args!("confined: {}", sandbox::describe()));
    say::note(format_args!(
        "ready: reads {}, guards {guard} with {}, {} profiles",
        klog::describe(&orders.config.log),
        orders.backend.name(),
        orders.rules.knock_ports.iter().count()
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
