//! The supervisor runs as root. It makes the rules, starts the watcher and the opener, and waits for signals, rule
//! changes and child exits. It never reads data from the network.

use super::LogTarget;
use super::child_exit::ChildExit;
use super::children::{Children, OpenerMessage};
use super::configuration;
use super::pause::{self, Pause};
use super::privileges;
use super::setup::{self, Setup};
use super::trial::Trial;
use crate::config::Log;
use crate::error::{Error, Result, reason};
use crate::firewall::{Backend, InstalledRules, Rules};
use crate::say;
use crate::sys::process::{self, Background, Signal, Signals};
use crate::sys::{clock, memory, poll};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The retry interval for rules that could not be made.
const RETRY_RULES: Duration = Duration::from_millis(100);

/// Runs the daemon on `directory`, in the foreground or in the background.
///
/// The guard is on trial for the duration `trial`, if there is one.
pub fn run(directory: &Path, background: bool, trial: Option<Duration>) -> Result<()> {
    setup::must_be_root()?;
    process::close_inherited().map_err(|cause| Error::system("close inherited descriptors", cause))?;
    // Block signals first, so that an early SIGHUP waits instead of terminating a daemon that is starting.
    let signals = Signals::block().map_err(|cause| Error::system("block signals", cause))?;
    let _lock = setup::lock(directory)?;
    let log_target = LogTarget::choose(background);
    log_target.open();
    privileges::limit_supervisor()?;
    let mut setup = configuration::for_start(directory, trial.is_some())?;
    setup.log_warnings();
    let background = Background::start_if(background).map_err(|cause| Error::system("run in the background", cause))?;
    // From here on there are rules, so SIGTERM must shut down in order.
    signals.block_termination().map_err(|cause| Error::system("block signals", cause))?;
    let trial = Trial::new(trial, Instant::now());
    setup.rules.end_of_guard = trial.end_of_guard();
    let mut installed = InstalledRules::default();
    installed.make(setup.backend, &setup.rules, &mut || {})?;
    trial.announce(directory);
    // The guard is active, so units that wait for it, such as the network, may start now.
    if let Err(cause) = process::notify_ready() {
        say::warn(format_args!("cannot notify the service manager: {}", reason(&cause)));
    }
    let mut supervisor = Supervisor {
        directory,
        log_target,
        setup,
        installed,
        repair_logged: None,
        start: StartReason::First,
        background,
        children: None,
        pause: Pause::default(),
        ready_logged: false,
        trial,
        trial_unapplied: false,
    };
    let ended = supervisor.supervise(&signals);
    Children::stop(&mut supervisor.children);
    let message = supervisor.trial.end(Instant::now());
    supervisor.setup.rules.end_of_guard = supervisor.trial.end_of_guard();
    // Whatever happened, make sure that the guard is in place.
    supervisor.installed.disown();
    let guarded = supervisor.installed.restore(supervisor.setup.backend, &supervisor.setup.rules, &mut || {});
    match &guarded {
        Ok(()) => say::note(message),
        Err(error) if ended.is_err() => say::error(error),
        Err(_) => {}
    }
    ended.and(guarded)
}

/// The reason for starting the children, which decides what a failure means.
enum StartReason {
    /// The daemon is starting. A failure ends it.
    First,
    /// The configuration was reloaded. A failure restores this earlier setup.
    Reload(Box<Setup>),
    /// The children ran before. A failure is retried.
    Again,
}

/// `InstalledRules::make`, `InstalledRules::restore` or `InstalledRules::replace`.
type MakeRules = fn(&mut InstalledRules, Backend, &Rules, &mut dyn FnMut()) -> Result<()>;

