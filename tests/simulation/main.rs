//! A seeded simulation of the watcher's engine: knocks are lost, duplicated, reordered and replayed, clients run
//! ahead, the disk fails, and the daemon is killed between any two actions. After every step the invariants of
//! the module `invariants` are checked.
//!
//! `KNOCKKNOCK_STEPS` is the number of steps (default 100,000), `KNOCKKNOCK_SEED` the seed (default 1). The message of a
//! violated invariant contains the seed of its world, which reproduces it: `KNOCKKNOCK_WORLD=SEED`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

mod guessing;
mod invariants;
mod random;
mod world;

use random::Random;
use std::env;
use world::{Fault, World};

/// The number of steps in each world. A world has its own profiles and settings.
const STEPS_IN_A_WORLD: u64 = 2_000;

/// Reads a number from the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

/// Runs `steps` steps, in worlds whose seeds are derived from `seed`.
fn simulate(seed: u64, steps: u64, fault: Fault) -> Result<world::Totals, String> {
    let (mut seeds, mut totals) = (Random::new(seed), world::Totals::default());
    while totals.steps < steps {
        totals += live(seeds.next(), fault)?;
    }
    Ok(totals)
}

/// Runs one world. The error names the violated invariant, the step, and the seed.
fn live(seed: u64, fault: Fault) -> Result<world::Totals, String> {
    let mut world = World::new(seed, fault);
    for step in 0..STEPS_IN_A_WORLD {
        world
            .step()
            .map_err(|violation| format!("step {step}: {violation}; to reproduce it: KNOCKKNOCK_WORLD={seed}"))?;
    }
    Ok(world.totals)
}

#[test]
fn the_invariants_hold() {
    if let Some(seed) = number("KNOCKKNOCK_WORLD") {
        live(seed, Fault::None).unwrap_or_else(|violation| panic!("{violation}"));
        return;
    }
    let steps = number("KNOCKKNOCK_STEPS").unwrap_or(100_000);
    let totals = simulate(number("KNOCKKNOCK_SEED").unwrap_or(1), steps, Fault::None)
        .unwrap_or_else(|violation| panic!("{violation}"));
    eprintln!("{totals:?}");
    totals.check_variety();
}

/// Checks that an injected fault violates the expected invariant, and that the seed of its world reproduces that.
fn assert_found(fault: Fault, invariant: &str) {
    let broken = simulate(1, 200_000, fault).unwrap_err();
    assert!(broken.contains(invariant), "{broken}");
    let world = broken.rsplit('=').next().unwrap().parse().unwrap();
    assert_eq!(live(world, fault).unwrap_err(), broken, "the seed reproduces it");
}

#[test]
fn a_counter_stored_after_the_opening_is_found() {
    assert_found(Fault::StoredAfterOpening, invariants::STORED_FIRST);
}

#[test]
fn a_counter_stored_after_the_opening_lets_a_knock_open_twice() {
    assert_found(Fault::StoredAfterOpeningUnseen, invariants::OPENS_ONCE);
}

#[test]
fn a_replay_cache_of_0_is_found() {
    assert_found(Fault::NoReplayCache, invariants::REPLAY_IS_KNOWN);
}

#[test]
fn arming_that_opens_at_once_is_found() {
    assert_found(Fault::ArmingOpens, invariants::FAR_NEEDS_TWO);
}

#[test]
fn a_throttle_that_counts_nothing_is_found() {
    assert_found(Fault::NoThrottle, invariants::GUESSES_ARE_COUNTED);
}

#[test]
fn an_engine_without_resynchronisation_locks_a_live_owner_out() {
    assert_found(Fault::NoFarSearch, invariants::OWNER_GETS_IN);
}
