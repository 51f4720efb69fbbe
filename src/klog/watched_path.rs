//! Resolves the path of a log file and detects when it leads elsewhere: a directory was renamed, removed or re-created,
//! a link has a new target, or a file system was mounted over it.

use crate::sys::file;
use crate::sys::inotify::{self, Inotify, Watch};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The mounts of this process's namespace.
const MOUNTS: &str = "/proc/self/mountinfo";

/// The resolved path of a file, with watches on it.
pub(super) struct WatchedPath {
    /// The names whose change matters, each with the watch on its directory. An empty name is the directory itself.
    names: Vec<(Watch, OsString)>,
    /// The file's path with links resolved.
    path: PathBuf,
    /// The list of mounts, and the mounts on the path. Without /proc, mounts are not detected.
    mounts: Option<(File, String)>,
}

impl WatchedPath {
    /// Resolves `path`, which need not exist, and watches it for changes.
    pub fn find(path: &Path, inotify: &Inotify) -> io::Result<Box<Self>> {
        let mut watched = Box::new(Self { names: Vec::new(), path: resolve(path)?, mounts: None });
        for part in path.ancestors().chain(watched.path.ancestors()) {
            let Some((directory, name)) = part.parent().zip(part.file_name()) else { continue };
            let is_own = watched.path.parent().is_some_and(|parent| parent.as_os_str() == part.as_os_str());
            // Watch names only if one can change the path; other names may come and go all the time.
            if directory.is_dir() && (is_own || part.is_symlink() || !part.exists()) {
                watched.names.push((inotify.watch(directory, inotify::NAMES)?, name.into()));
            }
            if part.is_dir() {
                watched.names.push((inotify.watch(part, inotify::ITSELF)?, OsString::new()));
            }
        }
        if let Ok(mut file) = file::open(MOUNTS.as_ref(), libc::O_RDONLY) {
            let mounted = mounted_on(&mut file, &watched.path)?;
            watched.mounts = Some((file, mounted));
        }
        Ok(watched)
    }

    /// Returns the file's directory and name, with links resolved.
    pub fn parts(&self) -> Option<(&Path, &OsStr)> {
        self.path.parent().zip(self.path.file_name())
    }

    /// Returns whether a change of `name` in the directory with this watch changes the path.
    pub fn affects_path(&self, directory: Watch, name: &OsStr) -> bool {
        self.names.iter().any(|(watch, changing)| *watch == directory && changing == name)
    }

    /// Returns the list of mounts; poll reports changes to it.
    pub fn mounts(&self) -> Option<BorrowedFd<'_>> {
        self.mounts.as_ref().map(|(file, _)| file.as_fd())
    }

    /// Returns whether the mounts on the path have changed since it was resolved.
    pub fn is_mounted_over(&mut self) -> io::Result<bool> {
        match &mut self.mounts {
            Some((file, known)) => Ok(mounted_on(file, &self.path)? != *known),
            None => Ok(false),
        }
    }
}

/// Resolves links as far as the path exists. The rest is kept as written.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Err(error) };
            let path = resolve(parent)?.join(name);
            match path.read_link() {
                Ok(target) => resolve(&path.with_file_name(target)),
                Err(_) => Ok(path),
            }
        }
        done => done,
    }
}

/// Returns the IDs of the mounts on `path`, in mount order.
fn mounted_on(mounts: &mut File, path: &Path) -> io::Result<String> {
    mounts.seek(SeekFrom::Start(0))?;
    Ok(mount_ids(&String::from_utf8_lossy(&file::read_to_end(mounts)?), path))
}

/// Returns the IDs of the mounts on `path`, from the text of proc_pid_mountinfo(5): `36 35 98:0 / /var/log rw,noatime
/// …`.
fn mount_ids(mounts: &str, path: &Path) -> String {
    let numbers = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (number, point) = (words.next()?, words.nth(3)?);
        let rest = path.as_os_str().as_bytes().strip_prefix(point.as_bytes())?;
        (point == "/" || rest.is_empty() || rest.starts_with(b"/")).then_some(number)
    });
    numbers.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_on_the_path_count() {
        let mounts = "22 1 0:20 / / rw - ext4 /dev/sda rw\n23 22 0:21 / /proc rw - proc proc rw\n\
            30 22 0:22 / /var rw - tmpfs tmpfs rw\n31 30 0:22 / /var/lo rw - tmpfs tmpfs rw\n\
            36 30 0:23 / /var/log rw - tmpfs tmpfs rw\n37 36 0:23 /k /var/log/kern.log rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_ids(mounts, Path::new("/var/log/kern.log")), "22 30 36 37");
        assert_eq!(mount_ids(mounts, Path::new("/var/log")), "22 30 36");
        assert_eq!(mount_ids("", Path::new("/var/log")), "");
        assert_eq!(mount_ids("damaged\n\n1 2 3", Path::new("/var/log")), "");
    }

    #[test]
    fn a_path_is_resolved_as_far_as_it_exists() {
        let directory = std::env::temp_dir().join(format!("knockknock-place-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("real")).unwrap();
        let real = directory.canonicalize().unwrap().join("real");
        for (link, target) in [("link", "real"), ("dangling", "real/none"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, directory.join(link)).unwrap();
        }
        let resolved = |path: &str| resolve(&directory.join(path)).ok();
        assert_eq!(resolved("link"), Some(real.clone()));
        assert_eq!(resolved("link/none/kern.log"), Some(real.join("none/kern.log")));
        assert_eq!(resolved("dangling"), Some(real.join("none")));
        assert_eq!(resolved("loop"), None);
        assert_eq!(resolved("none/.."), None);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
