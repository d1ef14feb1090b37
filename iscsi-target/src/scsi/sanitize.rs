//! SANITIZE (SBC-3): everything on the unit is overwritten or unmapped, and nobody may use it meanwhile.
//!
//! | state | how it is entered | commands | leaves by |
//! |---|---|---|---|
//! | idle | | all | SANITIZE: running |
//! | running | SANITIZE | those that only inform; others 2/04/1B with the progress | the end: idle; an error: failed |
//! | failed | an error of the medium | SANITIZE and those that inform; others 3/31/03 | SANITIZE, with AUSE only if AUSE was set before: running; EXIT FAILURE MODE, if AUSE allowed it: idle |
//!
//! It runs on by itself: aborts, resets and lost sessions end only the wait of a command without IMMED. All views of a
//! device share the state, so no path leads around it.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use block_io::{Durability, IoError};

use super::cdb::Cdb;
use super::command_table::{Command, Operation};
use super::sense::Specific;
use super::{Failure, LogicalUnit, ScsiCommand, ScsiResponse, Sense, Status};

const OVERWRITE: u8 = 0x01;
const BLOCK_ERASE: u8 = 0x02;
const EXIT_FAILURE_MODE: u8 = 0x1f;

/// Bytes of OVERWRITE's parameter list before the pattern.
const LIST_HEADER_BYTES: usize = 4;

const IMMEDIATE: u8 = 0x80;
/// Allow unrestricted sanitize exit.
const UNRESTRICTED_EXIT: u8 = 0x20;

/// Bytes overwritten at once: other units of the same disks get their turns in between.
const OVERWRITE_BYTES: u64 = 1 << 20;
/// Bytes unmapped at once.
const ERASE_BYTES: u64 = 256 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Running,
    Failed {
        may_exit: bool,
    },
}

/// How far the sanitizing of a device is; shared by all its views.
#[derive(Debug, Default)]
pub(crate) struct Sanitizing {
    phase: Mutex<Phase>,
    /// Not idle: what every command looks at.
    engaged: AtomicBool,
    done_bytes: AtomicU64,
    total_bytes: AtomicU64,
}

impl Sanitizing {
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut current = self.phase();
        *current = phase;
        // Under the lock, as everywhere: what is looked at first never says less than the phase.
        self.engaged.store(phase != Phase::Idle, Ordering::Release);
    }

    /// What keeps commands from the medium; none while idle.
    pub(crate) fn obstacle(&self) -> Option<Sense> {
        if !self.engaged.load(Ordering::Acquire) {
            return None;
        }
        match *self.phase() {
            Phase::Idle => None,
            Phase::Running => {
                Some(Sense { specific: Some(Specific::Progress(self.progress())), ..Sense::SANITIZING })
            }
            Phase::Failed { .. } => Some(Sense::SANITIZE_FAILED),
        }
    }

    /// EXIT FAILURE MODE. Under one lock: another path may begin anew at the same time, and must not be taken for ended.
    fn leave_failure(&self) -> Result<(), Sense> {
        let mut phase = self.phase();
        match *phase {
            Phase::Failed { may_exit: false } => Err(Sense::INVALID_FIELD),
            Phase::Failed { may_exit: true } => {
                *phase = Phase::Idle;
                self.engaged.store(false, Ordering::Release);
                Ok(())
            }
            Phase::Idle | Phase::Running => Ok(()),
        }
    }

    fn progress(&self) -> u16 {
        let (done, total) =
            (self.done_bytes.load(Ordering::Relaxed), self.total_bytes.load(Ordering::Relaxed));
        let parts = u128::from(done) * 65_536 / u128::from(total.max(1));
        u16::try_from(parts).unwrap_or(u16::MAX)
    }

    /// May the command go on?
    pub(crate) fn admits(&self, operation: Operation) -> Result<(), Sense> {
        let Some(obstacle) = self.obstacle() else { return Ok(()) };
        let informs = matches!(
            operation,
            Operation::Inquiry
                | Operation::ReportLuns
                | Operation::RequestSense
                | Operation::ReportOpcodes
                | Operation::ReportTaskManagement
        );
        let retries = operation == Operation::Sanitize && obstacle == Sense::SANITIZE_FAILED;
        if informs || retries { Ok(()) } else { Err(obstacle) }
    }
}

