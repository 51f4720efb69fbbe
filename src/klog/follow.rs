//! A log file, followed through rotation by rename, by truncation and by being made anew.
//!
//! inotify tells of what is written to the file and of the names in its directory. The process stays
//! in that directory, so that the file is opened again by its bare name after root and the way to it
//! are gone.

use super::lines::Lines;
use super::{Notice, Record};
use crate::error::{Error, Result, reason};
use crate::ports::PortSet;
use crate::sys::inotify::{self, Inotify, Watch};
use crate::sys::privilege;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The group that may read logs on Debian, for one that is not there yet.
const LOG_READERS: &str = "adm";

/// A followed file.
pub struct Follow {
    inotify: Inotify,
    /// The bare name, looked up in the working directory.
    name: OsString,
    path: PathBuf,
    lines: Lines,
    /// What is read.
    open: Option<Open>,
    /// What has the name meanwhile and is empty: syslog writes to the other until it is told of the rotation.
    next: Option<Open>,
    group: Option<u32>,
    /// Whether it was said that the file is missing.
    missed: bool,
}

/// An open file.
struct Open {
    file: File,
    /// Its device and its inode.
    id: (u64, u64),
    watch: Watch,
    offset: u64,
}

impl Follow {
    /// Moves into the file's directory and opens it at its end. A file that is not there is waited for.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // A link is rotated where it points to.
        let real = path.canonicalize().unwrap_or_else(|_| path.into());
        let (directory, name) = split(&real)?;
        std::env::set_current_dir(directory).map_err(|cause| Error::path("move into", directory, cause))?;
        let failed = |cause| Error::path("watch", directory, cause);
        let inotify = Inotify::new().map_err(failed)?;
        inotify.watch(Path::new("."), inotify::NAMES).map_err(failed)?;
        let mut follow = Self {
            inotify,
            name: name.into(),
            path: path.into(),
            lines: Lines::new(),
            open: None,
            next: None,
            group: None,
            missed: false,
        };
        match follow.look() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => {
                return Err(Error::path("follow", path, cause).advise("name a regular file in the config's \"log\""));
            }
        }
        if let Some(open) = &mut follow.open {
            open.offset = open.file.seek(SeekFrom::End(0)).map_err(failed)?;
            let found = open.file.metadata().map_err(failed)?;
            // The group is needed where not everybody may read; root's is nobody's to have.
            follow.group = Some(found.gid()).filter(|&gid| gid != 0 && found.mode() & 0o004 == 0);
        } else {
            follow.group = privilege::group(LOG_READERS);
        }
        Ok(follow)
    }

    /// The group that may read the file.
    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }

    pub(super) fn read(&mut self, ports: &PortSet, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        let failed = |cause| Error::path("follow", &self.path, cause);
        let renamed = self.inotify.drain(&self.name).map_err(failed)?;
        // What stood unread in the old file comes before the new one.
        self.drain(ports, each).map_err(|cause| Error::path("read", &self.path, cause))?;
        if !renamed {
            return Ok(None);
        }
        let had = self.open.is_some();
        let notice = match self.look() {
            Ok(()) => {
                self.drain(ports, each).map_err(|cause| Error::path("read", &self.path, cause))?;
                std::mem::take(&mut self.missed).then_some(Notice::Back)
            }
            // A moment without the file is what a rotation looks like.
            Err(error) if error.kind() == io::ErrorKind::NotFound && had => None,
            Err(error) if self.missed || error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.missed = true;
                Some(Notice::Missing(format!("{:?}: {}", self.path, reason(&error))))
            }
        };
        Ok(notice)
    }

    /// Opens whatever has the name now, unless it is open already.
    fn look(&mut self) -> io::Result<()> {
        let name = Path::new(&self.name);
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(name)?;
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let id = (found.dev(), found.ino());
        let is_open = |open: &Option<Open>| open.as_ref().is_some_and(|open| open.id == id);
        if is_open(&self.next) {
            return Ok(());
        }
        if is_open(&self.open) {
            let next = self.next.take();
            self.close(next);
            return Ok(());
        }
        let watch = self.inotify.watch(name, inotify::CONTENT)?;
        // Of three, nobody writes to the oldest any more.
        if self.open.is_none() || self.next.is_some() {
            self.turn();
        }
        let place = if self.open.is_none() { &mut self.open } else { &mut self.next };
        *place = Some(Open { file, id, watch, offset: 0 });
        Ok(())
    }

    /// Reads on in the next file.
    fn turn(&mut self) {
        let old = std::mem::replace(&mut self.open, self.next.take());
        self.lines.clear();
        self.close(old);
    }

    fn close(&self, old: Option<Open>) {
        // Where names changed faster than they were looked at, two may have one watch.
        if let Some(old) = old.filter(|old| self.open.as_ref().is_none_or(|open| open.watch != old.watch)) {
            self.inotify.unwatch(old.watch);
        }
    }

    /// Reads to the end of what is there.
    fn drain(&mut self, ports: &PortSet, each: &mut dyn FnMut(Record<'_>)) -> io::Result<()> {
        // Asked first: what was written to the old file before is then read.
        let begun = match &self.next {
            Some(next) => next.file.metadata()?.size() > 0,
            None => false,
        };
        self.drain_open(ports, each)?;
        if begun {
            self.turn();
            self.drain_open(ports, each)?;
        }
        Ok(())
    }

    fn drain_open(&mut self, ports: &PortSet, each: &mut dyn FnMut(Record<'_>)) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if open.file.metadata()?.size() < open.offset {
            open.file.seek(SeekFrom::Start(0))?;
            open.offset = 0;
            self.lines.clear();
        }
        loop {
            match self.lines.read_from(&mut open.file, ports, each)? {
                0 => return Ok(()),
                read => open.offset += read as u64,
            }
        }
    }
}

impl AsFd for Follow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    path.parent().zip(path.file_name()).ok_or_else(|| Error::refused(format!("{path:?} is no path of a log file")))
}

/// Whether a file could be followed: it is a regular file, or is not there in a directory that is.
pub(super) fn check(path: &Path) -> Result<()> {
    let (directory, _) = split(path)?;
    match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) if file.metadata().is_ok_and(|found| found.is_file()) => Ok(()),
        Ok(_) => Err(Error::content(path, 0, "is no regular file").advise("name one in the config's \"log\"")),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound && directory.is_dir() => Ok(()),
        Err(cause) => Err(Error::path("open", path, cause)),
    }
}
