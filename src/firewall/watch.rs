//! Notifications of changes to nf_tables' rules (NFNLGRP_NFTABLES).

use super::nft::TABLE;
use crate::error::{Error, Result};
use crate::sys::netlink::{self, Socket};
use crate::sys::nf_tables::*;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Subscribes to notifications of removals from our rules, in either backend. On most systems iptables is a front end
/// of nf_tables; legacy iptables sends no notifications.
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

    /// Reads all notifications. Returns whether something of ours was removed since the last call, or may have been
    /// because notifications were lost.
    pub fn saw_removal(&self) -> bool {
        let (mut buffer, mut removal) = ([0; 8192], false);
        loop {
            match self.0.receive_now(&mut buffer) {
                Ok(told) => removal |= netlink::messages(told).any(|message| is_loss(&message)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return removal,
                Err(_) => removal = true,
            }
        }
    }
}

impl AsFd for RuleWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns whether the message reports a removal from our table or, with iptables, from table mangle. Elements of the
/// sets of openings do not count: packets and the opener remove those.
fn is_loss(message: &netlink::NetlinkMessage<'_>) -> bool {
    let elements = message.kind == NFT_MSG_DELSETELEM;
    if !elements && !REMOVALS.contains(&message.kind) {
        return false;
    }
    // Attribute 1 of every message is the table; attribute 2 of an element message is the set.
    let name = |wanted: u16| {
        let attributes = netlink::attributes(message.body.get(NFGENMSG_INET.len()..).unwrap_or_default());
        let found = attributes.into_iter().find(|(kind, _)| *kind == wanted);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok()).map(|name| name.trim_end_matches('\0'))
    };
    let is_opening = elements && name(NFTA_SET_ELEM_LIST_SET).is_some_and(|set| set.starts_with("open"));
    name(NFTA_SET_ELEM_LIST_TABLE).is_some_and(|table| table == "mangle" || table == TABLE && !is_opening)
}
