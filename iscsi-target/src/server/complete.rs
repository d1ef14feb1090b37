//! A PDU is wholly here: whose turn is it, and who takes it?
//!
//! What carries a CmdSN has its turn in the window, also when it was rejected; what is immediate, and data, has it at once.

use std::rc::Rc;

use tokio::time::Instant;

use super::connection::{Connection, Segment, Sink};
use super::ending::Ending;
use super::link::Errand;
use super::placing::Admission;
use super::state::{Early, Phase, Task};
use crate::limits;
use crate::pdu::response::RejectReason;
use crate::pdu::{Bhs, FINAL, opcode, request};
use crate::session::transfer::Spoilt;
use crate::session::window::Arrival;

/// PDUs that have a place among the commands.
fn is_numbered(header: &Bhs) -> bool {
    let opcode = header.opcode();
    let has_cmd_sn = matches!(
        opcode,
        opcode::NOP_OUT | opcode::SCSI_COMMAND | opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT
    );
    has_cmd_sn && !header.is_immediate()
}

impl Connection {
    /// A PDU is wholly here.
    pub(super) fn pdu_complete(&mut self, segment: Segment, intact: bool) -> Result<(), Ending> {
        let header = segment.header;
        match header.opcode() {
            _ if segment.refused => self.pass_over(&header),
            opcode::SCSI_COMMAND if !self.discovery => self.command_complete(segment, intact),
            opcode::DATA_OUT if !self.discovery => self.data_out_complete(segment, intact),
            _ if !intact => self.damaged(&header),
            _ => {
                let data = if let Sink::Collect(bytes) = segment.sink { bytes } else { Vec::new() };
                return self.in_turn(header, data);
            }
        }
        Ok(())
    }

    /// A data digest that does not match, of a PDU that is not just data: it is rejected and discarded. If it had a place
    /// among the commands that stays empty, for at error recovery level 0 nobody sends it again, and so the
    /// session is begun anew (RFC 7143 section 7.8).
    fn damaged(&mut self, header: &Bhs) {
        self.commands.link.reject(RejectReason::DataDigestError, header);
        if is_numbered(header) {
            self.closing = Some(Ending::Protocol("data digest"));
        }
    }

    /// A PDU that was rejected has had its turn all the same: those after it do not wait for it.
    fn pass_over(&mut self, header: &Bhs) {
        if is_numbered(header) {
            let cmd_sn = header.view::<request::NopOut>().cmd_sn.get();
            let arrival = self.commands.state.window.borrow_mut().arrive(cmd_sn, Early::Nothing);
            if matches!(arrival, Arrival::Now(_)) {
                self.commands.open_window();
                self.take_early();
            }
        }
    }

    fn command_complete(&mut self, segment: Segment, intact: bool) {
        let Some(mut incoming) = segment.command else { return };
        if !intact {
            return self.damaged(&segment.header);
        }
        let command: request::ScsiCommand = segment.header.view();
        // While its data came, another connection may have brought the same number or tag.
        match self.admits(&command, segment.header.is_immediate()) {
            Admission::Taken => {}
            Admission::Ignored => return,
            Admission::Refused(reason) => {
                self.commands.link.reject(reason, &segment.header);
                return self.pass_over(&segment.header);
            }
        }
        if let Sink::Buffer { buffer, .. } = segment.sink {
            incoming.buffer = Some(buffer);
        }
        self.commands.arrived(command, *incoming, &segment.header);
        self.take_early();
    }

    fn data_out_complete(&mut self, segment: Segment, intact: bool) {
        let header: request::DataOut = segment.header.view();
        let tag = header.initiator_task_tag.get();
        let next = {
            let mut tasks = self.commands.state.tasks.borrow_mut();
            let Some(Task { phase: Phase::Receiving(incoming), .. }) = tasks.get_mut(&tag) else {
                return;
            };
            if let Sink::Buffer { buffer, .. } = segment.sink {
                incoming.buffer = Some(buffer);
            }
            if segment.ignored {
                return;
            }
            if !intact {
                // It is discarded, and the command ends when all its data has come (RFC 7143 section 7.8).
                self.commands.link.reject(RejectReason::DataDigestError, &segment.header);
                incoming.transfer.spoil(Spoilt::DigestError);
            }
            incoming.heard = Instant::now();
            self.data_heard = incoming.heard;
            let is_final = header.flags & FINAL != 0;
            incoming.ended_early |= is_final;
            if !incoming.arrived {
                return;
            }
            incoming.transfer.after_data(is_final)
        };
        self.commands.go_on(tag, next);
    }

