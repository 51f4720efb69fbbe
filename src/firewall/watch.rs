//! Notifications of changes to nf_tables' rules (NFNLGRP_NFTABLES).

use crate::error::{Error, Result};
use crate::sys::netlink::{self, Socket};
use crate::sys::nf_tables::*;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Subscribes to notifications of changes to our rules, in either backend. On most systems iptables is a front end of
/// nf_tables; legacy iptables sends no notifications.
pub struct RuleWatch(Socket);

impl RuleWatch {
    /// Subscribes to notifications.
    pub fn new() -> Result<Self> {
        let socket = Socket::open(libc::NETLINK_NETFILTER);
        let joined = socket.and_then(|socket| socket.join(libc::NFNLGRP_NFTABLES).map(|()| socket));
        // 1 MiB holds the notifications of a blocklist of 100,000 addresses that is loaded again.
        let joined = joined.and_then(|socket| socket.receive_buffer(1 << 20).map(|()| socket));
        joined.map(Self).map_err(|cause| Error::system("watch nf_tables for changes", cause))
    }

    /// Reads all notifications. Returns whether something in `table` was changed since the last call, or may have been
    /// because notifications were lost.
    pub(super) fn saw_change(&self, table: &str) -> bool {
        let (mut buffer, mut changed) = ([0; 8192], false);
        loop {
            match self.0.receive_now(&mut buffer) {
                Ok(datagram) => changed |= netlink::messages(datagram).any(|message| is_change(&message, table)),
                Err(error) if netlink::is_loss(&error) => changed = true,
                Err(error) => return changed || error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

impl AsFd for RuleWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns whether the message reports a change in `table`. Elements of the sets of openings do not count: packets and
/// the opener change those.
fn is_change(message: &netlink::NetlinkMessage<'_>, table: &str) -> bool {
    // Attribute 1 of every message is the table; attribute 2 of an element message is the set.
    let named = |wanted| {
        let name = attribute_of(message.body, wanted);
        name.strip_suffix(b"\0").unwrap_or(name)
    };
    let elements = [NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM].contains(&message.kind);
    named(NFTA_TABLE) == table.as_bytes() && !(elements && named(NFTA_SET_ELEM_LIST_SET).starts_with(b"open"))
}
