//! nftables: our own table, which survives reloads of everybody else's rules.
//!
//! The table is made by `nft -f -`. An opening is one netlink transaction, whose format is that of
//! linux/netfilter/nf_tables.h, and which is acknowledged before anybody says "opened".

use super::iptables::ADMIT;
use super::{Admission, Opening, Rules, count};
use crate::error::{Error, Result};
use crate::sys::netlink::{self, Socket, Writer};
use crate::sys::process;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

/// The name of our table, of family inet.
const TABLE: &str = "knockknock";

/// A TCP header's flags are a SYN's alone.
const SYN: &str = "tcp flags & (fin | syn | rst | ack) == syn";

/// What makes a set a turnstile: the limit in each element lets one packet through.
const OPENING: &str = "flags dynamic,timeout; size 4096; limit rate 1/day burst 1 packets;";

/// Whether nftables can be used: the kernel would take the whole table, and keeps the limit in a set.
/// Before Linux 5.7 it takes the set without it and without a word.
pub(super) fn works(rules: &Rules) -> io::Result<()> {
    // Checked beside no table of ours: one that another version left may have sets of another shape.
    nft(&["-c", "-f", "-"], &anew(&script(rules, 0)))?;
    let probe = format!(
        "add table inet {TABLE}-probe\nadd set inet {TABLE}-probe open {{ type ipv4_addr . inet_service; {OPENING} }}\n"
    );
    nft(&["-f", "-"], &probe)?;
    let held = nft(&["list", "table", "inet", "knockknock-probe"], "");
    nft(&["-f", "-"], &format!("delete table inet {TABLE}-probe\n"))?;
    if count(&held?, "limit rate") > 0 { Ok(()) } else { Err(io::Error::other("the kernel is older than 5.7")) }
}

fn nft(args: &[&str], input: &str) -> io::Result<String> {
    process::run("nft", args, input)
}

/// Makes the table, or makes it again around its openings.
pub(super) fn make(rules: &Rules) -> Result<()> {
    let mut seed = [0; 4];
    getrandom::fill(&mut seed).map_err(|cause| Error::system("get a random number", io::Error::other(cause)))?;
    let text = script(rules, u32::from_ne_bytes(seed));
    let Err(cause) = nft(&["-f", "-"], &text) else { return Ok(()) };
    // Sets of another shape, as another version may have left them, cannot be added to.
    nft(&["-f", "-"], &anew(&text)).map(drop).map_err(|_| {
        Error::system("make the nftables table with \"nft -f -\"", cause)
            .advise("install nftables and run as root, or set firewall = iptables in the config")
    })
}

/// Whether the table stands whole: as many things with a handle as were added.
pub(super) fn stands(rules: &Rules) -> bool {
    let (listed, made) = (nft(&["-a", "-t", "list", "table", "inet", TABLE], ""), script(rules, 0));
    count(&listed.unwrap_or_default(), " # handle ") >= count(&made, "add ") - count(&made, "add element ")
}

/// Takes the table away, where there is one.
pub(super) fn remove() -> io::Result<()> {
    let table = ["table", "inet", TABLE];
    match nft(&[&["list"], &table[..]].concat(), "") {
        Ok(_) => nft(&[&["delete"], &table[..]].concat(), "").map(drop),
        Err(_) => Ok(()),
    }
}

/// The transaction that makes a table where there may be another.
fn anew(script: &str) -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n{script}")
}

