//! Transactions of nf_tables, and the constants of its netlink messages, named and documented in
//! linux/netfilter/nfnetlink.h and nf_tables.h.
#![allow(missing_docs)]

use super::check_long;
use super::netlink::{self, Socket, Writer};
use crate::error::failure;
use std::io;

/// `NFNL_SUBSYS_NFTABLES` in its place in a message type, the high byte.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;

pub const NFT_MSG_NEWTABLE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWTABLE as u16;
pub const NFT_MSG_GETTABLE: u16 = SUBSYSTEM | libc::NFT_MSG_GETTABLE as u16;
pub const NFT_MSG_DELTABLE: u16 = SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16;
pub const NFT_MSG_NEWCHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_NEWCHAIN as u16;
pub const NFT_MSG_GETCHAIN: u16 = SUBSYSTEM | libc::NFT_MSG_GETCHAIN as u16;
pub const NFT_MSG_NEWRULE: u16 = SUBSYSTEM | libc::NFT_MSG_NEWRULE as u16;
pub const NFT_MSG_GETRULE: u16 = SUBSYSTEM | libc::NFT_MSG_GETRULE as u16;
pub const NFT_MSG_DELRULE: u16 = SUBSYSTEM | libc::NFT_MSG_DELRULE as u16;
pub const NFT_MSG_NEWSET: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSET as u16;
pub const NFT_MSG_GETSET: u16 = SUBSYSTEM | libc::NFT_MSG_GETSET as u16;
pub const NFT_MSG_NEWSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSETELEM as u16;
pub const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_GETSETELEM as u16;
pub const NFT_MSG_DELSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_DELSETELEM as u16;

/// `struct nfgenmsg` of a batch: family unspecified, version 0, and the subsystem as `res_id`, big-endian.
const NFGENMSG_BATCH: [u8; 4] = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
/// `struct nfgenmsg` for a table of the family inet.
pub const NFGENMSG_INET: [u8; 4] = [libc::NFPROTO_INET as u8, 0, 0, 0];

/// The table's name in every message about something in it.
pub const NFTA_TABLE: u16 = 1;
pub const NFTA_TABLE_FLAGS: u16 = 2;
pub const NFT_TABLE_F_DORMANT: u32 = 1;
pub const NFT_TABLE_F_OWNER: u32 = 2;
/// Since Linux 6.9.
pub const NFT_TABLE_F_PERSIST: u32 = 4;
pub const NFTA_CHAIN_NAME: u16 = 3;
pub const NFTA_CHAIN_HOOK: u16 = 4;
pub const NFTA_CHAIN_POLICY: u16 = 5;
pub const NFTA_CHAIN_TYPE: u16 = 7;
pub const NFTA_RULE_CHAIN: u16 = 2;
pub const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub const NFTA_RULE_USERDATA: u16 = 7;
pub const NFTA_SET_NAME: u16 = 2;
pub const NFTA_SET_FLAGS: u16 = 3;
pub const NFT_SET_ANONYMOUS: u32 = 1;
/// Packets change the set's elements.
pub const NFT_SET_EVAL: u32 = 0x20;
pub const NFTA_SET_KEY_TYPE: u16 = 4;
pub const NFTA_SET_KEY_LEN: u16 = 5;
pub const NFTA_SET_DESC: u16 = 9;
pub const NFTA_SET_ID: u16 = 10;
pub const NFTA_SET_TIMEOUT: u16 = 11;
pub const NFTA_SET_USERDATA: u16 = 13;
pub const NFTA_SET_EXPR: u16 = 17;
pub const NFT_MSG_NEWOBJ: u16 = SUBSYSTEM | libc::NFT_MSG_NEWOBJ as u16;
pub const NFT_MSG_GETOBJ: u16 = SUBSYSTEM | libc::NFT_MSG_GETOBJ as u16;
pub const NFT_MSG_DELOBJ: u16 = SUBSYSTEM | libc::NFT_MSG_DELOBJ as u16;
pub const NFTA_OBJ_NAME: u16 = 2;
pub const NFTA_OBJ_TYPE: u16 = 3;
pub const NFTA_OBJ_DATA: u16 = 4;
pub const NFT_OBJECT_COUNTER: u32 = 1;
pub const NFTA_COUNTER_PACKETS: u16 = 2;
pub const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub const NFTA_LIST_ELEM: u16 = 1;
pub const NFTA_SET_ELEM_KEY: u16 = 1;
pub const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
pub const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
pub const NFTA_DATA_VALUE: u16 = 1;

/// Waits until no processor evaluates rules that were replaced before this call. A commit returns earlier.
///
/// It waits for an RCU grace period, which a packet's whole evaluation is within: `MEMBARRIER_CMD_GLOBAL` calls
/// `synchronize_rcu`. A kernel with `nohz_full` refuses that.
pub fn wait_for_evaluations() -> io::Result<()> {
    let none: libc::c_uint = 0;
    // SAFETY: membarrier takes integers and touches no memory.
    check_long(unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, none, none) }).map(drop)
}

/// Returns the attributes of a message's body.
pub fn after_header(body: &[u8]) -> &[u8] {
    body.get(NFGENMSG_INET.len()..).unwrap_or_default()
}

/// Returns the value of a message's attribute; empty if it is missing.
pub fn attribute_of(body: &[u8], wanted: u16) -> &[u8] {
    netlink::attribute(after_header(body), wanted)
}

/// A transaction: the kernel applies all of its messages or none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Batch(Writer);

impl Batch {
    /// Appends a message about a table of the family inet. `flags` are those besides NLM_F_REQUEST and NLM_F_ACK.
    pub fn add(&mut self, kind: u16, flags: libc::c_int, attributes: &[u8]) {
        let flags = flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        self.0.message(kind, flags as u16, 0, &NFGENMSG_INET, attributes);
    }

    /// Appends the messages of another batch.
    pub fn append(&mut self, other: &Self) {
        self.0.append(other.0.bytes());
    }

    /// Sends the transaction. The error is that of the first message that failed.
    pub fn commit(&self, socket: &Socket) -> io::Result<()> {
        let mut batch = Writer::default();
        let flags = libc::NLM_F_REQUEST as u16;
        batch.message(libc::NFNL_MSG_BATCH_BEGIN as u16, flags, 0, &NFGENMSG_BATCH, &[]);
        batch.append(self.0.bytes());
        batch.message(libc::NFNL_MSG_BATCH_END as u16, flags, 0, &NFGENMSG_BATCH, &[]);
        let bytes = batch.bytes();
        // Raise the send buffer only if necessary, because a confined process cannot set socket options.
        match socket.send(bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                socket.send_buffer(2 * bytes.len())?;
                socket.send(bytes)?;
            }
            sent => sent?,
        }
        // The kernel replies to each message before `send` returns.
        let (mut done, mut failed) = (false, None);
        let mut buffer = [0; 4096];
        loop {
            let answer = match socket.receive_now(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                answer => answer?,
            };
            for outcome in netlink::messages(answer).filter_map(|message| netlink::outcome(&message)) {
                match outcome {
                    Ok(()) => done = true,
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None if done => Ok(()),
            None => Err(failure("nf_tables did not answer")),
        }
    }
}
