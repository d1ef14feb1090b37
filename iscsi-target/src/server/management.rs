//! Task management (RFC 7143 section 11.5, SAM-5 clause 7). A function is answered only once what it aborted can no
//! longer change data.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::commands::Commands;
use super::link::Errand;
use super::state::{Early, Phase, Task};
use crate::limits;
use crate::pdu::{Bhs, opcode, request, response, serial_before};
use crate::registry::{SessionMessage, TargetRegistry, tell};
use crate::scsi::{LogicalUnit, Preempted};

/// Responses (RFC 7143 section 11.6.1).
const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
const NO_LUN: u8 = 2;
const REASSIGN_UNSUPPORTED: u8 = 4;
const UNSUPPORTED: u8 = 5;

/// Functions (RFC 7143 section 11.5.1).
const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_TASK_SET: u8 = 4;
const UNIT_RESET: u8 = 5;
const WARM_RESET: u8 = 6;
const COLD_RESET: u8 = 7;
const REASSIGN: u8 = 8;

impl Commands {
    /// Carry out a task management function; the answer follows when it is done.
    pub(super) fn manage(&self, header: &request::TaskManagement) {
        let (registry, session) = (&self.registry, self.session);
        let lun = header.lun.get();
        let tag = header.initiator_task_tag.get();
        let function = header.function & 0x7f;
        let all = matches!(function, WARM_RESET | COLD_RESET);
        // A target is to a nexus what it sees of it: a reset does not reach units that are masked from it.
        let meant = self.target.luns.meant(&self.state.nexus, (!all).then_some(lun));
        if matches!(function, ABORT_TASK_SET | CLEAR_TASK_SET | UNIT_RESET) && meant.is_empty() {
            return self.answer(tag, NO_LUN);
        }
        let units = registry.views_of(&meant);
        let is_before = self.those_before(header);
        let running = match function {
            ABORT_TASK => match self.abort_one(header) {
                Ok(running) => running,
                Err(code) => return self.answer(tag, code),
            },
            ABORT_TASK_SET | CLEAR_TASK_SET | UNIT_RESET => {
                self.abort(|_, task| is_before(task) && self.concerns(task, &units))
            }
            WARM_RESET | COLD_RESET => {
                self.pass_over_all_before(header.cmd_sn.get());
                self.abort(|_, task| is_before(task))
            }
            REASSIGN => return self.answer(tag, REASSIGN_UNSUPPORTED),
            _ => return self.answer(tag, UNSUPPORTED),
        };
        let (this, registry) = (self.clone(), Arc::clone(registry));
        self.state.managing.set(self.state.managing.get() + 1);
        tokio::task::spawn_local(async move {
            for task in running {
                // An error means that it ended otherwise.
                let _ = task.await;
            }
            // Task sets are each nexus's own: only resets end the tasks of others.
            if matches!(function, UNIT_RESET | WARM_RESET | COLD_RESET) {
                this.end_others_tasks(&registry, session, &units).await;
                for (index, unit) in units.iter().enumerate() {
                    if units[..index].iter().any(|other| other.is_view_of(unit)) {
                        // Reset already; what was set in it since stays.
                        continue;
                    }
                    // Also by a LUN that is gone by now, or by a copy that was sent to another unit.
                    unit.writes_over().await;
                    unit.reset();
                }
            }
            this.state.managing.set(this.state.managing.get() - 1);
            this.open_window();
            this.answer(tag, COMPLETE);
            if function == COLD_RESET {
                for other in registry.others_behind(&this.target, &units, session) {
                    tell(&other, |done| SessionMessage::Drop { done }).await;
                }
                // The one that asked for it has its answer, and is last.
                this.state.ending.set(true);
                this.state.open_links().iter().for_each(|link| link.ask(Errand::Drop));
            }
        });
    }

    fn abort_one(&self, header: &request::TaskManagement) -> Result<Vec<oneshot::Receiver<()>>, u8> {
        let referenced = header.referenced_task_tag.get();
        let (there, same_lun) = {
            let tasks = self.state.tasks.borrow();
            let task = tasks.get(&referenced);
            (task.is_some(), task.is_none_or(|task| task.header.lun == header.lun))
        };
        match (there, same_lun) {
            (true, true) => Ok(self.abort(|tag, _| tag == referenced)),
            (false, _) if self.passes_over(header.ref_cmd_sn.get(), header.cmd_sn.get()) => Ok(Vec::new()),
            _ => Err(NO_TASK),
        }
    }

