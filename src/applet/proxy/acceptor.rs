//! Accepting clients, also when the system runs out of descriptors.

use crate::sys::tcp;
use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long to accept nobody when there is no descriptor left.
const PAUSE: Duration = Duration::from_secs(1);

/// A listening socket whose events are reported once each (edge-triggered).
pub struct Acceptor {
    listener: TcpListener,
    /// Clients may be waiting.
    ready: bool,
    /// There was no descriptor: when to try again.
    paused: Option<Instant>,
}

impl Acceptor {
    /// An acceptor that never blocks.
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        tcp::hold_all(&listener)?;
        Ok(Self { listener, ready: true, paused: None })
    }

    /// The socket, for the epoll.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Takes in that clients may be waiting.
    pub fn note(&mut self) {
        self.ready = true;
    }

    /// When to accept without an event.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.ready { Some(now) } else { self.paused }
    }

    /// Accepts the next client, as a non-blocking stream; `None` where nobody waits, or during a pause.
    pub fn accept(&mut self) -> Option<(TcpStream, IpAddr)> {
        if self.paused.take_if(|until| *until <= Instant::now()).is_some() {
            self.ready = true;
        }
        while self.ready {
            match self.listener.accept() {
                Ok((stream, from)) if stream.set_nonblocking(true).is_ok() => return Some((stream, from.ip())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.ready = false;
                    if error.kind() != io::ErrorKind::WouldBlock {
                        self.paused = Some(Instant::now() + PAUSE);
                    }
                }
            }
        }
        None
    }
}
