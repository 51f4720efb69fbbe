//! The sockets of a race: several connection attempts run at once, and the first one to be established wins. The
//! schedule decides when to knock and when to attempt.
//!
//! If the server's firewall uses the opening up at the handshake's ACK instead of the SYN, several attempts can be
//! established on this side, and the first ACK to arrive decides which one the server admits. So each attempt delays
//! its ACK until the winner is known and the others are reset.

use super::Turn;
use super::schedule::{Pace, Schedule, Step};
use crate::error::{Error, Result};
use crate::knocker::{self, Knocker};
use crate::profile::Profile;
use crate::sys::epoll::Epoll;
use crate::sys::tcp;
use crate::wire::Wire;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// A connection that is being established. It holds the knock lock if it knocks.
pub struct Race {
    schedule: Schedule,
    setup: Option<KnockSetup>,
    /// The source address of the last knock. The connection must use the same one.
    source: Option<SocketAddr>,
    attempts: Vec<Attempt>,
    failure: Option<Error>,
}

/// Everything that a knock needs.
pub struct KnockSetup {
    /// Sends the knocks.
    pub knocker: Rc<Knocker>,
    /// The keys and the counter.
    pub profile: Box<Profile>,
    /// The knock lock, held until the race is over.
    pub turn: Turn,
    /// The time from a knock to the first attempt, unless the profile is one of version 0.8.
    pub first_delay: Duration,
}

/// One connection attempt.
struct Attempt {
    stream: TcpStream,
    address: SocketAddr,
    first: bool,
}

/// The state of a race.
pub enum Progress {
    /// No attempt is established yet. Run the race again at this time or after an event.
    Running(Instant),
    /// The established connection, and whether it was the first attempt after the first knock.
    Won(TcpStream, bool),
    /// The race has failed.
    Lost(Error),
}

impl Race {
    /// Creates a race for a connection to one of `addresses`, with knocks if there is a `setup`.
    pub fn new(addresses: &[SocketAddr], setup: Option<KnockSetup>) -> Box<Self> {
        let pace = match &setup {
            None => Pace::Plain,
            Some(setup) if setup.profile.config.legacy => Pace::Legacy,
            Some(setup) if setup.profile.config.wire == Wire::Stealth => Pace::Stealth(setup.first_delay),
            Some(setup) => Pace::Knock(setup.first_delay),
        };
        let schedule = Schedule::new(addresses, pace);
        Box::new(Self { schedule, setup, source: None, attempts: Vec::new(), failure: None })
    }

    /// Takes the steps that are due. Events of the attempts have `token` in `epoll`.
    pub fn run(&mut self, epoll: &Epoll, token: u64) -> Progress {
        if let Some((stream, first)) = self.winner() {
            return Progress::Won(stream, first);
        }
        loop {
            let done = match self.schedule.next(Instant::now()) {
                Step::Wait(until) => return Progress::Running(until),
                Step::GiveUp => return Progress::Lost(self.lost()),
                Step::Knock(address) => self.knock(address),
                Step::Attempt { address, first } => self.attempt(address, first, epoll, token),
            };
            if let Err(failure) = done {
                self.keep_failure(failure);
            }
        }
    }

    fn knock(&mut self, address: SocketAddr) -> Result<()> {
        let Some(KnockSetup { knocker, profile, .. }) = &mut self.setup else { return Ok(()) };
        self.source = Some(knocker.knock(profile, address.port(), address, None)?.0);
        self.schedule.knocked(address, Instant::now());
        Ok(())
    }

    fn attempt(&mut self, address: SocketAddr, first: bool, epoll: &Epoll, token: u64) -> Result<()> {
        let connecting = tcp::connect(address, self.source).and_then(|stream| {
            epoll.add(&stream, token)?;
            Ok(stream)
        });
        let stream = connecting.map_err(|cause| {
            self.schedule.attempt_failed();
            failed(address, cause)
        })?;
        self.attempts.push(Attempt { stream, address, first });
        Ok(())
    }

