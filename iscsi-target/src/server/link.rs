//! One connection of a session, as the tasks see it: its numbers, its responses, and what it is asked to do.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::Notify;
use zerocopy::IntoBytes;
use zerocopy::big_endian::U32;

use super::send::SendQueue;
use super::state::{Early, residual};
use crate::login::parameters::Parameters;
use crate::pdu::response::{self, STAT_SN_OFFSET};
use crate::pdu::{BHS_BYTES, Bhs, NO_TAG, opcode, request, three_bytes};
use crate::registry::Connected;
use crate::scsi::Sense;
use crate::session::window::Window;

/// What a connection is asked to do by others of its session, or by the session itself.
#[derive(Debug)]
pub(super) enum Errand {
    /// A PDU that came by it has its turn.
    Pdu(Bhs, Vec<u8>),
    /// Say that the session is dropped, and close.
    Drop,
    /// Close: the initiator has asked for it.
    Close,
    /// Ask for a logout.
    LogOut,
    /// Tell of a change.
    Tell(u64, Sense),
}

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    /// CID.
    pub(super) cid: u16,
    pub(super) connected: Connected,
    pub(super) parameters: Parameters,
    /// The longest data segment that the initiator takes: it may say so anew at any time.
    pub(super) max_recv: Cell<u32>,
    window: Rc<RefCell<Window<Early>>>,
    pub(super) queue: RefCell<SendQueue>,
    stat_sn: Cell<u32>,
    /// Something was queued, a task ended, or there is an errand.
    pub(super) wake: Notify,
    /// The connection is gone: nothing is queued any more.
    pub(super) closed: Cell<bool>,
    /// None of its commands runs any more.
    pub(super) over: Notify,
    errands: RefCell<VecDeque<Errand>>,
}

impl Link {
    pub(super) fn new(
        cid: u16,
        connected: Connected,
        parameters: Parameters,
        window: &Rc<RefCell<Window<Early>>>,
        stat_sn: u32,
    ) -> Rc<Self> {
        let queue = SendQueue::new(parameters.framing());
        Rc::new(Self {
            cid,
            connected,
            max_recv: Cell::new(parameters.initiator_max_recv),
            parameters,
            window: Rc::clone(window),
            queue: RefCell::new(queue),
            stat_sn: Cell::new(stat_sn),
            wake: Notify::new(),
            closed: Cell::new(false),
            over: Notify::new(),
            errands: RefCell::default(),
        })
    }

    /// Have it do something when it comes to it.
    pub(super) fn ask(&self, errand: Errand) {
        self.errands.borrow_mut().push_back(errand);
        self.wake.notify_one();
    }

    /// It has come to this, but cannot do it yet.
    pub(super) fn keep(&self, errand: Errand) {
        self.errands.borrow_mut().push_back(errand);
    }

    /// What it was asked for next.
    pub(super) fn next_errand(&self) -> Option<Errand> {
        self.errands.borrow_mut().pop_front()
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
        self.respond_unread(command, response, 0);
    }

    /// The same for a bidirectional command of which `unread` bytes were to be read and none are.
    pub(super) fn respond_unread(
        &self,
        command: &request::ScsiCommand,
        response: &crate::scsi::ScsiResponse,
        unread: u32,
    ) {
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
        let sense =
            if response.sense.is_empty() { Vec::new() } else { response::with_length(&response.sense) };
        let read_flags = if unread > 0 { response::READ_UNDERFLOW } else { 0 };
        let header = response::ScsiResponse {
            opcode: opcode::SCSI_RESPONSE,
            flags: crate::pdu::FINAL | flags | read_flags,
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
            bidirectional_residual: U32::new(unread),
            residual_count: U32::new(residual_count),
        };
        self.send(&header, sense.into());
    }

    /// Cut data at MaxRecvDataSegmentLength and MaxBurstLength. With `status`, the last PDU carries it.
    fn send_data_in(&self, command: &request::ScsiCommand, data: &Bytes, status: Option<(u8, u32)>) -> u32 {
        let (segment, burst) = (self.max_recv.get() as usize, self.parameters.max_burst as usize);
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
}
