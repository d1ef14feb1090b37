//! One logical unit: a device, its identity, and what initiators have made of it.
//!
//! Every command first passes the gates, in this order (SAM-5 clauses 5.3.3 and 5.14): reservation, unit attention,
//! write protection, and then that of `sanitize`. Where there is nothing to be told and nobody has reserved it, all of
//! that costs one atomic load.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_io::{BlockDevice, BufferPool};
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use uuid::Uuid;

use super::cdb::Cdb;
use super::command_table::{Command, Operation};
use super::keeping::{Keeping, Restored, UnitStore};
use super::mode::{ModeFacts, ModeState};
use super::nexus::Attentions;
use super::ports::{self, TargetPort};
use super::reservations::Reservations;
use super::sanitize::Sanitizing;
use super::thin::Watch;
use super::{Failure, Nexus, ScsiCommand, ScsiResponse, Sense, Status, capacity, inquiry, log, mode, report};

/// Who a logical unit is, on every path and for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LuIdentity {
    /// The NAA designator is made of it.
    pub uuid: Uuid,
    /// Unit serial number.
    pub serial: String,
    /// Product identification, up to 16 characters.
    pub product: String,
}

/// How a logical unit behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LuOptions {
    /// Writes end in WRITE PROTECTED.
    pub read_only: bool,
    /// WCE: writes are acknowledged before they are durable.
    pub write_cache: bool,
    /// SANITIZE overwrites no more bytes than this a second, so that others get at the disks. None: as fast as it can.
    pub sanitize_rate: Option<NonZeroU64>,
    /// Where the unit is thin: initiators are told when no more than so much of its size can still be mapped, though others
    /// may ask for more. 0: not until one of them sets a threshold.
    pub thin_warning_percent: u8,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) attentions: Attentions,
    pub(super) mode: ModeState,
    /// How its space fares.
    pub(super) thin: Watch,
    /// By RESERVE of SPC-2.
    pub(super) reserved_by: Option<Nexus>,
    pub(super) reservations: Reservations,
}

/// What is one, with whatever rights the unit is seen.
#[derive(Debug, Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// A unit attention waits, or somebody has reserved it, or a mode parameter is not the default.
    exceptional: AtomicBool,
    turn: tokio::sync::RwLock<()>,
    sanitizing: Sanitizing,
    /// The ports by which it is reached, once for each LUN.
    ports: Mutex<Vec<Arc<TargetPort>>>,
    pub(super) keeping: Keeping,
}

/// While it lives, nobody who needs another one uses the medium.
enum Place<'a> {
    None,
    BesideOthers { _held: RwLockReadGuard<'a, ()> },
    Alone { _held: RwLockWriteGuard<'a, ()> },
}

/// A logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    device: Arc<dyn BlockDevice>,
    identity: LuIdentity,
    options: LuOptions,
    pub(super) shared: Arc<Shared>,
}

impl LogicalUnit {
    /// A logical unit over `device`.
    pub fn new(device: Arc<dyn BlockDevice>, identity: LuIdentity, options: LuOptions) -> Arc<Self> {
        Arc::new(Self { device, identity, options, shared: Arc::default() })
    }

    /// A logical unit whose record can survive a power loss, with what survived the last one. A SANITIZE that is among that
    /// keeps everybody out from here on, and goes on with [`Self::go_on_sanitizing`].
    pub fn restored(
        device: Arc<dyn BlockDevice>,
        identity: LuIdentity,
        options: LuOptions,
        store: Arc<dyn UnitStore>,
        restored: Restored,
    ) -> Arc<Self> {
        let state = State { reservations: restored.reservations, ..State::default() };
        let sanitizing = restored.sanitize.map_or_else(Sanitizing::default, Sanitizing::interrupted);
        let shared = Shared {
            state: Mutex::new(state),
            exceptional: AtomicBool::new(true),
            keeping: Keeping::new(store),
            sanitizing,
            ..Shared::default()
        };
        Arc::new(Self { device, identity, options, shared: Arc::new(shared) })
    }

    /// The same logical unit with other rights: what is reserved, told or atomic here is so there.
    pub fn view(&self, options: LuOptions) -> Arc<Self> {
        let (device, identity) = (Arc::clone(&self.device), self.identity.clone());
        Arc::new(Self { device, identity, options, shared: Arc::clone(&self.shared) })
    }