    /// A task that was sent before the function and has not come counts as received from here on: it is as good as aborted, and
    /// those after it do not wait for it (RFC 7143 section 11.5.1).
    fn passes_over(&self, ref_cmd_sn: u32, cmd_sn: u32) -> bool {
        let mut window = self.state.window.borrow_mut();
        let may_come = window.admits(ref_cmd_sn) && !window.keeps(ref_cmd_sn);
        if !may_come || !serial_before(ref_cmd_sn, cmd_sn) {
            return false;
        }
        // The caller looks who has a turn by that.
        let _ = window.arrive(ref_cmd_sn, Early::Nothing);
        true
    }

    /// The same for all that a reset of the target has overtaken (RFC 7143 section 4.2.3.3).
    fn pass_over_all_before(&self, cmd_sn: u32) {
        let mut number = self.state.window.borrow().exp_cmd_sn();
        while self.state.window.borrow().admits(number) && serial_before(number, cmd_sn) {
            if self.passes_over(number, cmd_sn) {
                let mut passed_over = self.state.passed_over.borrow_mut();
                passed_over.insert(number);
                // Most never come: the connection that they were sent by is gone.
                if passed_over.len() > limits::QUEUE_DEPTH as usize {
                    passed_over.pop_first();
                }
            }
            number = number.wrapping_add(1);
        }
    }

    /// Functions for all tasks of a unit wait for the commands that were sent before them (RFC 7143 section 4.2.3.3).
    pub(super) fn must_wait(&self, header: &request::TaskManagement) -> bool {
        let cmd_sn = header.cmd_sn.get();
        let window = self.state.window.borrow();
        if self.state.parameters.max_connections == 1 {
            // Nothing overtakes there.
            return false;
        }
        // Beyond the window is no number of ours: nothing could come up to it.
        let is_ahead = serial_before(window.exp_cmd_sn(), cmd_sn) && window.admits(cmd_sn.wrapping_sub(1));
        is_ahead && matches!(header.function & 0x7f, ABORT_TASK_SET | CLEAR_TASK_SET | UNIT_RESET)
    }

    /// The next of those that need to wait no longer.
    pub(super) fn no_longer_held(&self) -> Option<(u16, Bhs)> {
        let mut held = self.state.held.borrow_mut();
        let is_due = |(_, header): &(u16, Bhs)| !self.must_wait(&header.view());
        held.iter().position(is_due).map(|index| held.remove(index))
    }

    /// Which tasks were sent before the function? By one connection all that are here; over several the numbers tell.
    fn those_before(&self, header: &request::TaskManagement) -> impl Fn(&Task) -> bool + use<> {
        let cmd_sn = header.cmd_sn.get();
        let is_alone = self.state.parameters.max_connections == 1;
        move |task: &Task| {
            let number = task.header.cmd_sn.get();
            is_alone || serial_before(number, cmd_sn) || (number == cmd_sn && task.is_immediate())
        }
    }

    /// Abort every task of this session in one of these units, by whatever LUN.
    pub(super) fn abort_units(&self, units: &[Arc<LogicalUnit>]) -> Vec<oneshot::Receiver<()>> {
        self.abort(|_, task| self.concerns(task, units))
    }

    /// A task that runs is in the unit it was given to, though its LUN may mean another by now, or none.
    fn concerns(&self, task: &Task, units: &[Arc<LogicalUnit>]) -> bool {
        match &task.phase {
            Phase::Running(unit) => {
                unit.as_ref().is_some_and(|unit| units.iter().any(|other| unit.is_view_of(other)))
            }
            _ => self.target.luns.is_one_of(&self.state.nexus, task.header.lun.get(), units),
        }
    }

    /// End the commands of nexuses that `tag` has preempted (SPC-4 clause 5.12.11.5). Of two that preempt each other one has the
    /// turn; the other, which waits for it, is ended.
    pub(super) async fn end_preempted(&self, tag: u32, preempted: &Preempted) {
        let units = std::slice::from_ref(&preempted.unit);
        let mut own = Vec::new();
        if preempted.nexuses.iter().any(|nexus| nexus.is(&self.state.nexus)) {
            own = self.abort(|other, task| other != tag && self.concerns(task, units));
        }
        self.registry.end_preempted(preempted, self.session).await;
        for task in own {
            // An error means that it ended otherwise.
            let _ = task.await;
        }
        // Copies were sent to one unit and write to another.
        preempted.unit.writes_over().await;
    }

    /// The tasks that others have in these units end, by whatever target they came.
    async fn end_others_tasks(&self, registry: &TargetRegistry, session: u64, units: &[Arc<LogicalUnit>]) {
        for other in registry.others_at(units, session) {
            tell(&other, |done| SessionMessage::Abort { units: units.to_vec(), done }).await;
        }
    }

    fn answer(&self, tag: u32, code: u8) {
        let mut header = response::plain(opcode::TASK_MANAGEMENT_RESPONSE, tag);
        header.response = code;
        // Reserved there.
        header.target_transfer_tag = 0.into();
        self.link.send(&header, Bytes::new());
    }
}
