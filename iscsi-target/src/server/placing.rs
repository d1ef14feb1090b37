//! The header decides where the data lands: into a command's buffer, into memory of its own, or nowhere.

use std::rc::Rc;

use block_io::{Buffer, BufferPool};
use tokio::time::Instant;

use super::connection::{Connection, Segment, Shape, Sink};
use super::state::{Held, Phase, Task};
use crate::limits;
use crate::pdu::response::RejectReason;
use crate::pdu::{Bhs, NO_TAG, opcode, request};
use crate::scsi::LunMap;

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Taken,
    /// Its CmdSN is none that may come now, or has come already.
    Ignored,
    Refused(RejectReason),
}

impl Connection {
    /// The header decides where its data lands.
    pub(super) async fn place(&mut self, header: Bhs, shape: Shape) -> Segment {
        let mut segment = Segment::of(header);
        let length = segment.length;
        match header.opcode() {
            opcode::SCSI_COMMAND if !self.discovery => self.place_command(&mut segment, shape).await,
            opcode::DATA_OUT if !self.discovery => self.place_data_out(&mut segment),
            // What is echoed, and text, of which the exchange says whether it is too much.
            opcode::NOP_OUT | opcode::TEXT => segment.sink = Sink::Collect(vec![0; length]),
            _ => {}
        }
        segment
    }

    /// May a command have a task?
    pub(super) fn admits(&self, command: &request::ScsiCommand, is_immediate: bool) -> Admission {
        let (tag, cmd_sn) = (command.initiator_task_tag.get(), command.cmd_sn.get());
        let state = &self.commands.state;
        let window = state.window.borrow();
        if !is_immediate && (!window.admits(cmd_sn) || window.keeps(cmd_sn)) {
            return Admission::Ignored;
        }
        let tasks = state.tasks.borrow();
        if tasks.contains_key(&tag) || tag == NO_TAG {
            return Admission::Refused(RejectReason::ProtocolError);
        }
        if is_immediate && tasks.len() >= limits::QUEUE_DEPTH as usize + limits::MAX_IMMEDIATE {
            return Admission::Refused(RejectReason::TooManyImmediateCommands);
        }
        Admission::Taken
    }

    async fn place_command(&mut self, segment: &mut Segment, shape: Shape) {
        let command: request::ScsiCommand = segment.header.view();
        let state = Rc::clone(&self.commands.state);
        match self.admits(&command, segment.header.is_immediate()) {
            Admission::Taken => {}
            Admission::Ignored => {
                segment.ignored = true;
                return;
            }
            Admission::Refused(reason) => {
                *segment = self.refuse(segment.header, reason);
                return;
            }
        }
        let transfer_tag = self.transfer_tag();
        let mut incoming = self.commands.incoming(&command, shape, segment.length as u32, transfer_tag);
        let offered = command.expected_data_transfer_length.get().min(state.parameters.first_burst);
        if incoming.total > 0 && incoming.transfer.spoilt().is_none() {
            let bytes = incoming.total.max(offered as usize);
            let (pool, count) = match LunMap::wants_parameters(&command.cdb) {
                true => (self.commands.parameter_pool.clone(), &state.held_for_parameters),
                false => (self.commands.pool.clone(), &state.held_for_data),
            };
            match self.take_buffer(&pool, bytes, count.get()).await {
                Some(buffer) => {
                    incoming.held = Some(Held::new(count, bytes));
                    match segment.length {
                        0 => incoming.buffer = Some(buffer),
                        _ => segment.sink = Sink::Buffer { buffer, at: 0 },
                    }
                }
                // Nothing is kept of it; the initiator will send it again (SAM-5: TASK SET FULL).
                None => {
                    incoming = self.commands.incoming(
                        &command,
                        Shape::TurnedAway,
                        segment.length as u32,
                        transfer_tag,
                    );
                }
            }
        }
        segment.command = Some(Box::new(incoming));
    }

    /// A buffer for a command's data. A full pool stops the reading of this socket, but not for so long that the initiator takes
    /// us for gone, and not if commands of this very connection wait for data behind: then nothing would ever free it. Nor has
    /// one session all of the pool for data that it does not send. Without a buffer the command is turned away.
    async fn take_buffer(&mut self, pool: &BufferPool, bytes: usize, held: usize) -> Option<Buffer> {
        if !has_a_right_to(pool, bytes, held) {
            return None;
        }
        if let Some(buffer) = pool.try_take(bytes) {
            return Some(buffer);
        }
        // Those behind one that has waited do not all wait as long again.
        if self.no_memory_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let waits_for_data = |tasks: &std::collections::HashMap<u32, Task>| {
            let own = |task: &&Task| Rc::ptr_eq(&task.link, &self.commands.link);
            tasks.values().filter(own).any(|task| matches!(task.phase, Phase::Receiving(_)))
        };
        if waits_for_data(&self.commands.state.tasks.borrow()) {
            return None;
        }
        // Responses must go out meanwhile: they hold the memory that is waited for.
        let link = Rc::clone(&self.commands.link);
        let taking = pool.take(bytes);
        tokio::pin!(taking);
        let patience = tokio::time::sleep(self.patience.memory);
        tokio::pin!(patience);
        while self.closing.is_none() {
            let sent = self.flush().ok()?;
            let stream = &self.stream;
            let close_at = self.close_at;
            tokio::select! {
                buffer = &mut taking => return buffer.ok(),
                () = &mut patience => {
                    self.no_memory_until = Some(Instant::now() + self.patience.memory);
                    return None;
                }
                () = link.wake.notified() => {}
                ready = stream.writable(), if !sent => ready.ok()?,
                () = async { tokio::time::sleep_until(close_at.unwrap_or_else(Instant::now)).await },
                    if close_at.is_some() => self.time_is_up(),
            }
            // Whoever ends our commands, or this connection, does not wait for memory. PDUs wait as those behind do.
            self.run_errands(false);
        }
        None
    }

    fn place_data_out(&mut self, segment: &mut Segment) {
        let header: request::DataOut = segment.header.view();
        let state = Rc::clone(&self.commands.state);
        let mut tasks = state.tasks.borrow_mut();
        let task = tasks.get_mut(&header.initiator_task_tag.get());
        let Some(Task { link, phase: Phase::Receiving(incoming), .. }) = task else {
            // Data of a command that was aborted, or answered early: passed over (RFC 7143 section 11.5.1).
            segment.ignored = true;
            return;
        };
        if !Rc::ptr_eq(link, &self.commands.link) {
            // A command and its data go by one connection (RFC 7143 section 4.2.2).
            *segment = self.refuse(segment.header, RejectReason::ProtocolError);
            return;
        }
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

/// While memory is plentiful everybody has as much as they want; then a session, which holds so much of it, has its share.
fn has_a_right_to(pool: &BufferPool, bytes: usize, held: usize) -> bool {
    let is_plentiful = pool.used_bytes() <= pool.capacity_bytes() / 2;
    is_plentiful || held == 0 || held + bytes <= pool.capacity_bytes() / limits::SHARES_OF_MEMORY
}
