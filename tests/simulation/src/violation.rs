//! What can a run prove wrong?

use crate::model::WrongSector;

/// A promise that was broken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Violation {
    /// A read gave what it must not.
    #[error("wrong data: {what} at {at_ms} ms read sector {} of volume {}: {}, expected {}",
        wrong.sector, wrong.volume, wrong.found, wrong.expected.join(" or "))]
    WrongData {
        /// Who read.
        what: String,
        /// When.
        at_ms: u64,
        /// What.
        wrong: WrongSector,
    },
    /// A request failed though the faults are within what the level bears.
    #[error("{what} failed at {at_ms} ms: {error}")]
    Failed {
        /// What.
        what: String,
        /// When.
        at_ms: u64,
        /// How.
        error: String,
    },
    /// The array did not start though it had to.
    #[error("the array did not start at {at_ms} ms from disks {offered:?}: {error}")]
    NotStarted {
        /// When.
        at_ms: u64,
        /// Which disks there were.
        offered: Vec<usize>,
        /// Why not.
        error: String,
    },
    /// It started, or wrote, where it had to refuse.
    #[error("with disks {offered:?} alone the array should be refused without a write, but it {what}")]
    NotRefused {
        /// Which disks there were.
        offered: Vec<usize>,
        /// What it did.
        what: String,
    },
    /// Something does not end.
    #[error("{what} has not ended at {at_ms} ms")]
    Hang {
        /// What.
        what: String,
        /// When.
        at_ms: u64,
    },
    /// An assertion, in the engine or here.
    #[error("panic: {0}")]
    Panic(String),
    /// At rest, parity or copies are not what md defines.
    #[error("at rest: {0}")]
    AtRest(String),
    /// Memory is still in use though nothing is under way.
    #[error("{bytes} bytes of the array's memory are still in use after the stop")]
    Leak {
        /// How much.
        bytes: u64,
    },
}

impl Violation {
    /// Its kind, in a word: shortened runs must break the same promise.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::WrongData { .. } => "wrong-data",
            Self::Failed { .. } => "failed",
            Self::NotStarted { .. } => "not-started",
            Self::NotRefused { .. } => "not-refused",
            Self::Hang { .. } => "hang",
            Self::Panic(_) => "panic",
            Self::AtRest(_) => "at-rest",
            Self::Leak { .. } => "leak",
        }
    }
}
