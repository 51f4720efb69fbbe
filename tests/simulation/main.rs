//! A seeded simulation of the watcher's engine: knocks are lost, doubled, overtaken and replayed, clients run
//! ahead, the disk fails, and the daemon dies between any two things that it does. After every step the laws
//! of the module `laws` must hold.
//!
//! `KNOCKKNOCK_STEPS` says how many steps are taken (100,000), `KNOCKKNOCK_SEED` from which seed (1). A broken
//! law names the seed of its world, which alone breaks it again: `KNOCKKNOCK_WORLD=SEED`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

mod guessing;
mod laws;
mod random;
mod world;

use random::Random;
use std::env;
use world::{Fault, World};

/// Steps in each world, which has its own profiles and settings.
const STEPS_IN_A_WORLD: u64 = 2_000;

/// A number that the environment gives.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

/// Takes `steps` steps in worlds whose seeds follow from `seed`. A broken law comes with its world's seed.
fn simulate(seed: u64, steps: u64, fault: Fault) -> Result<world::Totals, String> {
    let (mut seeds, mut totals) = (Random::new(seed), world::Totals::default());
    while totals.steps < steps {
        totals += live(seeds.next(), fault)?;
    }
    Ok(totals)
}

fn live(seed: u64, fault: Fault) -> Result<world::Totals, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS_IN_A_WORLD {
        world.step().map_err(|law| format!("step {step}: {law}; again with KNOCKKNOCK_WORLD={seed}"))?;
    }
    Ok(world.totals)
}

#[test]
fn the_laws_hold() {
    if let Some(seed) = number("KNOCKKNOCK_WORLD") {
        live(seed, Fault::None).unwrap_or_else(|broken| panic!("{broken}"));
        return;
    }
    let steps = number("KNOCKKNOCK_STEPS").unwrap_or(100_000);
    let totals = simulate(number("KNOCKKNOCK_SEED").unwrap_or(1), steps, Fault::None)
        .unwrap_or_else(|broken| panic!("{broken}"));
    eprintln!("{totals:?}");
    totals.check_variety();
}

/// A law that a planted fault breaks is not only there, it can be broken.
fn finds(fault: Fault, law: &str) {
    let broken = simulate(1, 200_000, fault).unwrap_err();
    assert!(broken.contains(law), "{broken}");
    let world = broken.rsplit('=').next().unwrap().parse().unwrap();
    assert_eq!(live(world, fault).unwrap_err(), broken, "the seed alone breaks it again");
}

#[test]
fn a_counter_stored_after_the_opening_is_found() {
    finds(Fault::StoredAfterOpening, laws::STORED_FIRST);
}

#[test]
fn a_counter_stored_after_the_opening_lets_a_knock_open_twice() {
    finds(Fault::StoredAfterOpeningUnseen, laws::OPENS_ONCE);
}

#[test]
fn a_replay_cache_of_0_is_found() {
    finds(Fault::NoReplayCache, laws::REPLAY_IS_KNOWN);
}

#[test]
fn arming_that_opens_at_once_is_found() {
    finds(Fault::ArmingOpens, laws::FAR_NEEDS_TWO);
}

#[test]
fn a_throttle_that_counts_nothing_is_found() {
    finds(Fault::NoThrottle, laws::GUESSES_ARE_COUNTED);
}

#[test]
fn an_engine_without_resynchronisation_locks_a_live_owner_out() {
    finds(Fault::NoFarSearch, laws::OWNER_GETS_IN);
}
