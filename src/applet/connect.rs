//! connect: knocks, connects, and relays standard input and output.

use crate::error::{Error, Result, quoted};
use crate::knocker::{self, Family, Knocker};
use crate::profile::{Profile, ProfileHome};
use crate::sys::pipe::{self, Pipe};
use crate::sys::thread::Thread;
use crate::sys::{poll, process, tcp};
use crate::tunnel::{self, KnockSetup, OpeningDelay};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;

/// The stack size of the sending thread, in bytes.
const STACK: usize = 1 << 16;
/// The size of the copy buffer, in bytes, used if splice(2) is impossible.
const BUFFER: usize = 1 << 16;

/// Connects to `port` of `host`, after a knock if `home` has a profile for the host, and copies bytes until both
/// directions have ended.
pub fn run(home: &ProfileHome, host: &str, port: u16, family: Family) -> Result<()> {
    // A raw socket is needed only with a profile, so a failure is checked further down.
    let knocker = Knocker::open(home.user);
    let found = home.find(host)?;
    let opens = found.as_ref().map_or(Ok(false), |found| tunnel::opens(found, port))?;
    let addresses = knocker::resolve(host, port, family)?;
    let mut knocked = false;
    let stream = match found {
        Some(found) if opens => {
            let profile = Profile::load(&found)?;
            let (knocker, turn) = (knocker?, tunnel::wait_for_turn(&found)?);
            let setup = KnockSetup { knocker, profile, turn, first_delay: OpeningDelay::default().get() };
            knocked = true;
            tunnel::connect(&addresses, Some(setup))
        }
        Some(_) => tunnel::connect(&addresses, None),
        None => tunnel::connect(&addresses, None).map_err(|error| {
            error.advise(format!(
                "there is no profile for {} in {}, so no knock was sent",
                quoted(host),
                quoted(&home.directory)
            ))
        }),
    };
    join(&stream?, knocked)
}

/// Relays between the connection and standard input and output: one thread sends, this one receives. Input and output
/// may be files of any kind. Neither is made non-blocking, because other processes may share them.
fn join(stream: &TcpStream, knocked: bool) -> Result<()> {
    let broken = |cause| Error::system("continue the connection", cause);
    stream.set_nonblocking(false).map_err(broken)?;
    let _ = stream.set_nodelay(true);
    let _ = tcp::inline_urgent(stream);
    let (input, output) = (File::from(process::inherited(0)), File::from(process::inherited(1)));
    let typed = input.is_terminal();
    let sender = stream.try_clone().map_err(broken)?;
    let sending = Thread::start(STACK, Box::new(move || send(&input, &sender))).map_err(broken)?;
    let first = if knocked { stream.peek(&mut [0]) } else { Ok(1) };
    let answered = first.as_ref().is_ok_and(|&length| length > 0);
    let broken = |cause: io::Error| match cause.kind() {
        // The server's firewall resets the connection if another one has used the opening.
        io::ErrorKind::ConnectionReset if !answered => {
            broken(cause).advise("try again; another connection from this network may have used the opening")
        }
        _ => broken(cause),
    };
    first.map_err(broken)?;
    copy(stream.as_fd(), output.as_fd(), is_spliced(&output)).map_err(broken)?;
    // The reader of our output now sees its end, and may continue to write to our input.
    drop(output);
    // A terminal's input does not end by itself when the server has closed.
    if typed { Ok(()) } else { sending.join().map_err(broken) }
}

fn send(input: &File, stream: &TcpStream) -> io::Result<()> {
    let sent = copy(input.as_fd(), stream.as_fd(), is_spliced(input)).and_then(|()| stream.shutdown(Shutdown::Write));
    if sent.is_err() {
        // Reset, so that the server does not mistake a part of the input for all of it.
        let _ = tcp::reset(stream);
        let _ = stream.shutdown(Shutdown::Read);
    }
    sent
}

/// Returns whether to use splice(2) for `file`. It fails on files open for appending, so only pipes and sockets use it.
fn is_spliced(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.file_type().is_fifo() || found.file_type().is_socket())
}

/// Copies bytes until `from` ends.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, spliced: bool) -> io::Result<()> {
    let pipe = Pipe::blocking()?;
    let mut buffer = if spliced { Vec::new() } else { vec![0; BUFFER] };
    let fill = || match pipe.fill(from) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => pipe.fill_by_reading(from),
        filled => filled,
    };
    loop {
        let held = retry_until_ready(&mut || if spliced { fill() } else { pipe::read(from, &mut buffer) }, &|| {
            poll::readable([from], None).map(drop)
        })?;
        if held == 0 {
            return Ok(());
        }
        let mut moved = 0;
        while moved < held {
            let rest = buffer.get(moved..held).unwrap_or_default();
            moved += retry_until_ready(
                &mut || if spliced { pipe.drain(to, held - moved) } else { pipe::write(to, rest) },
                &|| poll::writable(to, None).map(drop),
            )?;
        }
    }
}

/// Repeats `attempt` while it is interrupted or would block: another process that shares the descriptor may have made
/// it non-blocking.
fn retry_until_ready(
    attempt: &mut dyn FnMut() -> io::Result<usize>,
    wait: &dyn Fn() -> io::Result<()>,
) -> io::Result<usize> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait()?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
