//! Connecting, fast: several attempts run at once, and the first that is established wins.

use super::Turn;
use crate::error::{Error, Result};
use crate::knocker::{Knocker, canonical};
use crate::profile::Profile;
use crate::sys::epoll::Epoll;
use crate::sys::tcp;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// When to try after a knock, in milliseconds, behind the first and the second attempt.
const ATTEMPTS: [u64; 8] = [3, 6, 10, 20, 40, 100, 250, 500];
/// How many knocks are tried.
const KNOCKS: usize = 3;
/// How long to wait before the next address is tried as well (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// How long to wait for an answer before knocking there again, and for the last answer.
const NEXT_KNOCK: Duration = Duration::from_secs(1);
const LAST_KNOCK: Duration = Duration::from_secs(2);
/// How long to wait where there is nothing to knock with.
const LAST_ADDRESS: Duration = Duration::from_secs(30);
/// The most addresses tried.
const ADDRESSES: usize = 8;

/// A connection to be. While it knocks it holds the knock lock.
pub struct Race {
    addresses: VecDeque<SocketAddr>,
    /// Those of them that no round was for.
    untried: usize,
    rounds: usize,
    key: Option<KnockSetup>,
    round: Option<Round>,
    attempts: Vec<Attempt>,
    failure: Option<Error>,
}

/// What a knock needs.
pub struct KnockSetup {
    /// Sends it.
    pub knocker: Rc<Knocker>,
    /// Seals it.
    pub profile: Profile,
    /// Allows it, as long as the race runs.
    pub turn: Turn,
    /// How long after it to try first.
    pub first_delay: Duration,
}

/// One knock, or one address where nothing is knocked for.
struct Round {
    began: Instant,
    address: SocketAddr,
    source: Option<SocketAddr>,
    offsets: VecDeque<Duration>,
}

struct Attempt {
    stream: TcpStream,
    address: SocketAddr,
    first: bool,
}

/// How far a race is.
pub enum Progress {
    /// Nobody has won; to be looked at again then, or when the epoll tells of it.
    Running(Instant),
    /// The winner, and whether it was the first to start.
    Won(TcpStream, bool),
    /// Nobody will win.
    Lost(Error),
}

impl Race {
    /// To one of `addresses`, behind a knock where there is a key.
    pub fn new(addresses: &[SocketAddr], key: Option<KnockSetup>) -> Self {
        let mut addresses = alternating(addresses);
        addresses.truncate(ADDRESSES);
        let untried = addresses.len();
        Self { addresses, untried, rounds: 0, key, round: None, attempts: Vec::new(), failure: None }
    }

    /// Does what is due. `epoll` tells of the attempts by `token`.
    pub fn run(&mut self, epoll: &Epoll, token: u64) -> Progress {
        if let Some((stream, first)) = self.winner() {
            return Progress::Won(stream, first);
        }
        loop {
            let due = self.due();
            if Instant::now() < due {
                return Progress::Running(due);
            }
            let attempt = self.round.as_mut().and_then(|round| round.offsets.pop_front());
            let done = match attempt {
                Some(offset) => self.attempt(offset, epoll, token),
                None if self.is_last() => return Progress::Lost(self.lost()),
                None => self.next_round(),
            };
            if let Err(failure) = done {
                self.note(failure);
            }
        }
    }

    /// When the next attempt or round is to be.
    fn due(&self) -> Instant {
        let Some(round) = &self.round else { return Instant::now() };
        let next = match round.offsets.front() {
            Some(&offset) => offset,
            // Without a knock, a failure is one and nothing is waited for.
            None if self.key.is_none() && self.attempts.is_empty() => Duration::ZERO,
            None if self.untried > 0 => NEXT_ADDRESS,
            None if self.key.is_none() => LAST_ADDRESS,
            None if self.is_last() => LAST_KNOCK,
            None => NEXT_KNOCK,
        };
        round.began + next
    }

    fn is_last(&self) -> bool {
        self.addresses.is_empty() || self.key.is_some() && self.rounds == KNOCKS
    }

    /// Knocks at the next address, where there is a key.
    fn next_round(&mut self) -> Result<()> {
        let Some(address) = self.addresses.pop_front() else { return Ok(()) };
        self.round = None;
        self.untried = self.untried.saturating_sub(1);
        let mut offsets = VecDeque::from([Duration::ZERO]);
        let mut source = None;
        if let Some(key) = &mut self.key {
            let (wire, port) = (key.profile.config.wire, address.port());
            source = Some(key.knocker.knock(&mut key.profile, wire, port, address, None)?);
            // Where the knock could not be sent, no other is tried.
            self.addresses.push_back(address);
            let second = key.first_delay + (key.first_delay / 2).max(Duration::from_millis(1));
            offsets = VecDeque::from([key.first_delay, second]);
            let soonest = second + Duration::from_millis(1);
            let latest = if self.untried > 0 { NEXT_ADDRESS } else { NEXT_KNOCK };
            let later = ATTEMPTS.map(Duration::from_millis).into_iter();
            offsets.extend(later.filter(|&offset| offset > soonest && offset < latest));
        }
        self.rounds += 1;
        self.round = Some(Round { began: Instant::now(), address, source, offsets });
        Ok(())
    }

