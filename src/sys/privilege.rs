//! Users, groups and capabilities, and dropping them for good.

use super::{check, check_long, file, sysctl};
use crate::error::failure;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A capability (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Read files and search directories of other users.
    DacReadSearch = 2,
    /// Send signals to processes of other users.
    Kill = 5,
    /// Change group ids.
    SetGid = 6,
    /// Change user ids.
    SetUid = 7,
    /// Drop capabilities from the bounding set.
    SetPcap = 8,
    /// Configure the network; nf_tables requires it.
    NetAdmin = 12,
    /// Open raw sockets.
    NetRaw = 13,
    /// Change the root directory (chroot(2)).
    SysChroot = 18,
    /// Raise resource limits above the hard limit.
    SysResource = 24,
    /// Read the kernel log.
    Syslog = 34,
}

/// A user and its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// A user's row in /etc/passwd (passwd(5)).
pub struct Account {
    /// The user and group id.
    pub user: User,
    /// The home directory.
    pub home: PathBuf,
}

impl Account {
    /// Looks up the account called `name`; `None` if there is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::found(0, name)
    }

    /// Looks up the account with the user id `uid`; `None` if there is none.
    pub fn with_uid(uid: u32) -> Option<Self> {
        Self::found(2, &uid.to_string())
    }

    fn found(column: usize, value: &str) -> Option<Self> {
        let text = file::read("/etc/passwd".as_ref()).ok()?;
        let row = row(&text, column, value)?;
        let user = User { uid: id(row, 2)?, gid: id(row, 3)? };
        Some(Self { user, home: OsStr::from_bytes(column_of(row, 5)?).into() })
    }
}

/// Looks up the id of the group called `name` in /etc/group (group(5)); `None` if there is none.
pub fn group(name: &str) -> Option<u32> {
    let text = file::read("/etc/group".as_ref()).ok()?;
    id(row(&text, 0, name)?, 2)
}

/// Returns the first row in which a column has that value.
fn row<'a>(text: &'a [u8], column: usize, value: &str) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find(|row| column_of(row, column) == Some(value.as_bytes()))
}

fn column_of(row: &[u8], column: usize) -> Option<&[u8]> {
    row.split(|&byte| byte == b':').nth(column)
}

fn id(row: &[u8], column: usize) -> Option<u32> {
    std::str::from_utf8(column_of(row, column)?).ok()?.parse().ok()
}

/// Returns whether `uid` stands for the users outside the user namespace of this process (user_namespaces(7)). It does
/// not in the first namespace, which has all ids.
pub fn is_outside_user(uid: u32) -> bool {
    let map = file::kernel_text("/proc/self/uid_map");
    !map.trim_ascii_end().ends_with(" 4294967295") && sysctl::number("kernel/overflowuid") == Some(uid)
}

/// Returns the effective user id of this process.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Returns the real user id of this process.
pub fn real_uid() -> u32 {
    // SAFETY: getuid takes nothing and cannot fail.
    unsafe { libc::getuid() }
}

/// Returns the real group id of this process.
pub fn real_gid() -> u32 {
    // SAFETY: getgid takes nothing and cannot fail.
    unsafe { libc::getgid() }
}

/// Drops every capability except `keep`, for good. The bounding and ambient sets are emptied, and no program started
/// from here regains any capability (no_new_privs). A capability in `keep` that the process lacks is not added.
pub fn keep_only(keep: &[Capability]) -> io::Result<()> {
    keep_and_pass_on(keep, &[])
}

/// Drops capabilities like [`keep_only`], but leaves `pass_on` in the bounding set, so that programs which root
/// starts from here have them.
pub fn keep_and_pass_on(keep: &[Capability], pass_on: &[Capability]) -> io::Result<()> {
    bound(pass_on);
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    keep_capabilities(keep)
}

