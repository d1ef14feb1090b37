//! What of a logical unit survives a power loss: the registrations that are to, and a SANITIZE that is not over.
//!
//! Whoever changes either has the turn of orders, makes the whole record durable, and only then lets it count.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::reservations::{BadRecord, ReservationRecord, Reservations};
use super::sanitize::{Interrupted, SanitizeRecord};
use super::{Failure, LogicalUnit, ScsiCommand, Sense, Status};

/// What is kept of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Registrations and the reservation.
    #[serde(flatten)]
    pub reservations: ReservationRecord,
    /// A SANITIZE that is under way or has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sanitize: Option<SanitizeRecord>,
}

/// What a unit begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Who is registered.
    pub reservations: Reservations,
    /// What is to be gone on with.
    pub sanitize: Option<Interrupted>,
}

impl UnitRecord {
    /// A record of these; none where there is nothing to keep.
    pub fn of(reservations: &Reservations, sanitize: Option<SanitizeRecord>) -> Option<Self> {
        let reservations = reservations.record();
        let is_any = reservations.is_some() || sanitize.is_some();
        is_any.then(|| Self { reservations: reservations.unwrap_or_default(), sanitize })
    }

    /// The state after a power loss.
    pub fn restore(&self) -> Result<Restored, BadRecord> {
        let reservations = Reservations::restore(&self.reservations)?;
        let sanitize = self.sanitize.as_ref().map(SanitizeRecord::restore).transpose()?;
        Ok(Restored { reservations, sanitize })
    }
}

/// The record could not be kept; why was logged where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreFailed {
    /// The disks, or what keeps them, did not take it.
    #[error("the unit's record could not be written")]
    Unwritten,
    /// The same, and whether it is there all the same nobody knows: the next start may find it.
    #[error("whether the unit's record was written is not known")]
    Doubtful,
    /// It is larger than the one before, and there is no room for that.
    #[error("there is no room for so many registrations")]
    NoRoom,
}

impl From<StoreFailed> for Sense {
    fn from(why: StoreFailed) -> Self {
        match why {
            StoreFailed::Unwritten | StoreFailed::Doubtful => Self::INTERNAL_FAILURE,
            StoreFailed::NoRoom => Self::NO_ROOM_TO_REGISTER,
        }
    }
}

/// A store under way.
pub type StoreFuture<'a> = Pin<Box<dyn Future<Output = Result<(), StoreFailed>> + Send + 'a>>;

/// Where a unit's record survives a power loss.
pub trait UnitStore: Send + Sync + std::fmt::Debug {
    /// Keep this record, or none, instead of what was kept. Durable when it returns; unchanged if it fails, but for
    /// [`StoreFailed::Doubtful`].
    fn store(&self, record: Option<UnitRecord>) -> StoreFuture<'_>;
}

/// How a unit keeps its record.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    store: Option<Arc<dyn UnitStore>>,
    /// One order at a time, until what it ends is over.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The turn of an order.
pub(crate) type OrderTurn = tokio::sync::OwnedMutexGuard<()>;

impl Keeping {
    pub(super) fn new(store: Arc<dyn UnitStore>) -> Self {
        Self { store: Some(store), ..Self::default() }
    }

    pub(super) fn can(&self) -> bool {
        self.store.is_some()
    }
}

impl LogicalUnit {
    /// The turn of whoever changes what is kept.
    pub(super) async fn turn_of_orders(&self) -> OrderTurn {
        Arc::clone(&self.shared.keeping.turn).lock_owned().await
    }

    /// A command that is aborted while it waits for its turn never has it: whom a PREEMPT AND ABORT ends does not register
    /// itself again behind its back.
    pub(super) async fn order_turn(&self, command: &ScsiCommand) -> Result<OrderTurn, Failure> {
        let turn = tokio::select! {
            biased;
            () = command.aborted() => None,
            turn = self.turn_of_orders() => Some(turn),
        };
        turn.ok_or(Failure::Status(Status::TaskAborted))
    }

    /// Make durable what is to be so from now on. The caller has the turn. Where nothing can be kept, nothing is.
    pub(super) async fn keep(
        &self,
        reservations: &Reservations,
        sanitize: Option<SanitizeRecord>,
    ) -> Result<(), StoreFailed> {
        match &self.shared.keeping.store {
            Some(store) => store.store(UnitRecord::of(reservations, sanitize)).await,
            None => Ok(()),
        }
    }
}
