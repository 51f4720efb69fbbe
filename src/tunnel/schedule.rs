//! Decides when to knock and when to attempt a connection. A schedule is a pure value: the caller passes it the time
//! and the outcomes.
//!
//! A client cannot know when its opening exists, and a SYN that is too early is dropped or refused. So several attempts
//! follow each knock, closer together at first, and the first one to be established wins. Without a profile each
//! address gets one attempt.

use crate::knocker::canonical;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The times of the third and later attempts, in milliseconds after the knock.
const ATTEMPTS: [u64; 8] = [3, 6, 10, 20, 40, 100, 250, 500];
/// The minimum time between the first three attempts.
const APART: Duration = Duration::from_millis(1);
/// The maximum number of knocks, and the maximum if each address gets two.
const KNOCKS: usize = 3;
const KNOCKS_IN_TWOS: usize = 4;
/// The maximum number of addresses tried.
const ADDRESSES: usize = 8;
/// How long to wait for one address before the next one is tried too (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// The time from a knock to the first attempt for a server of version 0.8, which reads its log every 250 ms. Its log
/// rule logs three SYNs a second, so an attempt that is too early may use up the log line of a later knock.
const LEGACY_DELAY: Duration = Duration::from_millis(275);
/// How long to wait for an answer to a knock before the next knock.
const NEXT_KNOCK: Duration = Duration::from_secs(1);
/// How long to wait for an answer to the last knock.
const LAST_KNOCK: Duration = Duration::from_secs(2);
/// How long to wait for an answer from the last address, without knocks.
const LAST_ADDRESS: Duration = Duration::from_secs(30);

/// Whether to knock, and when to make the first attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// No knock; attempt at once.
    Plain,
    /// Attempt this long after a knock.
    Knock(Duration),
    /// Like `Knock`, by the stealth wire. While there are many guesses, the server requires two knocks from one
    /// address, so each address gets two knocks before the next one gets any.
    Stealth(Duration),
    /// For a server of version 0.8. It logs IPv4 only, so IPv4 comes first.
    Legacy,
}

/// The next step of a race.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    Wait(Instant),
    /// Knock at this address, then call [`Schedule::knocked`] if it was sent.
    Knock(SocketAddr),
    /// Attempt to connect.
    Attempt {
        /// The address.
        address: SocketAddr,
        /// Whether it is the first attempt after the first knock.
        first: bool,
    },
    /// The race has failed.
    GiveUp,
}

/// The schedule of one race for a connection.
pub struct Schedule {
    /// The addresses of the coming rounds.
    addresses: Vec<SocketAddr>,
    /// How many of them have had no round yet.
    untried: usize,
    /// The time from a knock to the first attempt; `None` without knocks.
    first_delay: Option<Duration>,
    /// How long to wait for one address before the next one is tried as well.
    next_address: Duration,
    /// Whether each address gets two knocks before the next one gets any.
    in_twos: bool,
    /// The address of the first of two knocks.
    first_of_two: Option<SocketAddr>,
    knocks: usize,
    round: Option<Round>,
    /// The number of attempts, and how many of them have not failed.
    attempts: usize,
    running: usize,
}

/// One knock and the attempts after it, or a single attempt.
struct Round {
    began: Instant,
    address: SocketAddr,
    /// The times of the coming attempts, relative to `began`, latest first.
    offsets: Vec<Duration>,
}

impl Schedule {
    /// Creates a schedule for a connection to one of `addresses`.
    pub fn new(addresses: &[SocketAddr], pace: Pace) -> Self {
        let (first_delay, next_address) = match pace {
            Pace::Plain => (None, NEXT_ADDRESS),
            Pace::Knock(delay) | Pace::Stealth(delay) => (Some(delay), NEXT_ADDRESS),
            Pace::Legacy => (Some(LEGACY_DELAY), NEXT_KNOCK),
        };
        let mut addresses = alternating(addresses, pace == Pace::Legacy);
        addresses.truncate(ADDRESSES);
        let untried = addresses.len();
        // A single address gets its next knock anyway.
        let in_twos = matches!(pace, Pace::Stealth(_)) && untried > 1;
        Self {
            addresses,
            untried,
            first_delay,
            next_address,
            in_twos,
            first_of_two: None,
            knocks: 0,
            round: None,
            attempts: 0,
            running: 0,
        }
    }

