//! The header decides where the data lands: into a command's buffer, into memory of its own, or nowhere.

use std::rc::Rc;

use block_io::Buffer;

use super::connection::{Connection, Segment, Sink};
use super::state::{Early, Phase, Task};
use crate::limits;
use crate::pdu::response::RejectReason;
use crate::pdu::{Bhs, NO_TAG, opcode, request};
use crate::session::window::Window;

impl Connection {
    /// The header decides where its data lands.
    pub(super) async fn place(&mut self, header: Bhs) -> Segment {
        let length = header.data_bytes();
        let mut segment =
            Segment { header, sink: Sink::Discard, filled: 0, length, command: None, ignored: false };
        match header.opcode() {
            opcode::SCSI_COMMAND if !self.discovery => self.place_command(&mut segment).await,
            opcode::DATA_OUT if !self.discovery => self.place_data_out(&mut segment),
            // What is echoed, and text, of which the exchange says whether it is too much.
            opcode::NOP_OUT | opcode::TEXT => segment.sink = Sink::Collect(vec![0; length]),
            _ => {}
        }
        segment
    }

    async fn place_command(&mut self, segment: &mut Segment) {
        let command: request::ScsiCommand = segment.header.view();
        let tag = command.initiator_task_tag.get();
        let state = Rc::clone(&self.commands.state);
        if state.tasks.borrow().contains_key(&tag) || tag == NO_TAG {
            segment.ignored = true;
            state.reject(RejectReason::ProtocolError, &segment.header);
            return;
        }
        let too_many = segment.header.is_immediate()
            && state.tasks.borrow().len() >= limits::QUEUE_DEPTH as usize + limits::MAX_IMMEDIATE;
        if too_many {
            segment.ignored = true;
            state.reject(RejectReason::TooManyImmediateCommands, &segment.header);
            return;
        }
        let cmd_sn = command.cmd_sn.get();
        let expected = |window: &Window<Early>| window.admits(cmd_sn) && !window.keeps(cmd_sn);
        if !segment.header.is_immediate() && !expected(&state.window.borrow()) {
            segment.ignored = true;
            return;
        }
        let transfer_tag = self.transfer_tag();
        let mut incoming = self.commands.incoming(&command, segment.length as u32, transfer_tag);
        let offered = command.expected_data_transfer_length.get().min(state.parameters.first_burst);
        if incoming.total > 0 && incoming.transfer.spoilt().is_none() {
            let bytes = incoming.total.max(offered as usize);
            match self.take_buffer(bytes).await {
                Some(buffer) if segment.length > 0 => segment.sink = Sink::Buffer { buffer, at: 0 },
                Some(buffer) => incoming.buffer = Some(buffer),
                None => {
                    // Nothing is kept of it; the initiator will send it again (SAM-5: TASK SET FULL).
                    incoming.turned_away = true;
                }
            }
        }
        segment.command = Some(Box::new(incoming));
    }

    /// A buffer for a command's data. A full pool stops the reading of this socket, unless commands of this very
    /// connection wait for data behind: then nothing would ever free it, and the command is turned away.
    async fn take_buffer(&mut self, bytes: usize) -> Option<Buffer> {
        if let Some(buffer) = self.commands.pool.try_take(bytes) {
            return Some(buffer);
        }
        let waits_for_data = |tasks: &std::collections::HashMap<u32, Task>| {
            tasks.values().any(|task| matches!(task.phase, Phase::Receiving(_)))
        };
        if waits_for_data(&self.commands.state.tasks.borrow()) {
            return None;
        }
        // Responses must go out meanwhile: they hold the memory that is waited for.
        let pool = self.commands.pool.clone();
        let state = Rc::clone(&self.commands.state);
        let taking = pool.take(bytes);
        tokio::pin!(taking);
        while self.closing.is_none() {
            let sent = self.flush().ok()?;
            let stream = &self.stream;
            let mut message = None;
            tokio::select! {
                buffer = &mut taking => return buffer.ok(),
                () = state.wake.notified() => {}
                ready = stream.writable(), if !sent => ready.ok()?,
                // Whoever ends our commands, or this session, does not wait for memory.
                some = self.messages.recv() => message = some,
            }
            if let Some(message) = message {
                self.take_message(message);
            }
        }
        None
    }

    fn place_data_out(&mut self, segment: &mut Segment) {
        let header: request::DataOut = segment.header.view();
        let state = Rc::clone(&self.commands.state);
        let mut tasks = state.tasks.borrow_mut();
        let task = tasks.get_mut(&header.initiator_task_tag.get());
        let Some(Task { phase: Phase::Receiving(incoming), .. }) = task else {
            // Data of a command that was aborted, or answered early: passed over (RFC 7143 section 11.5.1).
            segment.ignored = true;
            return;
        };
        let offset = header.buffer_offset.get();
        let length = segment.length as u32;
        if !incoming.transfer.accept(header.target_transfer_tag.get(), header.data_sn.get(), offset, length) {
            return;
        }
        let end = offset as usize + segment.length;
        if incoming.buffer.as_ref().is_some_and(|buffer| end <= buffer.len())
            && let Some(buffer) = incoming.buffer.take()
        {
            segment.sink = Sink::Buffer { buffer, at: offset as usize };
        }
    }
}
