//! Reads /dev/kmsg (Documentation/ABI/testing/dev-kmsg). Each read returns one record,
//! `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS[,…];TEXT`, followed by lines of properties.

use super::notice::Notice;
use super::record::Record;
use super::wanted::Wanted;
use crate::error::{Error, Result, quoted};
use crate::search;
use crate::sys::file;
use crate::wire::entry;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than any record of the kernel (8192 bytes, `PRINTK_MESSAGE_MAX` in kernel/printk/internal.h). musl does not clear
/// a buffer of this size, so that only the used part takes memory.
const BUFFER: usize = 1 << 16;
/// The device number: `MEM_MAJOR`, and the minor number from drivers/char/mem.c.
const KMSG: u64 = libc::makedev(1, 11);
/// The path of the device.
pub(super) const DEV_KMSG: &str = "/dev/kmsg";
/// The maximum number of records that one call reads before it returns to the event loop.
const SHARE: usize = 1024;

/// The kernel's log buffer, read from its end.
pub struct Kmsg {
    file: File,
    path: PathBuf,
    buffer: Box<[u8]>,
}

impl Kmsg {
    pub(super) fn open(path: &Path) -> Result<Box<Self>> {
        let failed = |cause| {
            Error::path("open", path, cause)
                .advise("run as root (or with CAP_SYSLOG), or set log = /var/log/kern.log in the config")
        };
        let mut file = file::open(path, libc::O_RDONLY | libc::O_NONBLOCK).map_err(failed)?;
        let found = file.metadata().map_err(failed)?;
        if !found.file_type().is_char_device() || found.rdev() != KMSG {
            let is = path
                .read_link()
                .map_or("not the device 1:11".to_owned(), |target| format!("a link to {}", quoted(&target)));
            return Err(Error::refused(format!("{} is not the kernel log; it is {is}", quoted(path)))
                .advise("containers often have no /dev/kmsg: set log = nflog:5 in the config"));
        }
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Box::new(Self { file, path: path.into(), buffer: vec![0; BUFFER].into() }))
    }

    /// Becomes readable when there may be a new record.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(super) fn read(&mut self, wanted: &Wanted, each: &mut dyn FnMut(Record<'_>)) -> Result<Option<Notice>> {
        for _ in 0..SHARE {
            match self.file.read(&mut self.buffer) {
                Ok(0) => return Err(Error::path("read", &self.path, io::ErrorKind::UnexpectedEof.into())),
                Ok(length) => {
                    let record = self.buffer.get(..length).unwrap_or_default();
                    if let Some(line) = line(record) {
                        if entry::knock_port(line).is_some_and(|port| wanted.has(port, line)) {
                            each(Record::Line(line));
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The next read returns the oldest record still in the buffer.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => return Ok(Some(Notice::Overrun)),
                Err(cause) => return Err(Error::path("read", &self.path, cause)),
            }
        }
        Ok(None)
    }
}

/// Returns the time since boot of the newest record; `None` if the log cannot be read.
pub(super) fn newest() -> Option<Duration> {
    let mut kmsg = Kmsg::open(Path::new(DEV_KMSG)).ok()?;
    kmsg.file.seek(SeekFrom::Start(0)).ok()?;
    let mut newest = None;
    loop {
        match kmsg.file.read(&mut kmsg.buffer) {
            Ok(length) => {
                let head = kmsg.buffer.get(..length)?.split(|&byte| byte == b';').next()?;
                let micros = std::str::from_utf8(head.split(|&byte| byte == b',').nth(2)?).ok()?.parse().ok()?;
                newest = Some(Duration::from_micros(micros));
            }
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return newest,
        }
    }
}

/// Returns the text of a record if the kernel itself wrote it: facility 0, which user space cannot set.
pub fn line(record: &[u8]) -> Option<&[u8]> {
    let at = record.iter().position(|&byte| byte == b';')?;
    let (head, text) = record.split_at_checked(at)?;
    let priority = head.split(|&byte| byte == b',').next()?;
    let digits = !priority.is_empty() && priority.iter().all(u8::is_ascii_digit);
    let priority: u32 = std::str::from_utf8(priority).ok().filter(|_| digits)?.parse().ok()?;
    let text = text.get(1..)?;
    let end = search::first_byte(text, b'\n').unwrap_or(text.len());
    text.get(..end).filter(|_| priority >> 3 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernels_own_records_are_read() {
        assert_eq!(line(b"7,399,1287881436,-;REJECT IN=kks\n SUBSYSTEM=x\n"), Some(&b"REJECT IN=kks"[..]));
        assert_eq!(line(b"4,1,2,-,caller=T1;x;y"), Some(&b"x;y"[..]));
        for foreign in
            ["14,399,1287881436,-;REJECT IN=kks", "8,1,2,-;x", "", ";x", "-1,1;x", "x,1;x", "7,1,2", "99999999999,1;x"]
        {
            assert_eq!(line(foreign.as_bytes()), None, "{foreign:?}");
        }
    }

    #[test]
    fn every_captured_record_has_its_line() {
        let records = include_str!("../../tests/samples/iptables-INPUT.kmsg");
        for record in records.lines() {
            assert_eq!(line(record.as_bytes()), record.split_once(';').map(|(_, text)| text.as_bytes()));
        }
    }
}
