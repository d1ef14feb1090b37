//! A few seeds with every build: promises hold, the same seed is the same run, and planted mistakes are found.
//! `simulate` runs as many as there is time for.

use raid_core::sabotage::{Sabotage, plant};
use simulation::{Limits, Plan, has_journal, keep_panics, run};

fn limits() -> Limits {
    keep_panics();
    Limits { operations: 2000, crashes: 5, level: None, policy: None, journal: has_journal(), lies: false }
}

#[test]
fn promises_hold() {
    let limits = limits();
    for seed in 0..40 {
        let plan = Plan::draw(seed, &limits);
        if let Some(violation) = run(&plan, false).violation {
            panic!("seed {seed} ({}): {violation}", plan.shape);
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let limits = limits();
    for seed in 500..520 {
        let plan = Plan::draw(seed, &limits);
        let (first, second) = (run(&plan, false), run(&Plan::draw(seed, &limits), false));
        assert_eq!(first.hash, second.hash, "seed {seed} ({})", plan.shape);
        assert_eq!(first.stats, second.stats, "seed {seed}");
    }
}

/// Found, if at all, after hundreds of seeds: `simulate --plants` has the time for them.
const RARE: [Sabotage; 3] =
    [Sabotage::NoRecopyAtRecovery, Sabotage::StaleEpochReplayed, Sabotage::ServedWithIntent];

#[test]
fn planted_mistakes_are_found() {
    let limits = limits();
    let found = |sabotage: Sabotage| {
        plant(Some(sabotage));
        let found = (0..500).any(|seed| run(&Plan::draw(seed, &limits), false).violation.is_some());
        plant(None);
        found
    };
    for sabotage in Sabotage::ALL.into_iter().filter(|sabotage| !RARE.contains(sabotage)) {
        if limits.journal || !sabotage.is_of_the_journal() {
            assert!(found(sabotage), "{} is not found", sabotage.name());
        }
    }
}
