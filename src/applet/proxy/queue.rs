//! The queue in front of one profile's knock lock. A value: it decides whose turn it is and when to
//! stop knocking for a while; the event loop takes the lock and connects.

use crate::tunnel::OpeningDelay;
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// How often to try the knock lock while another process has it.
const RETRY_LOCK: Duration = Duration::from_millis(5);
/// The longest back-off, in seconds.
const LONGEST_BACK_OFF: u64 = 60;

/// The clients that wait to knock for one profile.
pub struct Queue {
    profile: String,
    waiting: VecDeque<u64>,
    /// The client whose turn it is.
    connecting: Option<u64>,
    /// Another process had the lock: when to try it again.
    retry: Option<Instant>,
    opening_delay: OpeningDelay,
    back_off: Option<KnockBackOff>,
}

/// A pause after knocks that nobody answered.
struct KnockBackOff {
    until: Instant,
    /// How many times in a row a client's knocks went unanswered, and how many knocks that were.
    failures: u32,
    knocks: usize,
    announced: bool,
}

/// What the queue wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum NextTurn {
    /// Nothing for now; [`Queue::due`] says when to ask again.
    Wait,
    /// Take the knock lock for this client.
    Take(u64),
    /// Refuse this client: the queue backs off. The notice is there once for each back-off.
    Refuse(u64, Option<BackOffNotice>),
}

/// The message that a profile's clients are refused for some time.
#[derive(Debug, PartialEq, Eq)]
pub struct BackOffNotice {
    profile: String,
    seconds: u64,
    knocks: usize,
}

impl Queue {
    /// An empty queue.
    pub fn new(profile: String) -> Self {
        let (waiting, opening_delay) = (VecDeque::new(), OpeningDelay::default());
        Self { profile, waiting, connecting: None, retry: None, opening_delay, back_off: None }
    }

    /// The profile's name.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// Lines up a client.
    pub fn join(&mut self, client: u64) {
        self.waiting.push_back(client);
    }

    /// Takes a client out: it is connected, refused, or gone.
    pub fn leave(&mut self, client: u64) {
        self.waiting.retain(|waiting| *waiting != client);
        self.connecting = self.connecting.filter(|connecting| *connecting != client);
    }

    /// When to call [`Queue::next`]; `None` while nobody waits or a client's turn lasts.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let idle = self.waiting.is_empty() || self.connecting.is_some();
        (!idle).then(|| self.retry.unwrap_or(now))
    }

    /// Decides about the client at the front.
    pub fn next(&mut self, now: Instant) -> NextTurn {
        let (Some(&client), None) = (self.waiting.front(), self.connecting) else { return NextTurn::Wait };
        if let Some(back_off) = self.back_off.as_mut().filter(|back_off| now < back_off.until) {
            let notice = BackOffNotice {
                profile: self.profile.clone(),
                seconds: (back_off.until - now).as_secs_f32().ceil() as u64,
                knocks: back_off.knocks,
            };
            let announced = std::mem::replace(&mut back_off.announced, true);
            return NextTurn::Refuse(client, (!announced).then_some(notice));
        }
        if self.retry.is_some_and(|retry| now < retry) {
            return NextTurn::Wait;
        }
        self.retry = None;
        NextTurn::Take(client)
    }

    /// Takes in that another process has the knock lock.
    pub fn locked_elsewhere(&mut self, now: Instant) {
        self.retry = Some(now + RETRY_LOCK);
    }

    /// Takes in that the lock is taken: begins the turn of the client at the front, and says how long
    /// after its knock to attempt first.
    pub fn begin_turn(&mut self) -> Duration {
        self.connecting = self.waiting.pop_front();
        self.opening_delay.get()
    }

    /// Takes in that a client is connected, and whether its first attempt won.
    pub fn won(&mut self, first: bool) {
        self.opening_delay.learn(first);
        self.back_off = None;
    }

    /// Takes in that nobody answered a client's `knocks`. The back-off doubles each time.
    pub fn lost(&mut self, knocks: usize, now: Instant) {
        let (failures, before) = self.back_off.as_ref().map_or((0, 0), |last| (last.failures, last.knocks));
        let seconds = 1_u64.checked_shl(failures).unwrap_or(LONGEST_BACK_OFF).min(LONGEST_BACK_OFF);
        let until = now + Duration::from_secs(seconds);
        let (failures, knocks) = (failures.saturating_add(1).min(u64::BITS), before + knocks);
        self.back_off = Some(KnockBackOff { until, failures, knocks, announced: false });
    }
}

