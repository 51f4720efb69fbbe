//! connect: one knock, one connection, joined to standard input and output.

use crate::error::{Error, Result};
use crate::knocker::{self, Family, Knocker};
use crate::profile::Profile;
use crate::sys::epoll::Epoll;
use crate::sys::pipe::Pipe;
use crate::sys::{poll, process, tcp};
use crate::tunnel::{self, KnockLock, KnockSetup, Progress, Race};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// How often to look whether the knock_lock is free, and how long at most.
const LOOK: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// The stack of the thread that sends.
const STACK: usize = 1 << 16;
/// What is moved at once where the kernel does not do it.
const BUFFER: usize = 1 << 16;

/// Connects to `port` of `host`, behind a knock where `directory` has a profile for it, and moves
/// bytes until both ways have ended.
pub fn run(directory: &Path, host: &str, port: u16, family: Family) -> Result<()> {
    // Where there is no profile, raw sockets are not needed.
    let knocker = Knocker::open();
    let found = tunnel::find(directory, host)?;
    let addresses = knocker::resolve(host, port, family)?;
    let stream = match found {
        Some(found) if tunnel::opens(&found, port)? => {
            let (profile, knock_lock) = (Profile::load(&found)?, KnockLock::new(&found));
            let (knocker, turn) = (Rc::new(knocker?), wait_for(&knock_lock)?);
            race(&addresses, Some(KnockSetup { knocker, profile, turn, first_delay: knock_lock.first_delay() }))
        }
        Some(_) => race(&addresses, None),
        None => race(&addresses, None).map_err(|error| {
            error.advise(format!("there is no profile for {host:?} in {directory:?}: it was tried without a knock"))
        }),
    };
    join(&stream?)
}

fn wait_for(knock_lock: &KnockLock) -> Result<tunnel::Turn> {
    let until = Instant::now() + PATIENCE;
    loop {
        match knock_lock.try_lock()? {
            Some(turn) => return Ok(turn),
            None if Instant::now() > until => {
                return Err(Error::refused("somebody else is knocking there and does not get through"));
            }
            None => thread::sleep(LOOK),
        }
    }
}

fn race(addresses: &[SocketAddr], key: Option<KnockSetup>) -> Result<TcpStream> {
    let asked = |cause| Error::system("wait for connections", cause);
    let epoll = Epoll::new().map_err(asked)?;
    let mut race = Race::new(addresses, key);
    let mut ready = Vec::new();
    loop {
        match race.run(&epoll, 0) {
            Progress::Won(stream, _) => return Ok(stream),
            Progress::Lost(error) => return Err(error),
            Progress::Running(until) => epoll.wait(&mut ready, Some(until)).map_err(asked)?,
        }
    }
}

/// A thread sends and this one receives: standard input and output may be of any kind, and none is
/// made non-blocking, because others may share them.
fn join(stream: &TcpStream) -> Result<()> {
    let broken = |cause| Error::system("go on with the connection", cause);
    stream.set_nonblocking(false).map_err(broken)?;
    let _ = stream.set_nodelay(true);
    let _ = tcp::keep_urgent(stream);
    let (input, output) = (File::from(process::inherited(0)), File::from(process::inherited(1)));
    let typed = input.is_terminal();
    let sender = stream.try_clone().map_err(broken)?;
    let sending = thread::Builder::new().stack_size(STACK).spawn(move || send(&input, &sender)).map_err(broken)?;
    copy(stream, &output, is_spliced(&output)).map_err(broken)?;
    // Whoever reads our output learns of its end now, and may go on sending.
    drop(output);
    // A person at a terminal has nothing more to say to a server that is gone.
    if typed { Ok(()) } else { sending.join().unwrap_or(Ok(())).map_err(broken) }
}

fn send(input: &File, stream: &TcpStream) -> io::Result<()> {
    let sent = copy(input, stream, is_spliced(input)).and_then(|()| stream.shutdown(Shutdown::Write));
    if sent.is_err() {
        // The other way ends too, and the server is not to take what it got for all there is.
        let _ = tcp::reset(stream);
        let _ = stream.shutdown(Shutdown::Read);
    }
    sent
}

/// Whether the kernel moves bytes from and to `file` by itself, whatever flags it has.
fn is_spliced(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.file_type().is_fifo() || found.file_type().is_socket())
}

/// Moves bytes until `from` ends.
fn copy<F: AsFd, T: AsFd>(from: &F, to: &T, spliced: bool) -> io::Result<()>
where
    for<'a> &'a F: Read,
    for<'a> &'a T: Write,
{
    let pipe = Pipe::waiting()?;
    let mut buffer = if spliced { Vec::new() } else { vec![0; BUFFER] };
    loop {
        let held = patiently(
            || match spliced.then(|| pipe.fill(from)) {
                None => (&*from).read(&mut buffer),
                Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => pipe.fill_by_reading(from),
                Some(filled) => filled,
            },
            || poll::readable([from.as_fd()], None).map(drop),
        )?;
        if held == 0 {
            return Ok(());
        }
        let mut moved = 0;
        while moved < held {
            moved += patiently(
                || match buffer.get(moved..held) {
                    Some(rest) => (&*to).write(rest),
                    None => pipe.drain(to, held - moved),
                },
                || poll::writable(to.as_fd()),
            )?;
        }
    }
}

/// Tries until it is done: others may have made a descriptor non-blocking that they share with us.
fn patiently(mut attempt: impl FnMut() -> io::Result<usize>, wait: impl Fn() -> io::Result<()>) -> io::Result<usize> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait()?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