    /// Removes and returns the first established attempt, and drops failed ones.
    fn winner(&mut self) -> Option<(TcpStream, bool)> {
        let mut index = 0;
        while let Some(Attempt { stream, address, .. }) = self.attempts.get(index) {
            match stream.take_error().and_then(|failure| failure.map_or(Ok(()), Err)) {
                Err(cause) => {
                    self.keep_failure(failed(*address, cause));
                    self.attempts.remove(index);
                    self.schedule.attempt_failed();
                }
                Ok(()) if stream.peer_addr().is_ok() => {
                    let winner = self.attempts.swap_remove(index);
                    // A close without a reset would send a FIN, which carries an ACK too.
                    for loser in self.attempts.drain(..) {
                        let _ = tcp::reset(&loser.stream);
                    }
                    // If this fails, the ACK is 0.2 s late.
                    let _ = tcp::complete(&winner.stream);
                    return Some((winner.stream, winner.first));
                }
                Ok(()) => index += 1,
            }
        }
        None
    }

    /// Keeps the failure to report. A refusal says more than a missing route and is not replaced.
    fn keep_failure(&mut self, failure: Error) {
        if !self.failure.as_ref().is_some_and(is_refusal) {
            self.failure = Some(failure);
        }
    }

    fn lost(&mut self) -> Error {
        let unanswered = self.attempts.last().map(|attempt| failed(attempt.address, io::ErrorKind::TimedOut.into()));
        let failure = unanswered.or_else(|| self.failure.take());
        let failure = failure.unwrap_or_else(|| Error::refused("there is no address to connect to"));
        let Some(KnockSetup { profile, .. }) = &self.setup else { return failure };
        let meaning = match self.knocks() {
            0 => return failure,
            _ if is_refusal(&failure) => "if no program listens on that port there, the knock has worked".to_owned(),
            1 => "1 knock went unanswered".to_owned(),
            knocks => format!("{knocks} knocks went unanswered"),
        };
        failure.advise(format!("{meaning}; to find the cause: knockknock doctor {}", profile.name))
    }

    /// Returns how many knocks were sent.
    pub fn knocks(&self) -> usize {
        self.schedule.knocks()
    }
}

fn is_refusal(failure: &Error) -> bool {
    failure.kind() == Some(io::ErrorKind::ConnectionRefused)
}

fn failed(address: SocketAddr, cause: io::Error) -> Error {
    Error::system(format!("connect to {}", knocker::describe(address)), cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn run(race: &mut Race) -> Result<TcpStream> {
        let (epoll, mut ready) = (Epoll::new().unwrap(), Vec::new());
        loop {
            match race.run(&epoll, 0) {
                Progress::Running(until) => epoll.wait(&mut ready, Some(until)).unwrap(),
                Progress::Won(stream, _) => return Ok(stream),
                Progress::Lost(error) => return Err(error),
            }
        }
    }

    /// Returns a loopback address on which no program listens.
    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn the_address_that_accepts_wins() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let stream = run(&mut Race::new(&[closed(), closed(), open], None)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
    }

    #[test]
    fn the_server_never_sees_the_attempts_that_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, epoll) = (listener.local_addr().unwrap(), Epoll::new().unwrap());
        let mut race = Race::new(&[], None);
        for _ in 0..3 {
            race.attempt(address, false, &epoll, 0).unwrap();
        }
        assert!(race.attempts.iter().all(|attempt| attempt.stream.peer_addr().is_ok()), "all are established");
        let (winner, _) = race.winner().unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        assert_eq!(winner.local_addr().unwrap(), peer);
        // Behind the time after which the kernel would have sent the others' ACKs.
        std::thread::sleep(Duration::from_millis(250));
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_refusal_is_reported() {
        let unreachable = "[100::1]:1".parse().unwrap();
        let error = run(&mut Race::new(&[closed(), unreachable], None)).unwrap_err();
        assert_eq!(error.kind(), Some(io::ErrorKind::ConnectionRefused));
        assert!(run(&mut Race::new(&[], None)).is_err());
    }
}