/// What is to be done with the medium.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Work {
    Overwrite { block: Bytes, passes: u8, invert: bool },
    Erase,
}

/// The parameter list of OVERWRITE (SBC-3): what one block is to hold, and how often it is written.
fn overwrite_parameters(list: &[u8], block_bytes: usize) -> Result<Work, Sense> {
    let [flags, _, high, low, pattern @ ..] = list else { return Err(Sense::PARAMETER_LENGTH) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    // TEST patterns are not supported.
    let passes = flags & 0x1f;
    if flags & 0x60 != 0 || passes == 0 || length == 0 || length > block_bytes || length != pattern.len() {
        return Err(Sense::INVALID_PARAMETER);
    }
    let block: Vec<u8> = pattern.iter().copied().cycle().take(block_bytes).collect();
    Ok(Work::Overwrite { block: block.into(), passes, invert: flags & 0x80 != 0 })
}

impl LogicalUnit {
    /// Is the command there at all, with what is below this unit?
    pub(crate) fn supports(&self, command: &Command) -> bool {
        match command.operation {
            Operation::WriteAtomic => self.device().atomic_limit_bytes() > 0,
            Operation::Sanitize => {
                command.service_action != Some(BLOCK_ERASE) || self.device().info().discard
            }
            _ => true,
        }
    }

    pub(crate) async fn sanitize(self: &Arc<Self>, command: &ScsiCommand) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let action = cdb.byte(1) & 0x1f;
        let wanted = usize::from(cdb.u16(7));
        let good = ScsiResponse { data_out_wanted: wanted as u64, ..ScsiResponse::good() };
        if cdb.byte(1) & 0x40 != 0 || (2..7).any(|at| cdb.byte(at) != 0) {
            return Err(Sense::INVALID_FIELD.into());
        }
        if action != OVERWRITE && wanted != 0 {
            return Err(Sense::INVALID_FIELD.into());
        }
        let work = match action {
            OVERWRITE => {
                let block_bytes = self.device().info().logical_block_bytes as usize;
                // Greater than 4, less than a block and 5 (SBC-3): else the CDB is wrong, not the list.
                if wanted <= LIST_HEADER_BYTES || wanted > LIST_HEADER_BYTES + block_bytes {
                    return Err(Sense::INVALID_FIELD.into());
                }
                let list = command.data_out.get(..wanted).ok_or(Sense::PARAMETER_LENGTH)?;
                overwrite_parameters(list, block_bytes)?
            }
            BLOCK_ERASE if self.device().info().discard => Work::Erase,
            EXIT_FAILURE_MODE => return self.exit_failure_mode().map(|()| good),
            _ => return Err(Sense::INVALID_FIELD.into()),
        };
        let may_exit = cdb.byte(1) & UNRESTRICTED_EXIT != 0;
        let ended = self.begin_sanitizing(work, may_exit)?;
        if cdb.byte(1) & IMMEDIATE == 0 {
            wait_for_the_end(ended, command).await?;
        }
        Ok(good)
    }

    fn exit_failure_mode(&self) -> Result<(), Failure> {
        Ok(self.sanitizing().leave_failure()?)
    }

    /// From here on nobody else gets at the medium. The receiver is told how it ended.
    fn begin_sanitizing(
        self: &Arc<Self>,
        work: Work,
        may_exit: bool,
    ) -> Result<watch::Receiver<Option<Outcome>>, Failure> {
        let state = self.sanitizing();
        {
            let mut phase = state.phase();
            if *phase == Phase::Running {
                drop(phase);
                return Err(state.obstacle().unwrap_or(Sense::SANITIZING).into());
            }
            if *phase == (Phase::Failed { may_exit: false }) && may_exit {
                // Else the way out that was closed would be opened by failing once more (SBC-4 clause 4.11.1).
                return Err(Sense::INVALID_FIELD.into());
            }
            *phase = Phase::Running;
            let size = self.device().info().size_bytes;
            let passes = if let Work::Overwrite { passes, .. } = work { u64::from(passes) } else { 1 };
            state.done_bytes.store(0, Ordering::Relaxed);
            state.total_bytes.store(size.saturating_mul(passes), Ordering::Relaxed);
            state.engaged.store(true, Ordering::Release);
        }
        let (tell, ended) = watch::channel(None);
        let unit = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let outcome = unit.carry_out_sanitizing(&work).await.map_err(|error| {
                tracing::error!(device = unit.device().name(), %error, "sanitizing failed");
            });
            let phase = if outcome.is_ok() { Phase::Idle } else { Phase::Failed { may_exit } };
            unit.sanitizing().enter(phase);
            // Nobody may be waiting.
            let _ = tell.send(Some(outcome));
        });
        Ok(ended)
    }

    async fn carry_out_sanitizing(&self, work: &Work) -> Result<(), IoError> {
        // Whatever was let in before must have ended; what waits for its turn will be refused.
        drop(self.turn().write().await);
        match work {
            Work::Erase => self.erase_everything().await,
            Work::Overwrite { block, passes, invert } => {
                for pass in 0..*passes {
                    // Inverted so that the last pass leaves the pattern itself.
                    let inverted = *invert && (passes - 1 - pass) % 2 == 1;
                    self.overwrite_everything(block, inverted).await?;
                }
                Ok(())
            }
        }
    }

    async fn erase_everything(&self) -> Result<(), IoError> {
        let info = self.device().info();
        // Whole runs, or their space would not come free.
        let piece = ERASE_BYTES.next_multiple_of(info.discard_grain_bytes.max(1));
        let mut done = 0;
        while done < info.size_bytes {
            let length = piece.min(info.size_bytes - done);
            self.device().discard(done, length).await?;
            done += length;
            self.sanitizing().done_bytes.store(done, Ordering::Relaxed);
        }
        self.device().flush().await
    }

    async fn overwrite_everything(&self, block: &[u8], inverted: bool) -> Result<(), IoError> {
        let size = self.device().info().size_bytes;
        let block: Vec<u8> = block.iter().map(|byte| if inverted { !byte } else { *byte }).collect();
        let piece = Bytes::from(block.repeat((OVERWRITE_BYTES as usize / block.len().max(1)).max(1)));
        let (began, mut done) = (Instant::now(), 0);
        while done < size {
            let length = (piece.len() as u64).min(size - done);
            self.device().write(done, piece.slice(..length as usize), Durability::Durable).await?;
            done += length;
            self.sanitizing().done_bytes.fetch_add(length, Ordering::Relaxed);
            if let Some(rate) = self.options().sanitize_rate {
                tokio::time::sleep_until(began + time_for(done, rate)).await;
            }
        }
        self.device().flush().await
    }
}

