//! The queue for one profile's knock lock. It is a pure value that decides whose turn it is and when to back off. The
//! event loop takes the lock and connects.

use super::by_id::forget;
use crate::error::quoted;
use crate::tunnel::OpeningDelay;
use std::time::{Duration, Instant};

/// How often to retry the knock lock while another process holds it.
const RETRY_LOCK: Duration = Duration::from_millis(5);
/// The longest back-off, in seconds.
const LONGEST_BACK_OFF: u64 = 60;
/// The budget of knocks: this many at once, as a browser with many tabs may need, and one more in each interval
/// (172,800 a day). Each knock writes a counter to the disks of both machines, and flash memory wears out; a web page
/// can make a browser connect 140 times a second.
const BUDGET: u32 = 1000;
const INTERVAL: Duration = Duration::from_millis(500);
/// The maximum number of waiting clients. Further ones would not get their turn in time.
const MOST_WAITING: usize = 512;

/// The clients that wait to knock for one profile.
pub struct Queue {
    profile: String,
    waiting: Vec<u64>,
    /// The client that has the turn.
    connecting: Option<u64>,
    /// When to retry the lock, if another process holds it.
    retry: Option<Instant>,
    opening_delay: OpeningDelay,
    back_off: Option<KnockBackOff>,
    /// When the budget of knocks will be full again.
    budget_full: Option<Instant>,
    /// Whether it has been logged that the budget is used up; reset when the budget is full.
    limited: bool,
    /// A warning for the user.
    notice: Option<String>,
}

/// The back-off after unanswered knocks.
struct KnockBackOff {
    until: Instant,
    /// How many clients in a row got no answer, and the number of their knocks.
    failures: u32,
    knocks: usize,
    announced: bool,
}

/// The next action of a queue.
#[derive(Debug, PartialEq, Eq)]
pub enum NextTurn {
    /// Wait; [`Queue::due`] says until when.
    Wait,
    /// Take the knock lock for this client.
    Take(u64),
    /// Refuse this client: the queue backs off.
    Refuse(u64),
}

impl Queue {
    /// Creates an empty queue.
    pub fn new(profile: String) -> Box<Self> {
        Box::new(Self {
            profile,
            waiting: Vec::new(),
            connecting: None,
            retry: None,
            opening_delay: OpeningDelay::default(),
            back_off: None,
            budget_full: None,
            limited: false,
            notice: None,
        })
    }

    /// The profile's name.
    pub fn profile(&self) -> &str {
        &self.profile
    }

    /// Adds a client; `false` if there is no room.
    pub fn join(&mut self, client: u64) -> bool {
        let room = self.waiting.len() < MOST_WAITING;
        if room {
            self.waiting.push(client);
        }
        room
    }

    /// Removes a client that is connected, refused or gone. `knocks` were sent for it.
    pub fn leave(&mut self, client: u64, knocks: usize, now: Instant) {
        forget(&mut self.waiting, client);
        self.connecting = self.connecting.filter(|connecting| *connecting != client);
        if knocks > 0 {
            let full = self.budget_full.map_or(now, |full| full.max(now));
            self.budget_full = Some(full + INTERVAL * knocks as u32);
        }
    }

    /// Removes and returns the notice, if there is one.
    pub fn take_notice(&mut self) -> Option<String> {
        self.notice.take()
    }

    /// Returns when the budget allows a knock; in the past if it does already.
    fn affordable(&self) -> Option<Instant> {
        self.budget_full?.checked_sub(INTERVAL * (BUDGET - 1))
    }

