//! Openings in our table: elements of a set, added by netlink.

use super::contents;
use super::ruleset::TABLE;
use crate::error::{Error, Result};
use crate::firewall::rules::{Admission, LiveOpening, Opening};
use crate::ports::Ports;
use crate::sys::netlink::{Socket, Writer, attribute};
use crate::sys::nf_tables::*;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

/// The size of open4 and of open6.
const SIZE: usize = 4096;

/// Adds openings to the table.
pub(in crate::firewall) struct SetWriter {
    requests: Socket,
}

impl SetWriter {
    /// Writes through `owner`, if that socket owns the table.
    pub(in crate::firewall) fn new(owner: Option<OwnedFd>) -> Result<Self> {
        let requests = owner.map_or_else(|| Socket::open(libc::NETLINK_NETFILTER), |owner| Ok(Socket::from(owner)));
        let requests = requests.map_err(|cause| Error::system("open a netlink socket", cause))?;
        // An earlier opener may have left answers unread.
        requests.discard();
        Ok(Self { requests })
    }

    /// Adds the element, or renews its time if it exists.
    pub(in crate::firewall) fn admit(&self, opening: &Opening) -> io::Result<Admission> {
        // A failed transaction costs milliseconds, so try the plain add first: it hardly ever fails.
        let mut outcome = self.transact(opening, false);
        if failed_with(&outcome, libc::EEXIST) {
            outcome = self.transact(opening, true);
        }
        // A connection has used it in between.
        if failed_with(&outcome, libc::ENOENT) {
            outcome = self.transact(opening, false);
        }
        match outcome {
            Ok(()) => Ok(Admission::Admitted),
            Err(full) if full.raw_os_error() == Some(libc::ENFILE) => self.why_full(opening),
            Err(error) => Err(error),
        }
    }

    /// Returns why the set of an opening is full. A set that counts used openings lists far fewer than it counts.
    fn why_full(&self, opening: &Opening) -> io::Result<Admission> {
        let listed = contents::elements(&self.requests, TABLE, set_of(opening.source).as_bytes())?.len();
        Ok(if listed < SIZE / 2 { Admission::SetLeaks } else { Admission::SetFull })
    }

    fn transact(&self, opening: &Opening, renew: bool) -> io::Result<()> {
        let mut batch = Batch::default();
        if renew {
            batch.add(NFT_MSG_DELSETELEM, 0, element(opening, false).bytes());
        }
        batch.add(NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE | libc::NLM_F_EXCL, element(opening, true).bytes());
        batch.commit(&self.requests)
    }

    /// Removes the element. Returns whether it existed.
    pub(in crate::firewall) fn withdraw(&self, opening: &Opening) -> io::Result<bool> {
        let (element, mut batch) = (element(opening, false), Batch::default());
        batch.add(NFT_MSG_DELSETELEM, 0, element.bytes());
        // Ask first: most openings have been used, and a transaction that fails makes others wait.
        let found = self.requests.ask(NFT_MSG_GETSETELEM, libc::NLM_F_ACK, &NFGENMSG_INET, element.bytes());
        match found.and_then(|_| batch.commit(&self.requests)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }
}

/// Returns the openings in the table; an error if there is no table.
pub(in crate::firewall) fn live_openings() -> io::Result<Vec<LiveOpening>> {
    let mut openings = Vec::new();
    for set in &["open4\0", "open6\0"] {
        for element in &elements(set)? {
            openings.extend(live_opening(element));
        }
    }
    Ok(openings)
}

/// Returns the ports in a set of ports.
pub(super) fn ports(set: &str) -> io::Result<Ports> {
    let mut ports = Ports::default();
    for element in &elements(set)? {
        ports.extend(key(element).first_chunk().map(|port| u16::from_be_bytes(*port)));
    }
    Ok(ports)
}

/// Returns the attributes of each element of a set.
fn elements(set: &str) -> io::Result<Vec<Vec<u8>>> {
    contents::elements(&Socket::open(libc::NETLINK_NETFILTER)?, TABLE, set.as_bytes())
}

fn key(element: &[u8]) -> &[u8] {
    attribute(attribute(element, NFTA_SET_ELEM_KEY), NFTA_DATA_VALUE)
}

fn live_opening(element: &[u8]) -> Option<LiveOpening> {
    let key = key(element);
    let (address, port) = key.split_at_checked(key.len().checked_sub(4)?)?;
    let source = match <[u8; 4]>::try_from(address) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(address).ok()?.into(),
    };
    let left = attribute(element, NFTA_SET_ELEM_EXPIRATION).first_chunk().map(|left| u64::from_be_bytes(*left) / 1000);
    Some(LiveOpening { source, port: u16::from_be_bytes(*port.first_chunk()?), left })
}

fn failed_with(outcome: &io::Result<()>, number: i32) -> bool {
    outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(number))
}

fn set_of(source: IpAddr) -> &'static str {
    if source.is_ipv4() { "open4\0" } else { "open6\0" }
}

/// Returns an element of open4 or open6: address and port, each padded to 4 bytes, and its time.
fn element(opening: &Opening, with_timeout: bool) -> Writer {
    let mut key = match opening.source {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    key.extend(opening.port.to_be_bytes());
    key.extend([0, 0]);
    let seconds = with_timeout.then_some(opening.seconds.into());
    contents::with_element(set_of(opening.source).as_bytes(), &key, seconds)
}
