//! Persistent reservations in the document, by volume: whose copy of them counts, and what an array carries. Pure.
//!
//! Nobody knows them better than the array that the volume is on: an order of a node counts once its record is durable
//! there, and there alone. So an array carries the records of its own volumes and no others, and they count wherever it
//! is, whatever generation its copy of the configuration has. What a host remembers of arrays that are not there is for
//! people, and decides nothing.
//!
//! Initiators make them as large as they like, in a slot that also holds the volumes and the configuration, so they have a
//! room of their own there ([`check_room`]).

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use crate::limits::{MAX_ARRAY_RECORD_BYTES, MAX_VOLUME_RECORD_BYTES, RESERVATION_BYTES};

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

/// Registrations that would take more room than they may. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoom {
    /// Those of one volume.
    #[error(
        "registrations of one volume may take {MAX_VOLUME_RECORD_BYTES} bytes, and this would be {wanted}"
    )]
    Volume {
        /// What they would take.
        wanted: usize,
    },
    /// Those of all volumes of an array.
    #[error(
        "registrations of an array's volumes may take {MAX_ARRAY_RECORD_BYTES} bytes, and this would be {wanted}"
    )]
    Array {
        /// What they would take.
        wanted: usize,
    },
}

/// May the volume's record be this one, beside what the array has? One that takes no more than the one before always may: who
/// preempts, reserves, releases or goes needs no room.
pub(crate) fn check_room(kept: &Records, volume: Uuid, record: &Value) -> Result<(), NoRoom> {
    let (before, after) = (kept.get(&volume).map_or(0, cost), cost(record));
    if after <= before {
        return Ok(());
    }
    if after > MAX_VOLUME_RECORD_BYTES {
        return Err(NoRoom::Volume { wanted: after });
    }
    let wanted = kept.values().map(cost).sum::<usize>() - before + after;
    if wanted > MAX_ARRAY_RECORD_BYTES { Err(NoRoom::Array { wanted }) } else { Ok(()) }
}

/// Bytes that a record takes with any reservation, so that it takes no more when there is one.
fn cost(record: &Value) -> usize {
    let mut counted = record.clone();
    if let Some(fields) = counted.as_object_mut() {
        fields.remove("reservation");
    }
    // The same while it goes on.
    if let Some(sanitize) = counted.get_mut("sanitize").and_then(Value::as_object_mut) {
        sanitize.remove("done_bytes");
    }
    counted.to_string().len() + RESERVATION_BYTES
}

/// A port as registrations know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    /// The target's name, in lower case.
    pub(crate) target: String,
    /// Its relative port identifier.
    pub(crate) number: u16,
}

/// The ports that records name. What cannot be read names none.
pub(crate) fn named_ports(records: &Records) -> impl Iterator<Item = NamedPort> {
    let registrations =
        records.values().filter_map(|record| record.get("registrations")?.as_array()).flatten();
    registrations.filter_map(|registration| {
        let number = registration.get("relative_target_port")?.as_u64()?;
        let target = registration.get("target")?.as_str()?.to_ascii_lowercase();
        Some(NamedPort { target, number: u16::try_from(number).ok()? })
    })
}
