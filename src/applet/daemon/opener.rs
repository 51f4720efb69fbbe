//! The opener: the only process that changes the firewall while network input is being processed.
//!
//! It reads requests of fixed length, validates them again and exits on an invalid one. It never sees a key or a log
//! line.

use super::ipc::{OPENED, OpenReply, OpenRequest, OpenerLimits, READY};
use super::privileges::{self, Kept, opener_user};
use super::unused_openings::UnusedOpenings;
use super::{LogTarget, hooks};
use crate::error::{Error, Result};
use crate::firewall::{Admission, Admitter, Backend, Opening};
use crate::say;
use crate::sys::privilege::Capability;
use crate::sys::sandbox::calls;
use crate::sys::socketpair::Channel;
use crate::sys::{memory, process};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};

/// Argument: another opener has served the same watcher.
pub(super) const REPLACES: &str = "replaces";
/// Argument: descriptor 3 is the socket that owns the rules.
pub(super) const OWNED: &str = "owned";

/// Exit code: an opening failed because our rules are gone, or may be gone.
pub const RULES_GONE: u8 = 64;
/// The same, from an opener that has replaced another and has answered no request.
pub const RULES_GONE_AGAIN: u8 = 66;

/// Exit code: an opening failed because a set counts used openings.
pub const SET_LEAKS: u8 = 65;

/// The opener's system calls: messages from the watcher and to the kernel, and writes to a `recent` list.
const CALLS: &[&[libc::c_long]] = &[calls::BASIC, calls::WAIT, calls::READ_WRITE, calls::SEEK, calls::MESSAGES];

/// Runs the opener for the backend with that name. Descriptor 0 is the socket to the watcher, descriptor 1 a socket to
/// the supervisor. `words` are of `REPLACES` and `OWNED`. Returns the exit code.
pub fn run(supervisor: u32, log_target: LogTarget, backend: &str, words: &[&OsStr]) -> Result<u8> {
    log_target.open();
    process::set_name(c"knock-opener");
    let is_among = |word: &str| words.iter().any(|given| *given == word);
    let replacement = is_among(REPLACES);
    let owner = is_among(OWNED).then(|| process::inherited(3));
    let backend = Backend::named(backend).ok_or_else(|| Error::usage("the supervisor starts the opener"))?;
    let (channel, mut supervisor_end) = (Channel::from(process::inherited(0)), File::from(process::inherited(1)));
    process::leave_signals_to_supervisor().map_err(|cause| Error::system("set the signal mask", cause))?;

    let limits = receive_limits(&mut supervisor_end)?;
    let mut admitter = match Admitter::new(backend, &limits.guard, owner) {
        // The watcher's request waits for the next opener.
        Err(_) if replacement => return Ok(RULES_GONE_AGAIN),
        opened => opened?,
    };
    hooks::attempt("unconfined opener");
    let capabilities: &[Capability] = match backend {
        Backend::Nft(_) => &[Capability::NetAdmin],
        Backend::Iptables => &[],
    };
    let kept = Kept { user: opener_user(), groups: &[], capabilities, working_directory: false, calls: CALLS };
    privileges::drop_root(&kept, supervisor, log_target)?;
    hooks::attempt("opener");

    if !replacement {
        let mut message = [0; 1];
        if channel.receive(&mut message).ok() != Some(READY.len()) || message != *READY {
            return Err(Error::refused("the watcher did not start"));
        }
        supervisor_end.write_all(READY).map_err(|cause| Error::system("report to the supervisor", cause))?;
    }
    memory::release_start();
    serve(&channel, &limits, &mut admitter, supervisor_end, replacement)
}

fn receive_limits(supervisor: &mut File) -> Result<OpenerLimits> {
    let mut bytes = Box::new([0; OpenerLimits::BYTES]);
    supervisor.read_exact(&mut *bytes).map_err(|cause| Error::system("receive the opener limits", cause))?;
    Ok(OpenerLimits::from_bytes(&bytes))
}

/// Answers requests. `retried` is whether the first one has already failed in another opener.
fn serve(
    channel: &Channel,
    limits: &OpenerLimits,
    admitter: &mut Admitter,
    supervisor: File,
    mut retried: bool,
) -> Result<u8> {
    let mut supervisor = Some(supervisor);
    let mut unused = UnusedOpenings::default();
    loop {
        unused.report(channel, admitter).map_err(|cause| Error::system("wait for the watcher", cause))?;
        // One byte more than a request, so that a longer message is detected.
        let mut bytes = [0; OpenRequest::BYTES + 1];
        let failed = |cause| Error::system("read from the watcher", cause);
        // If the rules are gone, the request waits for the next opener.
        let length = channel.peek(&mut bytes).map_err(failed)?;
        if length == 0 {
            return Ok(1);
        }
        let request = bytes.get(..length).and_then(OpenRequest::from_bytes);
        let request = request.ok_or_else(|| Error::refused("the watcher sent an invalid request; the daemon ends"))?;
        hooks::step("opener: asked");
        match answer(limits, admitter, &mut unused, &request) {
            Ok(Some(answer)) => {
                hooks::step("opener: opened");
                channel.receive(&mut bytes).map_err(failed)?;
                retried = false;
                channel.send(&answer.to_bytes()).map_err(|cause| Error::system("answer the watcher", cause))?;
                if answer == OpenReply::Opened {
                    // Once: the supervisor waits for this during a trial only.
                    let _ = supervisor.take().map(|mut supervisor| supervisor.write_all(OPENED));
                }
            }
            Ok(None) => {
                let (port, source) = (request.port(), request.source());
                say::warn(format_args!("port {port} stays closed to {source}: the kernel still counts used openings"));
                say::warn("replacing the sets of openings; knock again");
                return Ok(SET_LEAKS);
            }
            Err(cause) => {
                if retried {
                    say::error(&Error::system("open a port in the firewall", cause));
                    return Ok(RULES_GONE_AGAIN);
                }
                return Ok(RULES_GONE);
            }
        }
    }
}

/// Makes an opening. Returns the answer; `None` if the set must be replaced first.
fn answer(
    limits: &OpenerLimits,
    admitter: &mut Admitter,
    unused: &mut UnusedOpenings,
    request: &OpenRequest,
) -> io::Result<Option<OpenReply>> {
    if limits.allowed.as_ref().is_some_and(|allowed| !allowed.contains(request.port())) {
        return Ok(Some(OpenReply::PortNotPermitted));
    }
    let opening = Opening { source: request.source(), port: request.port(), seconds: request.seconds() };
    Ok(Some(match admitter.admit(&opening)? {
        Admission::Admitted => {
            unused.track(opening, admitter);
            OpenReply::Opened
        }
        Admission::SetLeaks => return Ok(None),
        Admission::SetFull => OpenReply::SetFull,
        Admission::OwnAddress => OpenReply::OwnAddress,
        Admission::SeveralLinks => OpenReply::SeveralLinks,
        Admission::PortNotGuarded => OpenReply::PortNotGuarded,
    }))
}
