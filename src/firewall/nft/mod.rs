//! nftables: our own table, which survives reloads of other programs' rules.
//!
//! nft translates the text of the rules. The table itself is made by netlink, so that on Linux 6.9 and later it belongs
//! to this process and other programs cannot change it. An opening is one netlink transaction in the format of
//! linux/netfilter/nf_tables.h, and is acknowledged before it is logged.

mod contents;
mod openings;
mod ruleset;

pub(super) use openings::{SetWriter, live_openings};
pub(super) use ruleset::{PRIORITY, TABLE};

use super::rules::{Rules, Turnstile};
use crate::error::{Error, Result, failure, quoted};
use crate::sys::netlink::Socket;
use crate::sys::nf_tables::{Batch, NFT_TABLE_F_DORMANT, NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST};
use crate::sys::{child, process, random};
use contents::Contents;
use ruleset::{DRAFT, checks, draft, rules_in};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// How often to retry if another program removes the rules before they are read.
const ATTEMPTS: usize = 20;

/// Checks whether nftables can be used: whether the kernel accepts the whole table and supports limits in sets. Returns
/// the turnstile that is possible. Changes nothing.
pub(super) fn works(rules: &Rules) -> io::Result<Turnstile> {
    let check = |turnstile| {
        let [good, overflowing] = checks(rules, turnstile);
        nft(&["-c", "-f", "-"], &good)?;
        match nft(&["-c", "-f", "-"], &overflowing) {
            Ok(_) => Err(failure("the kernel is older than 5.7")),
            Err(_) => Ok(turnstile),
        }
    };
    check(Turnstile::AtAck).or_else(|_| check(Turnstile::AtSyn))
}

fn nft(args: &[&str], input: &str) -> io::Result<String> {
    child::run("nft", args, input)
}

/// Our table: its contents, and the socket that owns it if the kernel supports that.
pub struct Table {
    socket: Socket,
    contents: Contents,
    /// Whether to make new sets the next time.
    pub(in crate::firewall) needs_new_sets: bool,
}

impl Table {
    /// Translates the rules with nft. They do not apply yet.
    pub(in crate::firewall) fn new(rules: &Rules, turnstile: Turnstile) -> Result<Self> {
        let socket =
            Socket::open(libc::NETLINK_NETFILTER).map_err(|cause| Error::system("open a netlink socket", cause))?;
        let owned = !plain() && contents::can_own(&socket, DRAFT);
        Ok(Self { contents: translate(rules, turnstile, owned)?, socket, needs_new_sets: false })
    }

    /// Translates other rules, which do not apply yet. An opener may use the socket at the same time.
    pub(in crate::firewall) fn translate(&mut self, rules: &Rules, turnstile: Turnstile) -> Result<()> {
        self.contents = translate(rules, turnstile, self.owner().is_some())?;
        Ok(())
    }

    /// Makes the table in one transaction, and keeps its openings if its sets are the same.
    pub(in crate::firewall) fn make(&mut self) -> Result<()> {
        let failed = |cause: io::Error| {
            // A table that belongs to another socket cannot be changed.
            let advice = match cause.kind() {
                io::ErrorKind::PermissionDenied => {
                    "it belongs to another daemon in this network namespace: stop that one"
                }
                _ => "set firewall = iptables in the config",
            };
            Error::system(format!("make the nftables table {}", quoted(TABLE)), cause).advise(advice)
        };
        // An opener that has ended may have left answers unread.
        self.socket.discard();
        for _ in 0..ATTEMPTS {
            if !self.needs_new_sets && self.contents.renew().commit(&self.socket).is_ok() && self.is_intact() {
                return Ok(());
            }
            // It was left by another version, changed by another program, or is not owned by this process yet.
            let openings = self.contents.take_openings(&self.socket).unwrap_or_default();
            let replace = |openings| self.contents.replace(openings).commit(&self.socket);
            // A table with other sets may not accept them.
            let replaced = replace(openings).or_else(|_| replace(Batch::default()));
            if replaced.is_err() {
                let _ = self.contents.refill(&self.socket);
            }
            replaced.map_err(failed)?;
            self.needs_new_sets = false;
            if self.is_intact() {
                return Ok(());
            }
        }
        Err(failed(failure("another program keeps changing it")))
    }

