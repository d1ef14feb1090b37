//! What does an array carry of the SAN? The configuration, as the host and every other array do, and the persistent
//! reservations of its own volumes, which nobody else decides about.
//!
//! - Whoever writes has the array's turn ([`Daemon::writing`]), reads what is there, and changes no more than his part of it:
//!   a change of the configuration leaves the reservations as they are, and the other way round. So neither can undo the
//!   other, and what an array brings along stays until somebody has looked at it.
//! - What was refused may be durable on a disk all the same, and the next start would believe it. So after a write that went
//!   wrong the next one is carried out even if it changes nothing ([`LastWrite`]).
//! - An order of a node waits for the array that its volume is on and for nothing else: not for other arrays, whose disks may
//!   hang, not for the host's copy, whose file system may be full, and not for whoever changes the configuration.

use std::sync::Arc;

use raid_core::array::{Array, ArrayState};
use raid_core::volume::Volume;
use serde_json::Value;
use uuid::Uuid;

use crate::error::Failure;
use crate::san::document::DocumentError;
use crate::san::{SanDocument, records};
use crate::state::{Daemon, LastWrite};

/// What an array carries; none if it was never part of a SAN.
pub(crate) async fn carried(array: &Array) -> Result<Option<SanDocument>, Failure> {
    let (_, carried) = array.attachment().await;
    Ok(SanDocument::from_json(carried)?)
}

/// The identities of an array's volumes.
pub(crate) fn volumes(array: &Array) -> Vec<Uuid> {
    array.volumes().iter().map(|volume| volume.uuid()).collect()
}

/// Does it take writes?
pub(crate) async fn is_writable(array: &Array) -> bool {
    !matches!(array.status().await.state, ArrayState::Failed | ArrayState::Stopped)
}

/// Replace the configuration that an array carries, durably. The reservations of its volumes stay.
pub(crate) async fn set_configuration(
    daemon: &Daemon,
    array: &Array,
    document: &SanDocument,
) -> Result<(), Failure> {
    let writing = daemon.writing(array.uuid());
    let mut last = writing.lock().await;
    let kept = carried(array).await?.map(|there| there.reservations).unwrap_or_default();
    let reservations = records::of_volumes(kept, &volumes(array));
    write(array, &mut last, &SanDocument { reservations, ..document.clone() }).await
}

/// Keep a volume's persistent reservations, or that there are none: durable on its array `home`, then known here.
pub(crate) async fn keep_reservations(
    daemon: &Daemon,
    home: Uuid,
    volume: &Arc<Volume>,
    record: Option<Value>,
) -> Result<(), Failure> {
    let writing = daemon.writing(home);
    let mut last = writing.lock().await;
    let array = daemon.array_of(home).ok_or_else(|| Failure::NoArray(home.to_string()))?;
    // The order was under way when the volume was deleted, and nobody would ever take its record away; or when the array
    // was stopped. It may have been started again, and its volume be another object, whose users know nothing of the order.
    if !array.volumes().iter().any(|there| Arc::ptr_eq(there, volume)) {
        return Err(Failure::VolumeGone(volume.uuid()));
    }
    if !is_writable(&array).await {
        return Err(Failure::NotWritable(array.name().to_owned()));
    }
    change_record(daemon, &array, &mut last, volume.uuid(), record).await
}

/// Forget the reservations of a volume that its array does not have any more.
pub(crate) async fn forget_reservations(daemon: &Daemon, array: &Array, volume: Uuid) -> Result<(), Failure> {
    let writing = daemon.writing(array.uuid());
    let mut last = writing.lock().await;
    change_record(daemon, array, &mut last, volume, None).await
}

/// The caller has the array's turn.
async fn change_record(
    daemon: &Daemon,
    array: &Array,
    last: &mut LastWrite,
    volume: Uuid,
    record: Option<Value>,
) -> Result<(), Failure> {
    let before = match carried(array).await? {
        Some(there) => there,
        // It could not be written when it was made.
        None => SanDocument { reservations: records::Records::new(), ..daemon.document() },
    };
    let mut next = before.clone();
    next.reservations = records::of_volumes(next.reservations, &volumes(array));
    if let Some(record) = &record {
        records::check_room(&next.reservations, volume, record)?;
    }
    records::put(&mut next.reservations, volume, record.clone());
    if (next != before || last.is_in_doubt)
        && let Err(error) = write(array, last, &next).await
    {
        // It may be durable on a disk all the same, and a start would believe that.
        if let Err(second) = write(array, last, &before).await {
            tracing::error!("a volume's record that was refused could not be taken back: {second}");
            return Err(Failure::InDoubt(Box::new(error)));
        }
        return Err(error);
    }
    records::put(&mut daemon.state().document.reservations, volume, record);
    daemon.host_is_behind.notify_one();
    Ok(())
}

async fn write(array: &Array, last: &mut LastWrite, document: &SanDocument) -> Result<(), Failure> {
    // Also of what initiators have done since: see `needed_schema`.
    let document = &SanDocument { schema: document.needed_schema(), ..document.clone() };
    let json = serde_json::to_value(document).map_err(DocumentError::Malformed)?;
    let written = array.set_attachment(document.generation, json).await;
    last.is_in_doubt = written.is_err();
    written.map_err(|source| Failure::Replica { array: array.name().to_owned(), source })
}

#[cfg(test)]
mod tests;