impl fmt::Display for BackOffNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { profile, seconds, knocks } = self;
        let knocks = if *knocks == 1 { "knock".to_owned() } else { format!("{knocks} knocks") };
        write!(f, "not knocking for {profile:?} for another {seconds} s: its last {knocks} went unanswered")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(clients: &[u64]) -> Queue {
        let mut queue = Queue::new("x".into());
        clients.iter().for_each(|&client| queue.join(client));
        queue
    }

    #[test]
    fn clients_take_turns_in_their_order() {
        let (mut queue, now) = (queue_of(&[3, 1, 2]), Instant::now());
        for client in [3, 1, 2] {
            assert_eq!(queue.due(now), Some(now));
            assert_eq!(queue.next(now), NextTurn::Take(client));
            queue.begin_turn();
            assert_eq!((queue.due(now), queue.next(now)), (None, NextTurn::Wait), "one at a time");
            queue.won(true);
            queue.leave(client);
        }
        assert_eq!((queue.due(now), queue.next(now)), (None, NextTurn::Wait));
    }

    #[test]
    fn a_client_that_leaves_is_passed_over() {
        let (mut queue, now) = (queue_of(&[1, 2, 3]), Instant::now());
        queue.leave(1);
        assert_eq!(queue.next(now), NextTurn::Take(2));
        queue.begin_turn();
        queue.leave(2);
        assert_eq!(queue.next(now), NextTurn::Take(3), "its turn ended with it");
    }

    #[test]
    fn a_lock_that_another_process_has_is_tried_again() {
        let (mut queue, now) = (queue_of(&[1]), Instant::now());
        assert_eq!(queue.next(now), NextTurn::Take(1));
        queue.locked_elsewhere(now);
        assert_eq!(queue.next(now), NextTurn::Wait);
        let due = queue.due(now).unwrap();
        assert_eq!(due, now + RETRY_LOCK);
        queue.leave(1);
        queue.join(2);
        assert_eq!(queue.next(due), NextTurn::Take(2), "the client that waited for it may be gone");
    }

    #[test]
    fn unanswered_knocks_close_the_queue_for_longer_each_time() {
        let mut now = Instant::now();
        let mut queue = queue_of(&[1]);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            queue.lost(3, now);
            let NextTurn::Refuse(1, Some(notice)) = queue.next(now) else { panic!("it backs off") };
            assert_eq!(queue.next(now), NextTurn::Refuse(1, None), "one notice each");
            pauses.push(notice.seconds);
            now += Duration::from_secs(notice.seconds);
            assert_eq!(queue.next(now), NextTurn::Take(1));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        queue.won(false);
        queue.lost(3, now);
        assert_eq!(queue.next(now + Duration::from_secs(1)), NextTurn::Take(1), "a connection ends it");
    }

    #[test]
    fn the_notice_says_how_long_and_why() {
        let (mut queue, now) = (queue_of(&[1]), Instant::now());
        for _ in 0..4 {
            queue.lost(3, now);
        }
        let NextTurn::Refuse(_, Some(notice)) = queue.next(now + Duration::from_millis(3500)) else { panic!() };
        assert_eq!(notice.to_string(), "not knocking for \"x\" for another 5 s: its last 12 knocks went unanswered");
        queue.won(true);
        queue.lost(1, now);
        let NextTurn::Refuse(_, Some(notice)) = queue.next(now) else { panic!() };
        assert_eq!(notice.to_string(), "not knocking for \"x\" for another 1 s: its last knock went unanswered");
    }
}
