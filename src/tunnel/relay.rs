//! A relay: copies bytes between two connections, in both directions, inside the kernel (splice(2)).
//!
//! Each direction buffers at most one pipe's worth of bytes, so a slow receiver blocks its sender. A direction borrows
//! a pipe only while it has bytes to pass on; an idle relay costs no more than its two sockets.

use crate::sys::epoll::EpollEvent;
use crate::sys::pipe::Pipe;
use crate::sys::tcp;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;

/// How many pipes of data, at most 64 KiB each, one direction moves before the other relays get their turn.
const FILLS: usize = 16;
/// How many empty pipes are kept for reuse, which is cheaper than opening new ones.
const SPARE_PIPES: usize = 16;

/// Empty pipes that relays borrow while they move bytes.
#[derive(Default)]
pub struct SparePipes(Vec<Pipe>);

impl SparePipes {
    fn lend(&mut self) -> io::Result<Pipe> {
        self.0.pop().map_or_else(Pipe::new, Ok)
    }

    fn take_back(&mut self, pipe: Pipe) {
        if self.0.len() < SPARE_PIPES {
            self.0.push(pipe);
        }
    }
}

/// One end of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The program that connected to the proxy.
    Client,
    /// The server to which the proxy connected.
    Server,
}

/// The result of [`Relay::run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// All available bytes were moved. Run the relay again after the next event.
    All,
    /// Bytes may be left. Run the relay again after the other relays have run.
    Some,
    /// The relay has ended: both directions are closed, or one side has failed.
    Over,
}

/// Two connections, each of which receives the bytes of the other.
pub struct Relay {
    client: Endpoint,
    server: Endpoint,
    up: Direction,
    down: Direction,
}

struct Endpoint {
    stream: TcpStream,
    readable: bool,
    writable: bool,
    /// There may be an urgent byte, at which splice() stops.
    urgent: bool,
}

#[derive(Default)]
struct Direction {
    /// The pipe with the bytes that are not passed on yet, and their number.
    held: Option<(Pipe, usize)>,
    /// The sender has closed its direction.
    ended: bool,
}

impl Relay {
    /// Creates a relay between two non-blocking streams, whose events the caller reports.
    pub fn new(client: TcpStream, server: TcpStream) -> Self {
        let end = |stream: TcpStream| {
            // The original sender decides how its data is packetized; Nagle's algorithm would only add a delay.
            let _ = stream.set_nodelay(true);
            let _ = tcp::keep_alive(&stream);
            let _ = tcp::inline_urgent(&stream);
            Endpoint { stream, readable: true, writable: true, urgent: true }
        };
        Self { client: end(client), server: end(server), up: Direction::default(), down: Direction::default() }
    }

    /// Records an epoll event of one side.
    pub fn record(&mut self, side: Side, event: EpollEvent) {
        let end = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        end.readable |= event.readable;
        end.writable |= event.writable;
        end.urgent |= event.urgent;
    }

    /// Moves the available bytes. A half-close is passed on after the last byte, and the other direction continues. If
    /// one side fails, both connections are reset.
    pub fn run(&mut self, spares: &mut SparePipes) -> Moved {
        let Self { client, server, up, down } = self;
        let moved = up.run(client, server, spares).and_then(|first| Ok(first | down.run(server, client, spares)?));
        match moved {
            Ok(_) if up.ended && down.ended => Moved::Over,
            Ok(false) => Moved::All,
            Ok(true) => Moved::Some,
            Err(_) => {
                self.reset();
                Moved::Over
            }
        }
    }

    /// Makes the drop of the relay reset both connections.
    pub fn reset(&self) {
        for end in [&self.client, &self.server] {
            let _ = tcp::reset(&end.stream);
        }
    }
}