    /// Lets packets of connections that are older than the table pass for a minute.
    pub(in crate::firewall) fn admit_older_connections(&self) -> io::Result<()> {
        contents::admit_older_connections().commit(&self.socket)
    }

    /// Returns whether the table in the kernel is as it was made.
    pub(in crate::firewall) fn is_intact(&self) -> bool {
        Contents::read(TABLE).is_ok_and(|current| current == self.contents)
    }

    /// Makes the table without an owner the next time, because the daemon ends: nft up to 1.0.6 lists a table that has
    /// lost its owner in a form that it cannot read.
    pub(in crate::firewall) fn disown(&mut self) {
        self.contents.flags = 0;
    }

    /// Returns the socket that owns the table.
    pub(in crate::firewall) fn owner(&self) -> Option<BorrowedFd<'_>> {
        (self.contents.flags & NFT_TABLE_F_OWNER != 0).then(|| self.socket.as_fd())
    }
}

/// Makes a dormant table with the rules by nft, and reads it.
fn translate(rules: &Rules, turnstile: Turnstile, owned: bool) -> Result<Contents> {
    // With its owner, the kernel removes a guard on trial too.
    let flags = match (owned, rules.end_of_guard) {
        (false, _) => 0,
        (true, None) => NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST,
        (true, Some(_)) => NFT_TABLE_F_OWNER,
    };
    let mut seed = [0; 4];
    random::fill(&mut seed)?;
    let text = draft(rules, turnstile, u32::from_ne_bytes(seed));
    let failed = |cause| {
        Error::system("translate the rules with nft", cause)
            .advise("install nftables and run as root, or set firewall = iptables in the config")
    };
    for _ in 0..ATTEMPTS {
        nft(&["-f", "-"], &text).map_err(failed)?;
        let drafted = Contents::read(DRAFT);
        let _ = delete(DRAFT);
        // Another program may have flushed or removed it at once.
        if let Some(mut contents) = drafted.ok().filter(|drafted| drafted.rules == rules_in(&text)) {
            contents.flags = flags;
            return Ok(contents);
        }
    }
    Err(failed(failure("another program keeps changing them")))
}

/// Returns whether a table like ours exists: with as many rules, for the same ports.
pub(super) fn has_rules(rules: &Rules, turnstile: Turnstile) -> bool {
    let current = Contents::read(TABLE).ok().filter(|current| current.flags & NFT_TABLE_F_DORMANT == 0);
    current.is_some_and(|current| current.rules == rules_in(&draft(rules, turnstile, 0)))
        && openings::ports("knock_ports\0").is_ok_and(|ports| ports == rules.knock_ports)
        && openings::ports("guarded\0").is_ok_and(|ports| ports == rules.guard)
}

/// Returns how many packets the log rule and the guard have matched since they were made.
pub(super) fn packet_counts() -> io::Result<[u64; 2]> {
    Ok([contents::packet_count("logged")?, contents::packet_count("dropped")?])
}

/// Returns whether a test wants the behaviour of kernels before Linux 6.9.
fn plain() -> bool {
    cfg!(feature = "hooks") && process::variable("KNOCKKNOCK_PLAIN_TABLE").is_some()
}

/// Returns whether there is a table with our name.
pub(super) fn exists() -> bool {
    Socket::open(libc::NETLINK_NETFILTER).and_then(|socket| contents::state(&socket, TABLE)).is_ok()
}

/// Deletes the table, if there is one.
pub(super) fn remove() -> io::Result<()> {
    match delete(TABLE) {
        // No table, or no nf_tables.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(()),
        deleted => deleted,
    }
}

fn delete(table: &str) -> io::Result<()> {
    Socket::open(libc::NETLINK_NETFILTER).and_then(|socket| contents::delete(table).commit(&socket))
}

/// Lists the rules of all programs, without the elements of sets.
pub(super) fn list_all() -> String {
    nft(&["-t", "list", "ruleset"], "").unwrap_or_default()
}