    /// PDUs with a CmdSN of their own wait for their turn, with their data, as far as there is room for that; immediate ones
    /// do not.
    fn in_turn(&mut self, header: Bhs, data: Vec<u8>) -> Result<(), Ending> {
        if !is_numbered(&header) {
            return self.dispatch(&header, data);
        }
        let cmd_sn = header.view::<request::NopOut>().cmd_sn.get();
        let state = Rc::clone(&self.commands.state);
        if state.passed_over.borrow_mut().remove(&cmd_sn) {
            return self.dispatch(&header, data);
        }
        if state.window.borrow().would_keep(cmd_sn) {
            // Hardly anything but commands is early: no memory is spent on more than one text of it for each connection.
            let early_bytes = state.early_bytes.get() + data.len();
            if early_bytes > limits::MAX_TEXT_BYTES * state.links.borrow().len() {
                self.commands.link.reject(RejectReason::OutOfResources, &header);
                self.pass_over(&header);
                return Ok(());
            }
            state.early_bytes.set(early_bytes);
        }
        let early = Early::Other(self.cid(), header, data);
        let arrival = state.window.borrow_mut().arrive(cmd_sn, early);
        if let Arrival::Now(Early::Other(_, header, data)) = arrival {
            self.commands.open_window();
            self.dispatch(&header, data)?;
            self.take_early();
        }
        Ok(())
    }

    /// Whatever came before its time and is due now.
    fn take_early(&mut self) {
        loop {
            let state = Rc::clone(&self.commands.state);
            let next = state.window.borrow_mut().next_early();
            if let Some(Early::Other(_, _, data)) = &next {
                state.early_bytes.set(state.early_bytes.get() - data.len());
            }
            match next {
                Some(Early::Command { tag, cmd_sn }) => self.commands.its_late_turn(tag, cmd_sn),
                Some(Early::Nothing) => {}
                Some(Early::Other(cid, header, data)) => self.hand_to(cid, header, data),
                None => match self.commands.no_longer_held() {
                    Some((cid, header)) => self.hand_to(cid, header, Vec::new()),
                    None => return,
                },
            }
        }
    }

    /// A PDU has its turn, by the connection that it came by. If that is gone it has had its turn.
    fn hand_to(&mut self, cid: u16, header: Bhs, data: Vec<u8>) {
        if cid == self.cid() {
            if let Err(ending) = self.dispatch(&header, data) {
                self.closing = Some(ending);
            }
        } else if let Some(link) = self.commands.state.link(cid) {
            link.ask(Errand::Pdu(header, data));
        }
    }

    fn manage(&mut self, header: &Bhs) {
        let function: request::TaskManagement = header.view();
        let state = Rc::clone(&self.commands.state);
        if state.managing.get() + state.held.borrow().len() >= limits::MAX_IMMEDIATE {
            self.commands.link.reject(RejectReason::TooManyImmediateCommands, header);
        } else if self.commands.must_wait(&function) {
            state.held.borrow_mut().push((self.cid(), *header));
        } else {
            self.commands.manage(&function);
            // What it has aborted before it came has had its turn.
            self.take_early();
        }
    }

    pub(super) fn dispatch(&mut self, header: &Bhs, data: Vec<u8>) -> Result<(), Ending> {
        let link = Rc::clone(&self.commands.link);
        match header.opcode() {
            opcode::NOP_OUT => self.nop_out(header, data),
            opcode::TASK_MANAGEMENT if !self.discovery => self.manage(header),
            opcode::TEXT => match self.text.step(header, &data, &link.max_recv) {
                Ok((answer, text)) => link.send(&answer, text),
                Err(reason) => link.reject(reason, header),
            },
            opcode::LOGOUT => self.logout(header),
            opcode::SNACK => link.reject(RejectReason::SnackReject, header),
            opcode::LOGIN => {
                link.reject(RejectReason::ProtocolError, header);
                self.closing = Some(Ending::Protocol("a login in full feature phase"));
            }
            _ => link.reject(RejectReason::CommandNotSupported, header),
        }
        Ok(())
    }
}
