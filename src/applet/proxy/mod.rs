//! proxy: a SOCKS server that knocks before it connects to a host with a profile. One thread does all the work; other
//! threads only resolve names.

mod acceptor;
mod address_cache;
mod by_id;
mod client;
mod error_log;
mod event_loop;
mod hosts;
mod lookups;
mod queue;
mod relays;
mod resolver;
mod session;
pub mod socks;
mod turns;

use crate::error::{Error, Result};
use crate::knocker::{self, Knocker};
use crate::profile::ProfileHome;
use crate::say;
use crate::sys::process::{self, Background};
use crate::sys::{privilege, tcp};
use event_loop::{EventLoop, ProxyRules};
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::path::Path;

/// The descriptors of one connection: two sockets, and a pipe for each direction with buffered bytes.
const FILES_EACH: u32 = 6;
/// Descriptors for clients without a request, connection attempts, and the program itself.
const FILES_BESIDE: u32 = 512;
/// The maximum number of connections, if the limit of open files allows them.
const MOST: u32 = 4096;

/// The proxy's command-line options.
pub struct ProxyOptions<'a> {
    /// The address and port to listen on.
    pub listen: SocketAddr,
    /// The directory of the profiles; `None` means the user's home.
    pub directory: Option<&'a Path>,
    /// The user to switch to; `None` means the user who started the proxy.
    pub user: Option<&'a str>,
    /// Whether to serve other machines too.
    pub allow_remote: bool,
    /// Whether to run in the background.
    pub background: bool,
}

/// Runs the proxy until a signal terminates it.
pub fn run(options: &ProxyOptions<'_>) -> Result<()> {
    let listen = options.listen;
    let remote = !listen.ip().to_canonical().is_loopback();
    if remote && !options.allow_remote {
        return Err(Error::refused(format!(
            "other machines could connect through {} as if they were this machine",
            listen.ip()
        ))
        .advise("listen on 127.0.0.1, or add --allow-remote, which allows connections to hosts with profiles only"));
    }
    if options.user.is_some() && privilege::real_uid() != 0 {
        return Err(
            Error::refused("only root may switch to another user").advise("leave out --user, or start it as root")
        );
    }
    let home = match options.user {
        Some(name) => ProfileHome::for_user(name, options.directory)?,
        None => ProfileHome::for_caller(options.directory)?,
    };
    let background =
        Background::start_if(options.background).map_err(|cause| Error::system("run in the background", cause))?;
    let listener = tcp::listen(listen);
    let listen = knocker::describe(listen);
    let listener = listener.map_err(|cause| Error::system(format!("listen on {listen}"), cause))?;
    let files = process::raise_file_limit_up_to(FILES_BESIDE + MOST * FILES_EACH);
    let files = files.map_err(|cause| Error::system("read the limit of open files", cause))?;
    let most = (files.saturating_sub(FILES_BESIDE) / FILES_EACH).clamp(16, MOST) as usize;
    let knocker = Knocker::open(home.user)?;
    let remarks = home.remarks()?;
    let directory = home.directory;
    let proxy = EventLoop::new(listener, knocker, ProxyRules { directory, most, profiles_only: remote })?;
    // The process ends with it, so it is never dropped.
    let mut proxy = ManuallyDrop::new(proxy);
    if let Some(background) = background {
        say::use_syslog(true);
        background.ready(false).map_err(|cause| Error::system("detach from the terminal", cause))?;
    }
    remarks.iter().for_each(say::warn);
    say::note(format_args!("ready on {listen}, for {most} connections at once"));
    proxy.serve().map_err(|cause| Error::system("wait for connections", cause))
}
