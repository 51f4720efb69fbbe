//! iptables and ip6tables: static rules with the `recent` match, one list of addresses per guarded
//! port. An opening is a line written to the list's file in /proc: no child process, no capability.
//!
//! `recent` is timed and single-use by the kernel too. Only guarded ports can be opened, and a list
//! holds 100 addresses. Everything stands in table mangle, before DNAT.

mod openings;
mod ruleset;

pub(super) use openings::{ListWriter, standing};

use super::rules::{Rules, count};
use crate::error::{Error, Result};
use crate::sys::child;
use ruleset::{CHAIN_PREROUTING, CHAINS, IpVersion, JUMPS, script, versions};
use std::{fs, io};

/// Whether iptables can be used.
pub(super) fn works() -> io::Result<()> {
    // The lists are files of the machine's root, and root in a user namespace is another user.
    let ids = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if ids.split_ascii_whitespace().nth(1).is_some_and(|root| root != "0") {
        return Err(io::Error::other("in a user namespace nobody may write to /proc/net/xt_recent; nft works there"));
    }
    versions().iter().try_for_each(|version| {
        child::run(version.program(), &["-w", "-t", "mangle", "-S", "PREROUTING"], "").map(drop)
    })
}

/// Makes our chains, or makes them again, one transaction for each version.
pub(super) fn make(rules: &Rules) -> Result<()> {
    for &version in versions() {
        let failed = |cause| {
            Error::system(format!("make the rules with {:?}", version.restore()), cause).advise(
                "the kernel needs the matches recent, hashlimit, conntrack, connmark and addrtype, and the target LOG",
            )
        };
        child::run(version.restore(), &["-w", "--noflush"], &script(version, rules)).map_err(failed)?;
        for (from, to) in JUMPS {
            if mangle(version, &["-C", from, "-j", to]).is_err() {
                mangle(version, &["-I", from, "1", "-j", to]).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Whether our chains stand whole: they are named as often as they were, and once more for each jump to them.
pub(super) fn stands(rules: &Rules) -> bool {
    versions().iter().all(|&version| {
        let listed = child::run(version.program(), &["-w", "-t", "mangle", "-S"], "").unwrap_or_default();
        count(&listed, CHAIN_PREROUTING) >= count(&script(version, rules), CHAIN_PREROUTING) + JUMPS.len()
    })
}

/// Takes our chains away, where there are any.
pub(super) fn remove() -> io::Result<()> {
    for &version in versions() {
        if mangle(version, &["-S", CHAIN_PREROUTING]).is_err() {
            continue;
        }
        for (from, to) in JUMPS {
            // As often as it is there; hardly ever more than once.
            let _ = (0..16).try_for_each(|_| mangle(version, &["-D", from, "-j", to]));
        }
        for flush_or_delete in ["-F", "-X"] {
            for chain in CHAINS {
                let _ = mangle(version, &[flush_or_delete, chain]);
            }
        }
        if mangle(version, &["-S", CHAIN_PREROUTING]).is_ok() {
            return Err(io::Error::other(format!("chain {CHAIN_PREROUTING} is still in use")));
        }
    }
    Ok(())
}

/// Returns whether our chains exist.
pub(super) fn exist() -> bool {
    let listed = child::run(IpVersion::V4.program(), &["-w", "-t", "mangle", "-S"], "");
    listed.is_ok_and(|listed| listed.contains("-N KNOCKKNOCK\n"))
}

/// Everybody's rules, by nft's name for the family of each program.
pub(super) fn list_all() -> [(&'static str, String); 2] {
    [("ip", IpVersion::V4), ("ip6", IpVersion::V6)]
        .map(|(family, version)| (family, child::run(version.save(), &[], "").unwrap_or_default()))
}

fn mangle(version: IpVersion, args: &[&str]) -> io::Result<()> {
    child::run(version.program(), &[&["-w", "-t", "mangle"], args].concat(), "").map(drop)
}
