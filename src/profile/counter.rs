//! The durable counter: a value is used up on disk before anything happens in the world.

use super::ownership::{failed, private};
use crate::error::{Error, Result};
use crate::sys;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The counter that is never used to seal: a file with it is spent.
pub const SPENT: u64 = u32::MAX as u64;

/// How long a counter's line is: ten digits and a newline.
const LINE: usize = 11;

/// A profile's counter file, held open.
///
/// The file has the next value to use in decimal and a newline. Its values are those of 32 bits, and
/// one more: a daemon that has accepted the last of them stores 4294967296, beyond which nothing is.
pub struct Counter {
    file: File,
    path: PathBuf,
    next: u64,
}

impl Counter {
    /// Opens and reads the file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = sys::file::open_small(path, true).map_err(|cause| match cause.raw_os_error() {
            Some(libc::ELOOP) => failed("open", path, cause)
                .advise("a counter must be a file, not a link: make a new profile on both sides"),
            _ => failed("open", path, cause),
        })?;
        private(&file, path)?;
        let mut counter = Self { file, path: path.into(), next: 0 };
        counter.next = counter.read()?;
        Ok(counter)
    }

    /// The number in the first line; the original may leave older digits behind it.
    pub fn parse(bytes: &[u8]) -> Option<u64> {
        let line = bytes.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let digits = !line.is_empty() && line.len() <= 20 && line.iter().all(u8::is_ascii_digit);
        let number: u64 = std::str::from_utf8(line).ok().filter(|_| digits)?.parse().ok()?;
        (number <= SPENT + 1).then_some(number)
    }

    /// The next value to use, up to 2^32, as the file had it when it was last read or written.
    pub fn next(&self) -> u64 {
        self.next
    }

    fn read(&self) -> Result<u64> {
        let mut bytes = [0; 32];
        let length = self.file.read_at(&mut bytes, 0).map_err(|cause| Error::path("read", &self.path, cause))?;
        Self::parse(bytes.get(..length).unwrap_or_default()).ok_or_else(|| {
            Error::content(&self.path, 0, "is no counter: a number up to 4294967295 is needed")
                .advise("restore it from a backup of this machine and add to it, or make a new profile on both sides")
        })
    }

    /// Stores `next` in place and returns when the disk has it. A value on disk that is higher stays,
    /// so a counter never goes back. Returns whether the file had kept the value that it should have.
    ///
    /// A file that is no longer in its directory is an error, since nobody would ever read it again.
    pub fn store(&mut self, next: u64) -> io::Result<bool> {
        let metadata = self.file.metadata()?;
        if metadata.nlink() == 0 {
            return Err(io::Error::other("the file was replaced (SIGHUP has the daemon read profiles again)"));
        }
        let found = self.read().ok();
        let next = next.max(found.unwrap_or(0));
        self.widen(metadata.size())?;
        // Always eleven bytes, so that the file's size does not change and a full disk does not matter.
        self.file.write_all_at(format!("{next:010}\n").as_bytes(), 0)?;
        self.file.sync_data()?;
        let kept = found.is_some_and(|found| found >= self.next);
        self.next = next;
        Ok(kept)
    }

    /// Makes a file that the original wrote as long as ours, behind its first line: if the size changed
    /// with the number, a power failure between the two would leave the number's leading zeros alone.
    fn widen(&self, size: u64) -> io::Result<()> {
        if size >= LINE as u64 {
            return Ok(());
        }
        self.file.write_all_at(&b"\n".repeat(LINE - size as usize), size)?;
        self.file.sync_data()
    }

    /// Waits for the lock that lets one client at a time use the counter, and reads it anew.
    pub fn lock(&mut self) -> Result<()> {
        sys::file::lock(&self.file).map_err(|cause| Error::path("lock", &self.path, cause))?;
        self.next = self.read()?;
        Ok(())
    }

    /// Gives the lock back.
    pub fn unlock(&self) {
        let _ = sys::file::unlock(&self.file);
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_line_counts() {
        assert_eq!(Counter::parse(b"7\n"), Some(7));
        assert_eq!(Counter::parse(b"9\n0\n"), Some(9), "stale digits of a longer number");
        assert_eq!(Counter::parse(b"0000000012\n"), Some(12));
        assert_eq!(Counter::parse(b"4294967296\n"), Some(SPENT + 1));
    }

    /// A counter file with `text` in it, which is gone when the test is over.
    fn with(text: &str, test: impl FnOnce(&Path, Counter)) {
        let path = std::env::temp_dir().join(format!("knockknock-counter-{}-{:p}", std::process::id(), text));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let counter = Counter::open(&path).unwrap();
        test(&path, counter);
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn a_counter_never_goes_back_whatever_somebody_writes_into_the_file() {
        with("7\n", |path, mut counter| {
            let text = || std::fs::read_to_string(path).unwrap();
            assert!(counter.store(8).unwrap());
            assert_eq!((text().as_str(), counter.next()), ("0000000008\n", 8));
            std::fs::write(path, "20\n").unwrap();
            assert!(counter.store(9).unwrap());
            assert_eq!((text().as_str(), counter.next()), ("0000000020\n", 20), "a raised counter stays raised");
            for damaged in ["19\n", "", "x\n", "\0\0\0"] {
                std::fs::write(path, damaged).unwrap();
                assert!(!counter.store(20).unwrap(), "{damaged:?} is not what was stored");
                assert_eq!((text().as_str(), counter.next()), ("0000000020\n", 20));
            }
        });
    }

    #[test]
    fn a_removed_file_is_an_error() {
        with("1\n", |path, mut counter| {
            std::fs::remove_file(path).unwrap();
            assert!(counter.store(2).is_err());
            assert_eq!(counter.next(), 1);
        });
    }

    #[test]
    fn what_is_no_counter_is_refused() {
        for bad in ["", "\n", "-1\n", "+1\n", "1x\n", "\0\0\0", "4294967297\n", "99999999999999999999\n", "1 2\n"] {
            assert_eq!(Counter::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
