//! Follows a log file through rotation by rename, truncation and re-creation.
//!
//! inotify reports writes to the file and name changes in its directory. The watcher's working directory is the log's
//! directory, so it can reopen the file by its bare name after it has dropped root and the path is out of reach. If a
//! directory on the path changes, or if only root can open the next file, the supervisor must restart the watcher.

use super::lines::Lines;
use super::notice::Notice;
use super::record::Record;
use super::wanted::Wanted;
use super::watched_path::WatchedPath;
use crate::error::{Error, Result, failure, quoted, reason};
use crate::sys::inotify::{self, Inotify, Watch};
use crate::sys::{file, poll, privilege};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long to wait after a rotation: within this time logrotate sets the new file's owner and mode, and syslog
/// switches to it.
const SETTLED: Duration = Duration::from_secs(1);
/// The group that reads logs on Debian; used if the file does not exist yet.
const LOG_READERS: &str = "adm";

/// A followed file.
pub struct Follow {
    inotify: Inotify,
    watched_path: Box<WatchedPath>,
    /// The watch on the file's directory, if the directory exists.
    directory: Option<Watch>,
    /// The name to open: the full path at first, then the bare name in the working directory.
    name: PathBuf,
    /// The bare name, as inotify reports it.
    bare: OsString,
    /// The path from the configuration.
    path: PathBuf,
    lines: Lines,
    /// The file that is being read.
    open: Option<Open>,
    /// The new, still empty file with the log's name. syslog writes to the old file until it is told about the
    /// rotation.
    next: Option<Open>,
    group: Option<u32>,
    /// Whether the missing file has been reported.
    missing_reported: bool,
    /// Since when the name has belonged to a file that this process may not read.
    denied: Option<Instant>,
    /// Whether mounts have changed since the last read.
    remounted: bool,
}

/// An open file.
struct Open {
    file: File,
    id: Id,
    watch: Watch,
    offset: u64,
    /// Content before this offset is older than the first read.
    old_until: u64,
}

/// A file's device and inode.
type Id = (u64, u64);

fn id(found: &Metadata) -> Id {
    (found.dev(), found.ino())
}

impl Follow {
    /// Opens the file at its end. If the file or its directory does not exist, it waits for them.
    pub(super) fn open(path: &Path) -> Result<Box<Self>> {
        let opened = Self::try_open(path).map_err(|cause| failed(path, cause))?;
        opened.ok_or_else(|| Error::refused(format!("{} is not the path of a log file", quoted(path))))
    }

