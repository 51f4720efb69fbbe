//! Floor 1: the kernel's log, record by record: /dev/kmsg, a file that syslog writes, standard
//! input, or the packets of an NFLOG group.
//!
//! Nothing here sleeps: [`Klog::fd`] is readable when there is more, and [`Klog::read`] takes it. No
//! clock polls anything.

mod follow;
pub mod kmsg;
mod lines;
mod nflog;
mod record;

pub use record::{Notice, Record};

use crate::config::Log;
use crate::error::{Error, Result};
use crate::ports::PortSet;
use crate::sys::process;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// Where syslog puts the kernel's lines where /dev/kmsg cannot be read.
const KERN_LOG: &str = "/var/log/kern.log";
const DEV_KMSG: &str = "/dev/kmsg";

/// An open log.
pub enum Klog {
    /// /dev/kmsg.
    Kmsg(kmsg::Kmsg),
    /// A followed file.
    File(follow::Follow),
    /// Standard input.
    Input(lines::Input),
    /// An NFLOG group.
    Nflog(nflog::Nflog),
}

impl Klog {
    /// Opens what the configuration names, at its end. To be called while root.
    pub fn open(log: &Log) -> Result<Self> {
        Ok(match log {
            Log::Auto => return Self::open(&choose()),
            Log::Kmsg => Self::Kmsg(kmsg::Kmsg::open(Path::new(DEV_KMSG))?),
            Log::File(path) => Self::File(follow::Follow::open(path)?),
            Log::Input => Self::Input(lines::Input::new(File::from(process::inherited(0)))),
            Log::Nflog(group) => Self::Nflog(nflog::Nflog::open(*group)?),
        })
    }

    /// Readable when there may be more.
    pub fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Kmsg(kmsg) => kmsg.as_fd(),
            Self::File(follow) => follow.as_fd(),
            Self::Input(input) => input.as_fd(),
            Self::Nflog(nflog) => nflog.as_fd(),
        }
    }

    /// Takes what is there, up to a share that lets the caller look elsewhere in between, and gives
    /// `each` the records that may tell of a packet to one of `ports`. Of the others nothing is
    /// looked at but the port.
    pub fn read(&mut self, ports: &PortSet, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        match self {
            Self::Kmsg(kmsg) => kmsg.read(ports, each),
            Self::File(follow) => follow.read(ports, each),
            Self::Input(input) => input.read(ports, each),
            Self::Nflog(nflog) => nflog.read(ports, each),
        }
    }

    /// The group that reading the log again may take, where it is a file that rotates.
    pub fn group(&self) -> Option<u32> {
        match self {
            Self::File(follow) => follow.group(),
            _ => None,
        }
    }
}

/// What `auto` comes to on this machine.
pub fn choose() -> Log {
    if File::open(DEV_KMSG).is_ok() { Log::Kmsg } else { Log::File(KERN_LOG.into()) }
}

/// What is to be read, for people.
pub fn describe(log: &Log) -> String {
    match log {
        Log::Auto => describe(&choose()),
        Log::Kmsg => DEV_KMSG.into(),
        Log::File(path) => path.display().to_string(),
        Log::Input => "standard input".into(),
        Log::Nflog(group) => format!("NFLOG group {group}"),
    }
}

/// Checks that a log can be opened, without opening it for reading lines.
pub fn check(log: &Log) -> Result<()> {
    match log {
        Log::Auto => check(&choose()),
        Log::Kmsg => File::open(DEV_KMSG).map(drop).map_err(|cause| Error::path("open", Path::new(DEV_KMSG), cause)),
        Log::File(path) => follow::check(path),
        Log::Input | Log::Nflog(_) => Ok(()),
    }
}