/// Becomes `user` with the supplementary `groups`, for good, and keeps only the capabilities `keep`. Then verifies that
/// root cannot be regained; it is an error if it can.
pub fn become_user(user: User, groups: &[u32], keep: &[Capability]) -> io::Result<()> {
    bound(&[]);
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    // SAFETY: the pointer is valid for reads of `groups.len()` ids.
    check(unsafe { libc::setgroups(groups.len() as _, groups.as_ptr()) })?;
    // SAFETY: setresgid and setresuid take numbers.
    check(unsafe { libc::setresgid(user.gid, user.gid, user.gid) })?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(user.uid, user.uid, user.uid) })?;
    prctl(libc::PR_SET_KEEPCAPS, 0)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    keep_capabilities(keep)?;
    // SAFETY: as above.
    let back = unsafe { libc::setresuid(0, 0, 0) };
    if user.uid != 0 && back == 0 { Err(failure("root could be regained")) } else { Ok(()) }
}

/// Makes the process undumpable: other users cannot trace it, and it leaves no core file, which would contain keys.
pub fn disable_dumps() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Makes the kernel kill this process when `parent` dies (PR_SET_PDEATHSIG). Fails if `parent` has already died.
pub fn die_with(parent: u32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // SAFETY: getppid takes nothing and cannot fail.
    let now = unsafe { libc::getppid() };
    if now as u32 == parent { Ok(()) } else { Err(failure("the supervisor has died")) }
}

/// Drops all capabilities except `keep` from the bounding set, and all from the ambient set.
fn bound(keep: &[Capability]) {
    // The kernel refuses the first number that it does not know, which ends the loop. It refuses every number if the
    // process lacks CAP_SETPCAP: then no_new_privs alone keeps programs from gaining capabilities.
    for capability in (0..64).filter(|number| bits(keep) & 1 << number == 0) {
        if prctl(libc::PR_CAPBSET_DROP, capability).is_err() {
            break;
        }
    }
    let _ = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong);
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    check(unsafe { libc::prctl(option, argument, zero, zero, zero) }).map(drop)
}

/// `struct __user_cap_header_struct` (linux/capability.h).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`: 32 capabilities; two structures make 64.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const VERSION_3: u32 = 0x2008_0522;

fn bits(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |bits, &capability| bits | 1 << capability as u64)
}

/// Reads the capability sets of this process.
fn capabilities() -> io::Result<[Sets; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: header and both sets are valid for the kernel's reads and writes.
    check_long(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

fn set_capabilities(sets: &[Sets; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: the header is valid for reads and writes, and the sets for reads.
    check_long(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) }).map(drop)
}

/// Drops all capabilities except `keep`.
fn keep_capabilities(keep: &[Capability]) -> io::Result<()> {
    let mut sets = capabilities()?;
    for (set, kept) in sets.iter_mut().zip([bits(keep) as u32, (bits(keep) >> 32) as u32]) {
        let bits = set.permitted & kept;
        *set = Sets { effective: bits, permitted: bits, inheritable: 0 };
    }
    set_capabilities(&sets)
}

/// Runs `open` without effective capabilities, and restores them. A netlink socket that is opened this way can never
/// make a change that needs a capability: the kernel also checks the capabilities with which the socket was opened
/// (`netlink_ns_capable` in net/netlink/af_netlink.c).
pub fn without_capabilities<T>(open: impl FnOnce() -> T) -> io::Result<T> {
    let sets = capabilities()?;
    set_capabilities(&sets.map(|set| Sets { effective: 0, ..set }))?;
    let opened = open();
    set_capabilities(&sets)?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_an_account() {
        let root = Account::with_uid(0).unwrap();
        assert_eq!(root.user, Account::named("root").unwrap().user);
        assert_eq!(root.user, User { uid: 0, gid: 0 });
        assert!(root.home.is_absolute());
        assert!(Account::named("no such account").is_none());
        assert_eq!(group("root"), Some(0));
        assert_eq!(group("no such group"), None);
    }

    #[test]
    fn only_whole_rows_and_columns_are_found() {
        let text = b"ann:x:1000:100::/home/ann:\n\n+\nbob:x:10:\xff";
        let found = |column, value| row(text, column, value).map(|row| id(row, 2));
        assert_eq!(found(0, "ann"), Some(Some(1000)));
        assert_eq!(found(0, "bob"), Some(Some(10)));
        assert_eq!(found(2, "100"), None);
        assert_eq!(found(0, "an"), None);
        assert_eq!(found(0, ""), Some(None), "an empty row has no id");
    }
}
