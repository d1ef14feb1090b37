//! The table's column of asymmetric access: which commands pass in which state of the port.

use super::Operation;

/// What state of the port a command needs (SPC-4, asymmetric logical unit access).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any: it informs.
    Any,
    /// Any that initiators may change: it changes the state.
    Settable,
    /// Standby will do: it does not need the medium.
    Standby,
    /// Active.
    Active,
}

/// What an operation needs.
pub(super) const fn needed(operation: Operation) -> Access {
    match operation {
        Operation::Inquiry
        | Operation::RequestSense
        | Operation::ReportLuns
        | Operation::ReportOpcodes
        | Operation::ReportTaskManagement
        | Operation::ReportPortGroups => Access::Any,
        Operation::SetPortGroups => Access::Settable,
        Operation::ModeSense
        | Operation::ModeSelect
        | Operation::LogSense
        | Operation::SendDiagnostic
        | Operation::PersistentReserveIn
        | Operation::PersistentReserveOut => Access::Standby,
        _ => Access::Active,
    }
}
