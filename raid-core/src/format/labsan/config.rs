//! What is the SAN's configuration, and which of its two copies on a member counts?
//!
//! The document is JSON, so that a person with `dd` can read it. raid-core understands the volumes; what the
//! layers above keep (targets, access lists, accounts, reservations) rides along as `san`, opaque. Fields that
//! this version does not know are carried along too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ENVELOPE_BYTES, Kind, LabsanError, Side, newest};
use crate::format::layout::CONFIG_BYTES;

const KIND: Kind = Kind { magic: *b"LABSANCF", version: 1 };
/// The newest schema this labsan reads.
pub const SCHEMA: u32 = 1;
/// The largest document that fits a slot.
pub const MAX_DOCUMENT_BYTES: usize = CONFIG_BYTES as usize - ENVELOPE_BYTES;

/// A run of the array's data space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte, in the array's data space.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A volume: a name for some extents of the array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Which volume; never used again after it is deleted.
    pub uuid: Uuid,
    /// Its name in the array.
    pub name: String,
    /// Its size; at most the sum of its extents.
    pub size_bytes: u64,
    /// Writes may be acknowledged from memory; SYNCHRONIZE CACHE and FUA make them durable.
    pub write_cache: bool,
    /// The physical block that initiators are told, if not the members' own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_block_bytes: Option<u32>,
    /// Where its bytes are, in order.
    pub extents: Vec<Extent>,
    /// Seconds since 1970.
    pub created: u64,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// What every member of an array carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDocument {
    /// Version of the document's meaning.
    pub schema: u32,
    /// The array's volumes.
    pub volumes: Vec<VolumeRecord>,
    /// What the layers above keep here.
    #[serde(default)]
    pub san: serde_json::Value,
    /// Counts the changes of `san`: of several arrays on a host, the newest is believed.
    #[serde(default)]
    pub san_generation: u64,
    /// Fields of a newer labsan.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Default for ConfigDocument {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            volumes: Vec::new(),
            san: serde_json::Value::Null,
            san_generation: 0,
            other: BTreeMap::new(),
        }
    }
}

impl ConfigDocument {
    /// Read and check a document: known schema, names and UUIDs used once, extents that are whole, do not
    /// overlap each other and hold their volume.
    pub fn parse(json: &[u8]) -> Result<Self, LabsanError> {
        let document: Self =
            serde_json::from_slice(json).map_err(|error| LabsanError::Document(error.to_string()))?;
        if document.schema == 0 || document.schema > SCHEMA {
            return Err(LabsanError::NewerVersion { found: document.schema, known: SCHEMA });
        }
        document.check()?;
        Ok(document)
    }

    /// The rules [`ConfigDocument::parse`] names; a writer checks before it writes.
    pub fn check(&self) -> Result<(), LabsanError> {
        let wrong = |text: String| Err(LabsanError::Document(text));
        let mut used = Vec::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            let twin = self.volumes[..index].iter().any(|v| v.name == volume.name || v.uuid == volume.uuid);
            if twin || volume.name.is_empty() {
                return wrong(format!("volume \"{}\" has no name of its own", volume.name));
            }
            let mut total = 0u64;
            for extent in &volume.extents {
                let end = extent.start.checked_add(extent.len).filter(|_| extent.len != 0);
                let (Some(end), Some(sum)) = (end, total.checked_add(extent.len)) else {
                    return wrong(format!("volume \"{}\" has an impossible extent", volume.name));
                };
                total = sum;
                used.push((extent.start, end, &volume.name));
            }
            if total < volume.size_bytes {
                return wrong(format!("volume \"{}\" is larger than its extents", volume.name));
            }
        }
        used.sort_unstable();
        match used.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => wrong(format!("volumes \"{}\" and \"{}\" share bytes", pair[0].2, pair[1].2)),
            None => Ok(()),
        }
    }

    /// The document's bytes for [`encode`].
    pub fn to_json(&self) -> Result<Vec<u8>, LabsanError> {
        serde_json::to_vec(self).map_err(|error| LabsanError::Document(error.to_string()))
    }
}

/// A config slot whose checksum holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSlot {
    /// Counts the updates; the newest on any member in sync is the array's.
    pub generation: u64,
    /// The document's JSON.
    pub payload: Vec<u8>,
}

/// The bytes of a slot, in whole pages.
pub fn encode(array_uuid: Uuid, generation: u64, payload: &[u8]) -> Result<Vec<u8>, LabsanError> {
    KIND.seal(array_uuid, generation, 0, payload, CONFIG_BYTES as usize)
}

/// Check and read one slot.
pub fn parse(bytes: &[u8], array_uuid: Uuid) -> Result<ConfigSlot, LabsanError> {
    let sealed = KIND.open(bytes, array_uuid)?;
    Ok(ConfigSlot { generation: sealed.generation, payload: sealed.body.to_vec() })
}

/// Of a member's two slots the newest valid one, and which it is; the next update goes to the other.
pub fn choose(a: &[u8], b: &[u8], array_uuid: Uuid) -> Result<(Side, ConfigSlot), LabsanError> {
    newest(parse(a, array_uuid), parse(b, array_uuid), |slot| slot.generation)
}