/// The whole table as one transaction that leaves the openings alone.
fn script(rules: &Rules, seed: u32) -> String {
    let mark = format!("{:#010x}", rules.mark);
    let elements = |set: &str, ports: &crate::ports::Ports| match ports.is_empty() {
        true => String::new(),
        false => format!("add element inet {TABLE} {set} {{ {ports} }}\n"),
    };
    // Where the guard applies; knocks are heard everywhere.
    let on = match rules.interfaces.is_empty() {
        true => String::new(),
        false => format!("iifname {{ \"{}\" }} ", rules.interfaces.join("\", \"")),
    };
    let loopback = "iifname \"lo\" return".to_owned();
    let admit = format!("meta mark set meta mark or {mark}");
    let log = match rules.group {
        // Headers are enough: 60 bytes of IPv4 or 40 of IPv6, and 60 of TCP.
        Some(group) => format!("log group {group} snaplen 128 queue-threshold 1"),
        None => "log prefix \"knockknock \" level debug flags tcp sequence,options".to_owned(),
    };
    let quiet = |hashed: &str| {
        format!(
            "update @loud {{ jhash {hashed} mod 4096 seed {seed:#010x} limit rate over 100/second burst 200 packets }} return"
        )
    };
    let prerouting = [
        "meta l4proto != tcp return".to_owned(),
        loopback.clone(),
        // Not "related": a SYN is never established to us.
        "ct state established tcp flags & (fin | syn | rst | ack) != syn return".to_owned(),
        // What only passes through is not ours.
        "fib daddr type != local return".to_owned(),
        "jump knock".to_owned(),
        // An admitted SYN, sent again.
        format!("{SYN} ct mark & {mark} == {mark} ct status & assured != assured {admit} accept"),
        // The packet that uses an opening takes it away; the limit in the set makes that atomic.
        format!(
            "{SYN} ip saddr . tcp dport @open4 delete @open4 {{ ip saddr . tcp dport }} {admit} ct mark set ct mark or {mark} accept"
        ),
        format!(
            "{SYN} ip6 saddr . tcp dport @open6 delete @open6 {{ ip6 saddr . tcp dport }} {admit} ct mark set ct mark or {mark} accept"
        ),
        format!("{on}tcp dport @guarded drop"),
    ];
    let knock = [
        "tcp dport != @knock_ports return".to_owned(),
        "tcp flags & (fin | syn | rst | ack) != syn return".to_owned(),
        quiet("ip saddr"),
        quiet("ip6 saddr & ffff:ffff:ffff:ffff::"),
        log,
    ];
    let unmarked = format!("{on}{SYN} ct mark & {mark} != {mark}");
    // A rule of others may send elsewhere what came for a guarded port at an address that is not ours.
    let sent_on = format!("{unmarked} ct status dnat ct original proto-dst @guarded drop");
    // What reaches a guarded port by another way: a redirect, a virtual address.
    let input = [loopback.clone(), format!("{unmarked} tcp dport @guarded drop"), sent_on.clone()];
    let forward = [loopback, sent_on];
    // A set with the flag timeout is a hash: thousands of ports take a tenth of a bitmap's time to add.
    let mut text = format!(
        "add table inet {TABLE}\n\
         add set inet {TABLE} open4 {{ type ipv4_addr . inet_service; {OPENING} }}\n\
         add set inet {TABLE} open6 {{ type ipv6_addr . inet_service; {OPENING} }}\n\
         add set inet {TABLE} knock_ports {{ type inet_service; flags timeout; }}\n\
         add set inet {TABLE} guarded {{ type inet_service; }}\n\
         add set inet {TABLE} loud {{ type mark; flags dynamic,timeout; timeout 1m; size 8192; }}\n\
         add chain inet {TABLE} prerouting {{ type filter hook prerouting priority mangle - 10; policy accept; }}\n\
         add chain inet {TABLE} input {{ type filter hook input priority mangle - 10; policy accept; }}\n\
         add chain inet {TABLE} forward {{ type filter hook forward priority mangle - 10; policy accept; }}\n\
         add chain inet {TABLE} knock\n\
         flush chain inet {TABLE} prerouting\n\
         flush chain inet {TABLE} input\n\
         flush chain inet {TABLE} forward\n\
         flush chain inet {TABLE} knock\n\
         flush set inet {TABLE} knock_ports\n\
         flush set inet {TABLE} guarded\n"
    );
    text.push_str(&elements("knock_ports", &rules.knock_ports));
    text.push_str(&elements("guarded", &rules.guard));
    for (chain, lines) in [("prerouting", &prerouting[..]), ("knock", &knock), ("input", &input), ("forward", &forward)]
    {
        for line in lines {
            text.push_str(&format!("add rule inet {TABLE} {chain} {line}\n"));
        }
    }
    text
}

/// Warnings about rules of others that set our mark's bit: what they mark comes in without a knock.
pub(super) fn foreign_marks(mark: u32) -> Vec<String> {
    let rules = nft(&["-t", "list", "ruleset"], "").unwrap_or_default();
    let (mut table, mut chain) = ("", "");
    let mut warnings = Vec::new();
    for line in rules.lines() {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.strip_suffix(" {").unwrap_or(name);
        } else if let Some(name) = line.strip_prefix("\tchain ") {
            chain = name.strip_suffix(" {").unwrap_or(name);
        } else if table != format!("inet {TABLE}") && chain != ADMIT && sets_mark(line, mark) {
            warnings.push(format!("table {table} sets our mark's bit: {:?} admits without a knock", line.trim()));
        }
    }
    warnings
}

/// Whether a rule as `nft list` writes it sets a bit of `mark` in the connection's mark.
fn sets_mark(rule: &str, mark: u32) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let set = words.windows(3).position(|words| words == ["ct", "mark", "set"]);
    set.and_then(|set| words.get(set..)).unwrap_or_default().iter().any(|word| {
        let digits = word.strip_prefix("0x");
        let number = digits.map_or_else(|| word.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok());
        number.is_some_and(|number| number & mark != 0 && number != !mark)
    })
}

