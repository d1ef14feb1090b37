//! The life of a SCSI command between its last byte and its response.

use std::rc::Rc;

use block_io::BufferPool;
use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::connection::Shape;
use super::link::Link;
use super::state::{Early, Incoming, Meant, Phase, State, Task};
use crate::limits;
use crate::pdu::{Bhs, request};
use crate::registry::{Target, TargetRegistry};
use crate::scsi::{LunMap, ScsiCommand, ScsiResponse, Sense, Status, command_table};
use crate::session::order::Attribute;
use crate::session::transfer::{Next, Transfer};
use crate::session::window::Arrival;

/// Everything a command's task needs; cheap to clone.
#[derive(Clone)]
pub(super) struct Commands {
    pub(super) state: Rc<State>,
    /// The connection that it is about.
    pub(super) link: Rc<Link>,
    pub(super) target: std::sync::Arc<Target>,
    pub(super) pool: BufferPool,
    /// For what the device server reads itself.
    pub(super) parameter_pool: BufferPool,
    pub(super) registry: std::sync::Arc<TargetRegistry>,
    pub(super) session: u64,
}

impl Commands {
    /// A command is here, with its immediate data in `incoming`'s buffer.
    pub(super) fn arrived(&self, header: request::ScsiCommand, incoming: Incoming, bhs: &Bhs) {
        let tag = header.initiator_task_tag.get();
        let task = Task {
            header,
            link: Rc::clone(&self.link),
            attribute: Attribute::from_flags(header.flags),
            phase: Phase::Receiving(Box::new(incoming)),
            aborted: false,
            abort: None,
            waiters: Vec::new(),
        };
        self.state.tasks.borrow_mut().insert(tag, task);
        if bhs.is_immediate() {
            return self.its_turn(tag);
        }
        let cmd_sn = header.cmd_sn.get();
        let arrival = self.state.window.borrow_mut().arrive(cmd_sn, Early::Command { tag, cmd_sn });
        self.open_window();
        if let Arrival::Now(_) = arrival {
            self.its_turn(tag);
        }
    }

    /// The turn of a command that came early, unless it was aborted meanwhile.
    pub(super) fn its_late_turn(&self, tag: u32, cmd_sn: u32) {
        let is_it = |task: &Task| task.header.cmd_sn.get() == cmd_sn && !task.is_immediate();
        let is_there = self.state.tasks.borrow().get(&tag).is_some_and(is_it);
        if is_there {
            self.its_turn(tag);
        }
    }

