//! What is the shortest history that still goes wrong?
//!
//! Steps are left out, in ever smaller groups, as long as what remains breaks a promise of the same kind (ddmin). Leaving a
//! step out changes what the later ones meet, so this finds a short history, not always the shortest.

use std::time::{Duration, Instant};

use crate::plan::{Plan, Step};
use crate::run::{Outcome, run};
use crate::violation::Violation;

/// Shorten a plan that ended in `violation`, for at most `patience`.
#[must_use]
pub fn shortest(plan: &Plan, violation: &Violation, patience: Duration) -> (Plan, Violation) {
    let deadline = Instant::now() + patience;
    let mut best = (plan.clone(), violation.clone());
    let mut groups = 2;
    while groups <= best.0.steps.len().max(2) * 2 && Instant::now() < deadline {
        let size = best.0.steps.len().div_ceil(groups).max(1);
        let mut start = 0;
        let mut shorter = false;
        while start < best.0.steps.len() && Instant::now() < deadline {
            let mut steps = best.0.steps.clone();
            steps.drain(start..(start + size).min(steps.len()));
            match attempt(&best.0, steps, violation) {
                Some(found) => {
                    best = found;
                    shorter = true;
                }
                None => start += size,
            }
        }
        if size == 1 && !shorter {
            break;
        }
        if !shorter {
            groups *= 2;
        }
    }
    simplify(&mut best, violation, deadline);
    best
}

fn attempt(plan: &Plan, steps: Vec<Step>, violation: &Violation) -> Option<(Plan, Violation)> {
    let plan = Plan { steps, ..plan.clone() };
    let Outcome { violation: found, .. } = run(&plan, false);
    let found = found.filter(|found| found.kind() == violation.kind())?;
    Some((plan, found))
}

/// Cuts without their company.
fn simplify(best: &mut (Plan, Violation), violation: &Violation, deadline: Instant) {
    for index in 0..best.0.steps.len() {
        let Step::Cut(cut) = best.0.steps[index].clone() else { continue };
        let simpler = [
            crate::plan::Cut { again: Vec::new(), ..cut.clone() },
            crate::plan::Cut { apart: None, ..cut.clone() },
            crate::plan::Cut { lose: 0, ..cut.clone() },
            crate::plan::Cut { give_back: false, ..cut.clone() },
            crate::plan::Cut { starve: false, ..cut.clone() },
        ];
        for candidate in simpler {
            if candidate == cut || Instant::now() >= deadline {
                continue;
            }
            let mut steps = best.0.steps.clone();
            steps[index] = Step::Cut(candidate);
            if let Some(found) = attempt(&best.0, steps, violation) {
                *best = found;
            }
        }
    }
}