    /// Returns when to call [`Queue::next`]; `None` while no client waits or one has the turn.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let idle = self.waiting.is_empty() || self.connecting.is_some();
        (!idle).then(|| self.retry.max(self.affordable()).map_or(now, |due| due.max(now)))
    }

    /// Decides what to do with the first client.
    pub fn next(&mut self, now: Instant) -> NextTurn {
        let (Some(&client), None) = (self.waiting.first(), self.connecting) else { return NextTurn::Wait };
        if let Some(back_off) = self.back_off.as_mut().filter(|back_off| now < back_off.until) {
            if !std::mem::replace(&mut back_off.announced, true) {
                // Rounded up.
                let seconds = (back_off.until - now + Duration::from_nanos(999_999_999)).as_secs();
                let knocks = if back_off.knocks == 1 { "knock" } else { &format!("{} knocks", back_off.knocks) };
                self.notice = Some(format!(
                    "not knocking for {} for another {seconds} s: its last {knocks} went unanswered",
                    quoted(&self.profile)
                ));
            }
            return NextTurn::Refuse(client);
        }
        if self.retry.is_some_and(|retry| now < retry) || !self.has_budget(now) {
            return NextTurn::Wait;
        }
        self.retry = None;
        NextTurn::Take(client)
    }

    /// Returns whether the budget allows a knock.
    fn has_budget(&mut self, now: Instant) -> bool {
        self.limited &= self.budget_full.is_some_and(|full| now < full);
        let some = self.affordable().is_none_or(|affordable| affordable <= now);
        if !some && !self.limited {
            self.limited = true;
            self.notice = Some(format!(
                "knocks for {} are limited to {} a second: {BUDGET} were sent within a few minutes, \
                 by a program or web page that connects again and again",
                quoted(&self.profile),
                1000 / INTERVAL.as_millis() as u64
            ));
        }
        some
    }

    /// Records that another process holds the knock lock.
    pub fn locked_elsewhere(&mut self, now: Instant) {
        self.retry = Some(now + RETRY_LOCK);
    }

    /// Begins the turn of the first client, which now holds the lock. Returns the delay from its knock to the first
    /// attempt.
    pub fn begin_turn(&mut self) -> Duration {
        if !self.waiting.is_empty() {
            self.connecting = Some(self.waiting.remove(0));
        }
        self.opening_delay.get()
    }

    /// Records that a client is connected, and whether its first attempt won.
    pub fn won(&mut self, first: bool) {
        self.opening_delay.learn(first);
        self.back_off = None;
    }

    /// Records that a client's `knocks` went unanswered. The back-off doubles each time.
    pub fn lost(&mut self, knocks: usize, now: Instant) {
        let (failures, before) = self.back_off.as_ref().map_or((0, 0), |last| (last.failures, last.knocks));
        let seconds = 1_u64.checked_shl(failures).unwrap_or(LONGEST_BACK_OFF).min(LONGEST_BACK_OFF);
        let until = now + Duration::from_secs(seconds);
        let (failures, knocks) = (failures.saturating_add(1).min(u64::BITS), before + knocks);
        self.back_off = Some(KnockBackOff { until, failures, knocks, announced: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_of(clients: &[u64]) -> Box<Queue> {
        let mut queue = Queue::new("x".into());
        clients.iter().for_each(|&client| assert!(queue.join(client)));
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
            queue.leave(client, 0, now);
        }
        assert_eq!((queue.due(now), queue.next(now)), (None, NextTurn::Wait));
    }

    #[test]
    fn a_client_that_leaves_is_skipped() {
        let (mut queue, now) = (queue_of(&[1, 2, 3]), Instant::now());
        queue.leave(1, 0, now);
        assert_eq!(queue.next(now), NextTurn::Take(2));
        queue.begin_turn();
        queue.leave(2, 0, now);
        assert_eq!(queue.next(now), NextTurn::Take(3), "its turn ended with it");
    }

    #[test]
    fn a_lock_held_by_another_process_is_retried() {
        let (mut queue, now) = (queue_of(&[1]), Instant::now());
        assert_eq!(queue.next(now), NextTurn::Take(1));
        queue.locked_elsewhere(now);
        assert_eq!(queue.next(now), NextTurn::Wait);
        let due = queue.due(now).unwrap();
        assert_eq!(due, now + RETRY_LOCK);
        queue.leave(1, 0, now);
        queue.join(2);
        assert_eq!(queue.next(due), NextTurn::Take(2), "the client that waited for it may be gone");
    }

    #[test]
    fn the_back_off_doubles_with_unanswered_knocks() {
        let mut now = Instant::now();
        let mut queue = queue_of(&[1]);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            queue.lost(3, now);
            assert_eq!(queue.next(now), NextTurn::Refuse(1));
            assert!(queue.take_notice().is_some());
            let pause = queue.back_off.as_ref().unwrap().until - now;
            assert_eq!((queue.next(now), queue.take_notice()), (NextTurn::Refuse(1), None), "one notice each");
            pauses.push(pause.as_secs());
            now += pause;
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
        queue.next(now + Duration::from_millis(3500));
        let notice = queue.take_notice().unwrap();
        assert_eq!(notice, "not knocking for \"x\" for another 5 s: its last 12 knocks went unanswered");
        queue.won(true);
        queue.lost(1, now);
        queue.next(now);
        let notice = queue.take_notice().unwrap();
        assert_eq!(notice, "not knocking for \"x\" for another 1 s: its last knock went unanswered");
    }

    #[test]
    fn endless_connections_use_a_limited_number_of_counters() {
        let (mut queue, began) = (Queue::new("x".into()), Instant::now());
        let (mut now, mut knocks, mut notices) = (began, 0, 0);
        queue.join(0);
        while now < began + Duration::from_secs(3600) {
            match queue.next(now) {
                NextTurn::Take(client) => {
                    queue.begin_turn();
                    // A connection takes 7 ms.
                    now += Duration::from_millis(7);
                    queue.won(true);
                    queue.leave(client, 1, now);
                    queue.join(client + 1);
                    knocks += 1;
                }
                NextTurn::Wait => now = queue.due(now).filter(|due| *due > now).expect("it would spin"),
                NextTurn::Refuse(_) => panic!("nobody is refused"),
            }
            notices += usize::from(queue.take_notice().is_some());
        }
        assert!((8190..=8200).contains(&knocks), "{knocks} knocks in an hour, of 500,000 attempts");
        assert_eq!(notices, 1);
        // Ten minutes of rest fill the budget.
        now += INTERVAL * BUDGET;
        for _ in 0..BUDGET {
            let NextTurn::Take(client) = queue.next(now) else { panic!("the budget is full again") };
            queue.begin_turn();
            queue.leave(client, 1, now);
            queue.join(client);
        }
        assert_eq!(queue.next(now), NextTurn::Wait);
        let notice = queue.take_notice().unwrap();
        assert!(notice.starts_with("knocks for \"x\" are limited to 2 a second: 1000 were sent"), "{notice}");
    }

    #[test]
    fn the_queue_is_only_as_long_as_clients_can_wait() {
        let mut queue = Queue::new("x".into());
        assert_eq!((0..1000).filter(|&client| queue.join(client)).count(), MOST_WAITING);
        queue.leave(7, 0, Instant::now());
        assert!(queue.join(1000) && !queue.join(1001));
    }
}
