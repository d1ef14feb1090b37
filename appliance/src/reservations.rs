//! Where do persistent reservations survive? On the array of their volume ([`crate::replica`]); the logical units call
//! [`Keeper`] before they let a change count.

use std::sync::{Arc, Weak};

use iscsi_target::scsi::reservations::{ReservationRecord, Reservations};
use iscsi_target::scsi::{ReservationStore, StoreFailed, StoreFuture};
use raid_core::volume::Volume;
use uuid::Uuid;

use crate::replica;
use crate::san::{LunRecord, SanDocument};
use crate::state::Daemon;

/// What a logical unit is made over.
pub(crate) struct Backing {
    /// The volume.
    pub(crate) volume: Arc<Volume>,
    /// Where its registrations are kept.
    pub(crate) keeper: Arc<dyn ReservationStore>,
    /// What was kept. The error is for a person: a disk whose reservations cannot be known must not be open to everybody.
    pub(crate) restore: Box<dyn Fn() -> Result<Reservations, String>>,
}

/// Keeps one volume's record.
#[derive(Debug)]
struct Keeper {
    daemon: Weak<Daemon>,
    array: Uuid,
    volume: Arc<Volume>,
}

impl ReservationStore for Keeper {
    fn store(&self, record: Option<ReservationRecord>) -> StoreFuture<'_> {
        Box::pin(async move {
            let daemon = self.daemon.upgrade().ok_or(StoreFailed)?;
            let kept = keep(daemon, self.array, Arc::clone(&self.volume), record).await;
            kept.map_err(|why| {
                let volume = self.volume.uuid();
                tracing::error!("the reservations of volume {volume} could not be kept: {why}");
                StoreFailed
            })
        })
    }
}

/// Arrays are written to on the background worker.
async fn keep(
    daemon: Arc<Daemon>,
    array: Uuid,
    volume: Arc<Volume>,
    record: Option<ReservationRecord>,
) -> Result<(), String> {
    let record = record.map(serde_json::to_value).transpose().map_err(|error| error.to_string())?;
    let workers = daemon.workers.clone();
    let work = move || async move {
        let kept = replica::keep_reservations(&daemon, array, &volume, record).await;
        kept.map_err(|failure| failure.to_string())
    };
    workers.call_background(work).await.map_err(|error| error.to_string())?
}

/// What the document keeps of a volume. The error is for a person.
pub(crate) fn restored(document: &SanDocument, volume: Uuid) -> Result<Reservations, String> {
    let Some(kept) = document.reservations.get(&volume) else { return Ok(Reservations::default()) };
    let record: ReservationRecord = serde_json::from_value(kept.clone())
        .map_err(|error| format!("its persistent reservations cannot be read: {error}"))?;
    Reservations::restore(&record).map_err(|error| error.to_string())
}

/// What a LUN stands for; none if its array does not run.
pub(crate) fn backing(daemon: &Daemon, lun: &LunRecord) -> Option<Backing> {
    let (_, backing) = daemon.volume_of(lun)?;
    let volume = lun.volume_uuid;
    let keeper = Keeper { daemon: daemon.weak(), array: lun.array_uuid, volume: Arc::clone(&backing) };
    let here = daemon.weak();
    let restore = move || match here.upgrade() {
        Some(daemon) => restored(&daemon.document(), volume),
        None => Err("labsand stops".to_owned()),
    };
    Some(Backing { volume: backing, keeper: Arc::new(keeper), restore: Box::new(restore) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_document_keeps_is_restored_or_refused() {
        let volume = Uuid::from_u128(5);
        let mut document = SanDocument::empty(Uuid::nil());
        assert_eq!(restored(&document, volume), Ok(Reservations::default()));
        let kept = serde_json::json!({
            "registrations": [{
                "key": "00000000000000ab", "initiator": "iqn.2026-11.org.example:n", "isid": "800000000001",
                "target": "iqn.2026-11.org.labsan:t", "portal_group": 1, "relative_target_port": 1
            }],
            "reservation": {"type": 5, "holder": 0}
        });
        document.reservations.insert(volume, kept.clone());
        let state = restored(&document, volume).unwrap();
        assert_eq!(state.registrations[0].key, 0xab);
        assert_eq!(serde_json::to_value(state.record()).unwrap(), kept, "written as it is read");
        document.reservations.insert(volume, serde_json::json!({"registrations": 7}));
        assert!(restored(&document, volume).is_err());
    }
}
