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
    /// The most telling failure of each address.
    failures: Vec<(SocketAddr, Error)>,
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
        Box::new(Self { schedule, setup, source: None, attempts: Vec::new(), failures: Vec::new() })
    }

    /// Takes the steps that are due. Events of the attempts have `token` in `epoll`.
    pub fn run(&mut self, epoll: &Epoll, token: u64) -> Progress {
        if let Some((stream, first)) = self.winner() {
            return Progress::Won(stream, first);
        }
        loop {
            let (address, done) = match self.schedule.next(Instant::now()) {
                Step::Wait(until) => return Progress::Running(until),
                Step::GiveUp => return Progress::Lost(self.lost()),
                Step::Knock(address) => (address, self.knock(address)),
                Step::Attempt { address, first } => (address, self.attempt(address, first, epoll, token)),
            };
            if let Err(failure) = done {
                self.keep_failure(address, failure);
            }
        }
    }

    fn knock(&mut self, address: SocketAddr) -> Result<()> {
        let Some(KnockSetup { knocker, profile, .. }) = &mut self.setup else { return Ok(()) };
        self.source = Some(knocker.knock(profile, address.port(), address, None)?.source);
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
            match tcp::failure(stream) {
                Err(cause) => {
                    let address = *address;
                    self.keep_failure(address, failed(address, cause));
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

    /// Keeps the failure to report of an address: the first one, or a refusal.
    fn keep_failure(&mut self, address: SocketAddr, failure: Error) {
        match self.failures.iter_mut().find(|(known, _)| *known == address) {
            Some((_, known)) if is_refusal(&failure) => *known = failure,
            Some(_) => {}
            None => self.failures.push((address, failure)),
        }
    }

    /// Returns the failures of all addresses as one, the most telling first.
    fn lost(&mut self) -> Error {
        // Firewalls and routers answer only some of many SYNs, so an attempt without an answer says least.
        for Attempt { address, .. } in std::mem::take(&mut self.attempts) {
            self.keep_failure(address, failed(address, io::ErrorKind::TimedOut.into()));
        }
        let mut lost = None;
        for (_, failure) in std::mem::take(&mut self.failures) {
            lost = Some(match lost {
                None => failure,
                Some(other) if rank(&failure) < rank(&other) => failure.and(&other),
                Some(other) => other.and(&failure),
            });
        }
        let Some(failure) = lost else { return Error::refused("there is no address to connect to") };
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

/// Returns the place of a failure among those of the other addresses. Many machines have no route to any IPv6 address.
fn rank(failure: &Error) -> u8 {
    match failure.kind() {
        Some(io::ErrorKind::ConnectionRefused) => 0,
        Some(io::ErrorKind::TimedOut) => 1,
        Some(io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable) => 3,
        _ => 2,
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
    fn the_failure_of_each_address_is_reported() {
        let (refused, unreachable) = (closed(), "[100::1]:1".parse().unwrap());
        let error = run(&mut Race::new(&[unreachable, refused], None)).unwrap_err();
        assert_eq!(error.kind(), Some(io::ErrorKind::ConnectionRefused));
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot connect to {refused}: connection refused; to [100::1]:1: ")),
            "{text}"
        );
        assert!(run(&mut Race::new(&[], None)).is_err());
    }

    #[test]
    fn the_most_telling_failure_of_each_address_is_kept() {
        let (one, other): (SocketAddr, SocketAddr) = ("10.9.0.1:22".parse().unwrap(), "[fd09::1]:22".parse().unwrap());
        let lost = |failures: &[(SocketAddr, io::ErrorKind)]| {
            let mut race = Race::new(&[], None);
            for &(address, kind) in failures {
                race.keep_failure(address, failed(address, kind.into()));
            }
            race.lost().to_string()
        };
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
        for (failures, text) in [
            (
                &[(other, NetworkUnreachable), (one, TimedOut)][..],
                "cannot connect to 10.9.0.1:22: timed out; to [fd09::1]:22: network unreachable",
            ),
            (
                &[(one, HostUnreachable), (one, TimedOut), (other, HostUnreachable), (other, ConnectionRefused)],
                "cannot connect to [fd09::1]:22: connection refused; to 10.9.0.1:22: host unreachable",
            ),
        ] {
            assert_eq!(lost(failures), text);
        }
    }

    #[test]
    fn a_failure_that_has_nothing_to_do_with_the_address_is_reported_once() {
        let mut race = Race::new(&[], None);
        for address in ["10.9.0.1:22", "[fd09::1]:22", "10.9.0.2:22"] {
            race.keep_failure(address.parse().unwrap(), Error::refused("the counter is spent"));
        }
        assert_eq!(race.lost().to_string(), "the counter is spent");
    }
}
