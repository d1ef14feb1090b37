//! A few seeds with every build: promises hold, and the same seed is the same run. `scripts/test` has `simulate` run many more,
//! others than these, and look for planted mistakes.

use simulation::{Limits, Plan, has_journal, keep_panics, run};

#[test]
fn promises_hold_and_the_same_seed_is_the_same_run() {
    keep_panics();
    let limits = Limits {
        operations: 2000,
        crashes: 5,
        level: None,
        policy: None,
        journal: has_journal(),
        lies: false,
    };
    for seed in 1000..1020 {
        let plan = Plan::draw(seed, &limits);
        let (first, second) = (run(&plan, false), run(&Plan::draw(seed, &limits), false));
        if let Some(violation) = &first.violation {
            panic!("seed {seed} ({}): {violation}", plan.shape);
        }
        assert_eq!(first.hash, second.hash, "seed {seed} ({})", plan.shape);
        assert_eq!(first.stats, second.stats, "seed {seed}");
    }
}
