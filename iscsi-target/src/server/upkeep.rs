//! What a connection does of its own accord: it asks a silent initiator whether it is there, tells it what has happened, and
//! ends.
//!
//! | why it ends | the initiator is told | then |
//! |---|---|---|
//! | the target stops, or somebody wants the session ended | event 1: log out within Parameter3 seconds | its logout, or event 2 |
//! | the session is dropped, or comes anew elsewhere | event 3 | nothing is waited for |
//! | it does not answer | NOP-In | nothing: it would not hear |
//! | data that was asked for does not come | event 2 | nothing is waited for |

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use zerocopy::big_endian::U32;

use super::connection::Connection;
use super::ending::Ending;
use super::link::Errand;
use super::state::{Phase, Task};
use crate::limits;
use crate::pdu::response::{self, AsyncEvent, RejectReason};
use crate::pdu::{Bhs, NO_TAG, opcode, request};
use crate::scsi::Sense;

/// How long initiators are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A login must be through by then.
    pub login: Duration,
    /// Silence after which the initiator is asked whether it is still there.
    pub silence: Duration,
    /// It must answer by then.
    pub answer: Duration,
    /// Data that it was asked for must come by then.
    pub data: Duration,
    /// How long a command waits for memory, and all that is behind it.
    pub memory: Duration,
    /// Seconds it is given to log out when it is asked to.
    pub logout_s: u16,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            login: Duration::from_millis(limits::LOGIN_TIMEOUT_MS),
            silence: Duration::from_millis(limits::NOP_IN_INTERVAL_MS),
            answer: Duration::from_millis(limits::NOP_IN_TIMEOUT_MS),
            data: Duration::from_millis(limits::DATA_OUT_TIMEOUT_MS),
            memory: Duration::from_millis(limits::MEMORY_PATIENCE_MS),
            logout_s: limits::LOGOUT_GRACE_S,
        }
    }
}

