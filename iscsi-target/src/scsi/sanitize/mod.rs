//! SANITIZE (SBC-3): everything on the unit is overwritten or unmapped, and nobody may use it meanwhile.
//!
//! | state | how it is entered | commands | leaves by |
//! |---|---|---|---|
//! | idle | | all | SANITIZE: running |
//! | running | SANITIZE; a start of the daemon that finds it kept | those that only inform; others 2/04/1B with the progress | the end: idle; an error: failed |
//! | failed | an error of the medium | SANITIZE and those that inform; others 3/31/03 | SANITIZE, with AUSE only if AUSE was set before: running; EXIT FAILURE MODE, if AUSE allowed it: idle |
//!
//! It runs on by itself: aborts, resets and lost sessions end only the wait of a command without IMMED, and where the unit's
//! record is kept ([`super::keeping`]) it goes on after a power loss (SBC-3 clause 4.11). It is kept before the first byte is
//! touched, and forgotten before the first command is let in again. All views of a device share the state, so no path leads
//! around it. Every change of the state has the turn of orders.

mod record;
mod work;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_io::{IoError, IoErrorKind};
use tokio::sync::watch;

use super::cdb::Cdb;
use super::command_table::{Command, Operation};
use super::keeping::StoreFailed;
use super::sense::Specific;
use super::{Failure, LogicalUnit, Nexus, ScsiCommand, ScsiResponse, Sense, Status};
use work::{Job, Work, overwrite_parameters};

pub use record::{Interrupted, SanitizeRecord};

const OVERWRITE: u8 = 0x01;
const BLOCK_ERASE: u8 = 0x02;
const EXIT_FAILURE_MODE: u8 = 0x1f;

/// Bytes of OVERWRITE's parameter list before the pattern.
const LIST_HEADER_BYTES: usize = 4;

const IMMEDIATE: u8 = 0x80;
/// Allow unrestricted sanitize exit.
const UNRESTRICTED_EXIT: u8 = 0x20;

#[derive(Clone, Debug, Default)]
enum Phase {
    #[default]
    Idle,
    Running(Arc<Job>),
    Failed(Arc<Job>),
}

/// How far the sanitizing of a device is; shared by all its views.
#[derive(Debug, Default)]
pub(crate) struct Sanitizing {
    phase: Mutex<Phase>,
    /// Not idle: what every command looks at.
    engaged: AtomicBool,
    done_bytes: AtomicU64,
    /// What of that a start would not repeat.
    kept_bytes: AtomicU64,
}

