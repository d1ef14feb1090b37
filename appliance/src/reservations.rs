//! Where do persistent reservations survive? On the array of their volume ([`crate::replica`]); the logical units call
//! [`Keeper`] before they let a change count.

use std::sync::{Arc, Weak};

use iscsi_target::scsi::reservations::Reservations;
use iscsi_target::scsi::{MappingResources, Restored, StoreFailed, StoreFuture, UnitRecord, UnitStore};
use raid_core::array::DocumentError;
use raid_core::volume::Volume;
use uuid::Uuid;

use crate::error::Failure;
use crate::replica;
use crate::san::{LunRecord, SanDocument, TargetRecord, records};
use crate::state::Daemon;

/// What a logical unit is made over.
pub(crate) struct Backing {
    /// The volume.
    pub(crate) volume: Arc<Volume>,
    /// Where its record is kept.
    pub(crate) keeper: Arc<dyn UnitStore>,
    /// What was kept. The error is for a person: a disk whose reservations cannot be known must not be open to everybody.
    pub(crate) restore: Box<dyn Fn() -> Result<Restored, String>>,
    /// How its space fares, where it is thin.
    pub(crate) resources: Option<MappingResources>,
}

/// Keeps one volume's record.
#[derive(Debug)]
struct Keeper {
    daemon: Weak<Daemon>,
    array: Uuid,
    volume: Arc<Volume>,
}

impl UnitStore for Keeper {
    fn store(&self, record: Option<UnitRecord>) -> StoreFuture<'_> {
        Box::pin(async move {
            let daemon = self.daemon.upgrade().ok_or(StoreFailed::Unwritten)?;
            let kept = keep(daemon, self.array, Arc::clone(&self.volume), record).await;
            kept.map_err(|why| {
                tracing::error!(
                    "the record of volume {} (registrations, SANITIZE) could not be kept: {why}",
                    self.volume.uuid()
                );
                what_to_tell(&why)
            })
        })
    }
}

fn what_to_tell(why: &Failure) -> StoreFailed {
    match why {
        Failure::InDoubt(_) => StoreFailed::Doubtful,
        // The configuration of the SAN fills the slot.
        Failure::NoRoom(_) | Failure::Replica { source: DocumentError::Format(_), .. } => StoreFailed::NoRoom,
        _ => StoreFailed::Unwritten,
    }
}

/// Arrays are written to on the background worker.
async fn keep(
    daemon: Arc<Daemon>,
    array: Uuid,
    volume: Arc<Volume>,
    record: Option<UnitRecord>,
) -> Result<(), Failure> {
    let record = as_json(record.as_ref())?;
    let workers = daemon.workers.clone();
    let work = move || async move { replica::keep_reservations(&daemon, array, &volume, record).await };
    workers.call_background(work).await?
}

/// A record as the document has it.
pub(crate) fn as_json(record: Option<&UnitRecord>) -> Result<Option<serde_json::Value>, Failure> {
    Ok(record
        .map(serde_json::to_value)
        .transpose()
        .map_err(crate::san::document::DocumentError::Malformed)?)
}

/// What the document keeps of a volume. The error is for a person.
pub(crate) fn restored(document: &SanDocument, volume: Uuid) -> Result<Restored, String> {
    let Some(kept) = document.reservations.get(&volume) else { return Ok(Restored::default()) };
    let record: UnitRecord = serde_json::from_value(kept.clone())
        .map_err(|error| format!("its record (persistent reservations, SANITIZE) cannot be read: {error}"))?;
    let mut restored = record.restore().map_err(|error| error.to_string())?;
    // The port's number may have been another where it was registered, in another SAN.
    for registration in &mut restored.reservations.registrations {
        let is_its =
            |target: &&TargetRecord| target.iqn.eq_ignore_ascii_case(&registration.nexus.target_name);
        if let Some(target) = document.targets.iter().find(is_its) {
            registration.relative_target_port = document.port(target);
        }
    }
    Ok(restored)
}

/// What the document keeps of a volume's SANITIZE where its registrations cannot be read.
pub(crate) fn sanitize_alone(document: &SanDocument, volume: Uuid) -> Restored {
    let kept = document.reservations.get(&volume).and_then(|record| record.get("sanitize"));
    let record = kept.map(|sanitize| serde_json::json!({"registrations": [], "sanitize": sanitize}));
    let record = record.and_then(|record| serde_json::from_value::<UnitRecord>(record).ok());
    record.and_then(|record| record.restore().ok()).unwrap_or_default()
}

/// The document with what live units know, also what shall not survive a power loss: the ports that this names are not free.
pub(crate) fn with_live(daemon: &Daemon, document: &SanDocument) -> SanDocument {
    let mut document = document.clone();
    for unit in daemon.targets.units() {
        let live = Reservations { persists: true, ..unit.reservations() };
        if let Ok(record @ Some(_)) = as_json(UnitRecord::of(&live, None).as_ref()) {
            records::put(&mut document.reservations, unit.identity().uuid, record);
        }
    }
    document
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
    let resources = daemon.spaces.resources(lun.array_uuid, &backing);
    Some(Backing { volume: backing, keeper: Arc::new(keeper), restore: Box::new(restore), resources })
}

#[cfg(test)]
mod tests {
    use super::*;
    use iscsi_target::scsi::Interrupted;

    #[test]
    fn what_the_document_keeps_is_restored_or_refused() {
        let volume = Uuid::from_u128(5);
        let mut document = SanDocument::empty(Uuid::nil());
        assert_eq!(restored(&document, volume), Ok(Restored::default()));
        let kept = serde_json::json!({
            "registrations": [{
                "key": "00000000000000ab", "initiator": "iqn.2026-11.org.example:n", "isid": "800000000001",
                "target": "iqn.2026-11.org.labsan:t", "portal_group": 1, "relative_target_port": 1
            }],
            "reservation": {"type": 5, "holder": 0},
            "sanitize": {"action": "block-erase", "may_exit": true, "failed": true, "size_bytes": 8, "done_bytes": 0}
        });
        document.reservations.insert(volume, kept.clone());
        let state = restored(&document, volume).unwrap();
        assert_eq!(state.reservations.registrations[0].key, 0xab);
        let again = UnitRecord::of(&state.reservations, state.sanitize.as_ref().map(Interrupted::record));
        assert_eq!(serde_json::to_value(again).unwrap(), kept, "written as it is read");
        let mut here = document.clone();
        here.targets =
            serde_json::from_value(serde_json::json!([{"iqn": "iqn.2026-11.org.labsan:T", "port": 7}]))
                .unwrap();
        let state = restored(&here, volume).unwrap();
        assert_eq!(
            state.reservations.registrations[0].relative_target_port, 7,
            "the number that its target has here"
        );
        document.reservations.insert(volume, serde_json::json!({"registrations": 7}));
        assert!(restored(&document, volume).is_err());
    }
}
