//! The parameter list of PERSISTENT RESERVE OUT (SPC-4 clauses 6.16.3 and 6.16.4).

use super::state::Kind;
use super::transport_id::TransportId;
use crate::limits::MAX_RESERVE_LIST_BYTES;
use crate::scsi::cdb::Cdb;
use crate::scsi::{Failure, Sense};

/// The basic list; also where TransportIDs begin.
const BASIC_BYTES: usize = 24;
const ADDITIONAL_BYTES: usize = 28;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// RESERVATION KEY: the sender's.
    pub(crate) key: u64,
    /// SCOPE and TYPE of the CDB.
    pub(super) scope_and_type: u8,
    pub(super) action: Action,
}

/// Service actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Register(Register),
    Move(Move),
    Reserve,
    Release,
    Clear,
    Preempt { victim: u64, abort: bool },
}

/// REGISTER, or REGISTER AND IGNORE EXISTING KEY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) new_key: u64,
    pub(super) ignores_key: bool,
    /// ALL_TG_PT.
    pub(super) all_target_ports: bool,
    /// APTPL.
    pub(super) persists: bool,
    /// SPEC_I_PT: who else is to be registered.
    pub(super) others: Option<Vec<TransportId>>,
}

/// REGISTER AND MOVE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) new_key: u64,
    pub(super) relative_target_port: u16,
    /// UNREG.
    pub(super) unregister: bool,
    /// APTPL.
    pub(super) persists: bool,
    pub(super) to: TransportId,
}

fn u64_at(list: &[u8], at: usize) -> u64 {
    list[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Order {
    /// From a CDB whose operation code and service action are known, and its parameter list.
    pub(crate) fn parse(cdb: Cdb<'_>, list: &[u8]) -> Result<Self, Sense> {
        let length = cdb.u32(5) as usize;
        if !(BASIC_BYTES..=MAX_RESERVE_LIST_BYTES).contains(&length) {
            return Err(Sense::PARAMETER_LENGTH);
        }
        // Fewer bytes than promised, or more than there are.
        let list = list.get(..length).ok_or(Sense::PARAMETER_LENGTH)?;
        let service_action = cdb.byte(1) & 0x1f;
        let action_key = u64_at(list, 8);
        let action = match service_action {
            0x07 => Action::Move(parse_move(list, action_key)?),
            0x00 | 0x06 => Action::Register(parse_register(list, action_key, service_action == 0x06)?),
            // Nobody but REGISTER may name others; the rest of the flags means nothing elsewhere.
            _ if list[20] & 0x08 != 0 => return Err(Sense::INVALID_PARAMETER),
            _ if length != BASIC_BYTES => return Err(Sense::PARAMETER_LENGTH),
            0x01 => Action::Reserve,
            0x02 => Action::Release,
            0x03 => Action::Clear,
            0x04 | 0x05 => Action::Preempt { victim: action_key, abort: service_action == 0x05 },
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok(Self { key: u64_at(list, 0), scope_and_type: cdb.byte(2), action })
    }

    /// Somebody may not write any more who could.
    pub(crate) fn takes_rights_away(&self) -> bool {
        matches!(self.action, Action::Reserve | Action::Preempt { .. } | Action::Move(_))
    }

    /// The type asked for, of the one scope there is (logical unit).
    pub(super) fn kind(&self) -> Result<Kind, Failure> {
        let logical_unit = self.scope_and_type >> 4 == 0;
        let kind = Kind::from_code(self.scope_and_type & 0x0f).filter(|_| logical_unit);
        kind.ok_or_else(|| Sense::INVALID_FIELD.into())
    }
}

fn parse_register(list: &[u8], new_key: u64, ignores_key: bool) -> Result<Register, Sense> {
    let flags = list[20];
    let others = match flags & 0x08 != 0 {
        true if ignores_key => return Err(Sense::INVALID_PARAMETER),
        true => Some(parse_others(list)?),
        false if list.len() != BASIC_BYTES => return Err(Sense::PARAMETER_LENGTH),
        false => None,
    };
    Ok(Register {
        new_key,
        ignores_key,
        all_target_ports: flags & 0x04 != 0,
        persists: flags & 0x01 != 0,
        others,
    })
}

fn parse_others(list: &[u8]) -> Result<Vec<TransportId>, Sense> {
    let length: [u8; 4] = list
        .get(BASIC_BYTES..ADDITIONAL_BYTES)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(Sense::PARAMETER_LENGTH)?;
    let ids = &list[ADDITIONAL_BYTES..];
    if u32::from_be_bytes(length) as usize != ids.len() {
        return Err(Sense::PARAMETER_LENGTH);
    }
    TransportId::parse_all(ids).ok_or(Sense::INVALID_PARAMETER)
}

fn parse_move(list: &[u8], new_key: u64) -> Result<Move, Sense> {
    let length = u32::from_be_bytes([list[20], list[21], list[22], list[23]]) as usize;
    let id = &list[BASIC_BYTES..];
    if length != id.len() {
        return Err(Sense::PARAMETER_LENGTH);
    }
    let (to, taken) = TransportId::parse(id).ok_or(Sense::INVALID_PARAMETER)?;
    if taken != length {
        return Err(Sense::INVALID_PARAMETER);
    }
    Ok(Move {
        new_key,
        relative_target_port: u16::from_be_bytes([list[18], list[19]]),
        unregister: list[17] & 0x02 != 0,
        persists: list[17] & 0x01 != 0,
        to,
    })
}
