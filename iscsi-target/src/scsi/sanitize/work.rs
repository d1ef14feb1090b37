//! What SANITIZE does with the medium, piece by piece, from wherever it had come.

use std::num::NonZeroU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::{Durability, IoError};
use bytes::Bytes;
use tokio::time::Instant;

use crate::scsi::{LogicalUnit, Sense};

/// Bytes overwritten at once: other units of the same disks get their turns in between.
const OVERWRITE_BYTES: u64 = 1 << 20;
/// Bytes unmapped at once.
const ERASE_BYTES: u64 = 256 << 20;

/// OVERWRITE COUNT has five bits.
pub(super) const MAX_PASSES: u8 = 0x1f;

/// How far it is is kept so often, so that a start repeats no more than that.
const PARTS_KEPT: u64 = 64;

/// What is to be done with the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Overwrite { pattern: Bytes, passes: u8, invert: bool },
    Erase,
}

/// A SANITIZE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) work: Work,
    /// AUSE.
    pub(super) may_exit: bool,
    /// The unit's size when it began.
    pub(super) size_bytes: u64,
}

impl Job {
    /// All passes.
    pub(super) fn total_bytes(&self) -> u64 {
        let passes = if let Work::Overwrite { passes, .. } = self.work { u64::from(passes) } else { 1 };
        self.size_bytes.saturating_mul(passes)
    }
}

/// The parameter list of OVERWRITE (SBC-3): what one block is to hold, and how often it is written.
pub(super) fn overwrite_parameters(list: &[u8], block_bytes: usize) -> Result<Work, Sense> {
    let [flags, _, high, low, pattern @ ..] = list else { return Err(Sense::PARAMETER_LENGTH) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    // TEST patterns are not supported.
    let passes = flags & MAX_PASSES;
    if flags & 0x60 != 0 || passes == 0 || length == 0 || length > block_bytes || length != pattern.len() {
        return Err(Sense::INVALID_PARAMETER);
    }
    Ok(Work::Overwrite { pattern: Bytes::copy_from_slice(pattern), passes, invert: flags & 0x80 != 0 })
}

impl LogicalUnit {
    /// Do what is left of it: `done` bytes are.
    pub(super) async fn carry_out_sanitizing(&self, job: &Job, done: u64) -> Result<(), IoError> {
        // Whatever was let in before must have ended; what waits for its turn will be refused.
        drop(self.turn().write().await);
        match &job.work {
            Work::Erase => self.erase_from(job, done).await?,
            Work::Overwrite { pattern, passes, invert } => {
                let block_bytes = self.device().info().logical_block_bytes as usize;
                let block: Vec<u8> = pattern.iter().copied().cycle().take(block_bytes).collect();
                // Inverted so that the last pass leaves the pattern itself.
                let block_of = |pass: u64| match *invert && (u64::from(*passes) - 1 - pass) % 2 == 1 {
                    true => block.iter().map(|byte| !byte).collect(),
                    false => block.clone(),
                };
                self.overwrite_from(job, done, block_of).await?;
            }
        }
        self.device().flush().await
    }

    async fn erase_from(&self, job: &Job, mut done: u64) -> Result<(), IoError> {
        // Whole runs, or their space would not come free.
        let piece = ERASE_BYTES.next_multiple_of(self.device().info().discard_grain_bytes.max(1));
        while done < job.size_bytes {
            let length = piece.min(job.size_bytes - done);
            self.device().discard(done, length).await?;
            done += length;
            self.has_come_to(job, done).await?;
        }
        Ok(())
    }

    async fn overwrite_from(
        &self,
        job: &Job,
        from: u64,
        block_of: impl Fn(u64) -> Vec<u8>,
    ) -> Result<(), IoError> {
        let (began, mut done) = (Instant::now(), from);
        let rate = self.options().sanitize_rate;
        // No pause is longer than a second, unless a block is worth more: until its end a stop of the array is not seen.
        let piece_bytes = rate.map_or(OVERWRITE_BYTES, |rate| rate.get().min(OVERWRITE_BYTES));
        while done < job.total_bytes() {
            let pass = done / job.size_bytes;
            let piece = repeated(&block_of(pass), piece_bytes);
            while done / job.size_bytes == pass {
                let offset = done % job.size_bytes;
                let length = (piece.len() as u64).min(job.size_bytes - offset);
                self.device().write(offset, piece.slice(..length as usize), Durability::Durable).await?;
                done += length;
                self.has_come_to(job, done).await?;
                if let Some(rate) = rate {
                    tokio::time::sleep_until(began + time_for(done - from, rate)).await;
                }
            }
        }
        Ok(())
    }

    /// Tell how far it is, and keep it now and then.
    async fn has_come_to(&self, job: &Job, done: u64) -> Result<(), IoError> {
        let state = self.sanitizing();
        state.done_bytes.store(done, Ordering::Relaxed);
        let kept = state.kept_bytes.load(Ordering::Relaxed);
        if done - kept < (job.total_bytes() / PARTS_KEPT).max(OVERWRITE_BYTES) || done == job.total_bytes() {
            return Ok(());
        }
        self.device().flush().await?;
        let _turn = self.turn_of_orders().await;
        state.kept_bytes.store(done, Ordering::Relaxed);
        if let Err(why) = self.keep(&self.reservations(), state.record()).await {
            // No harm: a start would begin where the last one was kept.
            state.kept_bytes.store(kept, Ordering::Relaxed);
            tracing::warn!(device = self.device().name(), %why, "how far sanitizing is was not kept");
        }
        Ok(())
    }
}

/// As many blocks as there is room for in so many bytes, but one at least.
fn repeated(block: &[u8], bytes: u64) -> Bytes {
    Bytes::from(block.repeat((bytes as usize / block.len().max(1)).max(1)))
}

/// What so many bytes take at a rate of bytes a second.
fn time_for(bytes: u64, rate: NonZeroU64) -> Duration {
    let millis = u128::from(bytes) * 1000 / u128::from(rate.get());
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwrite_parameters_are_checked() {
        let list = |flags: u8, length: u16, pattern: &[u8]| {
            let mut bytes = vec![flags, 0];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(pattern);
            overwrite_parameters(&bytes, 8)
        };
        let expected = Work::Overwrite { pattern: Bytes::from_static(&[1, 2, 3]), passes: 2, invert: true };
        assert_eq!(list(0x82, 3, &[1, 2, 3]), Ok(expected));
        for (flags, length, pattern) in [
            (0x00, 3, &[1, 2, 3][..]),
            (0x21, 3, &[1, 2, 3]),
            (0x01, 0, &[]),
            (0x01, 2, &[1, 2, 3]),
            (0x01, 9, &[0; 9]),
        ] {
            assert_eq!(list(flags, length, pattern), Err(Sense::INVALID_PARAMETER), "{flags:x} {length}");
        }
        for short in 0..4 {
            assert_eq!(overwrite_parameters(&[1, 0, 0, 1][..short], 8), Err(Sense::PARAMETER_LENGTH));
        }
    }
}