struct Supervisor<'a> {
    directory: &'a Path,
    log_target: LogTarget,
    setup: Box<Setup>,
    installed: InstalledRules,
    /// When a repair of our rules was last logged.
    repair_logged: Option<Instant>,
    start: StartReason,
    /// The parent process that waits until the daemon is ready in the background.
    background: Option<Background>,
    children: Option<Children>,
    pause: Pause,
    /// Whether "ready" has been logged for this setup.
    ready_logged: bool,
    trial: Trial,
    /// Whether the trial is decided, and the rules do not show it yet.
    trial_unapplied: bool,
}

impl Supervisor<'_> {
    /// Keeps the rules in place and the children running until the daemon ends.
    fn supervise(&mut self, signals: &Signals) -> Result<()> {
        let waiting = |cause| Error::system("wait for signals", cause);
        loop {
            if self.children.is_none() && self.pause.left(Instant::now()).is_zero() {
                match Children::start(self.directory, &self.setup, self.log_target, self.installed.owner()) {
                    Ok(children) => self.children = Some(children),
                    Err(error) => self.start_failed(error)?,
                }
            }
            let awaited = self.children.as_ref().filter(|children| !children.ready || self.trial.is_undecided());
            let links = self.setup.links.as_ref().map(AsFd::as_fd);
            let fds = [Some(signals.as_fd()), Some(self.setup.watch.as_fd()), links, awaited.map(Children::fd)];
            let [signal, rule_change, link_change, opener] = poll::readable_of(fds, self.timeout()).map_err(waiting)?;
            if link_change {
                let followed = self.setup.follow_links();
                self.setup.log_warnings();
                match followed {
                    Ok(true) => self.make_rules(InstalledRules::make),
                    Ok(false) => {}
                    Err(error) => say::error(&error),
                }
            }
            // Rules come before children, because the ports may be open.
            if rule_change && self.installed.saw_change(&self.setup.watch) || self.installed.must_retry() {
                self.repair();
            }
            if opener {
                self.handle_opener_message()?;
            }
            self.trial_unapplied |= self.trial.expire(Instant::now());
            // A failed attempt to make the rules is retried above.
            if self.trial_unapplied && !self.installed.must_retry() {
                self.apply_trial_result();
            }
            let signal = if signal { signals.next().map_err(waiting)? } else { None };
            match signal {
                None => {}
                Some(Signal::Child) => self.reap_children()?,
                Some(Signal::Reload) => self.reload(),
                Some(Signal::Terminate) => return Ok(()),
            }
        }
    }

    /// Returns how long to wait for events.
    fn timeout(&self) -> Option<Duration> {
        let start = self.children.is_none().then(|| self.pause.left(Instant::now()));
        let (retry, trial) = (self.installed.must_retry().then_some(RETRY_RULES), self.trial.left(Instant::now()));
        clock::sooner(start, clock::sooner(retry, trial))
    }

    /// Handles a message from the opener: both children are ready, a knock has opened a port, or the opener has exited.
    fn handle_opener_message(&mut self) -> Result<()> {
        let Some(children) = &mut self.children else { return Ok(()) };
        match children.receive() {
            OpenerMessage::Ready => {}
            OpenerMessage::PortOpened => {
                self.trial_unapplied |= self.trial.opened();
                return Ok(());
            }
            OpenerMessage::Exited => return self.reap_children(),
        }
        if !std::mem::replace(&mut self.ready_logged, true) {
            self.setup.log_ready();
            configuration::keep(self.directory, &self.setup);
            memory::release_start();
        }
        self.start = StartReason::Again;
        let Some(background) = self.background.take() else { return Ok(()) };
        let keep_input = self.setup.config.log == Log::Input;
        background.ready(keep_input).map_err(|cause| Error::system("detach from the terminal", cause))
    }

    /// Reaps children. If one has exited, the daemon ends, unless the rules must be made again, the log must be
    /// reopened, or the two were not ready yet.
    fn reap_children(&mut self) -> Result<()> {
        let Some(exit) = self.children.as_mut().and_then(Children::exit) else { return Ok(()) };
        if let ChildExit::RulesGone { repeated } = exit {
            self.repair();
            // There are none if the repair has stopped them.
            let Some(children) = &mut self.children else { return Ok(()) };
            if children.replace_opener(repeated, &self.setup, self.log_target, self.installed.owner()) {
                return Ok(());
            }
        }
        Children::stop(&mut self.children);
        match exit {
            ChildExit::RulesGone { .. } | ChildExit::LogMoved => {}
            ChildExit::SetLeaks => self.make_rules(InstalledRules::replace),
            ChildExit::NotStarted(why) => return self.start_failed(Error::refused(why)),
            ChildExit::Failed(why) => return Err(Error::refused(why)),
        }
        self.restart_children();
        Ok(())
    }

    /// Handles children that could not be started or exited before they were ready.
    fn start_failed(&mut self, error: Error) -> Result<()> {
        match std::mem::replace(&mut self.start, StartReason::Again) {
            StartReason::First => return Err(error),
            StartReason::Reload(old) => {
                setup::report_unchanged(&error);
                self.setup = old;
                self.make_rules(InstalledRules::make);
            }
            StartReason::Again => {
                say::error(&error);
                // Our rules may be missing: legacy iptables sends no notifications.
                self.repair();
                self.restart_children();
            }
        }
        Ok(())
    }

    /// Reloads the configuration and restarts the children with it.
    fn reload(&mut self) {
        let mut setup = match configuration::read(self.directory) {
            Ok(setup) => setup,
            Err(error) => return setup::report_unchanged(&error),
        };
        setup.log_warnings();
        setup.rules.end_of_guard = self.trial.end_of_guard();
        Children::stop(&mut self.children);
        self.ready_logged = false;
        let old = std::mem::replace(&mut self.setup, setup);
        match self.installed.make(self.setup.backend, &self.setup.rules, &mut || {}) {
            Ok(()) if matches!(self.start, StartReason::Again) => self.start = StartReason::Reload(old),
            // The earlier setup has not worked yet, so there is nothing to go back to.
            Ok(()) => {}
            Err(error) => {
                setup::report_unchanged(&error);
                self.setup = old;
                self.make_rules(InstalledRules::make);
            }
        }
    }

    /// Makes the rules again if they have changed.
    fn repair(&mut self) {
        if self.installed.is_intact() {
            return;
        }
        let mute = self.installed.must_retry() || self.repair_logged.is_some_and(|last| last.elapsed() <= pause::CALM);
        self.make_rules(InstalledRules::restore);
        if !mute && !self.installed.must_retry() {
            say::warn("another program changed our firewall rules; restored them");
            self.repair_logged = Some(Instant::now());
        }
    }

    /// Makes the rules, by a method of `InstalledRules`. A failure is logged, and retried soon.
    fn make_rules(&mut self, make: MakeRules) {
        let (logged, owned) = (self.installed.must_retry(), self.installed.owner().is_some());
        self.setup.rules.end_of_guard = self.trial.end_of_guard();
        let Self { children, pause, .. } = self;
        // Stop the opener first, because it shares the socket and would read this process's replies.
        let mut stop = || {
            if owned && children.is_some() {
                Children::stop(children);
                pause.begin(Instant::now());
            }
        };
        match make(&mut self.installed, self.setup.backend, &self.setup.rules, &mut stop) {
            Err(error) if !logged => say::error(&error),
            Ok(()) if logged => say::note("made the firewall rules, after the failure above"),
            _ => {}
        }
    }

    /// Makes the rules for the trial's result.
    fn apply_trial_result(&mut self) {
        self.make_rules(InstalledRules::make);
        if !self.installed.must_retry() {
            self.trial_unapplied = false;
            self.trial.announce(self.directory);
            // After a reload the configuration has yet to work.
            if self.ready_logged {
                configuration::keep(self.directory, &self.setup);
            }
        }
    }

    /// Schedules a restart of the children.
    fn restart_children(&mut self) {
        Children::stop(&mut self.children);
        self.pause.begin(Instant::now());
    }
}