impl Direction {
    /// Moves bytes. Returns whether there may be more to move.
    fn run(&mut self, from: &mut Endpoint, to: &mut Endpoint, spares: &mut SparePipes) -> io::Result<bool> {
        for _ in 0..FILLS {
            if self.held.is_none() && !self.fill(from, to, spares)? || !self.drain(to, spares)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills a pipe from the sender. Returns whether there were any bytes.
    fn fill(&mut self, from: &mut Endpoint, to: &Endpoint, spares: &mut SparePipes) -> io::Result<bool> {
        if self.ended {
            // Nothing is read from this side any more, so a reset has to be detected here. The event alone does not
            // prove one: it may belong to a losing connection attempt that had the same token.
            return from.stream.peer_addr().map(|_| false);
        }
        if !from.readable {
            return Ok(false);
        }
        let pipe = spares.lend()?;
        let filled = match pipe.fill(from.stream.as_fd()) {
            Err(error) if from.urgent && error.kind() == io::ErrorKind::WouldBlock => {
                pipe.fill_by_reading(from.stream.as_fd())
            }
            other => other,
        };
        match filled {
            Ok(0) => {
                self.ended = true;
                let _ = to.stream.shutdown(Shutdown::Write);
            }
            Ok(length) => {
                self.held = Some((pipe, length));
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (from.readable, from.urgent) = (false, false),
            Err(error) => return Err(error),
        }
        spares.take_back(pipe);
        Ok(false)
    }

    /// Passes on the bytes in the pipe. Returns whether the pipe is now empty.
    fn drain(&mut self, to: &mut Endpoint, spares: &mut SparePipes) -> io::Result<bool> {
        while let Some((pipe, held)) = self.held.take_if(|_| to.writable) {
            match pipe.drain(to.stream.as_fd(), held) {
                Ok(length) if length < held => self.held = Some((pipe, held - length)),
                Ok(_) => spares.take_back(pipe),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    to.writable = false;
                    self.held = Some((pipe, held));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.held.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::epoll::Epoll;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::{Duration, Instant};

    /// Creates both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    /// Runs a relay in a thread until it ends. Returns its client, its server, and the thread, which returns the number
    /// of spare pipes.
    fn relayed() -> (TcpStream, TcpStream, thread::JoinHandle<usize>) {
        let ((client, near), (far, server)) = (pair(), pair());
        let thread = thread::spawn(move || {
            let (epoll, mut ready, mut spares) = (Epoll::new().unwrap(), Vec::new(), SparePipes::default());
            for (token, stream) in [(0, &near), (1, &far)] {
                stream.set_nonblocking(true).unwrap();
                epoll.add(stream, token).unwrap();
            }
            let mut relay = Relay::new(near, far);
            loop {
                match relay.run(&mut spares) {
                    Moved::Over => return spares.0.len(),
                    Moved::Some => {}
                    Moved::All => {
                        epoll.wait(&mut ready, Some(Instant::now() + Duration::from_secs(5))).unwrap();
                        assert!(!ready.is_empty(), "the relay hangs");
                        for event in &ready {
                            relay.record(if event.token == 0 { Side::Client } else { Side::Server }, *event);
                        }
                    }
                }
            }
        });
        (client, server, thread)
    }

    #[test]
    fn both_directions_are_complete_and_half_close_independently() {
        let (mut client, mut server, relay) = relayed();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        let expected = sent.clone();
        let mut sender = client.try_clone().unwrap();
        let sending = thread::spawn(move || {
            sender.write_all(&sent).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        sending.join().unwrap();
        assert!(received == expected);
        server.write_all(&received).unwrap();
        drop(server);
        received.clear();
        client.read_to_end(&mut received).unwrap();
        assert!(received == expected);
        assert_eq!(relay.join().unwrap(), 1, "one pipe is enough");
    }

    #[test]
    fn a_receiver_that_does_not_read_blocks_its_sender() {
        let (mut client, mut server, relay) = relayed();
        client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let (piece, mut sent) = (vec![7; 1 << 16], 0);
        while let Ok(length) = client.write(&piece) {
            sent += length;
            assert!(sent < 100 << 20, "the relay buffers everything");
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
        drop((client, server));
        relay.join().unwrap();
    }

    #[test]
    fn an_urgent_byte_does_not_stop_the_relay() {
        let (client, server, relay) = relayed();
        for (mut one, mut other) in [(&client, &server), (&server, &client)] {
            for round in 0..100 {
                one.write_all(b"before").unwrap();
                tcp::send_urgent(one, b'!').unwrap();
                if round % 2 == 0 {
                    one.write_all(b"behind").unwrap();
                }
                let mut received = [0; 13];
                let received = &mut received[..if round % 2 == 0 { 13 } else { 7 }];
                other.read_exact(received).unwrap();
                assert_eq!(received, &b"before!behind"[..received.len()]);
            }
        }
        (&client).write_all(b"before").unwrap();
        tcp::send_urgent(&client, b'!').unwrap();
        (&client).write_all(b"behind").unwrap();
        drop(client);
        let mut received = Vec::new();
        (&server).read_to_end(&mut received).unwrap();
        assert_eq!(received, b"before!behind");
        drop(server);
        relay.join().unwrap();
    }

    #[test]
    fn a_reset_is_passed_on() {
        for finished in [false, true] {
            let (mut client, mut server, relay) = relayed();
            if finished {
                server.shutdown(Shutdown::Write).unwrap();
                assert_eq!(client.read(&mut [0]).unwrap(), 0);
            } else {
                client.write_all(b"x").unwrap();
                server.read_exact(&mut [0]).unwrap();
            }
            tcp::reset(&server).unwrap();
            drop(server);
            relay.join().unwrap();
            let failure = client.write(b"x").and_then(|_| client.read(&mut [0])).unwrap_err();
            assert!(matches!(failure.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "{failure}");
        }
    }
}
