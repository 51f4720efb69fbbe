//! Accepts clients, and copes with running out of descriptors.

use std::io;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// How long to stop accepting when no descriptor is left.
const PAUSE: Duration = Duration::from_secs(1);

/// A listening socket with edge-triggered events.
pub struct Acceptor {
    listener: TcpListener,
    /// Whether clients may be waiting.
    ready: bool,
    /// When to try again, if there was no descriptor.
    paused: Option<Instant>,
}

impl Acceptor {
    /// Creates an acceptor for a socket that does not block.
    pub fn new(listener: TcpListener) -> Self {
        Self { listener, ready: true, paused: None }
    }

    /// Returns the socket, for epoll.
    pub fn listener(&self) -> &TcpListener {
        &self.listener
    }

    /// Records that clients may be waiting.
    pub fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Returns when to accept without an event.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if self.ready { Some(now) } else { self.paused }
    }

    /// Accepts the next client as a non-blocking stream; `None` if there is none, or during a pause.
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
