//! Constants of nf_tables' netlink messages, named and documented in linux/netfilter/nfnetlink.h and nf_tables.h.
#![allow(missing_docs)]

/// `NFNL_SUBSYS_NFTABLES` in its place in a message type, the high byte.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;

/// The message types for the deletion of a table, a chain, a rule or a set.
pub const REMOVALS: [u16; 4] = [
    SUBSYSTEM | libc::NFT_MSG_DELTABLE as u16,
    SUBSYSTEM | libc::NFT_MSG_DELCHAIN as u16,
    SUBSYSTEM | libc::NFT_MSG_DELRULE as u16,
    SUBSYSTEM | libc::NFT_MSG_DELSET as u16,
];
pub const NFT_MSG_NEWSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_NEWSETELEM as u16;
pub const NFT_MSG_GETSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_GETSETELEM as u16;
pub const NFT_MSG_DELSETELEM: u16 = SUBSYSTEM | libc::NFT_MSG_DELSETELEM as u16;
pub const NFNL_MSG_BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
pub const NFNL_MSG_BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;

/// `struct nfgenmsg` of a batch: family unspecified, version 0, and the subsystem as `res_id`, big-endian.
pub const NFGENMSG_BATCH: [u8; 4] = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
/// `struct nfgenmsg` for a table of the family inet.
pub const NFGENMSG_INET: [u8; 4] = [libc::NFPROTO_INET as u8, 0, 0, 0];

pub const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub const NFTA_LIST_ELEM: u16 = 1;
pub const NFTA_SET_ELEM_KEY: u16 = 1;
pub const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
pub const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
pub const NFTA_DATA_VALUE: u16 = 1;