    /// Returns the step that is due at `now`.
    pub fn next(&mut self, now: Instant) -> Step {
        loop {
            let Some(due) = self.due() else {
                match self.next_round(now) {
                    Some(step) => return step,
                    None => continue,
                }
            };
            if now < due {
                return Step::Wait(due);
            }
            let Some(round) = &mut self.round else { continue };
            if round.offsets.pop().is_some() {
                let first = self.knocks == 1 && self.attempts == 0;
                self.attempts += 1;
                self.running += 1;
                return Step::Attempt { address: round.address, first };
            }
            self.round = None;
        }
    }

    /// Records that a knock was sent to `address` at `now`. If a knock could not be sent, the caller does not report
    /// it, and that address gets no other knock.
    pub fn knocked(&mut self, address: SocketAddr, now: Instant) {
        self.knocks += 1;
        if self.in_twos && self.first_of_two != Some(address) {
            self.first_of_two = Some(address);
            self.addresses.insert(0, address);
            self.untried += 1;
        } else {
            self.addresses.push(address);
        }
        let first = self.first_delay.unwrap_or_default();
        let second = first + (first / 2).max(APART);
        let end = if self.untried > 0 { self.next_address } else { NEXT_KNOCK };
        let mut offsets = Vec::new();
        for &at in ATTEMPTS.iter().rev() {
            let at = Duration::from_millis(at);
            if at > second + APART && at < end {
                offsets.push(at);
            }
        }
        offsets.push(second);
        offsets.push(first);
        self.begin_round(address, now, offsets);
    }

