//! The contents of a table: read from the kernel, and kept as the netlink messages that make them.
//!
//! nft translates our text into a dormant table. Our own socket then makes a table with the same contents in one
//! transaction, so that this process can own the table, and compare it with the one in the kernel.

use super::ruleset::{CHAIN_PREROUTING, TABLE};
use crate::search;
use crate::sys::netlink::{Socket, Writer, attribute, attributes};
use crate::sys::nf_tables::*;
use std::io;

/// How often to repeat reading a table that has changed in between.
const PATIENCE: usize = 100;
/// The maximum number of elements in a message; elements of our sets take up to 60 bytes.
const ELEMENTS: usize = 500;
/// The object types of a table, in the order in which they can be made: the message that lists them, the message that
/// makes one, and the attributes of both. Handles, positions and use counts are left out.
const KINDS: [(u16, u16, &[u16]); 4] = [
    (
        NFT_MSG_GETSET,
        NFT_MSG_NEWSET,
        &[
            NFTA_SET_NAME,
            NFTA_SET_FLAGS,
            NFTA_SET_KEY_TYPE,
            NFTA_SET_KEY_LEN,
            NFTA_SET_DESC,
            NFTA_SET_TIMEOUT,
            NFTA_SET_USERDATA,
            NFTA_SET_EXPR,
        ],
    ),
    (NFT_MSG_GETOBJ, NFT_MSG_NEWOBJ, &[NFTA_OBJ_NAME, NFTA_OBJ_TYPE]),
    (NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, &[NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE]),
    (NFT_MSG_GETRULE, NFT_MSG_NEWRULE, &[NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA]),
];

/// A table's flags and contents, without the elements that packets or openings add.
#[derive(PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) flags: u32,
    /// The messages that make the same contents in the table [`TABLE`].
    messages: Batch,
    /// The messages that make the guard, the last rule of its chain, and the anonymous sets and counters in it.
    guard: Batch,
    pub(super) rules: usize,
}