    fn attempt(&mut self, offset: Duration, epoll: &Epoll, token: u64) -> Result<()> {
        let Some(Round { address, source, .. }) = self.round else { return Ok(()) };
        let connecting = tcp::connect(address, source).and_then(|stream| {
            epoll.add(&stream, token)?;
            Ok(stream)
        });
        let stream = connecting.map_err(|cause| failed(address, cause))?;
        let first = self.rounds == 1 && self.key.as_ref().is_some_and(|key| key.first_delay == offset);
        self.attempts.push(Attempt { stream, address, first });
        Ok(())
    }

    /// The first attempt that is established; those that have failed are forgotten: while the port
    /// is closed, a refusal only means "not yet".
    fn winner(&mut self) -> Option<(TcpStream, bool)> {
        let mut index = 0;
        while let Some(Attempt { stream, address, .. }) = self.attempts.get(index) {
            match stream.take_error().and_then(|failure| failure.map_or(Ok(()), Err)) {
                Err(cause) => {
                    self.note(failed(*address, cause));
                    self.attempts.remove(index);
                }
                Ok(()) if stream.peer_addr().is_ok() => {
                    let winner = self.attempts.swap_remove(index);
                    return Some((winner.stream, winner.first));
                }
                Ok(()) => index += 1,
            }
        }
        None
    }

    /// Keeps a failure to tell of. A refusal says more than that there was no way.
    fn note(&mut self, failure: Error) {
        let refused = |failure: &Error| failure.kind() == Some(io::ErrorKind::ConnectionRefused);
        if !self.failure.as_ref().is_some_and(refused) {
            self.failure = Some(failure);
        }
    }

    fn lost(&mut self) -> Error {
        let unanswered = self.attempts.last().map(|attempt| failed(attempt.address, io::ErrorKind::TimedOut.into()));
        let failure = unanswered.or_else(|| self.failure.take());
        let failure = failure.unwrap_or_else(|| Error::refused("there is no address to connect to"));
        match self.knocks() {
            0 => failure,
            knocks => failure.advise(format!(
                "{knocks} knocks went unanswered: does the daemon run there, and do key and counter match on both sides?"
            )),
        }
    }

    /// How many knocks were sent.
    pub fn knocks(&self) -> usize {
        self.key.as_ref().map_or(0, |_| self.rounds)
    }
}

fn failed(address: SocketAddr, cause: io::Error) -> Error {
    Error::system(format!("connect to {address}"), cause)
}

/// The same addresses with their families in turn, the first one's first (RFC 8305, section 4).
fn alternating(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let addresses = || addresses.iter().map(|&address| canonical(address, address.port()));
    let first = addresses().next().is_some_and(|address| address.is_ipv6());
    let (mut ones, mut others): (VecDeque<_>, VecDeque<_>) =
        addresses().partition(|address| address.is_ipv6() == first);
    let mut all = VecDeque::new();
    while let Some(one) = ones.pop_front() {
        all.push_back(one);
        std::mem::swap(&mut ones, &mut others);
        if ones.is_empty() {
            std::mem::swap(&mut ones, &mut others);
        }
    }
    all
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

    /// A port of loopback's that nobody listens at.
    fn closed() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    #[test]
    fn a_refusal_without_a_knock_moves_on_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let began = Instant::now();
        let stream = run(&mut Race::new(&[closed(), closed(), open], None)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(began.elapsed() < Duration::from_millis(200));
    }

    #[test]
    fn the_refusal_is_what_is_told() {
        let unreachable = "[100::1]:1".parse().unwrap();
        let error = run(&mut Race::new(&[closed(), unreachable], None)).unwrap_err();
        assert_eq!(error.kind(), Some(io::ErrorKind::ConnectionRefused));
        assert!(run(&mut Race::new(&[], None)).is_err());
    }

    #[test]
    fn an_address_that_says_nothing_costs_a_quarter_of_a_second() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Nobody accepts here, and the queue is full.
        let full = TcpListener::bind("127.0.0.1:0").unwrap();
        let mute = full.local_addr().unwrap();
        let _queue: Vec<_> = (0..4200).map_while(|_| tcp::connect(mute, None).ok()).collect();
        let began = Instant::now();
        run(&mut Race::new(&[mute, listener.local_addr().unwrap()], None)).unwrap();
        assert!((240..600).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }

    #[test]
    fn families_take_turns() {
        let [a, b, c, d]: [SocketAddr; 4] =
            ["[::1]:1", "[::2]:1", "1.0.0.1:1", "[::3]:1"].map(|text| text.parse().unwrap());
        assert_eq!(alternating(&[a, b, c, d]), [a, c, b, d]);
        assert_eq!(alternating(&[c, a]), [c, a]);
        assert_eq!(alternating(&[]), []);
    }
}
