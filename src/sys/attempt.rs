//! The first actions an attacker would try in a compromised process; built for tests only (feature `hooks`).

use super::check;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::ptr;

/// Tries one forbidden action. In the sandbox the tests expect an error, a killed process, or no effect. `channel` is
/// the descriptor of the socket between watcher and opener.
pub fn attempt(action: &str, channel: i32) -> io::Result<()> {
    // It belongs to the process.
    let mut channel = &*ManuallyDrop::new(File::from(super::process::inherited(channel)));
    match action {
        "execve" => execve(c"/bin/true"),
        "socket" => socket(),
        "setsockopt" => set_option(channel),
        "send elsewhere" => send_elsewhere(channel),
        "add address" => add_address(),
        "open" => File::open("/etc/shadow").map(drop),
        "ptrace" => trace_parent(),
        "kill" => signal_parent(),
        "setuid" => become_root(),
        "nonsense" => channel.write_all(&[7; 24]),
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

fn set_option(channel: &File) -> io::Result<()> {
    super::sockopt::set(channel, libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 20)
}

/// Sends to an explicit address. Outside the sandbox this succeeds, because a connected SOCK_SEQPACKET
/// socket ignores the address.
fn send_elsewhere(channel: &File) -> io::Result<()> {
    // SAFETY: all-zero bytes are a valid address.
    let address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    let (to, size) = ((&raw const address).cast(), size_of_val(&address) as libc::socklen_t);
    // SAFETY: the message is empty, and the address is valid for reads of its size.
    super::check_length(unsafe { libc::sendto(channel.as_raw_fd(), ptr::null(), 0, 0, to, size) }).map(drop)
}

/// Requests the address 192.0.2.99 for the loopback interface on every open descriptor from 3 to 31. Always returns
/// success: the test checks whether the interface has the address.
fn add_address() -> io::Result<()> {
    let (mut request, mut attributes) = (super::netlink::Writer::default(), super::netlink::Writer::default());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_CREATE) as u16;
    attributes.attribute(1, &[192, 0, 2, 99]);
    attributes.attribute(2, &[192, 0, 2, 99]);
    let header = [libc::AF_INET as u8, 32, 0, 0, 1, 0, 0, 0];
    request.message(libc::RTM_NEWADDR, flags, 1, &header, attributes.bytes());
    for fd in 3..32 {
        let bytes = request.bytes();
        // SAFETY: the pointer is valid for reads of the length given; a descriptor that is not open is an error.
        unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    }
    Ok(())
}

fn trace_parent() -> io::Result<()> {
    let parent = std::os::unix::process::parent_id();
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes a process and no memory of ours.
    let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE as _, parent as libc::pid_t, none, none) };
    if traced == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn signal_parent() -> io::Result<()> {
    // SAFETY: kill takes two numbers; signal 0 only checks for permission.
    check(unsafe { libc::kill(std::os::unix::process::parent_id() as libc::pid_t, 0) }).map(drop)
}

fn become_root() -> io::Result<()> {
    // SAFETY: setuid takes a number.
    check(unsafe { libc::setuid(0) }).map(drop)
}
