//! Openings in our table: elements of a set, put there by netlink.

use super::ruleset::TABLE;
use crate::error::{Error, Result};
use crate::firewall::rules::{Admission, Opening, StandingOpening};
use crate::sys::netlink::{self, Socket, Writer};
use crate::sys::nf_tables::*;
use std::io;
use std::net::IpAddr;

/// Puts openings into the table.
pub(in crate::firewall) struct SetWriter {
    requests: Socket,
}

impl SetWriter {
    pub(in crate::firewall) fn new() -> Result<Self> {
        let requests =
            Socket::open(libc::NETLINK_NETFILTER).map_err(|cause| Error::system("open a netlink socket", cause))?;
        Ok(Self { requests })
    }

    /// Adds the element; renews its time where it is there already.
    pub(in crate::firewall) fn admit(&self, opening: &Opening) -> io::Result<Admission> {
        // A failed transaction costs milliseconds: the plain add first, which hardly ever fails.
        let mut outcome = self.transact(opening, false);
        if is(&outcome, libc::EEXIST) {
            outcome = self.transact(opening, true);
        }
        // It has been used in between.
        if is(&outcome, libc::ENOENT) {
            outcome = self.transact(opening, false);
        }
        match outcome {
            Ok(()) => Ok(Admission::Admitted),
            Err(full) if full.raw_os_error() == Some(libc::ENFILE) => Ok(Admission::SetFull),
            Err(error) => Err(error),
        }
    }

    fn transact(&self, opening: &Opening, renew: bool) -> io::Result<()> {
        let flags = libc::NLM_F_REQUEST as u16;
        let add = flags | (libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK) as u16;
        let mut batch = Writer::default();
        batch.message(NFNL_MSG_BATCH_BEGIN, flags, 0, &NFGENMSG_BATCH, |_| {});
        if renew {
            batch.message(NFT_MSG_DELSETELEM, flags, 1, &NFGENMSG_INET, |body| element(body, opening, false));
        }
        batch.message(NFT_MSG_NEWSETELEM, add, 2, &NFGENMSG_INET, |body| element(body, opening, true));
        batch.message(NFNL_MSG_BATCH_END, flags, 3, &NFGENMSG_BATCH, |_| {});
        self.exchange(&batch)
    }

    /// Removes the element. Returns whether it was there.
    pub(in crate::firewall) fn withdraw(&self, opening: &Opening) -> io::Result<bool> {
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut get = Writer::default();
        get.message(NFT_MSG_GETSETELEM, flags, 1, &NFGENMSG_INET, |body| element(body, opening, false));
        let mut batch = Writer::default();
        batch.message(NFNL_MSG_BATCH_BEGIN, libc::NLM_F_REQUEST as u16, 0, &NFGENMSG_BATCH, |_| {});
        batch.message(NFT_MSG_DELSETELEM, flags, 1, &NFGENMSG_INET, |body| element(body, opening, false));
        batch.message(NFNL_MSG_BATCH_END, libc::NLM_F_REQUEST as u16, 2, &NFGENMSG_BATCH, |_| {});
        // Ask first: most openings have been used, and a transaction that fails makes others wait.
        match self.exchange(&get).and_then(|()| self.exchange(&batch)) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    /// Sends messages, and returns how the kernel has answered.
    fn exchange(&self, messages: &Writer) -> io::Result<()> {
        self.requests.send(messages.bytes())?;
        // The kernel has answered before `send` returns: for the add, and for whatever failed.
        let (mut added, mut failed) = (false, None);
        let mut buffer = [0; 4096];
        loop {
            let answer = match self.requests.receive_now(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                answer => answer?,
            };
            for outcome in netlink::messages(answer).filter_map(|message| netlink::outcome(&message)) {
                match outcome {
                    Ok(()) => added = true,
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if added => Ok(()),
            None => Err(io::Error::other("nf_tables did not answer")),
        }
    }
}

/// Returns the openings in the table; an error if there is no table.
pub(in crate::firewall) fn standing() -> io::Result<Vec<StandingOpening>> {
    let socket = Socket::open(libc::NETLINK_NETFILTER)?;
    let mut found = Vec::new();
    for set in ["open4\0", "open6\0"] {
        let mut of_set = Writer::default();
        of_set.attribute(NFTA_SET_ELEM_LIST_TABLE, format!("{TABLE}\0").as_bytes());
        of_set.attribute(NFTA_SET_ELEM_LIST_SET, set.as_bytes());
        for body in socket.list(NFT_MSG_GETSETELEM, &NFGENMSG_INET, of_set.bytes())? {
            let list = value(body.get(NFGENMSG_INET.len()..).unwrap_or_default(), NFTA_SET_ELEM_LIST_ELEMENTS);
            found.extend(netlink::attributes(list).filter_map(|(_, element)| standing_opening(element)));
        }
    }
    Ok(found)
}

fn standing_opening(element: &[u8]) -> Option<StandingOpening> {
    let key = value(value(element, NFTA_SET_ELEM_KEY), NFTA_DATA_VALUE);
    let (address, port) = key.split_at_checked(key.len().checked_sub(4)?)?;
    let source = match <[u8; 4]>::try_from(address) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(address).ok()?.into(),
    };
    let left = value(element, NFTA_SET_ELEM_EXPIRATION).first_chunk().map(|left| u64::from_be_bytes(*left) / 1000);
    Some(StandingOpening { source, port: u16::from_be_bytes(*port.first_chunk()?), left })
}

/// Returns the value of an attribute; empty if it is missing.
fn value(attributes: &[u8], wanted: u16) -> &[u8] {
    netlink::attributes(attributes).find(|(kind, _)| *kind == wanted).map_or(&[], |(_, value)| value)
}

fn is(outcome: &io::Result<()>, number: i32) -> bool {
    outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(number))
}

/// An element of open4 or open6: address and port, each filled up to 4 bytes, and its time.
fn element(body: &mut Writer, opening: &Opening, with_timeout: bool) {
    let (set, mut key) = match opening.source {
        IpAddr::V4(v4) => ("open4\0", v4.octets().to_vec()),
        IpAddr::V6(v6) => ("open6\0", v6.octets().to_vec()),
    };
    key.extend(opening.port.to_be_bytes());
    key.extend([0, 0]);
    body.attribute(NFTA_SET_ELEM_LIST_TABLE, format!("{TABLE}\0").as_bytes());
    body.attribute(NFTA_SET_ELEM_LIST_SET, set.as_bytes());
    body.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
        list.nest(NFTA_LIST_ELEM, |element| {
            element.nest(NFTA_SET_ELEM_KEY, |data| data.attribute(NFTA_DATA_VALUE, &key));
            if with_timeout {
                element.attribute(NFTA_SET_ELEM_TIMEOUT, &(u64::from(opening.seconds) * 1000).to_be_bytes());
            }
        });
    });
}