impl Connection {
    /// When something is to be done though nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let alive = match self.asked {
            Some(asked) => asked + self.patience.answer,
            None => self.heard + self.patience.silence,
        };
        self.close_at.map_or(alive, |at| at.min(alive)).min(self.look_at)
    }

    /// The time for that has come.
    pub(super) fn deadline_passed(&mut self) -> Result<(), Ending> {
        if self.look_at <= Instant::now() {
            // That is looked at in every turn.
            return Ok(());
        }
        if !self.is_due() { self.ask_whether_alive() } else { Ok(()) }
    }

    /// Does the data come that was asked for? Looked at now and then.
    pub(super) fn look_for_data(&mut self, now: Instant) {
        if now < self.look_at {
            return;
        }
        let patience = self.patience.data;
        self.look_at = now + patience / 4;
        // On a slow link the data of one command comes behind that of others, and on several connections a command before those that
        // it has to wait for, but not for ever.
        let is_late = |task: &Task| match &task.phase {
            Phase::Receiving(incoming) => {
                let is_silent = incoming.heard.max(self.data_heard) + patience <= now;
                (incoming.arrived && is_silent)
                    || incoming.began + limits::MOST_PATIENCE_WITH_DATA * patience <= now
            }
            _ => false,
        };
        let own = |task: &&Task| Rc::ptr_eq(&task.link, &self.commands.link);
        let is_half =
            self.segment.as_ref().is_some_and(|segment| segment.began.max(self.data_heard) + patience <= now);
        if is_half || self.commands.state.tasks.borrow().values().filter(own).any(is_late) {
            tracing::warn!(peer = %self.commands.link.connected.peer, "data that was asked for does not come");
            self.tell_of_end(AsyncEvent::ConnectionDropped);
        }
    }

    /// The time to close has come.
    pub(super) fn is_due(&self) -> bool {
        self.close_at.is_some_and(|at| Instant::now() >= at)
    }

    /// NOP-In, once it has been silent for long (RFC 7143 section 11.19).
    fn ask_whether_alive(&mut self) -> Result<(), Ending> {
        if self.asked.is_some() {
            return Err(Ending::Silent);
        }
        self.asked = Some(Instant::now());
        // In discovery there are no NOPs: whoever has nothing to ask for so long is done.
        if !self.discovery {
            let mut header = response::plain(opcode::NOP_IN, NO_TAG);
            header.target_transfer_tag = U32::new(self.transfer_tag());
            self.commands.link.send_unnumbered(&header, Bytes::new());
        }
        Ok(())
    }

    /// Do what others have asked for. Without `pdus`, those wait.
    pub(super) fn run_errands(&mut self, pdus: bool) {
        let mut kept = Vec::new();
        while let Some(errand) = self.commands.link.next_errand() {
            match errand {
                Errand::Pdu(header, data) if pdus => {
                    if let Err(ending) = self.dispatch(&header, data) {
                        self.closing = Some(ending);
                    }
                }
                Errand::Pdu(..) => kept.push(errand),
                Errand::Drop => self.tell_of_end(AsyncEvent::AllConnectionsDropped),
                Errand::Close => {
                    self.closing = Some(Ending::Logout);
                    self.close_at = Some(Instant::now());
                }
                Errand::LogOut => self.ask_to_log_out(),
                Errand::Tell(lun, sense) => self.tell_of_change(lun, sense),
            }
        }
        kept.into_iter().for_each(|errand| self.commands.link.keep(errand));
    }

    /// Once: an initiator that is asked again might take it for more time.
    fn ask_to_log_out(&mut self) {
        if self.close_at.is_none() {
            let seconds = self.patience.logout_s;
            let header = response::async_message(AsyncEvent::LogoutRequest, [0, 0, seconds]);
            self.commands.link.send(&header, Bytes::new());
            self.close_at = Some(Instant::now() + Duration::from_secs(seconds.into()));
        }
    }

    /// It has not logged out though it was asked to.
    pub(super) fn time_is_up(&mut self) {
        if self.closing.is_none() {
            self.tell_of_end(AsyncEvent::ConnectionDropped);
        }
    }

    /// Say that it ends, and end without waiting for anybody who does not listen.
    fn tell_of_end(&mut self, event: AsyncEvent) {
        self.close_at = Some(Instant::now());
        if self.closing.is_some() {
            // It knows already.
            return;
        }
        let connection = if event == AsyncEvent::ConnectionDropped { self.cid() } else { 0 };
        let time_to_wait = self.commands.link.parameters.time_to_wait_s as u16;
        // Time2Retain: its commands end now, for at error recovery level 0 nobody takes them over.
        let header = response::async_message(event, [connection, time_to_wait, 0]);
        self.commands.link.send(&header, Bytes::new());
        self.closing = Some(Ending::Dropped);
    }

    /// A SCSI event: only a hint, for an initiator that has nothing to do. The unit attention says the same to the next
    /// command, unless the initiator has asked for the LUNs meanwhile.
    fn tell_of_change(&self, lun: u64, sense: Sense) {
        let data = response::with_length(&sense.encode(false));
        let longer = data.len() > self.commands.link.max_recv.get() as usize;
        if !self.discovery && !longer {
            self.commands.link.send(&response::scsi_event(lun, data.len()), data.into());
        }
    }

    /// Echo a ping (RFC 7143 section 11.18); an answer to ours needs none.
    pub(super) fn nop_out(&self, header: &Bhs, mut data: Vec<u8>) {
        let tag = header.initiator_task_tag.get();
        if tag == NO_TAG {
            return;
        }
        let link = &self.commands.link;
        data.truncate(link.max_recv.get() as usize);
        let mut answer = response::plain(opcode::NOP_IN, tag);
        answer.lun = header.lun;
        answer.data_segment_length = crate::pdu::three_bytes(data.len());
        link.send(&answer, data.into());
    }

    /// Logout (RFC 7143 section 11.14): of this connection, of another one of the session, or of all.
    pub(super) fn logout(&mut self, bhs: &Bhs) {
        const CLOSE_SESSION: u8 = 0;
        const CLOSE_CONNECTION: u8 = 1;
        const REMOVE_FOR_RECOVERY: u8 = 2;
        const CLOSED: u8 = 0;
        const NO_SUCH_CONNECTION: u8 = 1;
        const NO_RECOVERY: u8 = 2;
        let header: request::Logout = bhs.view();
        let (own, cid) = (self.cid(), header.cid.get());
        // One that was lost is among them until its commands are over.
        let mut others = self.commands.state.links.borrow().clone();
        others.retain(|link| link.cid != own);
        let response = match header.reason & 0x7f {
            CLOSE_SESSION => {
                self.commands.state.ending.set(true);
                CLOSED
            }
            CLOSE_CONNECTION if cid == own => {
                others.clear();
                CLOSED
            }
            CLOSE_CONNECTION => {
                others.retain(|link| link.cid == cid);
                if others.is_empty() { NO_SUCH_CONNECTION } else { CLOSED }
            }
            REMOVE_FOR_RECOVERY => NO_RECOVERY,
            _ => return self.commands.link.reject(RejectReason::InvalidPduField, bhs),
        };
        if response == CLOSED {
            others.iter().filter(|link| !link.closed.get()).for_each(|link| link.ask(Errand::Close));
        }
        let answer = self.logout_answer(header.initiator_task_tag.get(), response);
        if response == CLOSED && (header.reason & 0x7f == CLOSE_SESSION || cid == own) {
            self.farewell = Some(answer);
            self.closing = Some(Ending::Logout);
            return;
        }
        let (state, link) = (Rc::clone(&self.commands.state), Rc::clone(&self.commands.link));
        let closing = if response == CLOSED { others } else { Vec::new() };
        tokio::task::spawn_local(async move {
            for other in &closing {
                state.over(other).await;
            }
            link.send(&answer, Bytes::new());
        });
    }

    fn logout_answer(&self, tag: u32, response: u8) -> response::Plain {
        let mut answer = response::plain(opcode::LOGOUT_RESPONSE, tag);
        answer.response = response;
        // Reserved there.
        answer.target_transfer_tag = U32::new(0);
        let parameters = &self.commands.link.parameters;
        answer.specific[4..6].copy_from_slice(&(parameters.time_to_wait_s as u16).to_be_bytes());
        answer.specific[6..8].copy_from_slice(&(parameters.time_to_retain_s as u16).to_be_bytes());
        answer
    }
}
