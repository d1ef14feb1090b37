//! Commands that copy, erase, write as a whole, or concern target ports.

use super::{Command, DataOut, FF, Operation, action, command, writing};

/// By operation code and service action.
pub(super) const COMMANDS: &[Command] = &[
    sanitize(0x01, "SANITIZE OVERWRITE"),
    sanitize(0x02, "SANITIZE BLOCK ERASE"),
    sanitize(0x1f, "SANITIZE EXIT FAILURE MODE"),
    action(
        0x00,
        command(
            0x83,
            "EXTENDED COPY(LID1)",
            "SPC-4",
            Operation::ExtendedCopy,
            DataOut::Long(10),
            &[0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, FF, FF, FF, FF, 0, 7],
        ),
    ),
    copy_results(0x00, "RECEIVE COPY STATUS(LID1)", Operation::CopyStatus),
    copy_results(0x03, "RECEIVE COPY OPERATING PARAMETERS", Operation::CopyParameters),
    copy_results(0x04, "RECEIVE COPY FAILURE DETAILS(LID1)", Operation::CopyFailure),
    writing(command(
        0x9c,
        "WRITE ATOMIC(16)",
        "SBC-4",
        Operation::WriteAtomic,
        DataOut::BlocksInWord12,
        &[0x9c, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    action(
        0x0a,
        command(
            0xa3,
            "REPORT TARGET PORT GROUPS",
            "SPC-4",
            Operation::ReportPortGroups,
            DataOut::None,
            &[0xa3, 0xff, 0, 0, 0, 0, FF, FF, FF, FF, 0, 7],
        ),
    ),
    action(
        0x0a,
        command(
            0xa4,
            "SET TARGET PORT GROUPS",
            "SPC-4",
            Operation::SetPortGroups,
            DataOut::Long(6),
            &[0xa4, 0x1f, 0, 0, 0, 0, FF, FF, FF, FF, 0, 7],
        ),
    ),
];

const fn sanitize(service_action: u8, name: &'static str) -> Command {
    let usage = &[0x48, 0xbf, 0, 0, 0, 0, 0, FF, FF, 7];
    let command = command(0x48, name, "SBC-3", Operation::Sanitize, DataOut::Word(7), usage);
    action(service_action, writing(command))
}

const fn copy_results(service_action: u8, name: &'static str, operation: Operation) -> Command {
    let usage = &[0x84, 0x1f, FF, 0, 0, 0, 0, 0, 0, 0, FF, FF, FF, FF, 0, 7];
    action(service_action, command(0x84, name, "SPC-4", operation, DataOut::None, usage))
}

/// Commands whose work may go on for minutes, or that may wait for somebody else's: an abort does not wait for them, or only for
/// the step they are at. VERIFY without data may name the whole medium; reservations wait for those that end other commands.
pub fn may_take_long(opcode: u8) -> bool {
    matches!(opcode, 0x16 | 0x2f | 0x42 | 0x48 | 0x56 | 0x5e | 0x5f | 0x83 | 0x8f | 0xaf)
}
