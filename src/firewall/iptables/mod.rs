//! iptables and ip6tables: static rules with the `recent` match, one list of addresses per guarded
//! port. An opening is a line written to the list's file in /proc: no child process, no capability.
//!
//! The kernel limits an opening in `recent` to its time and to one connection too. Only guarded ports can be opened,
//! and a list holds 100 addresses. All rules are in table mangle, before DNAT.

mod openings;
mod ruleset;

pub(super) use openings::{ListWriter, live_openings};
pub(super) use ruleset::{CHAINS, PRIORITY};

use super::foreign_rules::IptablesListing;
use super::rules::Rules;
use crate::error::{Error, Result, failure, quoted};
use crate::search;
use crate::sys::{child, file};
use ruleset::{IpVersion, LOGGED, START, TRIAL, add_packets, has_chains, lines_in, own, removal, script, versions};
use std::io;

/// How often to make the chains if another program changes them before they are listed.
const ATTEMPTS: usize = 20;
/// How long to wait for the lock of legacy iptables, in seconds.
const WAIT: &str = "5";

/// Checks whether iptables can be used.
pub(super) fn works() -> io::Result<()> {
    // The lists belong to the machine's root, which root in a user namespace is not.
    let ids = file::kernel_text("/proc/self/uid_map");
    if ids.split_ascii_whitespace().nth(1).is_some_and(|root| root != "0") {
        return Err(failure("in a user namespace nobody may write to /proc/net/xt_recent; nft works there"));
    }
    versions().iter().try_for_each(|version| {
        child::run(version.program(), &["-w", WAIT, "-t", "mangle", "-S", "PREROUTING"], "").map(drop)
    })
}

/// Our chains as they were made: the listing for each version.
pub struct Chains(Vec<String>);

impl Chains {
    /// Makes our chains, in one transaction for each version.
    pub(in crate::firewall) fn make(rules: &Rules) -> Result<Self> {
        let mut made = Vec::new();
        for &version in versions() {
            let failed = |cause| {
                Error::system(format!("make the rules with {}", quoted(version.restore())), cause).advise(
                    "the kernel needs the matches recent, hashlimit, conntrack, connmark and addrtype, and the target LOG",
                )
            };
            made.push(make(version, rules).map_err(failed)?);
            if rules.seconds_of_guard() > Some(0) {
                openings::start_time(version, TRIAL).map_err(failed)?;
            }
        }
        Ok(Self(made))
    }

    /// Lets packets of connections that are older than the chains pass for a minute.
    pub(in crate::firewall) fn admit_older_connections(&self) -> io::Result<()> {
        versions().iter().try_for_each(|&version| openings::start_time(version, START))
    }

    /// Returns whether our chains are as they were made, and the jumps to them come first.
    pub(in crate::firewall) fn is_intact(&self) -> bool {
        let is_intact = |version, made: &str| list(version).is_ok_and(|listed| own(&listed) == made);
        versions().iter().zip(&self.0).all(|(&version, made)| is_intact(version, made))
    }
}

/// Returns whether chains like ours exist: with as many rules, with the jumps to them first, and with what the log rule
/// must log.
pub(super) fn has_rules(rules: &Rules) -> bool {
    versions().iter().all(|&version| {
        let listed = list(version).unwrap_or_default();
        let logs = rules.group.is_some() || search::contains(listed.as_bytes(), LOGGED.as_bytes());
        logs && own(&listed).lines().count() == lines_in(&script(version, rules, ""))
    })
}

/// Makes the chains of one version. Returns their listing.
fn make(version: IpVersion, rules: &Rules) -> io::Result<String> {
    for _ in 0..ATTEMPTS {
        let before = list(version)?;
        let text = script(version, rules, &before);
        let loaded = child::run(version.restore(), &["-w", WAIT, "--noflush"], &text);
        let after = list(version)?;
        let made = own(&after);
        match loaded {
            // The jumps that it deletes may have been deleted since they were listed.
            Err(error) if after == before => return Err(error),
            Ok(_) if made.lines().count() == lines_in(&text) => return Ok(made),
            _ => {}
        }
    }
    Err(failure("another program keeps changing them"))
}

fn list(version: IpVersion) -> io::Result<String> {
    child::run(version.program(), &["-w", WAIT, "-t", "mangle", "-S"], "")
}

/// Returns how many packets the log rules and the guards have matched since they were made.
pub(super) fn packet_counts() -> io::Result<[u64; 2]> {
    let mut packets = [0; 2];
    for &version in versions() {
        add_packets(&child::run(version.program(), &["-w", WAIT, "-t", "mangle", "-v", "-S"], "")?, &mut packets);
    }
    Ok(packets)
}

/// Deletes our chains, if there are any.
pub(super) fn remove() -> io::Result<()> {
    for &version in versions() {
        // Without iptables there are no chains.
        if let Some(text) = removal(&list(version).unwrap_or_default()) {
            child::run(version.restore(), &["-w", WAIT, "--noflush"], &text)?;
        }
    }
    Ok(())
}

/// Returns whether our chains exist.
pub(super) fn exist() -> bool {
    list(IpVersion::V4).is_ok_and(|listed| has_chains(&listed))
}

/// Lists the rules of all programs. The rules of iptables-legacy apply too where iptables is iptables-nft, which does
/// not list them.
pub(super) fn list_all() -> Vec<IptablesListing> {
    let save = |family, program| {
        let text = child::run(&[program, "-save"].concat(), &[], "").unwrap_or_default();
        IptablesListing { family, program, text }
    };
    let mut listed = Vec::new();
    for &(family, program, legacy, legacy_program) in &[
        ("ip", "iptables", "ip (legacy)", "iptables-legacy"),
        ("ip6", "ip6tables", "ip6 (legacy)", "ip6tables-legacy"),
    ] {
        let listing = save(family, program);
        if listing.text.is_empty() || search::contains(listing.text.as_bytes(), b"(nf_tables)") {
            listed.push(save(legacy, legacy_program));
        }
        listed.push(listing);
    }
    listed
}
