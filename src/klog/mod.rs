//! The kernel's log, record by record: /dev/kmsg, a file that syslog writes, standard
//! input, or the packets of an NFLOG group.
//!
//! Nothing here sleeps but [`Klog::wait`], until there is more for [`Klog::read`]. No clock polls anything.

mod age;
mod follow;
mod intake;
pub mod kmsg;
mod lines;
mod nflog;
mod notice;
mod place;
mod record;

pub use notice::Notice;
pub use record::Event;

use crate::config::Log;
use crate::error::{Error, Result};
use crate::ports::PortSet;
use crate::sys::{poll, process};
use intake::Intake;
use kmsg::DEV_KMSG;
use record::Record;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Where syslog puts the kernel's lines where /dev/kmsg cannot be read.
const KERN_LOG: &str = "/var/log/kern.log";

/// An open log.
pub struct Klog {
    source: Source,
    intake: Intake,
}

enum Source {
    Kmsg(kmsg::Kmsg),
    File(Box<follow::Follow>),
    Input(lines::Input),
    Nflog(nflog::Nflog),
}

impl Klog {
    /// Opens what the configuration names, at its end. To be called while root.
    pub fn open(log: &Log) -> Result<Self> {
        let source = match resolve(log)? {
            Log::File(path) => Source::File(Box::new(follow::Follow::open(&path)?)),
            Log::Input => Source::Input(lines::Input::new(File::from(process::inherited(0)))),
            Log::Nflog(group) => Source::Nflog(nflog::Nflog::open(group)?),
            Log::Auto | Log::Kmsg => Source::Kmsg(kmsg::Kmsg::open(Path::new(DEV_KMSG))?),
        };
        let has_past = matches!(source, Source::Input(_));
        Ok(Self { source, intake: Intake::new(has_past) })
    }

    /// Moves into the directory where the log's next file is looked for. `false` where there will be none.
    pub fn enter_directory(&mut self) -> Result<bool> {
        match &mut self.source {
            Source::File(follow) => follow.enter_directory(),
            _ => Ok(false),
        }
    }

    /// The group that reading the log again may take, where it is a file that rotates.
    pub fn group(&self) -> Option<u32> {
        match &self.source {
            Source::File(follow) => follow.group(),
            _ => None,
        }
    }

    /// The time until [`Klog::read`] is to be called even though there is nothing.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        match &self.source {
            Source::File(follow) => follow.due(now),
            _ => None,
        }
    }

    /// Waits until there may be more, or until `timeout` has passed.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let fd = match &mut self.source {
            Source::File(follow) => return follow.wait(timeout),
            Source::Kmsg(kmsg) => kmsg.fd(),
            Source::Input(input) => input.fd(),
            Source::Nflog(nflog) => nflog.fd(),
        };
        poll::readable([fd], timeout).map(|[more]| more)
    }

    /// Takes what is there, up to a share that lets the caller look elsewhere in between, and gives
    /// `each` the SYNs to one of `ports`. Of other records nothing is looked at but the port.
    pub fn read(&mut self, ports: &PortSet, each: &mut dyn FnMut(Event)) -> Result<()> {
        let Self { source, intake } = self;
        let mut take = |record: Record<'_>| intake.take(record, ports, each);
        let notice = match source {
            Source::Kmsg(kmsg) => kmsg.read(ports, &mut take),
            Source::File(follow) => follow.read(ports, &mut take),
            Source::Input(input) => input.read(ports, &mut take),
            Source::Nflog(nflog) => nflog.read(ports, &mut take),
        }?;
        if let Some(notice) = notice {
            each(Event::Notice(notice));
        }
        Ok(())
    }
}

/// What `auto` comes to on this machine; any other log is what it is.
pub fn resolve(log: &Log) -> Result<Log> {
    if *log != Log::Auto {
        return Ok(log.clone());
    }
    let Err(kmsg) = kmsg::Kmsg::open(Path::new(DEV_KMSG)) else { return Ok(Log::Kmsg) };
    let kern_log = Path::new(KERN_LOG);
    let kern_log = File::open(kern_log).map_err(|cause| Error::path("open", kern_log, cause));
    kern_log.map(|_| Log::File(KERN_LOG.into())).map_err(|kern_log| {
        Error::refused(format!("there is no kernel log to read: {kmsg}; {kern_log}"))
            .advise("set log = nflog:5 in the config, which works in containers too")
    })
}

/// What is to be read, for people.
pub fn describe(log: &Log) -> String {
    match log {
        Log::Auto | Log::Kmsg => DEV_KMSG.into(),
        Log::File(path) if !path.exists() => format!("{} (which does not exist yet)", path.display()),
        Log::File(path) => path.display().to_string(),
        Log::Input => "standard input".into(),
        Log::Nflog(group) => format!("NFLOG group {group}"),
    }
}

/// Checks that a log can be opened, by opening it, and says what it lacks.
pub fn check(log: &Log) -> Result<Option<String>> {
    match log {
        Log::File(path) => return follow::check(path),
        Log::Nflog(group) => nflog::check(*group)?,
        // Standard input cannot be checked before lines arrive.
        Log::Input => {}
        Log::Auto | Log::Kmsg => drop(kmsg::Kmsg::open(Path::new(DEV_KMSG))?),
    }
    Ok(None)
}
