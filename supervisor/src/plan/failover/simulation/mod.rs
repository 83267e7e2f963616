//! Whole worlds made up from a seed: one, three or five supervisors over three to five Redis servers, with everything that happens to
//! them.
//!
//! Judge, planner, register, drain barrier, lease and the rule for changes left behind are the real ones; probes, reports, the group's
//! log, Redis and the network are small models, and time is virtual. Processes die, hang and restart (empty, or with older data), paths
//! break one way or both, supervisors crash, stall and have their calendars moved, reports are late or lost. Clients write where they are
//! told to and have every write confirmed by a replica (`WAIT 1`).
//!
//! What must hold is in [`World::check_told`], [`World::check_promotion`] and [`World::is_well`]: one primary per epoch, no promotion of
//! less than what is reachable, no primary replaced that a majority, or the supervisor on its host, sees at work, and a cluster that is
//! well again while a majority and a candidate live. Guards can be broken on purpose ([`Guard`]): then these checks must find it, or they
//! prove nothing.
//!
//! `HOLDFAST_SIMULATE_WORLDS` sets how many worlds are made up, `HOLDFAST_SIMULATE_SEED` replays one of them and prints its story.

mod disturb;
mod group;
mod member;
mod network;
mod servers;
mod steps;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use world::World;

/// Time between two looks at the world.
const STEP: Duration = Duration::from_millis(10);

/// As in the settings of a group on Redis' own hosts.
const LEASE: Duration = Duration::from_millis(300);

/// Worlds in the normal tests; `make simulate-failover` makes up many more.
const WORLDS: u64 = 240;

/// A guard that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    /// None is: everything works as it should.
    None,
    /// The words of the other supervisors are not asked for.
    NoMajority,
    /// The first server that can be reached is promoted, as Redis Sentinel would with priorities.
    NoOffsets,
}

fn address(index: usize) -> Address {
    Address::new("h", u16::try_from(index).unwrap() + 1)
}

fn index(address: &Address) -> usize {
    usize::from(address.port()) - 1
}

/// What came of some worlds.
#[derive(Debug, Default)]
struct Tally {
    failovers: AtomicU64,
    hand_overs: AtomicU64,
    resumed: AtomicU64,
    fenced: AtomicU64,
    lost: AtomicU64,
    confirmed: AtomicU64,
}

/// Runs the world of a seed; the error is what does not hold in it, after its story if that is wanted.
fn simulate(seed: u64, guard: Guard, tally: &Tally, with_story: bool) -> Result<(), String> {
    let mut world = World::new(seed, guard, with_story);
    let result = world.run();
    let add = |to: &AtomicU64, count: u64| to.fetch_add(count, Ordering::Relaxed);
    add(&tally.failovers, world.counts.failovers);
    add(&tally.hand_overs, world.counts.hand_overs);
    add(&tally.resumed, world.counts.resumed);
    add(&tally.fenced, world.counts.fenced);
    add(&tally.lost, world.counts.lost);
    add(&tally.confirmed, world.counts.confirmed);
    result.map_err(|fault| format!("{}\nseed {seed}: {fault}", world.story.join("\n")))
}

/// The first seed of `seeds` whose world does not hold, with its story.
fn first_fault(seeds: std::ops::Range<u64>, guard: Guard, tally: &Tally) -> Option<String> {
    let next = AtomicU64::new(seeds.start);
    let found = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || seed > found.load(Ordering::Relaxed) {
                        return;
                    }
                    if simulate(seed, guard, tally, false).is_err() {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let seed = found.into_inner();
    (seed != u64::MAX).then(|| {
        let again = simulate(seed, guard, &Tally::default(), true);
        again.expect_err("a seed gives the same world each time")
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the number of worlds is given by who runs the tests"
)]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a whole number"))
}

#[test]
fn no_world_has_two_primaries_or_loses_what_could_be_kept() {
    if let Some(seed) = number("HOLDFAST_SIMULATE_SEED") {
        let mut world = World::new(seed, Guard::None, true);
        let result = world.run();
        println!("{}\nseed {seed}: {result:?}", world.story.join("\n"));
        assert_eq!(result, Ok(()));
        return;
    }
    let worlds = number("HOLDFAST_SIMULATE_WORLDS").unwrap_or(WORLDS);
    let tally = Tally::default();
    if let Some(fault) = first_fault(0..worlds, Guard::None, &tally) {
        panic!("{fault}");
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "simulate-failover worlds={worlds} failovers={} hand_overs={} resumed={} fenced={} confirmed_writes={} lost={} faults=0",
        count(&tally.failovers),
        count(&tally.hand_overs),
        count(&tally.resumed),
        count(&tally.fenced),
        count(&tally.confirmed),
        count(&tally.lost),
    );
    assert!(count(&tally.failovers) > worlds, "{tally:?}: these worlds prove nothing");
    assert!(count(&tally.hand_overs) > worlds / 10, "{tally:?}: these worlds prove nothing");
    assert!(count(&tally.fenced) > worlds / 10, "{tally:?}: these worlds prove nothing");
}

/// The checks see a guard that is missing.
#[test]
fn a_broken_guard_is_found() {
    for guard in [Guard::NoMajority, Guard::NoOffsets] {
        let fault = first_fault(0..WORLDS * 4, guard, &Tally::default());
        assert!(fault.is_some(), "{guard:?} is not missed in {} worlds", WORLDS * 4);
    }
}
