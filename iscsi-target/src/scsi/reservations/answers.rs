//! PERSISTENT RESERVE IN (SPC-4 clause 6.15): what is told of registrations and the reservation.

use super::state::{ItNexus, Reservations};
use super::transport_id::TransportId;
use crate::scsi::cdb::Cdb;
use crate::scsi::{ScsiResponse, Sense};

/// What is told by REPORT CAPABILITIES and depends on the unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities {
    /// PTPL_C.
    pub(crate) can_persist: bool,
}

/// All six types (SPC-4 table 157).
const TYPE_MASK: [u8; 2] = [0xea, 0x01];

/// Answer a service action. ADDITIONAL LENGTH tells of everything, also of what the allocation length cuts off.
pub(crate) fn answer(
    cdb: Cdb<'_>,
    state: &Reservations,
    capabilities: Capabilities,
) -> Result<ScsiResponse, Sense> {
    let data = match cdb.byte(1) & 0x1f {
        0x00 => keys(state),
        0x01 => reservation(state),
        0x02 => report_capabilities(state, capabilities),
        0x03 => full_status(state),
        _ => return Err(Sense::INVALID_FIELD),
    };
    Ok(ScsiResponse::parameters(data, usize::from(cdb.u16(7))))
}

fn with_header(state: &Reservations, body: &[u8]) -> Vec<u8> {
    let mut data = state.generation.to_be_bytes().to_vec();
    data.extend_from_slice(&(body.len() as u32).to_be_bytes());
    data.extend_from_slice(body);
    data
}

fn keys(state: &Reservations) -> Vec<u8> {
    let keys: Vec<u8> = state.registrations.iter().flat_map(|one| one.key.to_be_bytes()).collect();
    with_header(state, &keys)
}

fn reservation(state: &Reservations) -> Vec<u8> {
    let Some(reservation) = &state.reservation else { return with_header(state, &[]) };
    // All holders of an all-registrants reservation are told as key 0.
    let key = reservation.holder.as_ref().and_then(|holder| state.key_of(holder)).unwrap_or(0);
    let mut body = key.to_be_bytes().to_vec();
    body.extend_from_slice(&[0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
    with_header(state, &body)
}

/// CRH, SIP_C, ATP_C and PTPL_C; TMV, ALLOW COMMANDS 011b (what informs passes, beside Write Exclusive MODE SENSE too) and PTPL_A.
fn report_capabilities(state: &Reservations, capabilities: Capabilities) -> Vec<u8> {
    let can = 0x1c | u8::from(capabilities.can_persist);
    let does = 0xb0 | u8::from(state.persists);
    vec![0, 8, can, does, TYPE_MASK[0], TYPE_MASK[1], 0, 0]
}

fn full_status(state: &Reservations) -> Vec<u8> {
    let mut body = Vec::new();
    for registration in &state.registrations {
        let scope_and_type = holders_type(state, &registration.nexus);
        body.extend_from_slice(&registration.key.to_be_bytes());
        body.extend_from_slice(&[0, 0, 0, 0, u8::from(scope_and_type.is_some())]);
        body.extend_from_slice(&[scope_and_type.unwrap_or(0), 0, 0, 0, 0]);
        body.extend_from_slice(&registration.relative_target_port.to_be_bytes());
        let id = TransportId::of(&registration.nexus).encode();
        body.extend_from_slice(&(id.len() as u32).to_be_bytes());
        body.extend_from_slice(&id);
    }
    with_header(state, &body)
}

/// R_HOLDER, and with it the type.
fn holders_type(state: &Reservations, nexus: &ItNexus) -> Option<u8> {
    let reservation = state.reservation.as_ref().filter(|_| state.is_held_by(nexus));
    reservation.map(|reservation| reservation.kind as u8)
}
