//! For tests only: what somebody who has taken over a process would try first.

use super::check;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::ptr;

/// Tries `what`; an error is what the test wants.
pub fn attempt(what: &str) -> io::Result<()> {
    match what {
        "execve" => execve(c"/bin/true"),
        "socket" => socket(),
        "open" => File::open("/etc/shadow").map(drop),
        "ptrace" => trace_parent(),
        "kill" => signal_parent(),
        "setuid" => become_root(),
        "nonsense" => ManuallyDrop::new(File::from(super::process::inherited(1))).write_all(&[7; 24]),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn execve(program: &CStr) -> io::Result<()> {
    let (args, environment) = ([program.as_ptr(), ptr::null()], [ptr::null()]);
    // SAFETY: the strings end in a zero byte and both lists in a null pointer.
    check(unsafe { libc::execve(program.as_ptr(), args.as_ptr(), environment.as_ptr()) }).map(drop)
}

fn socket() -> io::Result<()> {
    // SAFETY: socket takes three numbers.
    check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) }).map(drop)
}

fn trace_parent() -> io::Result<()> {
    let parent = std::os::unix::process::parent_id();
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes a process and no memory of ours.
    let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE as _, parent as libc::pid_t, none, none) };
    if traced == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn signal_parent() -> io::Result<()> {
    // SAFETY: kill takes two numbers; signal 0 only asks whether it might.
    check(unsafe { libc::kill(std::os::unix::process::parent_id() as libc::pid_t, 0) }).map(drop)
}

fn become_root() -> io::Result<()> {
    // SAFETY: setuid takes a number.
    check(unsafe { libc::setuid(0) }).map(drop)
}
