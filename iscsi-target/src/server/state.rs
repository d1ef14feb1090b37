//! What the tasks of one connection share: its numbers, its commands under way, its responses.
//!
//! | a command is | it has | it leaves by |
//! |---|---|---|
//! | `Receiving` | a transfer, perhaps a buffer | its last data: ready |
//! | `Dormant` | all its data, and waits for its turn (`Order`) | the end of what it waits for |
//! | `Running` | been given to its logical unit | its response, or silently if it was aborted |
//! | `Settled` | done its work, and waits for commands that it aborted | the same |
//!
//! Everything here lives on one worker: `RefCell`s, never borrowed across an await.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use block_io::Buffer;
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use super::send::SendQueue;
use crate::login::parameters::Parameters;
use crate::pdu::response::{self, STAT_SN_OFFSET};
use crate::pdu::{BHS_BYTES, Bhs, NO_TAG, opcode, request, three_bytes};
use crate::scsi::{LogicalUnit, Nexus};
use crate::session::order::{Attribute, Order};
use crate::session::transfer::Transfer;
use crate::session::window::Window;

/// A command and what is needed to answer it.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) header: request::ScsiCommand,
    pub(super) attribute: Attribute,
    pub(super) phase: Phase,
    pub(super) aborted: bool,
    /// Tells a command that may take long that it was aborted.
    pub(super) abort: Option<tokio::sync::watch::Sender<bool>>,
    /// Told when the command has ended.
    pub(super) waiters: Vec<oneshot::Sender<()>>,
}

#[derive(Debug)]
pub(super) enum Phase {
    Receiving(Box<Incoming>),
    Dormant(Bytes),
    /// In this unit, whatever becomes of the LUN; none where there is none.
    Running(Option<Arc<LogicalUnit>>),
    Settled,
}

/// Write data on its way in.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) transfer: Transfer,
    /// The command's data; away while a segment is being received into it. `None` where nothing is kept.
    pub(super) buffer: Option<Buffer>,
    /// Bytes the command will be given.
    pub(super) total: usize,
    /// There is no memory for it: TASK SET FULL when its turn has come.
    pub(super) turned_away: bool,
    /// Its CmdSN has had its turn.
    pub(super) arrived: bool,
}

/// What waits in the window for its CmdSN.
#[derive(Debug)]
pub(super) enum Early {
    Command(u32),
    Other(Bhs, Vec<u8>),
}

/// The state of a connection in full feature phase.
#[derive(Debug)]
pub(super) struct State {
    pub(super) nexus: Nexus,
    pub(super) parameters: Parameters,
    pub(super) window: RefCell<Window<Early>>,
    pub(super) tasks: RefCell<HashMap<u32, Task>>,
    pub(super) orders: RefCell<HashMap<u64, Order<u32>>>,
    pub(super) queue: RefCell<SendQueue>,
    pub(super) stat_sn: Cell<u32>,
    /// Something was queued, or a task ended.
    pub(super) wake: Notify,
    /// The connection is gone: nothing is queued any more.
    pub(super) closed: Cell<bool>,
    pub(super) commands: Cell<u64>,
    /// Task management functions under way.
    pub(super) managing: Cell<usize>,
}

impl State {
    pub(super) fn new(nexus: Nexus, parameters: Parameters, cmd_sn: u32, stat_sn: u32) -> Rc<Self> {
        let queue = SendQueue::new(parameters.framing());
        Rc::new(Self {
            nexus,
            parameters,
            window: RefCell::new(Window::new(cmd_sn)),
            tasks: RefCell::default(),
            orders: RefCell::default(),
            queue: RefCell::new(queue),
            stat_sn: Cell::new(stat_sn),
            wake: Notify::new(),
            closed: Cell::new(false),
            commands: Cell::new(0),
            managing: Cell::new(0),
        })
    }

    /// Queue a header whose StatSN is the next one and is used up by it.
    pub(super) fn send<H: IntoBytes + zerocopy::Immutable>(&self, header: &H, data: Bytes) {
        let stat_sn = self.stat_sn.get();
        self.stat_sn.set(stat_sn.wrapping_add(1));
        self.push(header, data, Some(stat_sn));
    }

    /// Queue a header that shows the next StatSN without using it (R2T, NOP-In that asks; RFC 7143 section 11.8).
    pub(super) fn send_unnumbered<H: IntoBytes + zerocopy::Immutable>(&self, header: &H, data: Bytes) {
        self.push(header, data, Some(self.stat_sn.get()));
    }

    /// Queue a Data-In without status, which has no StatSN.
    pub(super) fn send_data(&self, header: &response::DataIn, data: Bytes) {
        self.push(header, data, None);
    }