    /// The command's CmdSN has come: from here on nothing but its data holds it up.
    pub(super) fn its_turn(&self, tag: u32) {
        let next = {
            let mut tasks = self.state.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&tag) else { return };
            let Phase::Receiving(incoming) = &mut task.phase else { return };
            incoming.arrived = true;
            incoming.heard = Instant::now();
            incoming.transfer.begin(task.header.flags & crate::pdu::FINAL != 0 || incoming.ended_early)
        };
        self.go_on(tag, next);
    }

    /// A sequence of data has ended, or will go on by itself.
    pub(super) fn go_on(&self, tag: u32, next: Next) {
        match next {
            Next::Wait => {}
            Next::Solicit { r2t_sn, offset, length } => {
                let mut tasks = self.state.tasks.borrow_mut();
                let Some(Task { header, link, phase: Phase::Receiving(incoming), .. }) = tasks.get_mut(&tag)
                else {
                    return;
                };
                incoming.heard = Instant::now();
                link.send_r2t(header, incoming.transfer.target_transfer_tag(), r2t_sn, offset, length);
            }
            Next::Complete => self.ready(tag),
        }
    }

    /// All its data is here.
    fn ready(&self, tag: u32) {
        let (lun, attribute) = {
            let mut tasks = self.state.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&tag) else { return };
            let Phase::Receiving(incoming) = &mut task.phase else { return };
            let spoilt = incoming.transfer.spoilt().map(|spoilt| {
                let (asc, ascq) = spoilt.codes();
                Sense::new(0x0b, asc, ascq)
            });
            let ending = match (spoilt, incoming.shape) {
                (Some(sense), _) => Some((Status::CheckCondition, Some(sense))),
                (None, Shape::Unsupported { .. }) => {
                    Some((Status::CheckCondition, Some(Sense::INVALID_OPCODE)))
                }
                (None, Shape::TurnedAway) => Some((Status::TaskSetFull, None)),
                (None, Shape::Ordinary) => None,
            };
            if let Some((status, sense)) = ending {
                drop(tasks);
                return self.end_without_running(tag, status, sense);
            }
            let data = incoming.buffer.take().map_or_else(Bytes::new, |mut buffer| {
                buffer.truncate(incoming.total);
                buffer.freeze()
            });
            task.phase = Phase::Dormant { data, meant: incoming.meant.clone() };
            (task.header.lun.get(), task.attribute)
        };
        let starts = self.state.orders.borrow_mut().entry(lun).or_default().arrive(attribute, tag);
        if let Some(tag) = starts {
            self.run(tag);
        }
    }

    /// Answer a command that never reaches its logical unit.
    fn end_without_running(&self, tag: u32, status: Status, sense: Option<Sense>) {
        let Some(task) = self.state.tasks.borrow_mut().remove(&tag) else { return };
        let unread = match &task.phase {
            Phase::Receiving(incoming) => incoming.shape.read_bytes(),
            _ => 0,
        };
        let sense = sense.map_or_else(Vec::new, |sense| sense.encode(false));
        let response = ScsiResponse { status, sense, ..ScsiResponse::good() };
        self.open_window();
        task.link.respond_unread(&task.header, &response, unread);
        for waiter in task.waiters {
            let _ = waiter.send(());
        }
    }

    /// Hand a command to its logical unit, as a task that runs to its end whatever becomes of the connection.
    fn run(&self, tag: u32) {
        let (command, unit, is_another) = {
            let mut tasks = self.state.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&tag) else { return };
            let unit = self.target.luns.unit(&self.state.nexus, task.header.lun.get());
            let running = Phase::Running(unit.clone());
            let Phase::Dormant { data: data_out, meant } = std::mem::replace(&mut task.phase, running) else {
                return;
            };
            let is_another = LunMap::is_for_one_unit(&task.header.cdb)
                && unit.as_deref().is_some_and(|unit| !meant.is(unit));
            let header = &task.header;
            let (reads, writes) =
                (header.flags & request::COMMAND_READ != 0, header.flags & request::COMMAND_WRITE != 0);
            let expected = header.expected_data_transfer_length.get();
            let short_of_memory =
                reads && self.pool.used_bytes() + expected as usize > self.pool.capacity_bytes() / 2;
            let abort = (short_of_memory || command_table::may_take_long(header.cdb[0])).then(|| {
                let (sender, receiver) = watch::channel(false);
                task.abort = Some(sender);
                receiver
            });
            let command = ScsiCommand {
                lun: header.lun.get(),
                cdb: SmallVec::from_slice(&header.cdb),
                data_out,
                expected_data_out: if writes { expected } else { 0 },
                expected_data_in: if reads { expected } else { 0 },
                abort,
            };
            (command, unit, is_another)
        };
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let response = match unit {
                Some(unit) if is_another => LunMap::was_for_another(&this.state.nexus, &unit, &command.cdb),
                unit => this.target.luns.execute_in(unit, &this.state.nexus, command, &this.pool).await,
            };
            if let Some(preempted) = &response.preempted {
                this.end_preempted(tag, preempted).await;
            }
            this.ended(tag, &response);
        });
    }

    fn ended(&self, tag: u32, response: &ScsiResponse) {
        let Some(task) = self.state.tasks.borrow_mut().remove(&tag) else { return };
        self.open_window();
        if !task.aborted {
            task.link.respond(&task.header, response);
        }
        let lun = task.header.lun.get();
        let starting = self.end_in_order(lun, task.attribute);
        for waiter in task.waiters {
            // Whoever waited may have gone with its connection.
            let _ = waiter.send(());
        }
        for tag in starting {
            self.run(tag);
        }
        task.link.wake.notify_one();
    }

    fn end_in_order(&self, lun: u64, attribute: Attribute) -> Vec<u32> {
        let mut orders = self.state.orders.borrow_mut();
        let Some(order) = orders.get_mut(&lun) else { return Vec::new() };
        let starting = order.ended(attribute);
        if order.is_idle() {
            orders.remove(&lun);
        }
        starting
    }

    pub(super) fn open_window(&self) {
        self.state.window.borrow_mut().open(self.state.under_way());
    }

    /// Abort tasks for which `which` holds. Those that do not run are gone at once; the others are waited for by what is given.
    pub(super) fn abort(&self, which: impl Fn(u32, &Task) -> bool) -> Vec<oneshot::Receiver<()>> {
        let mut running = Vec::new();
        let mut gone = Vec::new();
        self.state.tasks.borrow_mut().retain(|&tag, task| {
            if !which(tag, task) {
                return true;
            }
            if !matches!(task.phase, Phase::Running(_)) {
                gone.push(tag);
                return false;
            }
            task.aborted = true;
            if let Some(abort) = &task.abort {
                abort.send_replace(true);
            }
            let (sender, receiver) = oneshot::channel();
            task.waiters.push(sender);
            running.push(receiver);
            true
        });
        for order in self.state.orders.borrow_mut().values_mut() {
            order.remove(|tag| gone.contains(tag));
        }
        self.open_window();
        running
    }

    /// What the transfer of a new command will be.
    pub(super) fn incoming(
        &self,
        header: &request::ScsiCommand,
        shape: Shape,
        immediate: u32,
        tag: u32,
    ) -> Incoming {
        let expected = header.expected_data_transfer_length.get();
        let writes = header.flags & request::COMMAND_WRITE != 0;
        let offered = if writes { expected } else { 0 };
        let unit = self.target.luns.unit(&self.state.nexus, header.lun.get());
        let wanted = LunMap::data_out_wanted(unit.as_deref(), &header.cdb).unwrap_or(0);
        let most = match LunMap::wants_parameters(&header.cdb) {
            true => limits::MAX_PARAMETER_LIST_BYTES,
            false => limits::MAX_COMMAND_BYTES,
        };
        let kept = shape == Shape::Ordinary && wanted <= most;
        let wanted = if kept { wanted as u32 } else { 0 };
        let total = wanted.min(offered);
        let is_final = header.flags & crate::pdu::FINAL != 0;
        let transfer = Transfer::new(&self.state.parameters, total, offered, immediate, is_final, tag);
        let now = Instant::now();
        Incoming {
            transfer,
            shape,
            meant: Meant::new(unit.as_ref()),
            buffer: None,
            total: total as usize,
            arrived: false,
            ended_early: false,
            began: now,
            heard: now,
            held: None,
        }
    }
}
