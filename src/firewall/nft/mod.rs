//! nftables: our own table, which survives reloads of everybody else's rules.
//!
//! The table is made by `nft -f -`. An opening is one netlink transaction, whose format is that of
//! linux/netfilter/nf_tables.h, and which is acknowledged before anybody says "opened".

mod foreign_rules;
mod openings;
mod ruleset;

pub(super) use openings::SetWriter;

use super::rules::{Rules, count};
use crate::error::{Error, Result};
use crate::sys::process;
use ruleset::{OPENING, TABLE, anew, script};
use std::io;

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

/// Warnings about rules of others that set our mark's bit: what they mark comes in without a knock.
pub(super) fn foreign_rule_warnings(mark: u32) -> Vec<String> {
    foreign_rules::warnings(&nft(&["-t", "list", "ruleset"], "").unwrap_or_default(), mark)
}
