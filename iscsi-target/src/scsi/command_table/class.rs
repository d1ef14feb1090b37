//! What does a reservation mean to a command? (SPC-4 clause 5.12.1, SBC-3 clause 4.17, their tables of commands allowed in
//! the presence of reservations.)
//!
//! "Kept out" is a nexus to which the reservation gives no rights of its own: it is no holder, and not one of the
//! registrants where these are let in.
//!
//! | class | kept out of Write Exclusive | kept out of Exclusive Access |
//! |---|---|---|
//! | always | allowed | allowed |
//! | reading | allowed | conflict |
//! | restricted | conflict | conflict |
//! | starting | allowed if it only starts the unit | the same |
//! | preventing | allowed if it prevents nothing | the same |
//! | legacy, persistent | the state machine decides | the same |

use super::Operation;
use crate::scsi::cdb::Cdb;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Tells about the unit.
    Always,
    /// Gets what is on the medium.
    Reading,
    /// Everything else.
    Restricted,
    /// START STOP UNIT.
    Starting,
    /// PREVENT ALLOW MEDIUM REMOVAL.
    Preventing,
    /// RESERVE and RELEASE of SPC-2.
    Legacy,
    /// PERSISTENT RESERVE IN and OUT.
    Persistent,
}

impl Class {
    /// Its name in the table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Reading => "reading",
            Self::Restricted => "restricted",
            Self::Starting => "starting",
            Self::Preventing => "preventing",
            Self::Legacy => "legacy",
            Self::Persistent => "persistent",
        }
    }

    /// Whether a nexus that is kept out may send this CDB.
    pub(crate) fn passes(self, cdb: Cdb<'_>, exclusive_access: bool) -> bool {
        match self {
            Self::Always | Self::Legacy | Self::Persistent => true,
            Self::Reading => !exclusive_access,
            Self::Restricted => false,
            // START set, POWER CONDITION 0.
            Self::Starting => cdb.byte(4) & 0xf1 == 0x01,
            Self::Preventing => cdb.byte(4) & 0x03 == 0,
        }
    }
}

/// The class of an operation. Without a wildcard, so that none is forgotten.
pub(super) const fn of(operation: Operation) -> Class {
    match operation {
        Operation::TestUnitReady
        | Operation::RequestSense
        | Operation::Inquiry
        | Operation::ReadCapacity10
        | Operation::ReadCapacity16
        | Operation::LogSense
        | Operation::ReportLuns
        | Operation::ReportPortGroups
        | Operation::CopyStatus
        | Operation::CopyParameters
        | Operation::CopyFailure => Class::Always,
        Operation::GetLbaStatus
        | Operation::ModeSense
        | Operation::ReportOpcodes
        | Operation::ReportTaskManagement
        | Operation::Read
        | Operation::Verify
        | Operation::Prefetch
        | Operation::ReadDefectData => Class::Reading,
        Operation::ModeSelect
        | Operation::SendDiagnostic
        | Operation::Write
        | Operation::WriteAndVerify
        | Operation::SynchronizeCache
        | Operation::WriteSame
        | Operation::Unmap
        | Operation::CompareAndWrite
        | Operation::OrWrite
        | Operation::WriteAtomic
        | Operation::ExtendedCopy
        | Operation::Sanitize
        | Operation::SetPortGroups => Class::Restricted,
        Operation::StartStopUnit => Class::Starting,
        Operation::PreventAllow => Class::Preventing,
        Operation::Reserve | Operation::Release => Class::Legacy,
        Operation::PersistentReserveIn | Operation::PersistentReserveOut => Class::Persistent,
    }
}
