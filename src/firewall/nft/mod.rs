//! nftables: our own table, which survives reloads of everybody else's rules.
//!
//! The table is made by `nft -f -`. An opening is one netlink transaction, whose format is that of
//! linux/netfilter/nf_tables.h, and which is acknowledged before anybody says "opened".

mod openings;
mod ruleset;

pub(super) use openings::{SetWriter, standing};
pub(super) use ruleset::TABLE;

use super::rules::{Rules, Turnstile, count};
use crate::error::{Error, Result};
use crate::ports::Ports;
use crate::sys::{child, random};
use ruleset::{anew, checks, handles, script};
use std::io;

/// Whether nftables can be used: the kernel would take the whole table, and keeps the limit in a set.
/// Says which turnstile it can be. Nothing is made for it.
pub(super) fn works(rules: &Rules) -> io::Result<Turnstile> {
    let check = |turnstile| {
        let [good, overflowing] = checks(rules, turnstile);
        nft(&["-c", "-f", "-"], &good)?;
        match nft(&["-c", "-f", "-"], &overflowing) {
            Ok(_) => Err(io::Error::other("the kernel is older than 5.7")),
            Err(_) => Ok(turnstile),
        }
    };
    check(Turnstile::AtAck).or_else(|_| check(Turnstile::AtSyn))
}

fn nft(args: &[&str], input: &str) -> io::Result<String> {
    child::run("nft", args, input)
}

/// Makes the table, or makes it again around its openings.
pub(super) fn make(rules: &Rules, turnstile: Turnstile) -> Result<()> {
    let mut seed = [0; 4];
    random::fill(&mut seed)?;
    let text = script(rules, turnstile, u32::from_ne_bytes(seed));
    let Err(cause) = nft(&["-f", "-"], &text) else { return Ok(()) };
    // Sets of another shape, as another version may have left them, cannot be added to.
    nft(&["-f", "-"], &anew(&text)).map(drop).map_err(|_| {
        Error::system("make the nftables table with \"nft -f -\"", cause)
            .advise("install nftables and run as root, or set firewall = iptables in the config")
    })
}

/// Whether the table stands whole: the kernel has as many things with a handle in it as were made, and the
/// ports in both sets of ports.
pub(super) fn stands(rules: &Rules, turnstile: Turnstile) -> bool {
    let listed = nft(&["-a", "-t", "list", "table", "inet", TABLE], "").unwrap_or_default();
    let has = |set: &str, ports: &Ports| {
        let listed = nft(&["list", "set", "inet", TABLE, set], "").unwrap_or_default();
        let elements = listed.split_once("elements = {").map_or("", |(_, elements)| elements);
        Ports::parse(&elements.split('}').next().unwrap_or_default().replace('\n', " ")).as_ref() == Ok(ports)
    };
    count(&listed, " # handle ") >= handles(turnstile)
        && has("knock_ports", &rules.knock_ports)
        && has("guarded", &rules.guard)
}

/// Takes the table away, where there is one.
pub(super) fn remove() -> io::Result<()> {
    let table = ["table", "inet", TABLE];
    match nft(&[&["list"], &table[..]].concat(), "") {
        Ok(_) => nft(&[&["delete"], &table[..]].concat(), "").map(drop),
        Err(_) => Ok(()),
    }
}

/// Everybody's rules, without what is in their sets.
pub(super) fn list_all() -> String {
    nft(&["-t", "list", "ruleset"], "").unwrap_or_default()
}
