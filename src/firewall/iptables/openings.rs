//! Openings in the lists of the `recent` match: lines written to files in /proc.

use super::ruleset::{IpVersion, versions};
use crate::error::{Error, Result};
use crate::firewall::rules::{Admission, LiveOpening, Opening};
use crate::ports::Ports;
use crate::sys::{file, process};
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::net::IpAddr;

/// Writes openings into the lists.
pub(in crate::firewall) struct ListWriter {
    lists: Vec<(IpVersion, u16, File)>,
}

impl ListWriter {
    pub(in crate::firewall) fn new(guard: &Ports) -> Result<Self> {
        let files = versions().len() * guard.as_slice().len() + 64;
        process::raise_file_limit(files as u32)
            .map_err(|cause| Error::system("allow enough open files for the lists", cause))?;
        let mut lists = Vec::new();
        for &version in versions() {
            for port in guard.iter() {
                let path = port_path(version, port);
                let file = file::open(path.as_ref(), libc::O_RDWR)
                    .map_err(|cause| Error::path("open", path.as_ref(), cause))?;
                lists.push((version, port, file));
            }
        }
        Ok(Self { lists })
    }

    /// Writes the address to the port's list. If the list has it already, its time starts again.
    pub(in crate::firewall) fn admit(&self, opening: &Opening) -> io::Result<Admission> {
        let Some(mut file) = self.list(opening) else { return Ok(Admission::PortNotGuarded) };
        // The kernel takes a write at the file's start only, and no pwrite.
        file.seek(SeekFrom::Start(0))?;
        add(file, &opening.source.to_string())?;
        Ok(Admission::Admitted)
    }

    /// Returns whether the address is still in the port's list. A connection that uses the opening removes it.
    pub(in crate::firewall) fn is_listed(&self, opening: &Opening) -> io::Result<bool> {
        let Some(mut file) = self.list(opening) else { return Ok(false) };
        file.seek(SeekFrom::Start(0))?;
        // The opener may not query its size.
        let list = file::read_start(file)?;
        Ok(addresses(&String::from_utf8_lossy(&list)).any(|source| source == opening.source))
    }

    fn list(&self, opening: &Opening) -> Option<&File> {
        let version = if opening.source.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
        let list = self.lists.iter().find(|(of, port, _)| (*of, *port) == (version, opening.port));
        list.map(|(_, _, file)| file)
    }
}

/// Starts the time of the list [`START`](super::ruleset::START) or [`TRIAL`](super::ruleset::TRIAL): writes the
/// unspecified address to it. The rules that search the list match until their number of seconds has passed.
pub(super) fn start_time(version: IpVersion, list: &str) -> io::Result<()> {
    add(&file::open(version.list_path(list).as_ref(), libc::O_WRONLY)?, version.unspecified())
}

/// Writes an address to a list.
fn add(mut list: &File, address: &str) -> io::Result<()> {
    list.write_all(format!("+{address}\n").as_bytes())
}

/// Returns the file of a port's list.
fn port_path(version: IpVersion, port: u16) -> String {
    version.list_path(&format!("kk{port}"))
}

/// Returns the addresses in the lists of the ports in `guard`. The kernel keeps an address in the list after its time
/// is up.
pub(in crate::firewall) fn live_openings(guard: &Ports) -> Vec<LiveOpening> {
    let mut found = Vec::new();
    for port in guard.iter() {
        for &version in versions() {
            let list = file::kernel_text(&port_path(version, port));
            for source in addresses(&list) {
                found.push(LiveOpening { source, port, left: None });
            }
        }
    }
    found
}

/// Parses the addresses from the text of a list.
fn addresses(list: &str) -> impl Iterator<Item = IpAddr> {
    list.lines().filter_map(|line| line.strip_prefix("src=")?.split(' ').next()?.parse().ok())
}
