//! The supervisor: root, and deaf. It makes the rules, starts the watcher and the opener, and waits for
//! signals and for these two. Nothing that came over a network ever reaches it.

use super::LogTarget;
use super::ipc::READY;
use super::opener::RULES_GONE;
use super::pause::{self, Pause};
use super::privileges;
use super::setup::{self, Setup};
use crate::config::Log;
use crate::error::{Error, Result};
use crate::say;
use crate::sys::process::{self, Background, Signal, Signals};
use crate::sys::{poll, socketpair};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Instant;

/// Runs the daemon on `directory`, in the foreground or in the background.
pub fn run(directory: &Path, background: bool) -> Result<()> {
    setup::must_be_root()?;
    process::close_inherited().map_err(|cause| Error::system("close inherited descriptors", cause))?;
    // First of all: a SIGHUP that comes early waits, and does not end what is just starting.
    let signals = Signals::hold().map_err(|cause| Error::system("hold signals back", cause))?;
    let _lock = setup::lock(directory)?;
    let log_target = if background { LogTarget::Syslog } else { LogTarget::Stderr };
    log_target.open();
    privileges::limit_supervisor()?;
    let setup = Setup::read(directory)?;
    privileges::watcher_user(&setup.config)?;
    let background = background.then(Background::start).transpose();
    let background = background.map_err(|cause| Error::system("go into the background", cause))?;
    // From here on there are rules, and an end has to be an orderly one.
    signals.hold_end().map_err(|cause| Error::system("hold signals back", cause))?;
    setup.backend.make(&setup.rules)?;
    let mut supervisor = Supervisor {
        directory,
        log_target,
        start: Start::First(background),
        ready_said: false,
        rules_gone: false,
        mentioned: None,
        pause: Pause::default(),
        children: None,
        setup,
    };
    let ended = supervisor.supervise(&signals);
    supervisor.stop_children();
    // Whatever happened: the guard is the last thing to see to.
    let guarded = supervisor.setup.backend.make(&supervisor.setup.rules);
    match &guarded {
        Ok(()) => say::note("ended; the guard stays, and knocks open nothing until the daemon runs again"),
        Err(error) if ended.is_err() => say::error(error),
        Err(_) => {}
    }
    ended.and(guarded)
}

/// Why the children are started. It says what a failure means.
enum Start {
    /// The daemon starts: a failure ends it.
    First(Option<Background>),
    /// The configuration was read again: a failure brings back this one, which worked.
    Reload(Box<Setup>),
    /// They have run before: a failure means another try.
    Again,
}

struct Supervisor<'a> {
    directory: &'a Path,
    log_target: LogTarget,
    setup: Setup,
    start: Start,
    /// Whether the log says that this setup is ready.
    ready_said: bool,
    children: Option<Children>,
    pause: Pause,
    /// Whether our rules may be missing.
    rules_gone: bool,
    /// When somebody who removes our rules was last mentioned.
    mentioned: Option<Instant>,
}

