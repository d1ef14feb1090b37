//! Text in full feature phase: SendTargets (RFC 7143 appendix C), and what an initiator may state of itself at any time.
//!
//! Requests may come in parts (C bit) and answers go out in parts where they are longer than the initiator's
//! MaxRecvDataSegmentLength: it asks for each next part with our target transfer tag.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use zerocopy::big_endian::U32;

use super::commands::Commands;
use super::portals::CameBy;
use crate::limits;
use crate::login::keys;
use crate::names;
use crate::pdu::response::{Plain, RejectReason, plain};
use crate::pdu::{Bhs, FINAL, NO_TAG, opcode, request, three_bytes};
use crate::registry::TargetRegistry;
use crate::text::Pairs;

const CONTINUE: u8 = 0x40;
/// The tag under which the rest of an answer is asked for: there is one exchange at a time.
const REST_TAG: u32 = 1;

/// The text exchange of one connection.
pub(super) struct TextExchange {
    pub(super) registry: Arc<TargetRegistry>,
    pub(super) initiator: String,
    pub(super) came_by: CameBy,
    /// The session's own target; none in discovery.
    pub(super) target: Option<String>,
    pub(super) request: Vec<u8>,
    /// PDUs it has come in so far.
    pub(super) request_pdus: usize,
    pub(super) rest: Vec<u8>,
}

impl TextExchange {
    /// Of a connection that has come by there.
    pub(super) fn new(commands: &Commands, came_by: CameBy) -> Self {
        let target = Some(commands.target.name.clone()).filter(|name| !name.is_empty());
        Self {
            registry: Arc::clone(&commands.registry),
            initiator: commands.state.nexus.initiator_name.clone(),
            came_by,
            target,
            request: Vec::new(),
            request_pdus: 0,
            rest: Vec::new(),
        }
    }

    /// Answer a text request. `max_recv`: MaxRecvDataSegmentLength of the connection's initiator, which it may change.
    pub(super) fn step(
        &mut self,
        header: &Bhs,
        data: &[u8],
        max_recv: &Cell<u32>,
    ) -> Result<(Plain, Bytes), RejectReason> {
        let text: request::Text = header.view();
        let tag = text.initiator_task_tag.get();
        if text.target_transfer_tag.get() == REST_TAG && !self.rest.is_empty() {
            return Ok(self.next_part(tag, max_recv.get()));
        }
        if text.target_transfer_tag.get() != NO_TAG && self.request.is_empty() {
            return Err(RejectReason::ProtocolError);
        }
        self.request_pdus += 1;
        if self.request.len() + data.len() > limits::MAX_TEXT_BYTES
            || self.request_pdus > limits::MAX_TEXT_PDUS
        {
            self.request.clear();
            self.request_pdus = 0;
            return Err(RejectReason::OutOfResources);
        }
        self.request.extend_from_slice(data);
        if text.flags & CONTINUE != 0 {
            let mut answer = plain(opcode::TEXT_RESPONSE, tag);
            answer.flags = 0;
            answer.target_transfer_tag = U32::new(REST_TAG);
            return Ok((answer, Bytes::new()));
        }
        self.request_pdus = 0;
        let pairs =
            Pairs::parse(&std::mem::take(&mut self.request)).map_err(|_| RejectReason::InvalidPduField)?;
        let mut keys = BTreeSet::new();
        if !pairs.iter().all(|(key, _)| keys.insert(key)) {
            // RFC 7143 section 6.2; and each SendTargets would be answered with every target.
            return Err(RejectReason::ProtocolError);
        }
        self.rest = self.answer(&pairs, max_recv).encode();
        Ok(self.next_part(tag, max_recv.get()))
    }

    fn next_part(&mut self, tag: u32, max_recv: u32) -> (Plain, Bytes) {
        let rest = self.rest.split_off(self.rest.len().min(max_recv as usize));
        let part = std::mem::replace(&mut self.rest, rest);
        let mut answer = plain(opcode::TEXT_RESPONSE, tag);
        answer.data_segment_length = three_bytes(part.len());
        if !self.rest.is_empty() {
            answer.flags = CONTINUE;
            answer.target_transfer_tag = U32::new(REST_TAG);
        } else {
            answer.flags = FINAL;
        }
        (answer, part.into())
    }

    fn answer(&self, pairs: &Pairs, max_recv: &Cell<u32>) -> Pairs {
        let mut answers = Pairs::new();
        for (key, value) in pairs.iter() {
            match key {
                "SendTargets" => self.send_targets(value, &mut answers),
                // Stated, not negotiated: there is no answer, unless it cannot be.
                "MaxRecvDataSegmentLength" => match keys::number(value, keys::MAX_LENGTH) {
                    Some(length) => max_recv.set(length),
                    None => answers.push(key, "Reject"),
                },
                "InitiatorAlias" => {}
                _ if keys::KEYS.iter().any(|known| known.name == key) => answers.push(key, "Reject"),
                _ => answers.push(key, "NotUnderstood"),
            }
        }
        answers
    }

    /// Only what this initiator may use is named to it, and in a normal session only its own target: `All` is for
    /// discovery, an empty value for the others.
    fn send_targets(&self, which: &str, answers: &mut Pairs) {
        let wanted = match (which, &self.target) {
            ("All", None) => None,
            ("", Some(own)) => Some(own.clone()),
            ("All", Some(_)) | ("", None) => return answers.push("SendTargets", "Reject"),
            (name, own) => match names::normal(name) {
                Some(name) if own.as_ref().is_none_or(|own| *own == name) => Some(name),
                _ => return,
            },
        };
        for target in self.registry.visible(self.came_by.caller(&self.initiator)) {
            if wanted.as_ref().is_some_and(|wanted| *wanted != target.name) {
                continue;
            }
            // Names and addresses, nothing else (RFC 7143 appendix C): some initiators give up on a TargetAlias.
            answers.push("TargetName", target.name.clone());
            let addresses = self.came_by.addresses(target.is_loopback_only());
            let open = |(address, _): &(_, u16)| target.is_open_by(&self.initiator, *address);
            for (address, group) in addresses.into_iter().filter(open) {
                answers.push("TargetAddress", format!("{address},{group}"));
            }
        }
    }
}
