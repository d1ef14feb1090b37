//! PDUs that are no SCSI commands and have a CmdSN: they wait for their turn.

use super::connection::{Connection, Ending};
use super::state::Early;
use crate::limits;
use crate::pdu::response::RejectReason;
use crate::pdu::{Bhs, opcode, request};
use crate::session::window::Arrival;

impl Connection {
    /// Carried out if it is due or immediate, else kept, with its data, as far as there is room for that.
    pub(super) fn in_turn(&mut self, header: Bhs, data: Vec<u8>) -> Result<(), Ending> {
        let numbered = matches!(
            header.opcode(),
            opcode::NOP_OUT | opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT
        );
        if !numbered || header.is_immediate() {
            return self.dispatch(&header, data);
        }
        let cmd_sn = header.view::<request::NopOut>().cmd_sn.get();
        if self.commands.state.window.borrow().would_keep(cmd_sn) {
            // On one connection nothing is early but by mistake: no memory is spent on more than one text of it.
            if self.early_bytes + data.len() > limits::MAX_TEXT_BYTES {
                self.commands.state.reject(RejectReason::OutOfResources, &header);
                return Ok(());
            }
            self.early_bytes += data.len();
        }
        let arrival = self.commands.state.window.borrow_mut().arrive(cmd_sn, Early::Other(header, data));
        if let Arrival::Now(Early::Other(header, data)) = arrival {
            self.commands.open_window();
            self.dispatch(&header, data)?;
            self.take_early();
        }
        Ok(())
    }

    /// Whatever came before its time and is due now.
    pub(super) fn take_early(&mut self) {
        loop {
            let next = self.commands.state.window.borrow_mut().next_early();
            match next {
                Some(Early::Command(tag)) => self.commands.its_turn(tag),
                Some(Early::Other(header, data)) => {
                    self.early_bytes -= data.len();
                    if let Err(ending) = self.dispatch(&header, data) {
                        self.closing = Some(ending);
                    }
                }
                None => return,
            }
        }
    }
}