impl Supervisor<'_> {
    /// Keeps the rules standing and the children running until the daemon ends.
    fn supervise(&mut self, signals: &Signals) -> Result<()> {
        let waiting = |cause| Error::system("wait for signals", cause);
        loop {
            if self.children.is_none() && self.pause.left(Instant::now()).is_zero() {
                if self.rules_gone {
                    self.repair();
                }
                match Children::start(self.directory, &self.setup, self.log_target) {
                    Ok(children) => self.children = Some(children),
                    Err(error) => self.start_failed(error)?,
                }
            }
            let timeout = self.children.is_none().then(|| self.pause.left(Instant::now()));
            let starting = self.children.as_ref().filter(|children| !children.ready);
            let fds = [Some(signals.as_fd()), starting.map(|children| children.says.as_fd())];
            let [signalled, said] = poll::readable_of(fds, timeout).map_err(waiting)?;
            if said {
                self.hear()?;
            }
            match if signalled { signals.next().map_err(waiting)? } else { None } {
                None => {}
                Some(Signal::Child) => self.look_after_children()?,
                Some(Signal::Reload) => self.reload(),
                Some(Signal::End) => return Ok(()),
            }
        }
    }

    /// The opener has said that both children are ready, or it has ended.
    fn hear(&mut self) -> Result<()> {
        let Some(children) = &mut self.children else { return Ok(()) };
        if !children.hear_ready() {
            process::end(&mut children.opener);
            return self.look_after_children();
        }
        // Changes made before the opener subscribed to notifications were not reported.
        if !self.setup.backend.stands(&self.setup.rules) {
            self.stop_children();
            self.repair();
            return Ok(());
        }
        if !std::mem::replace(&mut self.ready_said, true) {
            self.setup.say_ready();
        }
        if let Start::First(Some(background)) = std::mem::replace(&mut self.start, Start::Again) {
            let keep_input = self.setup.config.log == Log::Input;
            background.ready(keep_input).map_err(|cause| Error::system("detach from the terminal", cause))?;
        }
        Ok(())
    }

    /// Some child has ended, perhaps one of these two. That ends the daemon, unless the rules are only to be
    /// made again, or the two had not been ready yet.
    fn look_after_children(&mut self) -> Result<()> {
        let Some(children) = &mut self.children else { return Ok(()) };
        let (watcher, opener) = children.ends();
        if watcher.is_none() && opener.is_none() {
            return Ok(());
        }
        let ready = children.ready;
        self.stop_children();
        let how = |end: Option<ExitStatus>| end.map_or("no answer".to_owned(), |status| status.to_string());
        let (watcher_end, opener_end) = (how(watcher), how(opener));
        let why = match (watcher, opener) {
            (_, Some(status)) if status.code() == Some(RULES_GONE.into()) => {
                self.repair();
                return Ok(());
            }
            _ if !ready => {
                let why = format!("the watcher ({watcher_end}) and the opener ({opener_end}) could not start");
                return self.start_failed(Error::refused(format!("{why}; see above")));
            }
            // An opener without a watcher ends too: that it did says nothing.
            (Some(_), _) => format!("the watcher ended ({watcher_end})"),
            _ => format!("the opener ended ({opener_end})"),
        };
        Err(Error::refused(why))
    }

    /// The children could not be started, or ended before they were ready.
    fn start_failed(&mut self, error: Error) -> Result<()> {
        match std::mem::replace(&mut self.start, Start::Again) {
            Start::First(_) => return Err(error),
            Start::Reload(old) => {
                say_unchanged(&error);
                self.setup = *old;
                self.make_rules();
            }
            Start::Again => {
                say::error(&error);
                // Perhaps for want of our rules: nobody reports their removal before the opener has subscribed.
                self.rules_gone = true;
                self.pause.begin(Instant::now());
            }
        }
        Ok(())
    }

    /// Reads the configuration again, and starts the children with it.
    fn reload(&mut self) {
        let setup = match Setup::read(self.directory) {
            Ok(setup) => setup,
            Err(error) => return say_unchanged(&error),
        };
        self.stop_children();
        self.ready_said = false;
        let old = std::mem::replace(&mut self.setup, setup);
        match self.setup.backend.make(&self.setup.rules) {
            Ok(()) => self.start = Start::Reload(Box::new(old)),
            Err(error) => {
                say_unchanged(&error);
                self.setup = old;
                self.make_rules();
            }
        }
    }

    /// Makes the rules again, at once. The children are started again later each time.
    fn repair(&mut self) {
        self.make_rules();
        self.pause.begin(Instant::now());
        if !self.rules_gone && self.mentioned.is_none_or(|last| last.elapsed() > pause::CALM) {
            say::warn("somebody removed our firewall rules; they were made again");
            self.mentioned = Some(Instant::now());
        }
    }

    /// Makes the rules. Where that fails it is said, and tried again before the children are started.
    fn make_rules(&mut self) {
        let made = self.setup.backend.make(&self.setup.rules);
        self.rules_gone = made.is_err();
        if let Err(error) = made {
            say::error(&error);
        }
    }

    fn stop_children(&mut self) {
        if let Some(children) = self.children.take() {
            children.stop();
        }
    }
}

/// The watcher and the opener.
struct Children {
    watcher: Child,
    opener: Child,
    /// What the opener says: [`READY`], once.
    says: UnixStream,
    ready: bool,
}

impl Children {
    /// Starts both.
    fn start(directory: &Path, setup: &Setup, log_target: LogTarget) -> Result<Self> {
        let failed = |cause| Error::system("start the watcher and the opener", cause);
        let (to_opener, to_watcher) = socketpair::pair().map_err(failed)?;
        // Left in the socket before either exists, so that neither can have written it.
        to_opener.send(&setup.limits.to_bytes()).map_err(failed)?;
        to_watcher.send(setup.text.as_bytes()).map_err(failed)?;
        let (says, tells) = UnixStream::pair().map_err(failed)?;
        let (supervisor, log_name) = (std::process::id().to_string(), log_target.name());
        let opener = ["opener", &supervisor, log_name, setup.backend.name()].map(OsStr::new);
        let mut opener = process::restart_self(&opener, OwnedFd::from(to_watcher), tells.into()).map_err(failed)?;
        let log = match setup.config.log {
            Log::Input => Stdio::inherit(),
            _ => Stdio::null(),
        };
        let watcher = [OsStr::new("watcher"), supervisor.as_ref(), log_name.as_ref(), directory.as_os_str()];
        match process::restart_self(&watcher, log, to_opener.into()) {
            Ok(watcher) => Ok(Self { watcher, opener, says, ready: false }),
            Err(cause) => {
                process::end(&mut opener);
                Err(failed(cause))
            }
        }
    }

    /// Reads what the opener said; whether both are ready.
    fn hear_ready(&mut self) -> bool {
        let mut said = [0; READY.len()];
        self.ready = self.says.read(&mut said).is_ok_and(|length| length == READY.len()) && said == *READY;
        self.ready
    }

    /// How the watcher and the opener ended, as far as they have. Where one has, the other may soon.
    fn ends(&mut self) -> (Option<ExitStatus>, Option<ExitStatus>) {
        let (watcher, opener) = (self.watcher.try_wait().ok().flatten(), self.opener.try_wait().ok().flatten());
        match (watcher, opener) {
            (Some(_), None) => (watcher, process::ended_soon(&mut self.opener)),
            (None, Some(_)) if !self.ready => (process::ended_soon(&mut self.watcher), opener),
            _ => (watcher, opener),
        }
    }

    fn stop(mut self) {
        process::end(&mut self.watcher);
        process::end(&mut self.opener);
    }
}

fn say_unchanged(error: &Error) {
    say::error(error);
    say::warn("the configuration stays as it was");
}
