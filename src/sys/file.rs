//! Small files and file locks (flock(2)).

use super::{check, uninterrupted};
use crate::error::failure;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// The name of the file whose lock stands for its directory's. Every user could lock a directory that they can read.
pub const LOCK: &str = ".lock";

/// Largest accepted configuration, key or counter file, in bytes: far more than any of them needs.
pub const LONGEST: usize = 1 << 16;

/// How many bytes to read at once.
const BLOCK: usize = 1 << 13;

/// Opens a file with the flags of open(2). Only its owner may use a file that is created.
pub fn open(path: &Path, flags: libc::c_int) -> io::Result<File> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = flags | libc::O_CLOEXEC | libc::O_LARGEFILE;
    // SAFETY: the path ends with a null byte and lives through the call.
    let fd = uninterrupted(|| check(unsafe { libc::open(path.as_ptr(), flags, 0o600) }))?;
    // SAFETY: the descriptor was just opened and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Opens a regular file of at most [`LONGEST`] bytes for reading, and for writing if `writable` is set. A symbolic link
/// is then an error (ELOOP). Never blocks: a FIFO, a device or a longer file is an error.
pub fn open_small(path: &Path, writable: bool) -> io::Result<File> {
    let flags = if writable { libc::O_RDWR | libc::O_NOFOLLOW } else { libc::O_RDONLY };
    let file = open(path, flags | libc::O_NONBLOCK)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(failure("it is not a regular file"));
    }
    if found.len() > LONGEST as u64 {
        return Err(failure(format!("it is longer than {LONGEST} bytes")));
    }
    Ok(file)
}

/// Reads a regular file of at most [`LONGEST`] bytes, with the errors of [`open_small`].
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    read_start(&open_small(path, false)?)
}

/// Reads at most [`LONGEST`] bytes. It does not query the file's size.
pub fn read_start(file: &File) -> io::Result<Vec<u8>> {
    read_up_to(file, LONGEST)
}

/// Reads a file of any kind and length.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_to_end(&open(path, libc::O_RDONLY)?)
}

/// Reads a text that the kernel makes, such as a file in /proc. It is empty if it cannot be read.
pub fn kernel_text(path: &str) -> String {
    String::from_utf8_lossy(&read(path.as_ref()).unwrap_or_default()).into_owned()
}

/// Reads the rest of a file.
pub fn read_to_end(file: &File) -> io::Result<Vec<u8>> {
    read_up_to(file, usize::MAX)
}

fn read_up_to(mut file: &File, most: usize) -> io::Result<Vec<u8>> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    while length < most {
        bytes.resize(most.min(length + BLOCK), 0);
        match uninterrupted(|| file.read(bytes.get_mut(length..).unwrap_or_default()))? {
            0 => break,
            more => length += more,
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Creates a file with `content` that only its owner may read or write, and flushes it to disk. It must not exist.
pub fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)?;
    // The umask may have removed the owner's permissions.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}

/// Creates a directory that only its owner can use, unless the umask takes even that away. Its parent must exist.
pub fn create_directory(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path ends with a null byte and lives through the call.
    check(unsafe { libc::mkdir(path.as_ptr(), 0o700) }).map(drop)
}

/// Creates a directory like [`create_directory`], unless it exists. Returns whether it was created.
pub fn ensure_directory(path: &Path) -> io::Result<bool> {
    match create_directory(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        created => created.map(|()| true),
    }
}

/// Opens a file for writing, and creates it if it does not exist. Only its owner can open it, so nobody else can hold
/// its lock. Never blocks: a FIFO or a symbolic link is an error.
pub fn open_private(path: &Path) -> io::Result<File> {
    match create_private(path, &[]) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause),
        _ => open_small(path, true),
    }
}

/// Returns when a file was written, in seconds since 1970.
pub fn modified(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().and_then(|found| found.mtime().try_into().ok())
}

/// Returns the inode number of a file, its mode, and when it was written (seconds and nanoseconds).
pub fn version(path: &Path) -> Option<[[u8; 8]; 4]> {
    let found = fs::metadata(path).ok()?;
    let mode = u64::from(found.mode());
    Some([found.ino(), mode, found.mtime() as u64, found.mtime_nsec() as u64].map(u64::to_ne_bytes))
}

/// Waits for the exclusive lock on `file`. Closing the file releases it.
pub fn lock(file: &File) -> io::Result<()> {
    // SAFETY: flock takes a descriptor, which `file` keeps open, and touches no memory.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }).map(drop)
}

/// Takes the exclusive lock without waiting; fails with `WouldBlock` if another process holds it.
pub fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Releases the lock.
pub fn unlock(file: &File) -> io::Result<()> {
    // SAFETY: as above.
    check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_but_a_small_regular_file_is_refused() {
        let directory = std::env::temp_dir().join(format!("knockknock-small-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (file, link, fifo) = (directory.join("file"), directory.join("link"), directory.join("fifo"));
        fs::write(&file, b"x".repeat(LONGEST)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert_eq!(read_small(&file).unwrap().len(), LONGEST);
        assert_eq!(read_small(&link).unwrap().len(), LONGEST);
        assert!(open_small(&file, true).is_ok());
        assert_eq!(open_small(&link, true).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::write(&file, b"x".repeat(LONGEST + 1)).unwrap();
        for path in [&file, &fifo, &directory, Path::new("/dev/zero"), &directory.join("none")] {
            assert!(read_small(path).is_err(), "{path:?}");
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
