//! Answers about the device server itself: opcodes, task management functions, defects (SPC-4, SBC-3).

use super::cdb::Cdb;
use super::command_table::{Command, all, of_opcode};
use super::{ScsiResponse, Sense};

/// Command timeouts descriptor: nothing is promised.
const TIMEOUTS: [u8; 12] = [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// REPORT SUPPORTED OPERATION CODES. `supports` says which of the table's commands are there in this unit.
pub(crate) fn opcodes(cdb: Cdb<'_>, supports: impl Fn(&Command) -> bool) -> Result<ScsiResponse, Sense> {
    let timeouts = cdb.byte(2) & 0x80 != 0;
    let (opcode, action) = (cdb.byte(3), cdb.u16(4));
    let data = match cdb.byte(2) & 7 {
        0 => all_opcodes(timeouts, supports),
        option @ 1..=3 => support_of(one_opcode(option, opcode, action)?.filter(|c| supports(c)), timeouts),
        _ => return Err(Sense::invalid_cdb_byte(2)),
    };
    Ok(ScsiResponse::parameters(data, cdb.u32(6) as usize))
}

fn all_opcodes(timeouts: bool, supports: impl Fn(&Command) -> bool) -> Vec<u8> {
    let mut list = Vec::new();
    for command in all().filter(|command| supports(command)) {
        let flags = u8::from(command.service_action.is_some()) | u8::from(timeouts) << 1;
        list.extend_from_slice(&[command.opcode, 0]);
        list.extend_from_slice(&u16::from(command.service_action.unwrap_or(0)).to_be_bytes());
        list.extend_from_slice(&[0, flags]);
        list.extend_from_slice(&(command.usage.len() as u16).to_be_bytes());
        if timeouts {
            list.extend_from_slice(&TIMEOUTS);
        }
    }
    let mut data = (list.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(&list);
    data
}

/// Reporting options 001b (opcode), 010b (opcode and service action) and 011b (either).
fn one_opcode(option: u8, opcode: u8, action: u16) -> Result<Option<&'static Command>, Sense> {
    let has_actions = of_opcode(opcode).any(|command| command.service_action.is_some());
    let known = of_opcode(opcode).next().is_some();
    if known && ((option == 1 && has_actions) || (option == 2 && !has_actions)) {
        // REPORTING OPTIONS does not fit the operation code.
        return Err(Sense::invalid_cdb_byte(2));
    }
    let found = of_opcode(opcode)
        .find(|command| command.service_action.is_none_or(|found| u16::from(found) == action));
    Ok(found.filter(|command| command.service_action.is_some() || option != 3 || action == 0))
}

fn support_of(command: Option<&Command>, timeouts: bool) -> Vec<u8> {
    let Some(command) = command else { return vec![0, 1, 0, 0] };
    let mut data = vec![0, u8::from(timeouts) << 7 | 3];
    data.extend_from_slice(&(command.usage.len() as u16).to_be_bytes());
    data.extend_from_slice(command.usage);
    if let Some(action) = command.service_action {
        // The service action's own bits carry its value (SPC-4).
        data[5] = data[5] & !0x1f | action;
    }
    if timeouts {
        data.extend_from_slice(&TIMEOUTS);
    }
    data
}

/// ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET.
pub(crate) fn task_management(cdb: Cdb<'_>) -> ScsiResponse {
    let extended = cdb.byte(2) & 0x80 != 0;
    let mut data = vec![0; if extended { 16 } else { 4 }];
    data[0] = 0xda;
    data[3] = (data.len() - 4) as u8;
    ScsiResponse::parameters(data, cdb.u32(6) as usize)
}

/// Defect lists are empty: members repair themselves.
pub(crate) fn defects(cdb: Cdb<'_>) -> ScsiResponse {
    if cdb.opcode() == 0x37 {
        return ScsiResponse::parameters(vec![0, cdb.byte(2) & 0x1f, 0, 0], usize::from(cdb.u16(7)));
    }
    ScsiResponse::parameters(vec![0, cdb.byte(1) & 0x1f, 0, 0, 0, 0, 0, 0], cdb.u32(6) as usize)
}
