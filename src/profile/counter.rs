//! The durable counter of a profile: a value is stored as used before a packet is sent or a port is opened with it.

use super::ownership::{check_private, failed};
use crate::error::{Error, Result, failure};
use crate::sys;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The last value, 2^32 - 1, which is never used to seal: a client's file with this value is exhausted.
pub const SPENT: u64 = u32::MAX as u64;

/// The counter of a revoked profile, after which nothing is accepted.
pub const REVOKED: u64 = SPENT + 1;

/// The length of the counter's line in bytes: ten digits and a newline.
const LINE: usize = 11;

/// The file of a profile that was handed over but has not knocked. A knock stores ten digits.
pub const UNUSED: &[u8; LINE] = b"1\n\n\n\n\n\n\n\n\n\n";

/// A profile's counter file, held open.
///
/// The file contains the next value to use, in decimal, and a newline. Values have 32 bits, with one exception: a
/// daemon that has accepted the last value stores 4294967296, and accepts nothing after it.
pub struct Counter {
    file: File,
    path: PathBuf,
    next: u64,
}

impl Counter {
    /// Opens and reads the file. It must be private to its owner.
    pub fn open(path: &Path) -> Result<Self> {
        let file = sys::file::open_small(path, true).map_err(|cause| match cause.raw_os_error() {
            Some(libc::ELOOP) => failed("open", path, cause)
                .advise("a counter must be a file, not a link: make a new profile on both sides"),
            _ => failed("open", path, cause),
        })?;
        check_private(&file, path)?;
        let mut counter = Self { file, path: path.into(), next: 0 };
        counter.next = counter.read()?;
        Ok(counter)
    }

    /// Parses the first line. Version 0.8 may leave digits of an older, longer number in the lines after it.
    pub fn parse(bytes: &[u8]) -> Option<u64> {
        let line = bytes.split(|&byte| byte == b'\n').next()?.trim_ascii();
        let digits = !line.is_empty() && line.len() <= 20 && line.iter().all(u8::is_ascii_digit);
        let number: u64 = std::str::from_utf8(line).ok().filter(|_| digits)?.parse().ok()?;
        (number <= REVOKED).then_some(number)
    }

    /// Returns the next value to use, up to 2^32, as of the last time that the file was read or written.
    pub fn next(&self) -> u64 {
        self.next
    }

    fn read(&self) -> Result<u64> {
        let mut bytes = [0; 32];
        let length = self.file.read_at(&mut bytes, 0).map_err(|cause| Error::path("read", &self.path, cause))?;
        Self::parse(bytes.get(..length).unwrap_or_default()).ok_or_else(|| {
            Error::content(&self.path, 0, "is not a counter: expected a number up to 4294967295")
                .advise("restore it from a backup of this machine and add to it, or make a new profile on both sides")
        })
    }

    /// Stores `next` in place and flushes it to disk. If the value on disk is higher it is kept, so a counter never
    /// decreases. Returns `false` if the value on disk was lower than the last known one, or unreadable.
    ///
    /// It is an error if the file has been deleted or replaced, since a value stored in it would be lost, or if the
    /// profile has been revoked. The file is locked until [`Counter::unlock`].
    pub fn store(&mut self, next: u64) -> io::Result<bool> {
        sys::file::try_lock(&self.file)?;
        let found = self.read().ok();
        if found == Some(REVOKED) && next < REVOKED {
            return Err(failure("the profile was revoked"));
        }
        let metadata = self.file.metadata()?;
        if metadata.nlink() == 0 {
            return Err(failure("the file was replaced (SIGHUP makes the daemon read the profiles again)"));
        }
        let next = next.max(found.unwrap_or(0));
        self.widen(metadata.size())?;
        // Always 11 bytes: the file does not grow, so storing works on a full disk.
        self.file.write_all_at(format!("{next:010}\n").as_bytes(), 0)?;
        self.file.sync_data()?;
        let kept = found.is_some_and(|found| found >= self.next);
        self.next = next;
        Ok(kept)
    }

