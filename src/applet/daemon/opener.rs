//! The helper: the one process that can change the firewall while packets decide what happens.
//!
//! It reads messages of fixed length, checks them again and treats nonsense as an attack. It has
//! never seen a key or a line of the log.

use super::ipc::{Answer, Plan, READY};
use super::{Mouth, confine, helper_user, hooks};
use crate::error::{Error, Result};
use crate::firewall::{Backend, Door};
use crate::sys::privilege::{self, Capability, User};
use crate::sys::sandbox::{self, calls};
use crate::sys::socketpair::End;
use crate::sys::{poll, process};
use crate::wire::Request;
use std::fs::File;
use std::io::{self, Write};

/// The exit code that says: our rules are gone or may be, make them again.
pub const RULES_GONE: u8 = 64;

/// The system calls that the helper makes: messages from the worker and to the kernel, a line into a
/// list.
const CALLS: &[&[libc::c_long]] = &[calls::LIVE, calls::WAIT, calls::READ_WRITE, calls::SEEK, calls::MESSAGES];

/// Runs the helper: descriptor 0 is the socket to the worker, descriptor 1 a pipe to the keeper.
/// Returns its exit code.
pub fn run(keeper: u32, mouth: Mouth, backend: &str) -> Result<u8> {
    mouth.open();
    process::set_name(c"knock-helper");
    let backend = Backend::named(backend).ok_or_else(|| Error::Usage("the keeper starts the helper".into()))?;
    let (channel, ready) = (End::from(process::inherited(0)), File::from(process::inherited(1)));
    process::leave_signals_to_keeper().map_err(|cause| Error::system("let signals through", cause))?;

    let mut bytes = vec![0; Plan::BYTES];
    let length = channel.receive(&mut bytes).map_err(|cause| Error::system("read the plan", cause))?;
    let plan = bytes.get(..length).and_then(Plan::from_bytes).ok_or_else(|| Error::refused("the plan is damaged"))?;
    let mut door = Door::new(backend, &plan.guard)?;
    hooks::attempt("unconfined helper");
    let user = helper_user();
    mouth.let_go().map_err(|cause| Error::system("let go of the terminal", cause))?;
    sandbox::empty_root().map_err(|cause| Error::system("close the file system (chroot)", cause))?;
    drop_privileges(user, backend, keeper)?;
    confine(None, CALLS);
    hooks::attempt("helper");

    let mut said = [0; 1];
    if channel.receive(&mut said).ok() != Some(READY.len()) || said != *READY {
        return Err(Error::refused("the worker did not start"));
    }
    { ready }.write_all(READY).map_err(|cause| Error::system("tell the keeper", cause))?;
    serve(&channel, &plan, &mut door)
}

fn drop_privileges(user: User, backend: Backend, keeper: u32) -> Result<()> {
    let keep: &[Capability] = match backend {
        Backend::Nft => &[Capability::NetAdmin],
        Backend::Iptables => &[],
    };
    let dropped = privilege::become_user(user, &[], keep)
        .and_then(|()| privilege::not_dumpable())
        .and_then(|()| privilege::die_with(keeper));
    dropped.map_err(|cause| Error::system("give up root's privileges", cause))
}

fn serve(channel: &End, plan: &Plan, door: &mut Door) -> Result<u8> {
    use std::os::fd::AsFd;
    loop {
        let [asked, changed] = poll::readable([channel.as_fd(), door.changes()], None)
            .map_err(|cause| Error::system("wait for the worker", cause))?;
        if changed && !door.still_stands() {
            return Ok(RULES_GONE);
        }
        if asked {
            // One byte more than a request has: a longer message shows.
            let mut bytes = [0; Request::BYTES + 1];
            let length = channel.receive(&mut bytes).map_err(|cause| Error::system("read from the worker", cause))?;
            if length == 0 {
                return Ok(1);
            }
            let request = bytes.get(..length).and_then(Request::from_bytes);
            let request = request.ok_or_else(|| Error::refused("the worker sent nonsense; everything ends"))?;
            hooks::step("helper: asked");
            match answer(plan, door, &request) {
                Ok(answer) => {
                    hooks::step("helper: opened");
                    channel.send(&answer.to_bytes()).map_err(|cause| Error::system("answer the worker", cause))?;
                }
                Err(cause) => {
                    crate::say::error(&Error::system("open a port in the firewall", cause));
                    return Ok(RULES_GONE);
                }
            }
        }
    }
}

fn answer(plan: &Plan, door: &mut Door, request: &Request) -> io::Result<Answer> {
    if plan.allowed.contains(request.port()) { door.admit(request).map(Answer::from) } else { Ok(Answer::Refused) }
}
