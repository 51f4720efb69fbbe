//! Notifications of changes to nf_tables' rules (NFNLGRP_NFTABLES).

use crate::error::{Error, Result};
use crate::sys::netlink::{self, Socket};
use crate::sys::nf_tables::*;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// What the kernel tells of changes to nf_tables' rules (NFNLGRP_NFTABLES).
pub(super) struct Changes {
    socket: Socket,
    /// Whether the removal of something in this table, or of elements in this set of it, is our loss.
    ours: fn(&str, Option<&str>) -> bool,
}

impl Changes {
    pub(super) fn new(ours: fn(&str, Option<&str>) -> bool) -> Result<Self> {
        let socket = Socket::open(libc::NETLINK_NETFILTER);
        let joined = socket.and_then(|socket| socket.join(libc::NFNLGRP_NFTABLES).map(|()| socket));
        // As somebody's blocklist of a hundred thousand addresses, loaded anew, takes.
        let joined = joined.and_then(|socket| socket.receive_buffer(1 << 20).map(|()| socket));
        Ok(Self { socket: joined.map_err(|cause| Error::system("watch nf_tables for changes", cause))?, ours })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads all that has been told; `false` where it is our loss, or where so much was told that
    /// some of it was dropped.
    pub(super) fn still_stands(&self) -> bool {
        let mut buffer = [0; 8192];
        loop {
            match self.socket.receive_now(&mut buffer) {
                Ok(told) => {
                    if netlink::messages(told).any(|message| self.is_loss(&message)) {
                        return false;
                    }
                }
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    fn is_loss(&self, message: &netlink::Message<'_>) -> bool {
        let elements = message.kind == NFT_MSG_DELSETELEM;
        if !elements && !REMOVALS.contains(&message.kind) {
            return false;
        }
        // All of them name the table in attribute 1, and those of elements the set in attribute 2.
        let name = |wanted: u16| {
            let attributes = netlink::attributes(message.body.get(NFGENMSG_INET.len()..).unwrap_or_default());
            let found = attributes.into_iter().find(|(kind, _)| *kind == wanted);
            found.and_then(|(_, value)| std::str::from_utf8(value).ok()).map(|name| name.trim_end_matches('\0'))
        };
        (self.ours)(
            name(NFTA_SET_ELEM_LIST_TABLE).unwrap_or_default(),
            name(NFTA_SET_ELEM_LIST_SET).filter(|_| elements),
        )
    }
}
