//! PERSISTENT RESERVE IN and OUT: one command for each service action.

use super::{Command, DataOut, FF, Operation, action, command};

/// By operation code and service action.
pub(super) const COMMANDS: &[Command] = &[
    reserve_in(0x00, "PERSISTENT RESERVE IN: READ KEYS"),
    reserve_in(0x01, "PERSISTENT RESERVE IN: READ RESERVATION"),
    reserve_in(0x02, "PERSISTENT RESERVE IN: REPORT CAPABILITIES"),
    reserve_in(0x03, "PERSISTENT RESERVE IN: READ FULL STATUS"),
    reserve_out(0x00, "PERSISTENT RESERVE OUT: REGISTER"),
    reserve_out(0x01, "PERSISTENT RESERVE OUT: RESERVE"),
    reserve_out(0x02, "PERSISTENT RESERVE OUT: RELEASE"),
    reserve_out(0x03, "PERSISTENT RESERVE OUT: CLEAR"),
    reserve_out(0x04, "PERSISTENT RESERVE OUT: PREEMPT"),
    reserve_out(0x05, "PERSISTENT RESERVE OUT: PREEMPT AND ABORT"),
    reserve_out(0x06, "PERSISTENT RESERVE OUT: REGISTER AND IGNORE EXISTING KEY"),
    reserve_out(0x07, "PERSISTENT RESERVE OUT: REGISTER AND MOVE"),
];

const fn reserve_in(service_action: u8, name: &'static str) -> Command {
    let usage = &[0x5e, 0x1f, 0, 0, 0, 0, 0, FF, FF, 7];
    let operation = Operation::PersistentReserveIn;
    action(service_action, command(0x5e, name, "SPC-4", operation, DataOut::None, usage))
}

const fn reserve_out(service_action: u8, name: &'static str) -> Command {
    let usage = &[0x5f, 0x1f, FF, 0, 0, FF, FF, FF, FF, 7];
    let operation = Operation::PersistentReserveOut;
    action(service_action, command(0x5f, name, "SPC-4", operation, DataOut::Long(5), usage))
}
