//! Task management (RFC 7143 section 11.5, SAM-5 clause 7). A function is answered only once what it aborted can no
//! longer change data.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::commands::Commands;
use crate::pdu::{opcode, request, response};
use crate::registry::{SessionMessage, TargetRegistry, tell};

/// Responses (RFC 7143 section 11.6.1).
const COMPLETE: u8 = 0;
const NO_TASK: u8 = 1;
const NO_LUN: u8 = 2;
const REASSIGN_UNSUPPORTED: u8 = 4;
const UNSUPPORTED: u8 = 5;

impl Commands {
    /// Carry out a task management function; the answer follows when it is done.
    pub(super) fn manage(
        &self,
        header: &request::TaskManagement,
        registry: &std::sync::Arc<TargetRegistry>,
        session: u64,
    ) {
        let lun = header.lun.get();
        let tag = header.initiator_task_tag.get();
        let (running, reset) = match header.function & 0x7f {
            1 => match self.abort_one(header) {
                Ok(running) => (running, None),
                Err(code) => return self.answer(tag, code),
            },
            // All tasks of this nexus on the LUN; with one nexus per session, CLEAR TASK SET goes further below.
            2 => (self.abort_lun(Some(lun)), None),
            4 => (self.abort_lun(Some(lun)), Some(Reset { lun: Some(lun), unit: false })),
            5 => (self.abort_lun(Some(lun)), Some(Reset { lun: Some(lun), unit: true })),
            6 | 7 => (self.abort_lun(None), Some(Reset { lun: None, unit: true })),
            8 => return self.answer(tag, REASSIGN_UNSUPPORTED),
            _ => return self.answer(tag, UNSUPPORTED),
        };
        if matches!(header.function & 0x7f, 2 | 4 | 5) && !self.target.luns.contains(lun) {
            return self.answer(tag, NO_LUN);
        }
        let (this, registry) = (self.clone(), std::sync::Arc::clone(registry));
        let cold = header.function & 0x7f == 7;
        tokio::task::spawn_local(async move {
            for task in running {
                // An error means that it ended otherwise.
                let _ = task.await;
            }
            if let Some(reset) = reset {
                this.reset_everywhere(&registry, session, &reset).await;
            }
            this.answer(tag, COMPLETE);
            if cold {
                for other in registry.others(&this.target.name, session) {
                    tell(&other, |done| SessionMessage::Drop { done }).await;
                }
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
        // A task that was never received, but may still come, is as good as aborted (RFC 7143 section 11.5.1).
        let may_come = self.state.window.borrow().admits(header.ref_cmd_sn.get());
        match (there, same_lun, may_come) {
            (true, true, _) => Ok(self.abort(|tag, _| tag == referenced)),
            (false, _, true) => Ok(Vec::new()),
            _ => Err(NO_TASK),
        }
    }

    /// Abort every task of this session on a LUN, or all.
    pub(super) fn abort_lun(&self, lun: Option<u64>) -> Vec<oneshot::Receiver<()>> {
        self.abort(|_, task| lun.is_none_or(|lun| task.header.lun.get() == lun))
    }

    /// The other nexuses' tasks end too, then the units are reset.
    async fn reset_everywhere(&self, registry: &TargetRegistry, session: u64, reset: &Reset) {
        for other in registry.others(&self.target.name, session) {
            tell(&other, |done| SessionMessage::Abort { lun: reset.lun, done }).await;
        }
        if reset.unit {
            self.target.luns.reset(reset.lun, &self.state.nexus);
        }
    }

    fn answer(&self, tag: u32, code: u8) {
        let mut header = response::plain(opcode::TASK_MANAGEMENT_RESPONSE, tag);
        header.response = code;
        // Reserved there.
        header.target_transfer_tag = 0.into();
        self.state.send(&header, Bytes::new());
    }
}

struct Reset {
    lun: Option<u64>,
    unit: bool,
}