    /// Revokes the profile of the counter file at `path`: no process accepts or sends a knock with it after this.
    ///
    /// A process that stores a counter holds the lock until it has used the counter, so no knock is in progress when
    /// this returns. A file that does not exist was revoked by its deletion.
    pub fn revoke(path: &Path) -> io::Result<()> {
        let file = match sys::file::open_small(path, true) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        let write = || file.write_all_at(format!("{REVOKED}\n").as_bytes(), 0).and_then(|()| file.sync_data());
        // Write before taking the lock, so that no other knock delays it, and again after, because a knock in progress
        // may overwrite it.
        write()?;
        sys::file::lock(&file)?;
        write()
    }

    /// Pads a shorter file, as version 0.8 writes it, to 11 bytes. If the size changed together with the number, a
    /// power failure in between could cut the new line to its leading zeros.
    fn widen(&self, size: u64) -> io::Result<()> {
        if size >= LINE as u64 {
            return Ok(());
        }
        self.file.write_all_at(&b"\n".repeat(LINE - size as usize), size)?;
        self.file.sync_data()
    }

    /// Waits for the exclusive lock of the file, so that one client at a time uses the counter, and reads it again.
    pub fn lock(&mut self) -> Result<()> {
        sys::file::lock(&self.file).map_err(|cause| Error::path("lock", &self.path, cause))?;
        self.next = self.read()?;
        Ok(())
    }

    /// Releases the lock.
    pub fn unlock(&self) {
        let _ = sys::file::unlock(&self.file);
    }

    /// Stores 1, and marks the profile as handed over but unused.
    pub fn hand_over(&mut self) -> io::Result<()> {
        self.store(1)?;
        self.file.write_all_at(UNUSED, 0)
    }

    /// Returns whether no knock has used the counter.
    pub fn is_unused(&self) -> bool {
        let mut bytes = [0; LINE];
        self.next == 0 || self.file.read_at(&mut bytes, 0).is_ok() && bytes == *UNUSED
    }

    /// Returns the path of the file, for messages.
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

    /// Runs `test` with a counter file that contains `text`, and deletes the file afterwards.
    fn with(text: &str, test: impl FnOnce(&Path, Counter)) {
        let path = std::env::temp_dir().join(format!("knockknock-counter-{}-{:p}", std::process::id(), text));
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let counter = Counter::open(&path).unwrap();
        test(&path, counter);
        let _ = std::fs::remove_file(&path);
    }

    #[test]
    fn a_counter_never_decreases_whatever_is_written_into_the_file() {
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
    fn a_revoked_counter_stores_nothing_more_whatever_was_in_the_file() {
        for text in ["7\n", "0000000007\n", "damaged\n", ""] {
            let path = std::env::temp_dir().join(format!("knockknock-revoked-{}-{}", std::process::id(), text.len()));
            std::fs::write(&path, "7\n").unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            let mut counter = Counter::open(&path).unwrap();
            std::fs::write(&path, text).unwrap();
            Counter::revoke(&path).unwrap();
            assert!(counter.store(8).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "4294967296\n");
            std::fs::remove_file(&path).unwrap();
            Counter::revoke(&path).unwrap();
        }
    }

    #[test]
    fn a_profile_is_not_revoked_between_storing_a_counter_and_using_it() {
        with("5\n", |path, mut counter| {
            counter.store(8).unwrap();
            let path = path.to_owned();
            let revoking = std::thread::spawn(move || Counter::revoke(&path).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!revoking.is_finished());
            counter.unlock();
            revoking.join().unwrap();
            assert!(counter.store(9).is_err());
        });
    }

    #[test]
    fn malformed_counters_are_refused() {
        for bad in ["", "\n", "-1\n", "+1\n", "1x\n", "\0\0\0", "4294967297\n", "99999999999999999999\n", "1 2\n"] {
            assert_eq!(Counter::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