    /// What is below it.
    pub fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    /// Who it is.
    pub fn identity(&self) -> &LuIdentity {
        &self.identity
    }

    /// How it behaves.
    pub fn options(&self) -> LuOptions {
        self.options
    }

    pub(crate) fn turn(&self) -> &tokio::sync::RwLock<()> {
        &self.shared.turn
    }

    pub(crate) fn sanitizing(&self) -> &Sanitizing {
        &self.shared.sanitizing
    }

    /// The place of a command that writes, among all that use the medium. Those that may be long have one piece by piece.
    async fn place(&self, operation: Operation) -> Place<'_> {
        match operation {
            Operation::Write | Operation::WriteAndVerify | Operation::WriteSame => {
                Place::BesideOthers { _held: self.turn().read().await }
            }
            Operation::CompareAndWrite | Operation::OrWrite | Operation::WriteAtomic => {
                Place::Alone { _held: self.turn().write().await }
            }
            _ => Place::None,
        }
    }

    /// Use the medium beside other commands.
    pub(crate) async fn share(&self) -> Result<RwLockReadGuard<'_, ()>, Failure> {
        let guard = self.shared.turn.read().await;
        // Sanitizing may have begun while this waited.
        self.sanitizing().obstacle().map_or(Ok(guard), |sense| Err(sense.into()))
    }

    fn ports(&self) -> MutexGuard<'_, Vec<Arc<TargetPort>>> {
        self.shared.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is reached by this port, as one more LUN.
    pub(crate) fn join(self: &Arc<Self>, port: &Arc<TargetPort>) {
        port.lead_to(self);
        let mut ports = self.ports();
        ports.push(Arc::clone(port));
        ports.sort_by_key(|port| port.number());
    }

    /// It is reached by this port as one LUN less.
    pub(crate) fn part(self: &Arc<Self>, port: &Arc<TargetPort>) {
        port.leave(self);
        let mut ports = self.ports();
        if let Some(at) = ports.iter().position(|other| Arc::ptr_eq(other, port)) {
            ports.remove(at);
        }
    }

    /// Each port once.
    pub(super) fn each_port(&self) -> Vec<Arc<TargetPort>> {
        let mut ports = self.ports().clone();
        ports.dedup_by(|a, b| Arc::ptr_eq(a, b));
        ports
    }

    /// The same logical unit, perhaps with other rights.
    pub fn is_view_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// What this nexus is to be told next, for a command that will not be carried out.
    pub(crate) fn next_attention(&self, nexus: &Nexus) -> Option<Sense> {
        self.state().attentions.next(nexus)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The gates have something to look at from now on. Called with the state locked.
    pub(super) fn make_exceptional(&self) {
        self.shared.exceptional.store(true, Ordering::Release);
    }

    /// The device has grown (or shrunk): every nexus is told.
    pub fn capacity_changed(&self) {
        self.raise(Sense::CAPACITY_CHANGED, None);
    }

    pub(crate) fn raise(&self, sense: Sense, but: Option<&Nexus>) {
        let mut state = self.state();
        state.attentions.raise(sense, but);
        self.make_exceptional();
    }

    /// Tell one nexus.
    pub(crate) fn tell(&self, nexus: &Nexus, sense: Sense) {
        let mut state = self.state();
        state.attentions.tell(nexus, sense);
        self.make_exceptional();
    }

    /// A logical unit reset (SAM-5 clause 6.3.3). Everyone is told, whoever asked for it too; persistent reservations stay.
    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.reset_thresholds();
        state.mode = ModeState::default();
        state.reserved_by = None;
        drop(state);
        self.raise(Sense::RESET, None);
    }

    /// From now on this nexus is told of changes.
    pub(crate) fn meet(&self, nexus: &Nexus) {
        self.state().attentions.meet(nexus);
        self.make_exceptional();
    }

    /// The same for a nexus that begins, or a unit that does. What it had set here may be gone by a start that it cannot know of:
    /// it is told so once (SAM-5 clause 5.14.1). If it comes back it is told what it has missed; that it has lost a session it knows.
    pub(crate) fn begin(&self, nexus: &Nexus) {
        self.state().attentions.begin(nexus);
        self.make_exceptional();
    }

    /// The nexus is lost: its reservation goes with it, what it is to be told waits for it.
    pub(crate) fn lose(&self, nexus: &Nexus) {
        self.state().attentions.lose(nexus);
        self.forget(nexus);
    }

    /// The nexus does not see the unit any more: its reservation goes with it.
    pub(crate) fn forget(&self, nexus: &Nexus) {
        let mut state = self.state();
        state.attentions.forget(nexus);
        if state.reserved_by.as_ref() == Some(nexus) {
            state.reserved_by = None;
        }
    }

    pub(crate) fn told_of_luns(&self, nexus: &Nexus) {
        self.state().attentions.clear(nexus, Sense::LUNS_CHANGED);
    }

    pub(crate) fn descriptor_sense(&self) -> bool {
        self.shared.exceptional.load(Ordering::Acquire) && self.state().mode.descriptor_sense
    }

    fn facts(&self, state: &State) -> ModeFacts {
        let info = self.device.info();
        ModeFacts {
            read_only: self.options.read_only || info.read_only,
            write_cache: self.options.write_cache,
            blocks: capacity::blocks(&info),
            block_bytes: info.logical_block_bytes,
            thresholds: state.thin.resources.map(|_| self.default_thresholds().0),
        }
    }

    /// What stands in a command's way.
    fn gates(&self, nexus: &Nexus, command: &Command, cdb: Cdb<'_>) -> Result<(), Failure> {
        let mut protected = self.options.read_only;
        if self.shared.exceptional.load(Ordering::Acquire) {
            let mut state = self.state();
            let informs = matches!(
                command.operation,
                Operation::Inquiry | Operation::ReportLuns | Operation::RequestSense
            );
            if state.keeps_out(nexus, command, cdb) {
                return Err(Failure::Status(Status::ReservationConflict));
            }
            if !informs && let Some(sense) = state.attentions.next(nexus) {
                return Err(sense.into());
            }
            protected |= state.mode.write_protect;
            let ordinary = state.attentions.is_empty()
                && state.reserved_by.is_none()
                && state.reservations.reservation.is_none()
                && state.mode.is_ordinary();
            if ordinary {
                // Whoever makes it exceptional again sets this under the same lock.
                self.shared.exceptional.store(false, Ordering::Release);
            }
        }
        if command.writes && protected { Err(Sense::WRITE_PROTECTED.into()) } else { Ok(()) }
    }

    /// Every gate, for a command that was sent to this unit.
    pub(crate) fn passes(&self, nexus: &Nexus, command: &Command, cdb: Cdb<'_>) -> Result<(), Failure> {
        self.gates(nexus, command, cdb)?;
        Ok(self.sanitizing().admits(command.operation)?)
    }

    /// May this nexus have `command` carried out here on behalf of another unit? What waits to be told waits on.
    pub(crate) fn admits(&self, nexus: &Nexus, command: &Command) -> Result<(), Failure> {
        let state = self.state();
        if state.keeps_out(nexus, command, Cdb(&[command.opcode])) {
            return Err(Failure::Status(Status::ReservationConflict));
        }
        if command.writes && (self.options.read_only || state.mode.write_protect) {
            return Err(Sense::WRITE_PROTECTED.into());
        }
        Ok(self.sanitizing().admits(command.operation)?)
    }

    /// Carry a command out. `command` is what the CDB was found to be.
    pub(crate) async fn execute(
        self: &Arc<Self>,
        nexus: &Nexus,
        known: &Command,
        command: &ScsiCommand,
        pool: &BufferPool,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        // Before the gates: whoever closes them waits for those that have a place (`writes_over`).
        let _place = self.place(known.operation).await;
        self.passes(nexus, known, cdb)?;
        match known.operation {
            Operation::Read => self.read(command, pool).await,
            Operation::Write => self.write(command).await,
            Operation::WriteAndVerify => self.write_and_verify(command, pool).await,
            Operation::Verify => self.verify(command, pool).await,
            Operation::SynchronizeCache => self.synchronize(cdb).await,
            Operation::WriteSame => self.write_same(command, pool).await,
            Operation::Unmap => self.unmap(nexus, known, command).await,
            Operation::CompareAndWrite => self.compare_and_write(command, pool).await,
            Operation::OrWrite => self.or_write(command, pool).await,
            Operation::Prefetch => self.prefetch(cdb),
            Operation::WriteAtomic => self.write_atomic(command).await,
            Operation::Sanitize => self.sanitize(nexus, known, command).await,
            Operation::Reserve => self.reserve(nexus, cdb, command).await,
            Operation::PersistentReserveIn => self.persistent_in(cdb, command).await,
            Operation::PersistentReserveOut => self.persistent_out(nexus, cdb, command).await,
            _ => self.without_medium(nexus, known, command),
        }
    }

    fn without_medium(
        &self,
        nexus: &Nexus,
        known: &Command,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        let cdb = Cdb(&command.cdb);
        let info = self.device.info();
        Ok(match known.operation {
            Operation::Inquiry => {
                inquiry::inquiry(cdb, &self.identity, &*self.device, nexus, self.is_thin())?
            }
            Operation::ReadCapacity10 => capacity::read_capacity_10(cdb, &info)?,
            Operation::ReadCapacity16 => capacity::read_capacity_16(cdb, &info)?,
            Operation::GetLbaStatus => capacity::get_lba_status(cdb, &*self.device)?,
            Operation::ModeSense => {
                let state = self.state();
                mode::sense(cdb, self.facts(&state), state.mode)?
            }
            Operation::ModeSelect => self.mode_select(nexus, cdb, command)?,
            Operation::RequestSense => self.request_sense(nexus, cdb),
            Operation::Release => self.release(nexus)?,
            Operation::ReportOpcodes => report::opcodes(cdb, |command| self.supports(command))?,
            Operation::ReportTaskManagement => report::task_management(cdb),
            Operation::ReportPortGroups => {
                ScsiResponse::parameters(ports::report(cdb, &self.each_port())?, cdb.u32(6) as usize)
            }
            Operation::SetPortGroups => self.set_port_groups(nexus, cdb, command)?,
            Operation::LogSense => {
                let resources = self.state().thin.resources;
                log::sense(cdb, resources.map(|resources| (resources, self.default_thresholds().1)))?
            }
            Operation::ReadDefectData => report::defects(cdb),
            // The default self-test is passed; others are not there (SPC-4).
            Operation::SendDiagnostic if cdb.byte(1) & 0xe4 != 4 && cdb.byte(1) & 0xe0 != 0 => {
                return Err(Sense::INVALID_FIELD.into());
            }
            Operation::TestUnitReady
            | Operation::StartStopUnit
            | Operation::PreventAllow
            | Operation::SendDiagnostic => ScsiResponse::good(),
            // Dispatched elsewhere.
            _ => return Err(Sense::INVALID_OPCODE.into()),
        })
    }

    fn set_port_groups(
        &self,
        nexus: &Nexus,
        cdb: Cdb<'_>,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        let asked = cdb.u32(6);
        if asked > 0 {
            let list = command.data_out.get(..asked as usize).ok_or(Sense::PARAMETER_LENGTH)?;
            for (port, state) in ports::wishes(list, &self.each_port(), nexus.relative_target_port)? {
                port.set(state, Some(nexus));
            }
        }
        Ok(ScsiResponse { data_out_wanted: asked.into(), ..ScsiResponse::good() })
    }

    fn mode_select(
        &self,
        nexus: &Nexus,
        cdb: Cdb<'_>,
        command: &ScsiCommand,
    ) -> Result<ScsiResponse, Failure> {
        let mut state = self.state();
        let new = mode::select(cdb, &command.data_out, self.facts(&state), state.mode)?;
        let changed = new != state.mode;
        let old = std::mem::replace(&mut state.mode, new);
        if changed {
            // Also makes the mode visible to `gates` and `descriptor_sense`.
            state.attentions.raise(Sense::MODE_CHANGED, Some(nexus));
            self.make_exceptional();
            state.thresholds_set(nexus, old.thresholds, self.default_thresholds().0);
            self.watch(&mut state);
        }
        drop(state);
        let wanted = if cdb.opcode() == 0x15 { usize::from(cdb.byte(4)) } else { usize::from(cdb.u16(7)) };
        Ok(ScsiResponse { data_out_wanted: wanted as u64, ..ScsiResponse::good() })
    }

    /// REQUEST SENSE gives a waiting unit attention, as data, or how far sanitizing is.
    fn request_sense(&self, nexus: &Nexus, cdb: Cdb<'_>) -> ScsiResponse {
        let waiting = self.state().attentions.next(nexus);
        let sense = waiting.or_else(|| self.sanitizing().obstacle()).unwrap_or(Sense::NONE);
        ScsiResponse::parameters(sense.encode(cdb.byte(1) & 1 != 0), usize::from(cdb.byte(4)))
    }
}
