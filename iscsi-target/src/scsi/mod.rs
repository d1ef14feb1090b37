//! The SCSI device server (SPC-4, SBC-3) over any [`block_io::BlockDevice`].
//!
//! One command table (`command_table`) says what is supported; dispatch, REPORT SUPPORTED OPERATION CODES and
//! `docs/scsi-conformance.md` follow from it. CDBs are decoded and answers are laid out by pure functions; only
//! `medium` and `logical_unit` touch the device.

mod capacity;
mod cdb;
pub mod command_table;
mod copy;
mod inquiry;
mod keeping;
mod log;
mod logical_unit;
mod lun_map;
mod lun_views;
mod medium;
mod mode;
mod nexus;
mod ports;
mod report;
pub mod reservations;
mod reserving;
mod sanitize;
mod sense;
mod thin;
mod vpd;
mod write_atomic;
mod zeroing;

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::watch;

use keeping::OrderTurn;
use reservations::ItNexus;

pub use keeping::{Restored, StoreFailed, StoreFuture, UnitRecord, UnitStore};
pub use logical_unit::{LogicalUnit, LuIdentity, LuOptions};
pub use lun_map::{LunMap, LunTaken};
pub use nexus::Nexus;
pub(crate) use nexus::PORTAL_GROUP_TAG;
pub use ports::{AccessState, TargetPort};
pub use sanitize::{Interrupted, SanitizeRecord};
pub use sense::Sense;
pub use thin::MappingResources;

/// SCSI status codes (SAM-5 table 40).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    ConditionMet = 0x04,
    Busy = 0x08,
    ReservationConflict = 0x18,
    TaskSetFull = 0x28,
    TaskAborted = 0x40,
}

/// A command with all the data the initiator sent for it.
#[derive(Clone, Debug)]
pub struct ScsiCommand {
    /// The eight bytes of the LUN field.
    pub lun: u64,
    /// The command descriptor block; its first 16 bytes at least.
    pub cdb: SmallVec<[u8; 16]>,
    /// Write data or a parameter list.
    pub data_out: Bytes,
    /// Bytes the initiator meant to send; what the CDB does not want is not in `data_out`.
    pub expected_data_out: u32,
    /// The most data the initiator takes.
    pub expected_data_in: u32,
    /// Becomes true when the command is aborted; for those of `command_table::may_take_long`, and such as may wait for memory.
    pub abort: Option<watch::Receiver<bool>>,
}

impl ScsiCommand {
    /// Nobody wants an answer any more.
    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.as_ref().is_some_and(|abort| *abort.borrow())
    }

    /// Wait until nobody wants an answer any more.
    pub(crate) async fn aborted(&self) {
        let told = match self.abort.clone() {
            Some(mut abort) => abort.wait_for(|aborted| *aborted).await.is_ok(),
            None => false,
        };
        if !told {
            // It never will be.
            std::future::pending::<()>().await;
        }
    }
}

/// What became of a command.
#[derive(Clone, Debug)]
pub struct ScsiResponse {
    /// Its status.
    pub status: Status,
    /// Encoded sense data; empty if there is none.
    pub sense: Vec<u8>,
    /// The data it produced, perhaps cut to what the initiator takes.
    pub data_in: Bytes,
    /// Bytes it produces in all.
    pub data_in_wanted: u64,
    /// Bytes it wanted of the initiator.
    pub data_out_wanted: u64,
    /// Whose commands must be over before this is sent.
    pub preempted: Option<Preempted>,
}

/// Nexuses that a PREEMPT AND ABORT has preempted, and where.
#[derive(Clone, Debug)]
pub struct Preempted {
    /// The logical unit, under whatever number it is known to each.
    pub unit: Arc<LogicalUnit>,
    /// Who.
    pub nexuses: Vec<ItNexus>,
    /// Nobody else orders or asks anything until this is over.
    pub(crate) _turn: Arc<OrderTurn>,
}

impl ScsiResponse {
    /// GOOD, without data.
    pub fn good() -> Self {
        Self {
            status: Status::Good,
            sense: Vec::new(),
            data_in: Bytes::new(),
            data_in_wanted: 0,
            data_out_wanted: 0,
            preempted: None,
        }
    }

    /// GOOD, with these bytes of parameter data, cut at the CDB's allocation length.
    pub(crate) fn parameters(bytes: impl Into<Bytes>, allocation_length: usize) -> Self {
        let mut data_in = bytes.into();
        data_in.truncate(allocation_length);
        Self { data_in_wanted: data_in.len() as u64, data_in, ..Self::good() }
    }

    pub(crate) fn with_status(status: Status) -> Self {
        Self { status, ..Self::good() }
    }
}

/// How a command ends otherwise than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Check(Sense),
    Status(Status),
}

impl From<Sense> for Failure {
    fn from(sense: Sense) -> Self {
        Self::Check(sense)
    }
}

pub(crate) mod fuzzing {
    //! Parsers and their reverse, for `crate::fuzzing`.

    pub(crate) fn copy_list(bytes: &[u8]) -> Option<Vec<u8>> {
        super::copy::parameters::parse(bytes).ok().map(|list| super::copy::parameters::encode(&list))
    }

    pub(crate) fn transport_id(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
        super::reservations::TransportId::parse(bytes).map(|(id, taken)| (id.encode(), taken))
    }
}

#[cfg(test)]
mod tests;
