//! Guessing codes at reduced sizes: 2^12 codes instead of 2^48, and 2^8 tolerated guesses a day instead of 2^28. So a
//! day of guessing opens a port with a probability of 2^-4 instead of 2^-20.
//!
//! A random number decides whether a guess is right, with the probability that a random code would be.

use crate::random::Random;
use knockknock::applet::daemon::ipc::OpenReply;
use knockknock::applet::daemon::watcher::engine::{Action, Engine, Event, Settings};
use knockknock::applet::daemon::watcher::{LoadedProfile, Reach};
use knockknock::ports::Ports;
use knockknock::profile::ProfileConfig;
use knockknock::wire::{Entry, Fields, Keys, Wire};
use std::time::{Duration, Instant};

const SPACE: f64 = 4096.0;
const GUESSES: u32 = 256;
const WINDOW: u32 = 4;
/// The time between two guesses, in seconds: far more guesses than are tolerated.
const PAUSE: u64 = 20;

const MINUTE: Duration = Duration::from_secs(60);

/// How often one guess, or a pair of guesses, has opened a port.
#[derive(Debug, Default)]
struct Opened {
    by_one: u64,
    by_two: u64,
    waited: u64,
}

fn guess(days: u64, seed: u64) -> Opened {
    let mut random = Random::new(seed);
    let reach = Reach { window: WINDOW, far: 0 };
    let settings = Settings { delay: 15, reach, replay_cache: 8, guesses: GUESSES, secret: random.next() };
    let key = || Keys::new(&[1; 16], &[2; 16]);
    let config =
        ProfileConfig { knock_port: 600, ports: Some(Ports::parse("22").unwrap()), wire: Wire::Stealth, legacy: false };
    let mut engine = Engine::new(settings, vec![LoadedProfile::new(config, key(), 0)]);
    let (keys, mut now, mut opened) = (key(), Instant::now(), Opened::default());
    let mut waits_since: Option<Instant> = None;
    for _ in 0..days * 86_400 / PAUSE {
        now += Duration::from_secs(PAUSE);
        let lot = random.below(SPACE as u64) as u32;
        let fields = if lot < WINDOW {
            let counter = engine.profiles()[0].next() as u32 + lot;
            keys.code(counter, 22).fields()
        } else {
            Some(Fields { id: 1, seq: random.next() as u32, ack: 0, win: None })
        };
        let Some(fields) = fields else { continue };
        let source = [203, 0, 113, 1].into();
        engine.handle(&Entry { source, destination: None, source_port: 1, knock_port: 600, fields }, now);
        while let Some(action) = engine.next_action() {
            match action {
                Action::Store { profile, next } => engine.stored(profile, next),
                Action::Open(_) => {
                    engine.answered(OpenReply::Opened);
                    let second = waits_since.take().is_some_and(|since| now.duration_since(since) < MINUTE);
                    *(if second { &mut opened.by_two } else { &mut opened.by_one }) += 1;
                }
                Action::Report(Event::NeedsSecond(_)) => {
                    opened.waited += 1;
                    waits_since = Some(now);
                }
                Action::Report(event) => panic!("{event:?}"),
            }
        }
    }
    opened
}

/// Returns whether `number` is within five standard deviations of `expected`.
fn is_by_chance(number: u64, expected: f64) -> bool {
    (number as f64 - expected).abs() <= 5.0 * expected.sqrt().max(1.0)
}

#[test]
fn guessing_opens_as_often_as_the_bound_says_and_no_more() {
    let days = super::number("KNOCKKNOCK_STEPS").unwrap_or(100_000) / 2000;
    let opened = guess(days, super::number("KNOCKKNOCK_SEED").unwrap_or(1));
    let a_day = f64::from(GUESSES) / SPACE;
    let right = f64::from(WINDOW) / SPACE;
    // Guesses a day beyond the limit. Each right one needs a second right one within 60 s.
    let amid = 86_400.0 / PAUSE as f64 - f64::from(GUESSES) / f64::from(WINDOW);
    let by_one = (days + 1) as f64 * a_day;
    let by_two = days as f64 * amid * right * (60 / PAUSE - 1) as f64 * right;
    eprintln!("{days} days: {opened:?}, expected {by_one:.1} by one and {by_two:.1} by two");
    assert!(is_by_chance(opened.by_one, by_one) && is_by_chance(opened.by_two, by_two), "{opened:?}");
}
