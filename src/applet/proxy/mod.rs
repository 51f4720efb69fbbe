//! proxy: a SOCKS server that knocks for those who connect through it. One thread waits for
//! everything; only names are asked for by others.

mod address_cache;
mod event_loop;
mod resolver;
pub mod socks;

use crate::error::{Error, Result};
use crate::knocker::{self, Knocker};
use crate::say;
use crate::sys::privilege::{self, Account};
use crate::sys::process::{self, Background};
use event_loop::EventLoop;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;

/// The descriptors of one connection: two sockets, and a pipe each way while bytes are held up.
const FILES_EACH: u32 = 6;
/// Those of clients that have not said what they want, of attempts, and of the program.
const FILES_BESIDE: u32 = 512;
/// The most connections at once, where so many descriptors can be had.
const MOST: u32 = 4096;

/// What is asked of a proxy.
pub struct ProxyOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the profiles are, unless in the user's home.
    pub directory: Option<PathBuf>,
    /// Whom to become, unless the one who started it.
    pub user: Option<String>,
    /// Serve others than this machine.
    pub allow_remote: bool,
    /// Go into the background.
    pub background: bool,
}

/// Serves until it is ended.
pub fn run(options: ProxyOptions) -> Result<()> {
    let listen = options.listen;
    let remote = !listen.ip().to_canonical().is_loopback();
    if remote && !options.allow_remote {
        return Err(Error::refused(format!("whoever reaches {} could connect as if from this machine", listen.ip()))
            .advise("listen on 127.0.0.1, or add --allow-remote: then only hosts with profiles are connected to"));
    }
    if options.user.is_some() && privilege::real_uid() != 0 {
        return Err(Error::refused("only root may become another user").advise("leave out --user, or start it as root"));
    }
    let account = options
        .user
        .map(|name| Account::named(&name).ok_or_else(|| Error::Usage(format!("there is no user {name:?}"))));
    let account = account.transpose()?;
    let at_home = account.as_ref().map_or_else(knocker::directory, |account| account.home.join(".knockknock"));
    let directory = options.directory.unwrap_or(at_home);
    let background = options.background.then(Background::start).transpose();
    let background = background.map_err(|cause| Error::system("go into the background", cause))?;
    let listener = TcpListener::bind(listen).map_err(|cause| Error::system(format!("listen on {listen}"), cause))?;
    let files = process::allow_files_up_to(FILES_BESIDE + MOST * FILES_EACH);
    let files = files.map_err(|cause| Error::system("learn how many files may be open", cause))?;
    let most = (files.saturating_sub(FILES_BESIDE) / FILES_EACH).clamp(16, MOST) as usize;
    let knocker = Knocker::open_as(account.map(|account| account.user))?;
    let mut proxy = EventLoop::new(listener, knocker, directory, most, remote)
        .map_err(|cause| Error::system("wait for connections", cause))?;
    if let Some(background) = background {
        say::use_syslog();
        background.ready(false).map_err(|cause| Error::system("let go of the terminal", cause))?;
    }
    say::note(format_args!("ready on {listen}, for {most} connections at once"));
    proxy.serve().map_err(|cause| Error::system("wait for connections", cause))
}

/// The address to listen on, as it was typed.
pub fn typed_address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::Usage(format!("{text:?} is no address to listen on")))
}
