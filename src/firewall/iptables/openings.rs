//! Openings in the lists of the `recent` match: lines written to files in /proc.

use super::ruleset::{IpVersion, versions};
use crate::error::{Error, Result};
use crate::firewall::rules::{Admission, Opening, StandingOpening};
use crate::ports::Ports;
use crate::sys::process;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::net::IpAddr;

/// Writes openings into the lists.
pub(in crate::firewall) struct ListWriter {
    lists: Vec<(IpVersion, u16, File)>,
}

impl ListWriter {
    pub(in crate::firewall) fn new(guard: &Ports) -> Result<Self> {
        let files = versions().len() * guard.iter().count() + 64;
        process::allow_files(files as u32)
            .map_err(|cause| Error::system("allow enough open files for the lists", cause))?;
        let mut lists = Vec::new();
        for &version in versions() {
            for port in guard.iter() {
                let path = version.list_path(port);
                let file =
                    File::options().write(true).open(&path).map_err(|cause| Error::path("open", &path, cause))?;
                lists.push((version, port, file));
            }
        }
        Ok(Self { lists })
    }

    /// Writes the address to the port's list, which gives it a new time.
    pub(in crate::firewall) fn admit(&self, opening: &Opening) -> io::Result<Admission> {
        let version = if matches!(opening.source, IpAddr::V4(_)) { IpVersion::V4 } else { IpVersion::V6 };
        let list = self.lists.iter().find(|(f, port, _)| (*f, *port) == (version, opening.port));
        let Some(mut file) = list.map(|(_, _, file)| file) else { return Ok(Admission::PortNotGuarded) };
        // The kernel takes a write at the file's start only, and no pwrite.
        file.seek(SeekFrom::Start(0))?;
        file.write_all(format!("+{}\n", opening.source).as_bytes())?;
        Ok(Admission::Admitted)
    }
}

/// The addresses in the lists of the ports in `guard`. The kernel leaves one there when its time is up.
pub(in crate::firewall) fn standing(guard: &Ports) -> Vec<StandingOpening> {
    let mut found = Vec::new();
    for port in guard.iter() {
        for version in versions() {
            let list = fs::read_to_string(version.list_path(port)).unwrap_or_default();
            let words = list.lines().filter_map(|line| line.strip_prefix("src=")?.split(' ').next()?.parse().ok());
            found.extend(words.map(|source| StandingOpening { source, port, left: None }));
        }
    }
    found
}