impl Contents {
    /// Reads the table with that name.
    pub(super) fn read(table: &str) -> io::Result<Self> {
        let socket = Socket::open(libc::NETLINK_NETFILTER)?;
        for _ in 0..PATIENCE {
            let before = state(&socket, table)?;
            let contents = Self::read_once(&socket, table, flags_of(&before));
            // If the generation is the same, no transaction has changed anything in between.
            if state(&socket, table)? == before {
                return contents;
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    fn read_once(socket: &Socket, table: &str, flags: u32) -> io::Result<Self> {
        let mut contents = Self { flags, messages: Batch::default(), guard: Batch::default(), rules: 0 };
        // Anonymous sets and counters, by name.
        let mut parts = Vec::new();
        for &(list, kind, wanted) in &KINDS {
            for object in &ask(socket, list, libc::NLM_F_DUMP, table_attribute(table))? {
                // The kernel lists the chains of all tables.
                if attribute_of(object, NFTA_TABLE) != c_string(table) {
                    continue;
                }
                let mut message = table_attribute(TABLE);
                for (kind, value) in attributes(after_header(object)) {
                    if wanted.contains(&kind) {
                        message.attribute(kind, value);
                    }
                }
                if kind == NFT_MSG_NEWSET {
                    // The kernel requires an ID, but finds sets by name.
                    message.attribute(NFTA_SET_ID, &[1; 4]);
                }
                let mut made = Batch::default();
                if kind == NFT_MSG_NEWOBJ {
                    // Created again, so that it counts from 0 like its rule. Deleting a missing one is an error.
                    message.attribute(NFTA_OBJ_DATA, &[]);
                    made.add(kind, libc::NLM_F_CREATE, message.bytes());
                    made.add(NFT_MSG_DELOBJ, 0, message.bytes());
                }
                made.add(kind, libc::NLM_F_CREATE | libc::NLM_F_APPEND, message.bytes());
                let part = match kind {
                    NFT_MSG_NEWOBJ => Some(NFTA_OBJ_NAME),
                    NFT_MSG_NEWSET => read_elements(&mut made, socket, table, object)?.then_some(NFTA_SET_NAME),
                    _ => None,
                };
                if let Some(name) = part {
                    parts.push((attribute_of(object, name).to_vec(), made.clone()));
                }
                if kind == NFT_MSG_NEWRULE {
                    contents.rules += 1;
                    if attribute_of(object, NFTA_RULE_CHAIN) == c_string(CHAIN_PREROUTING) {
                        contents.guard = Batch::default();
                        for (name, part) in &parts {
                            if search::contains(message.bytes(), name) {
                                contents.guard.append(part);
                            }
                        }
                        contents.guard.append(&made);
                    }
                }
                contents.messages.append(&made);
            }
        }
        Ok(contents)
    }

    /// Returns the transaction that makes these contents in our table and keeps its openings.
    pub(super) fn renew(&self) -> Batch {
        self.renew_with(self.flags)
    }

    fn renew_with(&self, flags: u32) -> Batch {
        let mut batch = Batch::default();
        new_table(&mut batch, TABLE, flags);
        batch.add(NFT_MSG_DELRULE, 0, table_attribute(TABLE).bytes());
        batch.append(&self.messages);
        batch
    }

    /// Returns the transaction that replaces our table by a new one with these contents.
    pub(super) fn replace(&self, openings: Batch) -> Batch {
        let mut batch = Batch::default();
        // Make it first, because deleting a missing table is an error.
        batch.add(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, table_attribute(TABLE).bytes());
        batch.add(NFT_MSG_DELTABLE, 0, table_attribute(TABLE).bytes());
        batch.append(&self.renew());
        batch.append(&openings);
        batch
    }

    /// Restores these contents in a table that was emptied by [`Contents::take_openings`] and could not be replaced.
    pub(super) fn refill(&self, socket: &Socket) -> io::Result<()> {
        self.renew_with(flags_of(&state(socket, TABLE)?)).commit(socket)
    }

    /// Reads the openings of a table before it is replaced, and the element that lets older connections pass, as the
    /// messages that make them.
    ///
    /// First it removes all rules of prerouting but the guard, and waits for the packets that are still evaluated by
    /// them, so that no packet uses an opening that was read. The rules in input and forward use no openings. If it
    /// cannot wait it is an error, because the new table would give a used opening a second time.
    pub(super) fn take_openings(&self, socket: &Socket) -> io::Result<Batch> {
        let (mut closed, mut rules) = (Batch::default(), table_attribute(TABLE));
        rules.attribute(NFTA_RULE_CHAIN, &c_string(CHAIN_PREROUTING));
        closed.add(NFT_MSG_DELRULE, 0, rules.bytes());
        closed.append(&self.guard);
        closed.commit(socket)?;
        wait_for_evaluations()?;
        let mut openings = Batch::default();
        for set in &["open4\0", "open6\0", "starting\0"] {
            for elements in &element_lists(socket, TABLE, set.as_bytes())? {
                openings.add(NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, after_header(elements));
            }
        }
        Ok(openings)
    }
}

/// Returns the transaction that lets packets of connections that are older than the table pass for a minute.
pub(super) fn admit_older_connections() -> Batch {
    let mut batch = Batch::default();
    let message = with_element(b"starting\0", &[libc::IPPROTO_TCP as u8], Some(60));
    batch.add(NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, message.bytes());
    batch
}

/// Returns the attributes of a message about an element of a set in our table, with its time in seconds.
pub(super) fn with_element(set: &[u8], key: &[u8], seconds: Option<u64>) -> Writer {
    let (mut data, mut element, mut list) = (Writer::default(), Writer::default(), Writer::default());
    data.attribute(NFTA_DATA_VALUE, key);
    element.nest(NFTA_SET_ELEM_KEY, &data);
    if let Some(seconds) = seconds {
        element.attribute(NFTA_SET_ELEM_TIMEOUT, &(seconds * 1000).to_be_bytes());
    }
    list.nest(NFTA_LIST_ELEM, &element);
    let mut message = set_attributes(TABLE, set);
    message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, &list);
    message
}

/// Returns how many packets a counter of our table has counted.
pub(super) fn packet_count(counter: &str) -> io::Result<u64> {
    let mut attributes = table_attribute(TABLE);
    attributes.attribute(NFTA_OBJ_NAME, &c_string(counter));
    attributes.attribute(NFTA_OBJ_TYPE, &NFT_OBJECT_COUNTER.to_be_bytes());
    let socket = Socket::open(libc::NETLINK_NETFILTER)?;
    let answer = ask(&socket, NFT_MSG_GETOBJ, libc::NLM_F_ACK, attributes)?.concat();
    let packets = attribute(attribute_of(&answer, NFTA_OBJ_DATA), NFTA_COUNTER_PACKETS);
    Ok(packets.first_chunk().map_or(0, |packets| u64::from_be_bytes(*packets)))
}

/// Adds the messages that make a set's elements. Returns whether the set is anonymous.
fn read_elements(made: &mut Batch, socket: &Socket, table: &str, set: &[u8]) -> io::Result<bool> {
    let (name, flags) = (attribute_of(set, NFTA_SET_NAME), attribute_of(set, NFTA_SET_FLAGS));
    let has = |flag: u32| flags.last().is_some_and(|flags| u32::from(*flags) & flag != 0);
    let anonymous = has(NFT_SET_ANONYMOUS);
    if has(NFT_SET_EVAL) {
        return Ok(anonymous);
    }
    // The elements that a set of this name already has. An anonymous set is deleted with its rule.
    if !anonymous {
        made.add(NFT_MSG_DELSETELEM, 0, set_attributes(TABLE, name).bytes());
    }
    // A hash lists elements in any order.
    let mut sorted = Vec::new();
    for element in &elements(socket, table, name)? {
        let element = lasting(element);
        sorted.insert(sorted.partition_point(|other| *other < element), element);
    }
    for some in sorted.chunks(ELEMENTS) {
        let (mut message, mut list) = (set_attributes(TABLE, name), Writer::default());
        some.iter().for_each(|element| list.attribute(NFTA_LIST_ELEM, element));
        message.nest(NFTA_SET_ELEM_LIST_ELEMENTS, &list);
        made.add(NFT_MSG_NEWSETELEM, libc::NLM_F_CREATE, message.bytes());
    }
    Ok(anonymous)
}

/// Returns the attributes of each element of a set.
pub(super) fn elements(socket: &Socket, table: &str, set: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut elements = Vec::new();
    for list in &element_lists(socket, table, set)? {
        for (_, element) in attributes(attribute_of(list, NFTA_SET_ELEM_LIST_ELEMENTS)) {
            elements.push(element.to_vec());
        }
    }
    Ok(elements)
}

/// Returns the messages that list a set's elements.
fn element_lists(socket: &Socket, table: &str, set: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    ask(socket, NFT_MSG_GETSETELEM, libc::NLM_F_DUMP, set_attributes(table, set))
}

/// Returns an element's attributes without its remaining time.
fn lasting(element: &[u8]) -> Vec<u8> {
    let mut lasting = Writer::default();
    for (kind, value) in attributes(element).filter(|(kind, _)| *kind != NFTA_SET_ELEM_EXPIRATION) {
        lasting.attribute(kind, value);
    }
    lasting.bytes().to_vec()
}

/// Returns the transaction that deletes a table.
pub(super) fn delete(table: &str) -> Batch {
    let mut batch = Batch::default();
    batch.add(NFT_MSG_DELTABLE, 0, table_attribute(table).bytes());
    batch
}

/// Returns whether the kernel supports tables that a process owns and that outlive it (Linux 6.9).
pub(super) fn can_own(socket: &Socket, table: &str) -> bool {
    let mut batch = Batch::default();
    new_table(&mut batch, table, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
    batch.append(&delete(table));
    batch.commit(socket).is_ok()
}

fn new_table(batch: &mut Batch, table: &str, flags: u32) {
    let mut message = table_attribute(table);
    message.attribute(NFTA_TABLE_FLAGS, &flags.to_be_bytes());
    batch.add(NFT_MSG_NEWTABLE, libc::NLM_F_CREATE, message.bytes());
}

/// Returns the kernel's description of a table. It begins with the number of the last transaction.
pub(super) fn state(socket: &Socket, table: &str) -> io::Result<Vec<u8>> {
    ask(socket, NFT_MSG_GETTABLE, libc::NLM_F_ACK, table_attribute(table)).map(|answers| answers.concat())
}

/// Returns the flags in a table's state.
fn flags_of(state: &[u8]) -> u32 {
    u32::from_be_bytes(attribute_of(state, NFTA_TABLE_FLAGS).first_chunk().copied().unwrap_or_default())
}

/// Sends a request about a table of the family inet.
fn ask(socket: &Socket, kind: u16, flags: libc::c_int, attributes: Writer) -> io::Result<Vec<Vec<u8>>> {
    socket.ask(kind, flags, &NFGENMSG_INET, attributes.bytes())
}

/// Returns the attribute that names the table of a message.
fn table_attribute(table: &str) -> Writer {
    let mut attributes = Writer::default();
    attributes.attribute(NFTA_TABLE, &c_string(table));
    attributes
}

/// Returns the attributes that name the table and the set of a message.
pub(super) fn set_attributes(table: &str, set: &[u8]) -> Writer {
    let mut attributes = table_attribute(table);
    attributes.attribute(NFTA_SET_ELEM_LIST_SET, set);
    attributes
}

/// Returns a name in netlink's format, ended by a zero byte.
fn c_string(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}
