//! Who this process is and what it may do: users, capabilities, and giving both up for good.

use super::{check, check_long};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;

/// A capability (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Reading files and looking into directories of others.
    DacReadSearch = 2,
    /// Signalling processes of others.
    Kill = 5,
    /// Becoming another group.
    SetGid = 6,
    /// Becoming another user.
    SetUid = 7,
    /// Emptying the bounding set.
    SetPcap = 8,
    /// Configuring the network: what nf_tables asks for.
    NetAdmin = 12,
    /// Raw sockets.
    NetRaw = 13,
    /// Another root directory.
    SysChroot = 18,
    /// Raising limits.
    SysResource = 24,
    /// Reading the kernel's log.
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

/// A user's row in the system's list.
pub struct Account {
    /// Its ids.
    pub user: User,
    /// Its home directory.
    pub home: PathBuf,
}

impl Account {
    /// The account with that name.
    pub fn named(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: getpwnam_r fills the row and the buffer, which it is given with its length.
        Self::found(|row, buffer, length, result| unsafe {
            libc::getpwnam_r(name.as_ptr(), row, buffer, length, result)
        })
    }

    /// The account with that user id.
    pub fn of(uid: u32) -> Option<Self> {
        // SAFETY: as above.
        Self::found(|row, buffer, length, result| unsafe { libc::getpwuid_r(uid, row, buffer, length, result) })
    }

    fn found(
        look: impl FnOnce(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
    ) -> Option<Self> {
        let mut row = MaybeUninit::<libc::passwd>::zeroed();
        let mut buffer = [0; 16384];
        let mut result = ptr::null_mut();
        if look(row.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut result) != 0 || result.is_null() {
            return None;
        }
        // SAFETY: all-zero bytes are a valid passwd, and the call has filled it.
        let row = unsafe { row.assume_init() };
        let home = if row.pw_dir.is_null() {
            OsString::new()
        } else {
            // SAFETY: a row that was found has its strings in `buffer`, each with its zero byte.
            OsStr::from_bytes(unsafe { CStr::from_ptr(row.pw_dir) }.to_bytes()).into()
        };
        Some(Self { user: User { uid: row.pw_uid, gid: row.pw_gid }, home: home.into() })
    }
}

/// The id of the group with that name.
pub fn group(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut row = MaybeUninit::<libc::group>::zeroed();
    let mut buffer = [0; 16384];
    let mut result = ptr::null_mut();
    // SAFETY: getgrnam_r fills the row and the buffer, which it is given with its length.
    let failed = unsafe {
        libc::getgrnam_r(name.as_ptr(), row.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut result)
    };
    // SAFETY: all-zero bytes are a valid group, and a result that is not null says that it was filled.
    (failed == 0 && !result.is_null()).then(|| unsafe { row.assume_init() }.gr_gid)
}

/// This process's effective user id.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// This process's real user id.
pub fn real_uid() -> u32 {
    // SAFETY: getuid takes nothing and cannot fail.
    unsafe { libc::getuid() }
}

/// This process's real group id.
pub fn real_gid() -> u32 {
    // SAFETY: getgid takes nothing and cannot fail.
    unsafe { libc::getgid() }
}

/// Gives up every capability but `keep`, for good: the bounding and ambient sets are emptied and no
/// program started from here gets any back (no_new_privs). What is not held cannot be kept.
pub fn keep_only(keep: &[Capability]) -> io::Result<()> {
    keep_and_pass_on(keep, &[])
}

/// The same, but the programs that root starts from here have `pass_on`.
pub fn keep_and_pass_on(keep: &[Capability], pass_on: &[Capability]) -> io::Result<()> {
    bound(pass_on);
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    keep_capabilities(keep)
}

/// Becomes `user` with `groups` for good, keeping of the capabilities only `keep`; fails unless
/// getting root back fails.
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
    if user.uid != 0 && back == 0 { Err(io::Error::other("root could be had back")) } else { Ok(()) }
}

/// Cannot be traced, and leaves no core file with keys in it.
pub fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Dies with `parent`; fails where that is gone already.
pub fn die_with(parent: u32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    // SAFETY: getppid takes nothing and cannot fail.
    let now = unsafe { libc::getppid() };
    if now as u32 == parent { Ok(()) } else { Err(io::Error::other("the supervisor is gone")) }
}

/// Empties the bounding set but for `keep`, and the ambient set.
fn bound(keep: &[Capability]) {
    // Without CAP_SETPCAP this fails, and without capabilities nothing is left to bound; the last
    // number that the kernel knows is found by its refusal.
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

/// `struct __user_cap_data_struct`; two of them make 64 capabilities.
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

/// The sets of this process.
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

/// Gives up all capabilities but `keep`.
fn keep_capabilities(keep: &[Capability]) -> io::Result<()> {
    let mut sets = capabilities()?;
    for (set, kept) in sets.iter_mut().zip([bits(keep) as u32, (bits(keep) >> 32) as u32]) {
        let bits = set.permitted & kept;
        *set = Sets { effective: bits, permitted: bits, inheritable: 0 };
    }
    set_capabilities(&sets)
}

/// Runs `open` without effective capabilities. What a netlink socket may change, its opener must have been
/// allowed to when the socket was opened.
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
        let root = Account::of(0).unwrap();
        assert_eq!(root.user, Account::named("root").unwrap().user);
        assert_eq!(root.user, User { uid: 0, gid: 0 });
        assert!(root.home.is_absolute());
        assert!(Account::named("no such account").is_none());
    }
}
