//! A relay moves bytes between two connections, in both directions, inside the kernel (splice(2)).
//!
//! A direction borrows a pipe only while it holds bytes, so an idle relay costs no more than its two
//! sockets. When the pipe is full, the sender has to wait.

use crate::sys::epoll::Event;
use crate::sys::pipe::Pipe;
use crate::sys::tcp;
use std::io;
use std::net::{Shutdown, TcpStream};

/// How often one direction is filled before the other relays go on: at most 64 KiB each time.
const FILLS: usize = 16;
/// How many empty pipes are kept; opening one costs more than keeping it.
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
    /// The program that connected to us.
    Client,
    /// The server that we connected to.
    Server,
}

/// How far [`Relay::run`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// All bytes there were. Run it again after the next event.
    All,
    /// Some of them. Run it again when the other relays have run.
    Some,
    /// The relay is over: both directions have ended, or one side has failed.
    Over,
}

/// Two connections whose bytes are passed on to each other.
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
    /// There may be an urgent byte, at which splice stops.
    urgent: bool,
}

#[derive(Default)]
struct Direction {
    /// The pipe with bytes that are not passed on yet, and their number.
    held: Option<(Pipe, usize)>,
    /// The sender has ended its bytes.
    ended: bool,
}

impl Relay {
    /// A relay of two non-blocking streams whose events the caller reports.
    pub fn new(client: TcpStream, server: TcpStream) -> Self {
        let end = |stream: TcpStream| {
            // The sender decided what goes into one packet; do not wait for more.
            let _ = stream.set_nodelay(true);
            let _ = tcp::keep_alive(&stream);
            let _ = tcp::keep_urgent(&stream);
            Endpoint { stream, readable: true, writable: true, urgent: true }
        };
        Self { client: end(client), server: end(server), up: Direction::default(), down: Direction::default() }
    }

    /// Takes in an event of one side.
    pub fn note(&mut self, side: Side, event: Event) {
        let end = match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        end.readable |= event.readable;
        end.writable |= event.writable;
        end.urgent |= event.urgent;
    }

    /// Moves the bytes there are. A half-close is passed on behind the last byte, and the other
    /// direction goes on. A failure of one side resets both.
    pub fn run(&mut self, spares: &mut SparePipes) -> Moved {
        let Self { client, server, up, down } = self;
        let moved = up.run(client, server, spares).and_then(|first| Ok(first | down.run(server, client, spares)?));
        match moved {
            Ok(_) if up.ended && down.ended => Moved::Over,
            Ok(false) => Moved::All,
            Ok(true) => Moved::Some,
            Err(_) => {
                for end in [client, server] {
                    let _ = tcp::reset(&end.stream);
                }
                Moved::Over
            }
        }
    }
}

impl Direction {
    /// Moves bytes; whether there may be more to move.
    fn run(&mut self, from: &mut Endpoint, to: &mut Endpoint, spares: &mut SparePipes) -> io::Result<bool> {
        for _ in 0..FILLS {
            if self.held.is_none() && !self.fill(from, to, spares)? || !self.drain(to, spares)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fills a pipe from the sender; whether any bytes came.
    fn fill(&mut self, from: &mut Endpoint, to: &Endpoint, spares: &mut SparePipes) -> io::Result<bool> {
        if self.ended {
            // Nothing is read here any more, so a reset would not be noticed. An event alone does not prove
            // one: it may be of an attempt to connect that had the same token and lost.
            return from.stream.peer_addr().map(|_| false);
        }
        if !from.readable {
            return Ok(false);
        }
        let pipe = spares.lend()?;
        let filled = match pipe.fill(&from.stream) {
            Err(error) if from.urgent && error.kind() == io::ErrorKind::WouldBlock => {
                pipe.fill_by_reading(&from.stream)
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

    /// Passes on what the pipe holds; whether it is empty now.
    fn drain(&mut self, to: &mut Endpoint, spares: &mut SparePipes) -> io::Result<bool> {
        while let Some((pipe, held)) = self.held.take_if(|_| to.writable) {
            match pipe.drain(&to.stream, held) {
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

    /// Both ends of a connection.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    /// Client and server of a relay that runs in a thread until it is over; the thread returns the
    /// number of its spare pipes.
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
                        assert!(!ready.is_empty(), "it hangs");
                        for event in &ready {
                            relay.note(if event.token == 0 { Side::Client } else { Side::Server }, *event);
                        }
                    }
                }
            }
        });
        (client, server, thread)
    }

    #[test]
    fn both_directions_are_complete_and_end_one_by_one() {
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
        assert_eq!(relay.join().unwrap(), 1, "one pipe was enough");
    }

    #[test]
    fn a_receiver_that_does_not_read_blocks_its_sender() {
        let (mut client, mut server, relay) = relayed();
        client.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let (piece, mut sent) = (vec![7; 1 << 16], 0);
        while let Ok(length) = client.write(&piece) {
            sent += length;
            assert!(sent < 100 << 20, "the relay holds it all");
        }
        client.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), sent);
        drop((client, server));
        relay.join().unwrap();
    }

    #[test]
    fn an_urgent_byte_stops_nothing() {
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
