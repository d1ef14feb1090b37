//! The RAID engine over simulated disks: does it keep its promises whatever happens?
//!
//! A seed decides a run: the array's shape, what clients and administrators do, when disks fail and when the power goes,
//! in which order operations end and what each power cut leaves of them. The engine is the one that the daemon runs,
//! through its public API; only its disks and its clock are not real. `docs/testing.md` tells how to use the program.
//!
//! - `plan`: what is to happen, drawn from the seed, as a list.
//! - `run`, `life`, `client`, `manage`, `cut`: carrying it out.
//! - `world`, `disk`, `medium`, `pages`: power, time and disks.
//! - `model`, `sector`, `pattern`, `check`, `violation`: what must hold.
//! - `shrink`, `report`: what people get to see.

mod check;
mod client;
mod cut;
mod disk;
mod life;
mod manage;
mod medium;
mod model;
mod pages;
mod pattern;
mod plan;
mod report;
mod rng;
mod run;
mod sector;
mod shrink;
mod violation;
mod whole;
mod world;

pub use model::{Place, WrongSector};
pub use plan::{Again, Apart, Cut, Limits, Plan, Shape, Step};
pub use report::{Stats, Totals, policy_name};
pub use run::{Outcome, keep_panics, run};
pub use shrink::shortest;
pub use violation::Violation;

use raid_core::array::Policy;

/// Does `create` make arrays with a journal yet? One is tried.
#[must_use]
pub fn has_journal() -> bool {
    let limits = Limits {
        operations: 0,
        crashes: 0,
        level: Some(5),
        policy: Some(Policy::Journal),
        journal: true,
        lies: false,
    };
    run(&Plan::draw(0, &limits), false).violation.is_none()
}
