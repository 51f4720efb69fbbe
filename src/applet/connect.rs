//! connect: knock, connect, and join the connection to standard input and output.

use crate::error::{Error, Result};
use crate::knocker::{self, Family, Knocker};
use crate::profile::{Found, Profile};
use crate::sys::epoll::Epoll;
use crate::sys::pipe::Pipe;
use crate::sys::{poll, process, tcp};
use crate::tunnel::{self, KnockLock, KnockSetup, OpeningDelay, Progress, Race, Turn};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

/// How often to try the knock lock that another process has, and for how long.
const RETRY_LOCK: Duration = Duration::from_millis(5);
const WAIT_FOR_LOCK: Duration = Duration::from_secs(60);
/// The stack of the thread that sends, in bytes.
const STACK: usize = 1 << 16;
/// The bytes copied at once where splice(2) cannot move them.
const BUFFER: usize = 1 << 16;

/// Connects to `port` of `host`, behind a knock where `directory` has a profile for the host, and moves
/// bytes until both directions have ended.
pub fn run(directory: &Path, host: &str, port: u16, family: Family) -> Result<()> {
    // Without a profile no raw socket is needed, so a failure is an error only further down.
    let knocker = Knocker::open();
    let found = tunnel::find(directory, host)?;
    let addresses = knocker::resolve(host, port, family)?;
    let stream = match found {
        Some(found) if tunnel::opens(&found, port)? => {
            let profile = Profile::load(&found)?;
            let (knocker, turn) = (Rc::new(knocker?), wait_for_turn(&found)?);
            race(&addresses, Some(KnockSetup { knocker, profile, turn, first_delay: OpeningDelay::default().get() }))
        }
        Some(_) => race(&addresses, None),
        None => race(&addresses, None).map_err(|error| {
            error.advise(format!("there is no profile for {host:?} in {directory:?}, so no knock was sent"))
        }),
    };
    join(&stream?)
}

fn wait_for_turn(found: &Found) -> Result<Turn> {
    let (knock_lock, until) = (KnockLock::new(found), Instant::now() + WAIT_FOR_LOCK);
    loop {
        match knock_lock.try_lock()? {
            Some(turn) => return Ok(turn),
            None if Instant::now() > until => {
                let why = format!("another process has held the knock lock of {:?} for a minute", found.name);
                return Err(Error::refused(why).advise(format!("fuser -v {:?} lists it", found.path)));
            }
            None => thread::sleep(RETRY_LOCK),
        }
    }
}

fn race(addresses: &[SocketAddr], setup: Option<KnockSetup>) -> Result<TcpStream> {
    let failed = |cause| Error::system("wait for connections", cause);
    let epoll = Epoll::new().map_err(failed)?;
    let mut race = Race::new(addresses, setup);
    let mut ready = Vec::new();
    loop {
        match race.run(&epoll, 0) {
            Progress::Won(stream, _) => return Ok(stream),
            Progress::Lost(error) => return Err(error),
            Progress::Running(until) => epoll.wait(&mut ready, Some(until)).map_err(failed)?,
        }
    }
}

/// Joins the connection to standard input and output: one thread sends, this one receives. Both may be
/// files of any kind. Neither is made non-blocking, because other processes may share them.
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
    // The reader of our output sees its end now, and may go on writing to our input.
    drop(output);
    // At a terminal the input would not end by itself when the server is gone.
    if typed { Ok(()) } else { sending.join().unwrap_or(Ok(())).map_err(broken) }
}

fn send(input: &File, stream: &TcpStream) -> io::Result<()> {
    let sent = copy(input, stream, is_spliced(input)).and_then(|()| stream.shutdown(Shutdown::Write));
    if sent.is_err() {
        // A reset, so that the server does not take a part of the input for the whole.
        let _ = tcp::reset(stream);
        let _ = stream.shutdown(Shutdown::Read);
    }
    sent
}

/// Whether splice(2) moves bytes from and to `file`: it refuses a file that is open for appending.
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

/// Repeats `attempt` until it neither would block nor is interrupted: another process that shares the
/// descriptor may have made it non-blocking.
fn patiently(mut attempt: impl FnMut() -> io::Result<usize>, wait: impl Fn() -> io::Result<()>) -> io::Result<usize> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait()?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
