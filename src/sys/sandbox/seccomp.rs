//! A system call filter (seccomp(2)): a process lists the calls that it needs, in groups, and can make no other from
//! then on.
//!
//! On an architecture where the filters have been tested, any other call kills the process. Elsewhere it fails with
//! EPERM, and the kernel logs it.

use super::calls::{ARCHITECTURE, MAP, SEND};
use crate::sys::{check, check_long};
use libc::{c_long, sock_filter};
use std::io;

/// Whether the filters have been tested on this architecture.
pub const TESTED: bool = cfg!(target_arch = "x86_64");

/// Whether this kernel supports filters, and the system calls of this architecture are known here.
pub fn available() -> bool {
    let nothing: libc::c_ulong = 0;
    // SAFETY: the program is a null pointer, which the kernel does not read. It returns EFAULT if it supports filters,
    // and EINVAL if not.
    let refused =
        check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER as libc::c_ulong, nothing) });
    ARCHITECTURE.is_some() && refused.is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT))
}

/// Allows only the calls of `groups` and those that map memory without making it executable, for good. Needs
/// no_new_privs.
pub fn allow(groups: &[&[c_long]]) -> io::Result<()> {
    let architecture = ARCHITECTURE.ok_or(io::ErrorKind::Unsupported)?;
    let mut filter = program(architecture, groups);
    let program = libc::sock_fprog { len: filter.len() as libc::c_ushort, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions are valid for reads through the call.
    let installed = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_LOG as libc::c_uint,
            &raw const program,
        )
    };
    if check_long(installed).is_ok() {
        return Ok(());
    }
    // SECCOMP_FILTER_FLAG_LOG exists since Linux 4.14.
    let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
    // SAFETY: as above.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) }).map(drop)
}

// Offsets in `struct seccomp_data`: the call's number, the architecture, the low half of the third argument, and both
// halves of the fifth.
const NUMBER: u32 = 0;
const PROCESSOR: u32 = 4;
const PROTECTION: u32 = if cfg!(target_endian = "big") { 36 } else { 32 };
const ADDRESS: [u32; 2] = [48, 52];
/// On x86_64, the first number of the x32 calls (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;

/// Writes the BPF program. A condition has the number of instructions to skip if it is true (`jt`) and if it is false
/// (`jf`).
fn program(architecture: u32, groups: &[&[c_long]]) -> Vec<sock_filter> {
    let refuse = if TESTED { libc::SECCOMP_RET_KILL_PROCESS } else { libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 };
    let mut steps = Vec::new();
    let mut step = |code: u32, k: u32, jt: u8, jf: u8| steps.push(sock_filter { code: code as u16, jt, jf, k });
    step(LOAD, PROCESSOR, 0, 0);
    step(IF_EQUAL, architecture, 1, 0);
    step(RETURN, refuse, 0, 0);
    step(LOAD, NUMBER, 0, 0);
    if cfg!(target_arch = "x86_64") {
        step(IF_AT_LEAST, X32, 0, 1);
        step(RETURN, refuse, 0, 0);
    }
    let mut may_send = false;
    for &group in groups {
        for &call in group {
            if call == SEND {
                may_send = true;
            } else {
                step(IF_EQUAL, call as u32, 0, 1);
                step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
            }
        }
    }
    if may_send {
        let [one_half, other_half] = ADDRESS;
        step(IF_EQUAL, SEND as u32, 0, 6);
        step(LOAD, one_half, 0, 0);
        step(IF_EQUAL, 0, 0, 3);
        step(LOAD, other_half, 0, 0);
        step(IF_EQUAL, 0, 0, 1);
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
        step(RETURN, refuse, 0, 0);
    }
    for &call in MAP {
        step(IF_EQUAL, call as u32, 0, 4);
        step(LOAD, PROTECTION, 0, 0);
        step(IF_ANY_BIT, libc::PROT_EXEC as u32, 1, 0);
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
        step(RETURN, refuse, 0, 0);
    }
    step(RETURN, refuse, 0, 0);
    steps
}
