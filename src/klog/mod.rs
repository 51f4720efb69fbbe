//! Log sources: /dev/kmsg, a file that syslog writes, standard input, or an NFLOG group.
//!
//! Only [`Klog::wait`] blocks, until [`Klog::read`] has something to read. Nothing polls on a timer.

mod age;
mod follow;
mod intake;
pub mod kmsg;
mod lines;
mod nflog;
mod notice;
mod record;
mod wanted;
mod watched_path;

pub use notice::Notice;
pub use record::LogEvent;
pub use wanted::Wanted;

use crate::config::Log;
use crate::error::{Error, Result};
use crate::sys::{file, poll, process};
use intake::Intake;
use kmsg::DEV_KMSG;
use record::Record;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// The file with the kernel's lines on systems where /dev/kmsg cannot be read.
const KERN_LOG: &str = "/var/log/kern.log";

/// An open log.
pub struct Klog {
    source: Source,
    intake: Intake,
}

enum Source {
    Kmsg(Box<kmsg::Kmsg>),
    File(Box<follow::Follow>),
    Input(Box<lines::Input>),
    Nflog(Box<nflog::Nflog>),
}

impl Klog {
    /// Opens the configured source at its end. Must be called as root.
    pub fn open(log: &Log) -> Result<Box<Self>> {
        let source = match resolve(log)? {
            Log::File(path) => Source::File(follow::Follow::open(path.as_ref())?),
            Log::Input => Source::Input(Box::new(lines::Input::new(File::from(process::inherited(0))))),
            Log::Nflog(group) => Source::Nflog(nflog::Nflog::open(group)?),
            Log::Auto | Log::Kmsg => Source::Kmsg(kmsg::Kmsg::open(Path::new(DEV_KMSG))?),
        };
        let has_old_lines = matches!(source, Source::Input(_));
        Ok(Box::new(Self { source, intake: Intake::new(has_old_lines) }))
    }

    /// Makes the directory of the log file the working directory, so that a rotated log can be reopened. Returns
    /// `false` if there is no such directory.
    pub fn enter_directory(&mut self) -> Result<bool> {
        match &mut self.source {
            Source::File(follow) => follow.enter_directory(),
            _ => Ok(false),
        }
    }

    /// Returns the group that can reopen the log, if it is a file.
    pub fn group(&self) -> Option<u32> {
        match &self.source {
            Source::File(follow) => follow.group(),
            _ => None,
        }
    }

    /// Returns the time after which [`Klog::read`] must be called even without input.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        match &self.source {
            Source::File(follow) => follow.due(now),
            _ => None,
        }
    }

    /// Waits until there may be more to read, or until `timeout` has passed.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let fd = match &mut self.source {
            Source::File(follow) => return follow.wait(timeout),
            Source::Kmsg(kmsg) => kmsg.fd(),
            Source::Input(input) => input.fd(),
            Source::Nflog(nflog) => nflog.fd(),
        };
        poll::readable([fd], timeout).map(|[more]| more)
    }

    /// Reads what is available, up to a limit for each call, and passes the wanted SYNs to `each`. Of all other records
    /// it looks only at the port, and at the address if links are wanted.
    pub fn read(&mut self, wanted: &Wanted, each: &mut dyn FnMut(LogEvent)) -> Result<()> {
        let Self { source, intake } = self;
        intake.begin();
        let mut take = |record: Record<'_>| intake.take(record, wanted, each);
        let notice = match source {
            Source::Kmsg(kmsg) => kmsg.read(wanted, &mut take),
            Source::File(follow) => follow.read(wanted, &mut take),
            Source::Input(input) => input.read(wanted, &mut take),
            Source::Nflog(nflog) => nflog.read(wanted, &mut take),
        }?;
        if let Some(notice) = notice {
            each(LogEvent::Notice(notice));
        }
        Ok(())
    }
}

/// Resolves `auto` to a source of this machine; other values are returned unchanged.
pub fn resolve(log: &Log) -> Result<Log> {
    if *log != Log::Auto {
        return Ok(log.clone());
    }
    let Err(kmsg) = kmsg::Kmsg::open(Path::new(DEV_KMSG)) else { return Ok(Log::Kmsg) };
    let kern_log = Path::new(KERN_LOG);
    let kern_log = file::open(kern_log, libc::O_RDONLY).map_err(|cause| Error::path("open", kern_log, cause));
    kern_log.map(|_| Log::File(KERN_LOG.into())).map_err(|kern_log| {
        Error::refused(format!("there is no kernel log to read: {kmsg}; {kern_log}"))
            .advise("set log = nflog:5 in the config, which works in containers too")
    })
}

/// Returns the source's name for messages.
pub fn describe(log: &Log) -> String {
    match log {
        Log::Auto | Log::Kmsg => DEV_KMSG.into(),
        Log::File(path) if !Path::new(path).exists() => format!("{path} (which does not exist yet)"),
        Log::File(path) => path.clone(),
        Log::Input => "standard input".into(),
        Log::Nflog(group) => format!("NFLOG group {group}"),
    }
}

/// Checks that a log can be opened by opening it. Returns a warning if something is missing.
pub fn check(log: &Log) -> Result<Option<String>> {
    match log {
        Log::File(path) => return follow::check(path.as_ref()),
        Log::Nflog(group) => nflog::check(*group)?,
        // Standard input cannot be checked before it delivers lines.
        Log::Input => {}
        Log::Auto | Log::Kmsg => drop(kmsg::Kmsg::open(Path::new(DEV_KMSG))?),
    }
    Ok(None)
}
