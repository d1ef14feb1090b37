//! A SANITIZE that is not over, as it is kept with the unit. The pattern is hexadecimal text.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::work::{Job, MAX_PASSES, Work};
use crate::scsi::reservations::BadRecord;

/// Longest pattern: a block of 4 KiB.
const MAX_PATTERN_BYTES: usize = 4096;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SanitizeRecord {
    /// What is to be done.
    #[serde(flatten)]
    pub work: WorkRecord,
    /// AUSE: a failure may be left without sanitizing again.
    pub may_exit: bool,
    /// It has failed, and is not to be gone on with.
    pub failed: bool,
    /// The unit's size when it began.
    pub size_bytes: u64,
    /// How much of it is done and durable, all passes together; it may be more.
    pub done_bytes: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum WorkRecord {
    /// SANITIZE OVERWRITE.
    Overwrite {
        /// What is repeated in each block.
        pattern: String,
        /// OVERWRITE COUNT.
        passes: u8,
        /// INVERT.
        invert: bool,
    },
    /// SANITIZE BLOCK ERASE.
    BlockErase,
}

/// A SANITIZE that a unit begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    pub(super) job: Arc<Job>,
    pub(super) failed: bool,
    pub(super) done_bytes: u64,
}

impl Interrupted {
    /// What is kept of it.
    pub fn record(&self) -> SanitizeRecord {
        SanitizeRecord::of(&self.job, self.failed, self.done_bytes)
    }
}

impl SanitizeRecord {
    pub(super) fn of(job: &Job, failed: bool, done_bytes: u64) -> Self {
        let work = match &job.work {
            Work::Erase => WorkRecord::BlockErase,
            Work::Overwrite { pattern, passes, invert } => {
                WorkRecord::Overwrite { pattern: hex::encode(pattern), passes: *passes, invert: *invert }
            }
        };
        Self { work, may_exit: job.may_exit, failed, size_bytes: job.size_bytes, done_bytes }
    }

    /// What is to be gone on with.
    pub(crate) fn restore(&self) -> Result<Interrupted, BadRecord> {
        let work = match &self.work {
            WorkRecord::BlockErase => Work::Erase,
            WorkRecord::Overwrite { pattern, passes, invert } => {
                let pattern =
                    hex::decode(pattern).map_err(|_| BadRecord("a pattern that is no hexadecimal"))?;
                if !(1..=MAX_PATTERN_BYTES).contains(&pattern.len()) {
                    return Err(BadRecord("a pattern that is none"));
                }
                if !(1..=MAX_PASSES).contains(passes) {
                    return Err(BadRecord("a number of passes that is none"));
                }
                Work::Overwrite { pattern: Bytes::from(pattern), passes: *passes, invert: *invert }
            }
        };
        let job = Job { work, may_exit: self.may_exit, size_bytes: self.size_bytes };
        if self.done_bytes > job.total_bytes() {
            return Err(BadRecord("more is done than there is"));
        }
        Ok(Interrupted { job: Arc::new(job), failed: self.failed, done_bytes: self.done_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_sanitizing_come_back_or_are_refused() {
        let overwrite = serde_json::json!({
            "action": "overwrite", "pattern": "0102", "passes": 3, "invert": true,
            "may_exit": false, "failed": false, "size_bytes": 4096, "done_bytes": 12_288
        });
        let erase = serde_json::json!({
            "action": "block-erase", "may_exit": true, "failed": true, "size_bytes": 512, "done_bytes": 0
        });
        for kept in [&overwrite, &erase] {
            let record: SanitizeRecord = serde_json::from_value(kept.clone()).unwrap();
            let restored = record.restore().unwrap();
            assert_eq!(serde_json::to_value(restored.record()).unwrap(), *kept);
        }
        for (field, value) in [
            ("pattern", serde_json::json!("")),
            ("pattern", serde_json::json!("0")),
            ("pattern", serde_json::json!("00".repeat(4097))),
            ("passes", serde_json::json!(0)),
            ("passes", serde_json::json!(32)),
            ("done_bytes", serde_json::json!(12_289)),
        ] {
            let mut wrong = overwrite.clone();
            wrong[field] = value;
            let record: SanitizeRecord = serde_json::from_value(wrong).unwrap();
            assert!(record.restore().is_err(), "{field}");
        }
    }
}