    /// Records that an attempt has failed.
    pub fn attempt_failed(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Returns how many knocks were sent.
    pub fn knocks(&self) -> usize {
        self.knocks
    }

    /// Returns when the round's next attempt is due, or its end; `None` if there is no round.
    fn due(&self) -> Option<Instant> {
        let round = self.round.as_ref()?;
        let offset = match (round.offsets.last(), self.first_delay) {
            (Some(&offset), _) => offset,
            // Without a knock a failure is final.
            (None, None) if self.running == 0 => Duration::ZERO,
            (None, _) if self.untried > 0 => self.next_address,
            (None, None) => LAST_ADDRESS,
            (None, Some(_)) if self.is_last() => LAST_KNOCK,
            (None, Some(_)) => NEXT_KNOCK,
        };
        Some(round.began + offset)
    }

    fn is_last(&self) -> bool {
        let most = if self.in_twos { KNOCKS_IN_TWOS } else { KNOCKS };
        self.addresses.is_empty() || self.knocks == most
    }

    /// Begins the next round; `None` if its first step is an attempt.
    fn next_round(&mut self, now: Instant) -> Option<Step> {
        if self.is_last() {
            self.addresses.clear();
            return Some(Step::GiveUp);
        }
        let address = self.addresses.remove(0);
        self.untried = self.untried.saturating_sub(1);
        if self.first_delay.is_some() {
            return Some(Step::Knock(address));
        }
        self.begin_round(address, now, vec![Duration::ZERO]);
        None
    }

    fn begin_round(&mut self, address: SocketAddr, began: Instant, offsets: Vec<Duration>) {
        self.round = Some(Round { began, address, offsets });
    }
}

/// Alternates IPv4 and IPv6, starting with the family of the first address (RFC 8305, section 4) or with IPv4.
fn alternating(addresses: &[SocketAddr], ipv4_first: bool) -> Vec<SocketAddr> {
    let mut left = Vec::new();
    for address in addresses {
        left.push(canonical(*address, address.port()));
    }
    let mut wants_v4 = ipv4_first || left.first().is_some_and(SocketAddr::is_ipv4);
    let mut all = Vec::new();
    while !left.is_empty() {
        let next = left.iter().position(|address| address.is_ipv4() == wants_v4);
        let address = left.remove(next.unwrap_or(0));
        wants_v4 = address.is_ipv6();
        all.push(address);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Pace = Pace::Knock(Duration::from_millis(3));

    fn addresses<const N: usize>(texts: [&str; N]) -> [SocketAddr; N] {
        texts.map(|text| text.parse().unwrap())
    }

    /// What a simulated server does with an attempt.
    enum Answer {
        Accept,
        Refuse,
        Nothing,
    }

    /// Runs a schedule on simulated time: `server` answers each attempt at once, from its address and
    /// its time in milliseconds. The steps with their times, and the address that won.
    fn simulate(
        schedule: &mut Schedule,
        server: impl Fn(SocketAddr, u128) -> Answer,
    ) -> (Vec<(u128, Step)>, Option<SocketAddr>) {
        let began = Instant::now();
        let (mut now, mut steps) = (began, Vec::new());
        loop {
            let step = schedule.next(now);
            let time = (now - began).as_millis();
            match step {
                Step::Wait(until) => {
                    assert!(until > now, "it would spin");
                    now = until;
                    continue;
                }
                Step::Knock(address) => schedule.knocked(address, now),
                Step::Attempt { address, .. } => match server(address, time) {
                    Answer::Accept => {
                        steps.push((time, step));
                        return (steps, Some(address));
                    }
                    Answer::Refuse => schedule.attempt_failed(),
                    Answer::Nothing => {}
                },
                Step::GiveUp => {
                    steps.push((time, step));
                    return (steps, None);
                }
            }
            steps.push((time, step));
        }
    }

    fn knock_times(steps: &[(u128, Step)]) -> Vec<(u128, SocketAddr)> {
        let knock = |&(time, step): &(u128, Step)| match step {
            Step::Knock(address) => Some((time, address)),
            _ => None,
        };
        steps.iter().filter_map(knock).collect()
    }

    #[test]
    fn three_unanswered_knocks_take_four_seconds() {
        let [address] = addresses(["10.9.0.1:22"]);
        let mut schedule = Schedule::new(&[address], DELAY);
        let (steps, winner) = simulate(&mut schedule, |_, _| Answer::Nothing);
        assert_eq!(winner, None);
        assert_eq!(knock_times(&steps), [(0, address), (1000, address), (2000, address)]);
        let times: Vec<u128> = steps.iter().map(|(time, _)| *time).take_while(|time| *time < 1000).collect();
        assert_eq!(times, [0, 3, 4, 6, 10, 20, 40, 100, 250, 500], "a knock and its attempts");
        assert_eq!(steps.last(), Some(&(4000, Step::GiveUp)));
        assert_eq!(schedule.next(Instant::now()), Step::GiveUp, "it stays given up");
        assert_eq!(schedule.knocks(), KNOCKS);
    }

    #[test]
    fn a_refusal_after_a_knock_means_too_early() {
        let [address] = addresses(["10.9.0.1:22"]);
        let open_at = |time| move |_, now| if now >= time { Answer::Accept } else { Answer::Refuse };
        let (steps, winner) = simulate(&mut Schedule::new(&[address], DELAY), open_at(30));
        assert_eq!((steps.last().unwrap().0, winner), (40, Some(address)));
        assert_eq!(knock_times(&steps).len(), 1);
        let firsts = steps.iter().filter(|(_, step)| matches!(step, Step::Attempt { first: true, .. }));
        assert_eq!(firsts.count(), 1);
        let (steps, _) = simulate(&mut Schedule::new(&[address], DELAY), open_at(1900));
        assert_eq!(knock_times(&steps).len(), 3);
    }

    #[test]
    fn without_a_knock_a_refusal_moves_on_at_once() {
        let [one, two, open] = addresses(["10.9.0.1:22", "10.9.0.2:22", "10.9.0.3:22"]);
        let server = |address, _| if address == open { Answer::Accept } else { Answer::Refuse };
        let (steps, winner) = simulate(&mut Schedule::new(&[one, two, open], Pace::Plain), server);
        assert_eq!((steps.last().unwrap().0, winner), (0, Some(open)));
        let (steps, _) = simulate(&mut Schedule::new(&[one, two], Pace::Plain), server);
        assert_eq!(steps.last(), Some(&(0, Step::GiveUp)));
        assert_eq!(Schedule::new(&[], Pace::Plain).next(Instant::now()), Step::GiveUp);
        assert_eq!(Schedule::new(&[], DELAY).next(Instant::now()), Step::GiveUp);
    }

    #[test]
    fn a_silent_address_costs_a_quarter_of_a_second() {
        let [mute, open] = addresses(["[fd09::dead]:22", "10.9.0.1:22"]);
        let server = |address, time| if address == open && time > 253 { Answer::Accept } else { Answer::Nothing };
        let (steps, winner) =
            simulate(&mut Schedule::new(&[mute, open], Pace::Plain), |address, _| server(address, 254));
        assert_eq!((steps.last().unwrap().0, winner), (250, Some(open)));
        let (steps, winner) = simulate(&mut Schedule::new(&[mute, open], DELAY), server);
        assert_eq!((steps.last().unwrap().0, winner), (254, Some(open)));
        assert_eq!(knock_times(&steps), [(0, mute), (250, open)], "one knock for each address");
        // The last address has longer, and so has the last knock.
        let (steps, _) = simulate(&mut Schedule::new(&[mute, open], Pace::Plain), |_, _| Answer::Nothing);
        assert_eq!(steps.last(), Some(&(30_250, Step::GiveUp)));
    }

    #[test]
    fn a_stealth_knock_is_repeated_before_the_other_family_gets_one() {
        let [v6, v4] = addresses(["[fd09::1]:22", "10.9.0.1:22"]);
        let pace = Pace::Stealth(Duration::from_millis(3));
        for (open, knocks, won_at) in [(v6, &[v6, v6][..], 253), (v4, &[v6, v6, v4, v4], 753)] {
            let second = won_at - 3;
            let server =
                |address, time| if address == open && time > second { Answer::Accept } else { Answer::Nothing };
            let (steps, winner) = simulate(&mut Schedule::new(&[v6, v4], pace), server);
            assert_eq!((steps.last().unwrap().0, winner), (won_at, Some(open)));
            assert_eq!(knock_times(&steps), (0..).step_by(250).zip(knocks.iter().copied()).collect::<Vec<_>>());
        }
        let (steps, _) = simulate(&mut Schedule::new(&[v6, v4], pace), |_, _| Answer::Nothing);
        assert_eq!(steps.last(), Some(&(2750, Step::GiveUp)));
        let (steps, _) = simulate(&mut Schedule::new(&[v4], pace), |_, _| Answer::Nothing);
        assert_eq!(knock_times(&steps), [(0, v4), (1000, v4), (2000, v4)]);
        let mut schedule = Schedule::new(&[v6, v4], pace);
        assert_eq!(schedule.next(Instant::now()), Step::Knock(v6));
        assert_eq!(schedule.next(Instant::now()), Step::Knock(v4), "the knock at the first address was not sent");
    }

    #[test]
    fn an_address_without_a_sent_knock_is_not_retried() {
        let [gone, there] = addresses(["[fd09::1]:22", "10.9.0.1:22"]);
        let mut schedule = Schedule::new(&[gone, there], DELAY);
        let now = Instant::now();
        assert_eq!(schedule.next(now), Step::Knock(gone));
        assert_eq!(schedule.next(now), Step::Knock(there), "the first knock was not reported as sent");
        schedule.knocked(there, now);
        assert_eq!(schedule.next(now + NEXT_KNOCK * 9), Step::Attempt { address: there, first: true });
        let (steps, _) = simulate(&mut schedule, |_, _| Answer::Nothing);
        assert!(knock_times(&steps).iter().all(|(_, address)| *address == there));
    }

    #[test]
    fn a_server_of_0_8_gets_time_to_read_its_log() {
        let [v6, v4] = addresses(["[fd09::1]:22", "10.9.0.1:22"]);
        let (steps, _) = simulate(&mut Schedule::new(&[v4], Pace::Legacy), |_, _| Answer::Nothing);
        let times: Vec<u128> = steps.iter().map(|(time, _)| *time).take_while(|time| *time < 1000).collect();
        assert_eq!(times, [0, 275, 412, 500], "a knock and its attempts");
        // In ten connections in a row, no attempt takes a line of the log.
        let open_at = |time| move |_, now| if now >= time { Answer::Accept } else { Answer::Refuse };
        let (steps, winner) = simulate(&mut Schedule::new(&[v4], Pace::Legacy), open_at(270));
        assert_eq!((steps.len(), winner), (2, Some(v4)));
        // It reads IPv4 only, and the next address waits until the attempts are made.
        let (steps, _) = simulate(&mut Schedule::new(&[v6, v4], Pace::Legacy), |_, _| Answer::Nothing);
        assert_eq!(knock_times(&steps), [(0, v4), (1000, v6), (2000, v4)]);
    }

    #[test]
    fn address_families_alternate() {
        let [a, b, c, d] = addresses(["[::1]:1", "[::2]:1", "1.0.0.1:1", "[::3]:1"]);
        assert_eq!(alternating(&[a, b, c, d], false), [a, c, b, d]);
        assert_eq!(alternating(&[c, a], false), [c, a]);
        assert_eq!(alternating(&[a, c], true), [c, a]);
        assert_eq!(alternating(&[a], true), [a]);
        assert_eq!(alternating(&[], false), []);
    }
}