    fn push<H: IntoBytes + zerocopy::Immutable>(&self, header: &H, data: Bytes, stat_sn: Option<u32>) {
        if self.closed.get() {
            return;
        }
        let mut bytes = [0; BHS_BYTES];
        bytes.copy_from_slice(header.as_bytes());
        let window = self.window.borrow();
        let numbers = [stat_sn.unwrap_or(0), window.exp_cmd_sn(), window.max_cmd_sn()];
        for (index, number) in numbers.into_iter().enumerate() {
            let at = STAT_SN_OFFSET + index * 4;
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        self.queue.borrow_mut().push(bytes, data);
        self.wake.notify_one();
    }

    /// Reject a PDU (RFC 7143 section 11.17).
    pub(super) fn reject(&self, reason: response::RejectReason, header: &Bhs) {
        self.send(&response::reject(reason), Bytes::copy_from_slice(header.as_bytes()));
    }

    pub(super) fn send_r2t(
        &self,
        task: &request::ScsiCommand,
        tag: u32,
        r2t_sn: u32,
        offset: u32,
        length: u32,
    ) {
        let header = response::R2t {
            opcode: opcode::R2T,
            flags: crate::pdu::FINAL,
            reserved: [0; 2],
            total_ahs_length: 0,
            data_segment_length: [0; 3],
            lun: task.lun,
            initiator_task_tag: task.initiator_task_tag,
            target_transfer_tag: U32::new(tag),
            stat_sn: U32::new(0),
            exp_cmd_sn: U32::new(0),
            max_cmd_sn: U32::new(0),
            r2t_sn: U32::new(r2t_sn),
            buffer_offset: U32::new(offset),
            desired_data_transfer_length: U32::new(length),
        };
        self.send_unnumbered(&header, Bytes::new());
    }

    /// Queue the end of a command: its data, then its status, together where they may be (RFC 7143 section 11.7.3).
    pub(super) fn respond(&self, command: &request::ScsiCommand, response: &crate::scsi::ScsiResponse) {
        let expected = command.expected_data_transfer_length.get();
        let reads = command.flags & request::COMMAND_READ != 0;
        let data = if reads {
            response.data_in.slice(..response.data_in.len().min(expected as usize))
        } else {
            Bytes::new()
        };
        let good = response.status == crate::scsi::Status::Good && response.sense.is_empty();
        let residual = residual(command, response, data.len() as u64);
        let data_pdus = self.send_data_in(command, &data, good.then_some(residual));
        if data_pdus > 0 && good {
            return;
        }
        let (flags, residual_count) = residual;
        let mut sense = Vec::new();
        if !response.sense.is_empty() {
            sense.extend_from_slice(&(response.sense.len() as u16).to_be_bytes());
            sense.extend_from_slice(&response.sense);
        }
        let header = response::ScsiResponse {
            opcode: opcode::SCSI_RESPONSE,
            flags: crate::pdu::FINAL | flags,
            response: 0,
            status: response.status as u8,
            total_ahs_length: 0,
            data_segment_length: three_bytes(sense.len()),
            reserved: [0; 8],
            initiator_task_tag: command.initiator_task_tag,
            snack_tag: U32::new(0),
            stat_sn: U32::new(0),
            exp_cmd_sn: U32::new(0),
            max_cmd_sn: U32::new(0),
            exp_data_sn: U32::new(data_pdus),
            bidirectional_residual: U32::new(0),
            residual_count: U32::new(residual_count),
        };
        self.send(&header, sense.into());
    }

    /// Cut data at MaxRecvDataSegmentLength and MaxBurstLength. With `status`, the last PDU carries it.
    fn send_data_in(&self, command: &request::ScsiCommand, data: &Bytes, status: Option<(u8, u32)>) -> u32 {
        let (segment, burst) =
            (self.parameters.initiator_max_recv as usize, self.parameters.max_burst as usize);
        let (mut offset, mut data_sn) = (0, 0);
        while offset < data.len() {
            let burst_end = (offset / burst + 1) * burst;
            let end = data.len().min(offset + segment).min(burst_end);
            let last = end == data.len();
            let mut header = response::DataIn {
                opcode: opcode::DATA_IN,
                flags: if last || end == burst_end { crate::pdu::FINAL } else { 0 },
                reserved: 0,
                status: 0,
                total_ahs_length: 0,
                data_segment_length: three_bytes(end - offset),
                lun: 0.into(),
                initiator_task_tag: command.initiator_task_tag,
                target_transfer_tag: U32::new(NO_TAG),
                stat_sn: U32::new(0),
                exp_cmd_sn: U32::new(0),
                max_cmd_sn: U32::new(0),
                data_sn: U32::new(data_sn),
                buffer_offset: U32::new(offset as u32),
                residual_count: U32::new(0),
            };
            match status {
                Some((flags, residual_count)) if last => {
                    header.flags |= response::DATA_IN_STATUS | flags;
                    header.residual_count = U32::new(residual_count);
                    self.send(&header, data.slice(offset..end));
                }
                _ => self.send_data(&header, data.slice(offset..end)),
            }
            data_sn += 1;
            offset = end;
        }
        data_sn
    }

    /// Commands and task management functions that are not over.
    pub(super) fn under_way(&self) -> usize {
        self.tasks.borrow().len() + self.managing.get()
    }
}

/// Residual flags and count (RFC 7143 section 11.4.1): how what the command wanted differs from what was expected.
fn residual(command: &request::ScsiCommand, response: &crate::scsi::ScsiResponse, sent: u64) -> (u8, u32) {
    let expected = u64::from(command.expected_data_transfer_length.get());
    let writes = command.flags & request::COMMAND_WRITE != 0;
    let wanted = if writes { response.data_out_wanted } else { response.data_in_wanted.max(sent) };
    let count = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
    match wanted.cmp(&expected) {
        std::cmp::Ordering::Greater => (response::OVERFLOW, count(wanted - expected)),
        std::cmp::Ordering::Less => (response::UNDERFLOW, count(expected - wanted)),
        std::cmp::Ordering::Equal => (0, 0),
    }
}