/// What so many bytes take at a rate of bytes a second.
fn time_for(bytes: u64, rate: NonZeroU64) -> Duration {
    let millis = u128::from(bytes) * 1000 / u128::from(rate.get());
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// How sanitizing ended; why it failed is in the log.
type Outcome = Result<(), ()>;

/// A command without IMMED is answered at the end. If it is aborted, the work goes on without it.
async fn wait_for_the_end(
    mut ended: watch::Receiver<Option<Outcome>>,
    command: &ScsiCommand,
) -> Result<(), Failure> {
    tokio::select! {
        outcome = ended.wait_for(Option::is_some) => match outcome.map(|outcome| *outcome) {
            Ok(Some(Ok(()))) => Ok(()),
            _ => Err(Sense::SANITIZE_FAILED.into()),
        },
        () = command.aborted() => Err(Failure::Status(Status::TaskAborted)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaving_the_failure_never_opens_what_is_begun_anew() {
        for _ in 0..20_000 {
            let state = Sanitizing::default();
            state.enter(Phase::Failed { may_exit: true });
            let together = std::sync::Barrier::new(2);
            let left = std::thread::scope(|scope| {
                let leaving = scope.spawn(|| {
                    together.wait();
                    state.leave_failure()
                });
                together.wait();
                state.enter(Phase::Running);
                leaving.join().unwrap()
            });
            assert_eq!(left, Ok(()));
            assert_eq!(*state.phase(), Phase::Running);
            assert!(state.obstacle().is_some());
        }
    }

    #[test]
    fn overwrite_parameters_are_checked_and_fill_a_block() {
        let list = |flags: u8, length: u16, pattern: &[u8]| {
            let mut bytes = vec![flags, 0];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(pattern);
            overwrite_parameters(&bytes, 8)
        };
        let expected =
            Work::Overwrite { block: Bytes::from_static(&[1, 2, 3, 1, 2, 3, 1, 2]), passes: 2, invert: true };
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
