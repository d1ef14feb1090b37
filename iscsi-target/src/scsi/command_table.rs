//! Every command there is: its codes, what its CDB may carry, and what carries it out.
//!
//! The usage map (SPC-4, REPORT SUPPORTED OPERATION CODES) has a bit set for each bit of the CDB that is looked at. Dispatch, the length of
//! write data, REPORT SUPPORTED OPERATION CODES and `docs/scsi-conformance.md` all follow from this table.

mod access;
mod class;
mod copy_and_erase;
mod reservations;

pub use access::Access;
pub use class::Class;
pub use copy_and_erase::may_take_long;

/// What carries a command out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Operation {
    TestUnitReady,
    RequestSense,
    Inquiry,
    ModeSelect,
    ModeSense,
    StartStopUnit,
    PreventAllow,
    SendDiagnostic,
    ReadCapacity10,
    ReadCapacity16,
    GetLbaStatus,
    Read,
    Write,
    WriteAndVerify,
    Verify,
    SynchronizeCache,
    Prefetch,
    WriteSame,
    Unmap,
    CompareAndWrite,
    OrWrite,
    ReadDefectData,
    LogSense,
    Reserve,
    Release,
    ReportLuns,
    ReportOpcodes,
    ReportTaskManagement,
    WriteAtomic,
    ExtendedCopy,
    CopyStatus,
    CopyParameters,
    CopyFailure,
    Sanitize,
    ReportPortGroups,
    SetPortGroups,
    PersistentReserveIn,
    PersistentReserveOut,
}

/// How many bytes of data a command wants of the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataOut {
    /// None.
    None,
    /// Its number of blocks.
    Blocks,
    /// Its number of blocks, in bytes 12 and 13 (WRITE ATOMIC).
    BlocksInWord12,
    /// Twice its number of blocks, in byte 13 (COMPARE AND WRITE).
    TwiceByte13,
    /// As BYTCHK says: none, its blocks, or one block (VERIFY).
    ByteCheck,
    /// One block, unless NDOB (WRITE SAME).
    OneBlock,
    /// A parameter list whose length is in this byte.
    Byte(usize),
    /// A parameter list whose length is in these two bytes.
    Word(usize),
    /// A parameter list whose length is in these four bytes.
    Long(usize),
}

/// One command.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Operation code.
    pub opcode: u8,
    /// Service action, where the operation code has them.
    pub service_action: Option<u8>,
    /// Its name in SPC-4 or SBC-3.
    pub name: &'static str,
    /// The standard that defines it, under its name.
    pub standard: &'static str,
    /// What carries it out.
    pub operation: Operation,
    /// The data it wants.
    pub data_out: DataOut,
    /// What it needs of the port it comes by.
    pub access: Access,
    /// It changes the medium: refused where that is read-only.
    pub writes: bool,
    /// What a reservation means to it.
    pub class: Class,
    /// Bits of the CDB that are looked at; as long as the CDB.
    pub usage: &'static [u8],
}

const fn command(
    opcode: u8,
    name: &'static str,
    standard: &'static str,
    operation: Operation,
    data_out: DataOut,
    usage: &'static [u8],
) -> Command {
    let (access, class) = (access::needed(operation), class::of(operation));
    Command {
        opcode,
        service_action: None,
        name,
        standard,
        operation,
        data_out,
        access,
        writes: false,
        class,
        usage,
    }
}

const fn writing(command: Command) -> Command {
    Command { writes: true, ..command }
}

const fn action(service_action: u8, command: Command) -> Command {
    Command { service_action: Some(service_action), ..command }
}

const FF: u8 = 0xff;
const SIX: &[u8] = &[0x08, 0x1f, FF, FF, FF, 0x07];

/// Every command.
pub fn all() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().chain(copy_and_erase::COMMANDS).chain(reservations::COMMANDS)
}

