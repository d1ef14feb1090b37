//! Persistent reservations in the document, by volume: whose copy of them counts, and what an array carries. Pure.
//!
//! Nobody knows them better than the array that the volume is on: an order of a node counts once its record is durable
//! there, and there alone. So an array carries the records of its own volumes and no others, and they count wherever it
//! is, whatever generation its copy of the configuration has. What a host remembers of arrays that are not there is for
//! people, and decides nothing.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

/// Records by volume, as the SCSI layer keeps them.
pub(crate) type Records = BTreeMap<Uuid, Value>;

/// Let the records that an array carries count for its volumes: what was known of them before is from when it was here
/// last. Was anything changed?
pub(crate) fn adopt(known: &mut Records, carried: &Records, volumes: &[Uuid]) -> bool {
    let before = known.clone();
    for volume in volumes {
        match carried.get(volume) {
            Some(record) => known.insert(*volume, record.clone()),
            None => known.remove(volume),
        };
    }
    *known != before
}

/// Those of these volumes. An array forgets those that are none of its own: a volume that was deleted has left no other
/// trace.
pub(crate) fn of_volumes(records: Records, volumes: &[Uuid]) -> Records {
    records.into_iter().filter(|(volume, _)| volumes.contains(volume)).collect()
}

/// Set a volume's record, or take it away.
pub(crate) fn put(records: &mut Records, volume: Uuid, record: Option<Value>) {
    match record {
        Some(record) => records.insert(volume, record),
        None => records.remove(&volume),
    };
}