// linux/netfilter/nfnetlink.h and nf_tables.h.
const NFTABLES: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
const NEW_ELEMENT: u16 = NFTABLES | libc::NFT_MSG_NEWSETELEM as u16;
const DELETE_ELEMENT: u16 = NFTABLES | libc::NFT_MSG_DELSETELEM as u16;
const BATCH_BEGIN: u16 = libc::NFNL_MSG_BATCH_BEGIN as u16;
const BATCH_END: u16 = libc::NFNL_MSG_BATCH_END as u16;
/// `struct nfgenmsg`: family unspecified, version 0, the subsystem as the resource, big-endian.
const BATCH: [u8; 4] = [0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8];
/// `struct nfgenmsg` of our table's family, `NFPROTO_INET`.
const INET: [u8; 4] = [libc::NFPROTO_INET as u8, 0, 0, 0];
/// `NFTA_SET_ELEM_LIST_TABLE`, `_SET` and `_ELEMENTS`.
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
/// `NFTA_LIST_ELEM`, `NFTA_SET_ELEM_KEY`, `NFTA_SET_ELEM_TIMEOUT`, `NFTA_DATA_VALUE`.
const ELEMENT: u16 = 1;
const KEY: u16 = 1;
const TIMEOUT: u16 = 4;
const VALUE: u16 = 1;

/// Puts openings into the table.
pub(super) struct SetWriter {
    requests: Socket,
    pub(super) changes: Changes,
}

impl SetWriter {
    pub(super) fn new() -> Result<Self> {
        let requests =
            Socket::open(libc::NETLINK_NETFILTER).map_err(|cause| Error::system("open a netlink socket", cause))?;
        Ok(Self {
            requests,
            changes: Changes::new(|table, set| table == TABLE && !set.is_some_and(|set| set.starts_with("open")))?,
        })
    }

    /// Adds the element; renews its time where it is there already.
    pub(super) fn admit(&self, opening: &Opening) -> io::Result<Admission> {
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
            Err(full) if full.raw_os_error() == Some(libc::ENFILE) => Ok(Admission::Denied),
            Err(error) => Err(error),
        }
    }

    fn transact(&self, opening: &Opening, renew: bool) -> io::Result<()> {
        let flags = libc::NLM_F_REQUEST as u16;
        let add = flags | (libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK) as u16;
        let mut batch = Writer::default();
        batch.message(BATCH_BEGIN, flags, 0, &BATCH, |_| {});
        if renew {
            batch.message(DELETE_ELEMENT, flags, 1, &INET, |body| element(body, opening, false));
        }
        batch.message(NEW_ELEMENT, add, 2, &INET, |body| element(body, opening, true));
        batch.message(BATCH_END, flags, 3, &BATCH, |_| {});
        self.requests.send(batch.bytes())?;
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
    body.attribute(LIST_TABLE, format!("{TABLE}\0").as_bytes());
    body.attribute(LIST_SET, set.as_bytes());
    body.nest(LIST_ELEMENTS, |list| {
        list.nest(ELEMENT, |element| {
            element.nest(KEY, |data| data.attribute(VALUE, &key));
            if with_timeout {
                element.attribute(TIMEOUT, &(u64::from(opening.seconds) * 1000).to_be_bytes());
            }
        });
    });
}

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
        let removal = [libc::NFT_MSG_DELTABLE, libc::NFT_MSG_DELCHAIN, libc::NFT_MSG_DELRULE, libc::NFT_MSG_DELSET];
        let removal = removal.map(|kind| NFTABLES | kind as u16);
        let elements = message.kind == DELETE_ELEMENT;
        if !elements && !removal.contains(&message.kind) {
            return false;
        }
        // All of them name the table in attribute 1, and those of elements the set in attribute 2.
        let name = |wanted: u16| {
            let attributes = netlink::attributes(message.body.get(INET.len()..).unwrap_or_default());
            let found = attributes.into_iter().find(|(kind, _)| *kind == wanted);
            found.and_then(|(_, value)| std::str::from_utf8(value).ok()).map(|name| name.trim_end_matches('\0'))
        };
        (self.ours)(name(LIST_TABLE).unwrap_or_default(), name(LIST_SET).filter(|_| elements))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_others_that_set_our_bit_are_seen() {
        assert!(sets_mark("ct mark set ct mark | 0x08000000", 0x0800_0000));
        assert!(sets_mark("tcp dport 22 ct mark set 0x0c000000", 0x0800_0000));
        assert!(!sets_mark("ct mark set 0x00000001", 0x0800_0000));
        assert!(!sets_mark("ct mark & 0x08000000 == 0x08000000 accept", 0x0800_0000));
        assert!(!sets_mark("ct mark set ct mark & 0xf7ffffff", 0x0800_0000));
    }
}