impl Sanitizing {
    /// The state that a start finds kept.
    pub(crate) fn interrupted(found: Interrupted) -> Self {
        let phase = if found.failed { Phase::Failed(found.job) } else { Phase::Running(found.job) };
        Self {
            phase: Mutex::new(phase),
            engaged: AtomicBool::new(true),
            done_bytes: AtomicU64::new(found.done_bytes),
            kept_bytes: AtomicU64::new(found.done_bytes),
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        let mut current = self.phase();
        // Under the lock, as everywhere: what is looked at first never says less than the phase.
        self.engaged.store(!matches!(phase, Phase::Idle), Ordering::Release);
        *current = phase;
    }

    /// What is to be kept of it.
    pub(super) fn record(&self) -> Option<SanitizeRecord> {
        match &*self.phase() {
            Phase::Idle => None,
            Phase::Running(job) => {
                Some(SanitizeRecord::of(job, false, self.kept_bytes.load(Ordering::Relaxed)))
            }
            Phase::Failed(job) => Some(SanitizeRecord::of(job, true, 0)),
        }
    }

    /// What keeps commands from the medium; none while idle.
    pub(crate) fn obstacle(&self) -> Option<Sense> {
        if !self.engaged.load(Ordering::Acquire) {
            return None;
        }
        match &*self.phase() {
            Phase::Idle => None,
            Phase::Running(job) => {
                let progress = Specific::Progress(self.progress(job));
                Some(Sense { specific: Some(progress), ..Sense::SANITIZING })
            }
            Phase::Failed(_) => Some(Sense::SANITIZE_FAILED),
        }
    }

    /// Begin, from the start. Gives what was before.
    fn begin(&self, job: Arc<Job>) -> Result<Phase, Sense> {
        if let Some(obstacle) = self.obstacle().filter(|obstacle| *obstacle != Sense::SANITIZE_FAILED) {
            return Err(obstacle);
        }
        let mut phase = self.phase();
        if let Phase::Failed(failed) = &*phase
            && !failed.may_exit
            && job.may_exit
        {
            // Else the way out that was closed would be opened by failing once more (SBC-4 clause 4.11.1).
            return Err(Sense::INVALID_FIELD);
        }
        self.done_bytes.store(0, Ordering::Relaxed);
        self.kept_bytes.store(0, Ordering::Relaxed);
        self.engaged.store(true, Ordering::Release);
        Ok(std::mem::replace(&mut *phase, Phase::Running(job)))
    }

    fn progress(&self, job: &Job) -> u16 {
        let done = self.done_bytes.load(Ordering::Relaxed);
        let parts = u128::from(done) * 65_536 / u128::from(job.total_bytes().max(1));
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

impl LogicalUnit {
    /// Is a SANITIZE under way, or has it failed? Then nobody gets at the medium.
    pub fn is_sanitizing(&self) -> bool {
        self.sanitizing().obstacle().is_some()
    }

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

    pub(crate) async fn sanitize(
        self: &Arc<Self>,
        nexus: &Nexus,
        known: &Command,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
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
                Some(overwrite_parameters(list, block_bytes)?)
            }
            BLOCK_ERASE if self.device().info().discard => Some(Work::Erase),
            EXIT_FAILURE_MODE => None,
            _ => return Err(Sense::INVALID_FIELD.into()),
        };
        let turn = self.order_turn(command).await?;
        // A reservation may have come since the gates; once it is answered nothing is overwritten any more.
        self.admits(nexus, known)?;
        let Some(work) = work else { return self.exit_failure_mode().await.map(|()| good) };
        let may_exit = cdb.byte(1) & UNRESTRICTED_EXIT != 0;
        let ended = self.begin_sanitizing(work, may_exit).await?;
        drop(turn);
        if cdb.byte(1) & IMMEDIATE == 0 {
            wait_for_the_end(ended, command).await?;
        }
        Ok(good)
    }

    /// The caller has the turn of orders.
    async fn exit_failure_mode(&self) -> Result<(), Failure> {
        let state = self.sanitizing();
        let is_failed = match &*state.phase() {
            Phase::Failed(job) if !job.may_exit => return Err(Sense::INVALID_FIELD.into()),
            Phase::Failed(_) => true,
            Phase::Idle | Phase::Running(_) => false,
        };
        if is_failed {
            self.keep(&self.reservations(), None).await.map_err(refusal)?;
            state.enter(Phase::Idle);
        }
        Ok(())
    }

    /// From here on nobody else gets at the medium. The receiver is told how it ended. The caller has the turn of orders.
    async fn begin_sanitizing(
        self: &Arc<Self>,
        work: Work,
        may_exit: bool,
    ) -> Result<watch::Receiver<Option<Outcome>>, Failure> {
        let state = self.sanitizing();
        let job = Arc::new(Job { work, may_exit, size_bytes: self.device().info().size_bytes });
        let before = state.begin(Arc::clone(&job))?;
        if let Err(why) = self.keep(&self.reservations(), state.record()).await {
            // A start that finds it kept sanitizes: if that may be, nobody writes until it is done or forgotten.
            state.enter(if why == StoreFailed::Doubtful { Phase::Failed(job) } else { before });
            return Err(refusal(why).into());
        }
        Ok(self.run_sanitizing(job, 0))
    }

    /// Go on with what was under way when the power was lost. To be called once, on a worker, of a unit that was restored.
    pub fn go_on_sanitizing(self: &Arc<Self>) {
        let state = self.sanitizing();
        let (job, done) = {
            let mut phase = state.phase();
            let Phase::Running(job) = &mut *phase else { return };
            let size_bytes = self.device().info().size_bytes;
            if job.size_bytes != size_bytes {
                // It was resized meanwhile: where a pass had come to means another place.
                *job = Arc::new(Job { size_bytes, ..Job::clone(job) });
                state.done_bytes.store(0, Ordering::Relaxed);
                state.kept_bytes.store(0, Ordering::Relaxed);
            }
            (Arc::clone(job), state.done_bytes.load(Ordering::Relaxed))
        };
        tracing::info!(device = self.device().name(), done, "sanitizing goes on");
        drop(self.run_sanitizing(job, done));
    }

    fn run_sanitizing(self: &Arc<Self>, job: Arc<Job>, done: u64) -> watch::Receiver<Option<Outcome>> {
        let (tell, ended) = watch::channel(None);
        let unit = Arc::clone(self);
        tokio::task::spawn_local(async move {
            let outcome = unit.carry_out_sanitizing(&job, done).await;
            let outcome = unit.sanitizing_ended(job, outcome).await;
            // Nobody may be waiting.
            let _ = tell.send(Some(outcome));
        });
        ended
    }

    async fn sanitizing_ended(&self, job: Arc<Job>, outcome: Result<(), IoError>) -> Outcome {
        let _turn = self.turn_of_orders().await;
        let (state, device) = (self.sanitizing(), self.device().name());
        let kept = match &outcome {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(device, %error, "sanitizing failed");
                if is_interruption(error.kind) {
                    // What is kept says that it runs: the next start of the array goes on.
                    state.enter(Phase::Failed(job));
                    return Err(());
                }
                Some(SanitizeRecord::of(&job, true, 0))
            }
        };
        if let Err(why) = self.keep(&self.reservations(), kept).await {
            // A start would sanitize again, what was written until then as well: so nobody writes.
            tracing::error!(device, %why, "that sanitizing is over was not kept");
            state.enter(Phase::Failed(job));
            return Err(());
        }
        state.enter(if outcome.is_ok() { Phase::Idle } else { Phase::Failed(job) });
        outcome.map_err(|_| ())
    }
}

/// The medium is not to blame.
fn is_interruption(kind: IoErrorKind) -> bool {
    matches!(kind, IoErrorKind::Gone | IoErrorKind::Stopped | IoErrorKind::ArrayFailed)
}

fn refusal(why: StoreFailed) -> Sense {
    match why {
        StoreFailed::NoRoom => Sense::NO_RESOURCES,
        StoreFailed::Unwritten | StoreFailed::Doubtful => why.into(),
    }
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