/// The table, by operation code and service action; `copy_and_erase` and `reservations` have the rest.
pub const COMMANDS: &[Command] = &[
    command(
        0x00,
        "TEST UNIT READY",
        "SPC-4",
        Operation::TestUnitReady,
        DataOut::None,
        &[0x00, 0, 0, 0, 0, 7],
    ),
    command(0x03, "REQUEST SENSE", "SPC-4", Operation::RequestSense, DataOut::None, &[0x03, 1, 0, 0, FF, 7]),
    command(0x08, "READ(6)", "SBC-3", Operation::Read, DataOut::None, SIX),
    writing(command(
        0x0a,
        "WRITE(6)",
        "SBC-3",
        Operation::Write,
        DataOut::Blocks,
        &[0x0a, 0x1f, FF, FF, FF, 7],
    )),
    command(0x12, "INQUIRY", "SPC-4", Operation::Inquiry, DataOut::None, &[0x12, 1, FF, FF, FF, 7]),
    command(
        0x15,
        "MODE SELECT(6)",
        "SPC-4",
        Operation::ModeSelect,
        DataOut::Byte(4),
        &[0x15, 0x11, 0, 0, FF, 7],
    ),
    command(0x16, "RESERVE(6)", "SPC-2", Operation::Reserve, DataOut::None, &[0x16, 0, 0, 0, 0, 7]),
    command(0x17, "RELEASE(6)", "SPC-2", Operation::Release, DataOut::None, &[0x17, 0, 0, 0, 0, 7]),
    command(0x1a, "MODE SENSE(6)", "SPC-4", Operation::ModeSense, DataOut::None, &[0x1a, 8, FF, FF, FF, 7]),
    command(
        0x1b,
        "START STOP UNIT",
        "SBC-3",
        Operation::StartStopUnit,
        DataOut::None,
        &[0x1b, 1, 0, 0x0f, 0xf7, 7],
    ),
    command(
        0x1d,
        "SEND DIAGNOSTIC",
        "SPC-4",
        Operation::SendDiagnostic,
        DataOut::None,
        &[0x1d, 0xf7, 0, FF, FF, 7],
    ),
    command(
        0x1e,
        "PREVENT ALLOW MEDIUM REMOVAL",
        "SBC-3",
        Operation::PreventAllow,
        DataOut::None,
        &[0x1e, 0, 0, 0, 3, 7],
    ),
    command(
        0x25,
        "READ CAPACITY(10)",
        "SBC-3",
        Operation::ReadCapacity10,
        DataOut::None,
        &[0x25, 0, FF, FF, FF, FF, 0, 0, 1, 7],
    ),
    command(
        0x28,
        "READ(10)",
        "SBC-3",
        Operation::Read,
        DataOut::None,
        &[0x28, 0xf8, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    ),
    writing(command(
        0x2a,
        "WRITE(10)",
        "SBC-3",
        Operation::Write,
        DataOut::Blocks,
        &[0x2a, 0xf8, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    )),
    writing(command(
        0x2e,
        "WRITE AND VERIFY(10)",
        "SBC-3",
        Operation::WriteAndVerify,
        DataOut::Blocks,
        &[0x2e, 0xf6, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    )),
    command(
        0x2f,
        "VERIFY(10)",
        "SBC-3",
        Operation::Verify,
        DataOut::ByteCheck,
        &[0x2f, 0xf6, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    ),
    command(
        0x34,
        "PRE-FETCH(10)",
        "SBC-3",
        Operation::Prefetch,
        DataOut::None,
        &[0x34, 2, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    ),
    command(
        0x35,
        "SYNCHRONIZE CACHE(10)",
        "SBC-3",
        Operation::SynchronizeCache,
        DataOut::None,
        &[0x35, 6, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    ),
    command(
        0x37,
        "READ DEFECT DATA(10)",
        "SBC-3",
        Operation::ReadDefectData,
        DataOut::None,
        &[0x37, 0, 0x1f, 0, 0, 0, 0, FF, FF, 7],
    ),
    writing(command(
        0x41,
        "WRITE SAME(10)",
        "SBC-3",
        Operation::WriteSame,
        DataOut::OneBlock,
        &[0x41, 0xf8, FF, FF, FF, FF, 0x1f, FF, FF, 7],
    )),
    writing(command(
        0x42,
        "UNMAP",
        "SBC-3",
        Operation::Unmap,
        DataOut::Word(7),
        &[0x42, 1, 0, 0, 0, 0, 0x1f, FF, FF, 7],
    )),
    command(
        0x4d,
        "LOG SENSE",
        "SPC-4",
        Operation::LogSense,
        DataOut::None,
        &[0x4d, 1, FF, FF, 0, FF, FF, FF, FF, 7],
    ),
    command(
        0x55,
        "MODE SELECT(10)",
        "SPC-4",
        Operation::ModeSelect,
        DataOut::Word(7),
        &[0x55, 0x11, 0, 0, 0, 0, 0, FF, FF, 7],
    ),
    command(
        0x56,
        "RESERVE(10)",
        "SPC-2",
        Operation::Reserve,
        DataOut::None,
        &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 7],
    ),
    command(
        0x57,
        "RELEASE(10)",
        "SPC-2",
        Operation::Release,
        DataOut::None,
        &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 7],
    ),
    command(
        0x5a,
        "MODE SENSE(10)",
        "SPC-4",
        Operation::ModeSense,
        DataOut::None,
        &[0x5a, 0x18, FF, FF, 0, 0, 0, FF, FF, 7],
    ),
    command(
        0x88,
        "READ(16)",
        "SBC-3",
        Operation::Read,
        DataOut::None,
        &[0x88, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    ),
    writing(command(
        0x89,
        "COMPARE AND WRITE",
        "SBC-3",
        Operation::CompareAndWrite,
        DataOut::TwiceByte13,
        &[0x89, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, 0, 0, 0, FF, 0x1f, 7],
    )),
    writing(command(
        0x8a,
        "WRITE(16)",
        "SBC-3",
        Operation::Write,
        DataOut::Blocks,
        &[0x8a, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    writing(command(
        0x8b,
        "ORWRITE(16)",
        "SBC-3",
        Operation::OrWrite,
        DataOut::Blocks,
        &[0x8b, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    writing(command(
        0x8e,
        "WRITE AND VERIFY(16)",
        "SBC-3",
        Operation::WriteAndVerify,
        DataOut::Blocks,
        &[0x8e, 0xf6, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    command(
        0x8f,
        "VERIFY(16)",
        "SBC-3",
        Operation::Verify,
        DataOut::ByteCheck,
        &[0x8f, 0xf6, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    ),
    command(
        0x90,
        "PRE-FETCH(16)",
        "SBC-3",
        Operation::Prefetch,
        DataOut::None,
        &[0x90, 2, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    ),
    command(
        0x91,
        "SYNCHRONIZE CACHE(16)",
        "SBC-3",
        Operation::SynchronizeCache,
        DataOut::None,
        &[0x91, 6, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    ),
    writing(command(
        0x93,
        "WRITE SAME(16)",
        "SBC-3",
        Operation::WriteSame,
        DataOut::OneBlock,
        &[0x93, 0xf9, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    action(
        0x10,
        command(
            0x9e,
            "READ CAPACITY(16)",
            "SBC-3",
            Operation::ReadCapacity16,
            DataOut::None,
            &[0x9e, 0x1f, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 1, 7],
        ),
    ),
    action(
        0x12,
        command(
            0x9e,
            "GET LBA STATUS",
            "SBC-3",
            Operation::GetLbaStatus,
            DataOut::None,
            &[0x9e, 0x1f, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, FF, 0, 7],
        ),
    ),
    command(
        0xa0,
        "REPORT LUNS",
        "SPC-4",
        Operation::ReportLuns,
        DataOut::None,
        &[0xa0, 0, FF, 0, 0, 0, FF, FF, FF, FF, 0, 7],
    ),
    action(
        0x0c,
        command(
            0xa3,
            "REPORT SUPPORTED OPERATION CODES",
            "SPC-4",
            Operation::ReportOpcodes,
            DataOut::None,
            &[0xa3, 0x1f, 0x87, FF, FF, FF, FF, FF, FF, FF, 0, 7],
        ),
    ),
    action(
        0x0d,
        command(
            0xa3,
            "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
            "SPC-4",
            Operation::ReportTaskManagement,
            DataOut::None,
            &[0xa3, 0x1f, 0x80, 0, 0, 0, FF, FF, FF, FF, 0, 7],
        ),
    ),
    command(
        0xa8,
        "READ(12)",
        "SBC-3",
        Operation::Read,
        DataOut::None,
        &[0xa8, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    ),
    writing(command(
        0xaa,
        "WRITE(12)",
        "SBC-3",
        Operation::Write,
        DataOut::Blocks,
        &[0xaa, 0xf8, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    writing(command(
        0xae,
        "WRITE AND VERIFY(12)",
        "SBC-3",
        Operation::WriteAndVerify,
        DataOut::Blocks,
        &[0xae, 0xf6, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    )),
    command(
        0xaf,
        "VERIFY(12)",
        "SBC-3",
        Operation::Verify,
        DataOut::ByteCheck,
        &[0xaf, 0xf6, FF, FF, FF, FF, FF, FF, FF, FF, 0x1f, 7],
    ),
    command(
        0xb7,
        "READ DEFECT DATA(12)",
        "SBC-3",
        Operation::ReadDefectData,
        DataOut::None,
        &[0xb7, 0x1f, FF, FF, FF, FF, FF, FF, FF, FF, 0, 7],
    ),
];

/// Commands of an operation code: one, or one for each service action.
pub fn of_opcode(opcode: u8) -> impl Iterator<Item = &'static Command> {
    all().filter(move |command| command.opcode == opcode)
}

/// The command that a CDB is.
pub fn find(cdb: &[u8]) -> Option<&'static Command> {
    let (opcode, second) = (*cdb.first()?, cdb.get(1).copied().unwrap_or(0));
    of_opcode(opcode).find(|command| command.service_action.is_none_or(|action| action == second & 0x1f))
}

#[cfg(test)]
mod tests;