    /// Opens the file; `None` if the path cannot be that of a file.
    fn try_open(path: &Path) -> io::Result<Option<Box<Self>>> {
        let inotify = Inotify::new()?;
        let watched_path = WatchedPath::find(path, &inotify)?;
        let Some((directory, name)) = watched_path.parts() else { return Ok(None) };
        let (bare, name) = (name.to_owned(), directory.join(name));
        let directory = match inotify.watch(directory, inotify::NAMES_AND_RIGHTS) {
            Ok(watch) => Some(watch),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(cause) => return Err(cause),
        };
        let mut follow = Box::new(Self {
            inotify,
            watched_path,
            directory,
            name,
            bare,
            path: path.into(),
            lines: Lines::new(),
            open: None,
            next: None,
            group: None,
            missing_reported: false,
            denied: None,
            remounted: false,
        });
        match follow.open_current() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => follow.missing_reported = true,
            opened => opened?,
        }
        if let Some(open) = &mut follow.open {
            open.offset = open.file.seek(SeekFrom::End(0))?;
            let found = open.file.metadata()?;
            // Keep the group only if others cannot read the file. Group root is never granted.
            follow.group = Some(found.gid()).filter(|&gid| gid != 0 && found.mode() & 0o004 == 0);
        } else {
            follow.group = privilege::group(LOG_READERS);
        }
        Ok(Some(follow))
    }

    /// Makes the file's directory the working directory, from which files are opened from now on; `false` if it does
    /// not exist.
    pub(super) fn enter_directory(&mut self) -> Result<bool> {
        let Some((directory, name)) = self.watched_path.parts().filter(|_| self.directory.is_some()) else {
            return Ok(false);
        };
        std::env::set_current_dir(directory).map_err(|cause| Error::path("move into", directory, cause))?;
        self.name = name.into();
        Ok(true)
    }

    /// Returns the group that may read the file.
    pub(super) fn group(&self) -> Option<u32> {
        self.group
    }

    /// Returns the time until the file must be checked again.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        self.denied.map(|since| SETTLED.saturating_sub(now - since))
    }

    /// Waits until the file or a directory on its path may have changed.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let [changed, remounted] =
            poll::readable_or_mounted(self.inotify.as_fd(), self.watched_path.mounts(), timeout)?;
        self.remounted |= remounted;
        Ok(changed || remounted)
    }

    pub(super) fn read(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        let failed = |cause| Error::path("follow", &self.path, cause);
        let (mut rotated, mut moved) = (false, false);
        let drained = self.inotify.drain(|watch, name| match watch {
            // The event queue overflowed, so assume both.
            None => (rotated, moved) = (true, true),
            Some(_) if watch == self.directory && name == self.bare => rotated = true,
            Some(watch) => moved |= self.watched_path.affects_path(watch, name),
        });
        drained.map_err(failed)?;
        if std::mem::take(&mut self.remounted) {
            moved |= self.watched_path.is_mounted_over().map_err(failed)?;
        }
        // Read the rest of the old file before the new one.
        self.drain(wanted, each).map_err(|cause| Error::path("read", &self.path, cause))?;
        let mut notice = None;
        let settled = self.due(Instant::now()) == Some(Duration::ZERO);
        if rotated || settled {
            let denied = self.denied.take();
            match self.open_current() {
                Ok(()) => {
                    self.drain(wanted, each).map_err(|cause| Error::path("read", &self.path, cause))?;
                    notice = std::mem::take(&mut self.missing_reported).then_some(Notice::Back);
                }
                // A rotation leaves a moment without the file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    moved |= settled;
                    self.denied = denied.or(Some(Instant::now()));
                }
                Err(_) if self.missing_reported => {}
                Err(error) => {
                    self.missing_reported = true;
                    notice = Some(Notice::Missing(format!("{}: {}", quoted(&self.path), reason(&error))));
                }
            }
        }
        Ok(if moved { Some(Notice::Moved) } else { notice })
    }

    /// Opens the file that has the name now, unless it is open already.
    fn open_current(&mut self) -> io::Result<()> {
        let is_open = |open: &Option<Open>, id| open.as_ref().is_some_and(|open| open.id == id);
        // Look before opening: only root may be allowed to open it.
        let found = fs::metadata(&self.name)?;
        if !found.is_file() {
            return Err(failure("it is not a regular file"));
        }
        let found = id(&found);
        if is_open(&self.next, found) {
            return Ok(());
        }
        if is_open(&self.open, found) {
            let next = self.next.take();
            self.close(next);
            return Ok(());
        }
        let file = file::open(&self.name, libc::O_RDONLY | libc::O_NONBLOCK)?;
        let found = file.metadata()?;
        let watch = self.inotify.watch(&self.name, inotify::CONTENT)?;
        // A third file appeared, so nothing is written to the oldest any more.
        if self.open.is_none() || self.next.is_some() {
            self.switch_to_next();
        }
        let place = if self.open.is_none() { &mut self.open } else { &mut self.next };
        *place = Some(Open { file, id: id(&found), watch, offset: 0, old_until: found.size() });
        Ok(())
    }

    /// Continues with the next file.
    fn switch_to_next(&mut self) {
        let old = std::mem::replace(&mut self.open, self.next.take());
        self.lines.clear();
        self.close(old);
    }

    fn close(&self, old: Option<Open>) {
        // If names changed faster than they were read, two open files may share one watch.
        if let Some(old) = old.filter(|old| self.open.as_ref().is_none_or(|open| open.watch != old.watch)) {
            self.inotify.unwatch(old.watch);
        }
    }

    /// Reads to the current end of the log.
    fn drain(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> io::Result<()> {
        // Check the next file first: once it has content, the old file is complete.
        let begun = match &self.next {
            Some(next) => next.file.metadata()?.size() > 0,
            None => false,
        };
        self.drain_open(wanted, each)?;
        if begun {
            self.switch_to_next();
            self.drain_open(wanted, each)?;
        }
        Ok(())
    }

    fn drain_open(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let size = open.file.metadata()?.size();
        if size < open.offset {
            open.file.seek(SeekFrom::Start(0))?;
            (open.offset, open.old_until) = (0, size);
            self.lines.clear();
        }
        loop {
            let is_old = open.offset < open.old_until;
            let mut each = |record: Record<'_>| match record {
                Record::Line(line) if is_old => each(Record::OldLine(line)),
                record => each(record),
            };
            match self.lines.read_from(&mut open.file, wanted, &mut each)? {
                0 => return Ok(()),
                read => open.offset += read as u64,
            }
        }
    }
}

/// The error for a file that cannot be followed, with advice.
fn failed(path: &Path, cause: io::Error) -> Error {
    let advice = match cause.raw_os_error() {
        Some(libc::EMFILE) => {
            "all inotify instances are used up: raise the sysctl fs.inotify.max_user_instances \
             (in a user namespace user.max_inotify_instances)"
        }
        Some(libc::ENOSPC) => {
            "all inotify watches are used up: raise the sysctl fs.inotify.max_user_watches \
             (in a user namespace user.max_inotify_watches)"
        }
        _ => "name a regular file in the config's \"log\"",
    };
    Error::path("follow", path, cause).advise(advice)
}

/// Checks that a file can be followed by opening it. Returns a warning if the file does not exist yet.
pub(super) fn check(path: &Path) -> Result<Option<String>> {
    let follow = Follow::open(path)?;
    match follow.directory {
        None => Err(failed(path, io::Error::from_raw_os_error(libc::ENOENT))),
        Some(_) if follow.missing_reported => {
            Ok(Some(format!("{} does not exist yet; the daemon waits for it", quoted(path))))
        }
        Some(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Ports;
    use std::io::Write;

    /// On a 32-bit processor such a file opens with O_LARGEFILE only.
    #[test]
    fn a_log_of_more_than_4_gb_is_followed() {
        let path = std::env::temp_dir().join(format!("knockknock-large-{}", std::process::id()));
        let mut log = fs::File::create(&path).unwrap();
        log.set_len(5 << 30).unwrap();
        let mut follow = Follow::open(&path).unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        log.write_all(b"a DPT=666 SYN b\n").unwrap();
        let mut found = Vec::new();
        let mut each = |record: Record<'_>| {
            if let Record::Line(line) = record {
                found.push(String::from_utf8(line.to_vec()).unwrap());
            }
        };
        let notice = follow.read(&Wanted::new(Ports::from_iter([666]), &[]), &mut each).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(notice.is_none());
        assert_eq!(found, ["a DPT=666 SYN b"]);
    }
}
