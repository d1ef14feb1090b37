//! What is a volume to the outside? A named part of an array that is exported as a disk.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::VolumePath;

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `ARRAY/VOLUME`.
    pub name: VolumePath,
    /// The identity that LUNs are made of; it survives rename, resize and restart.
    pub uuid: Uuid,
    /// Its size.
    pub size_bytes: u64,
    /// Writes are acknowledged from memory.
    pub write_cache: bool,
    /// The physical block that initiators are told, in bytes, where it is not what the disks have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub physical_block_bytes: Option<u32>,
    /// Where it is mapped: `(target, LUN)`.
    pub mapped: Vec<Mapping>,
}

/// One place where a volume is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The target's iSCSI name.
    pub target: String,
    /// For this initiator alone; for all that have no LUNs of their own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// The number there.
    pub lun: u16,
    /// Writes are refused there.
    pub read_only: bool,
}

/// Reply of `GET /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    /// By array and name.
    pub volumes: Vec<Volume>,
}

/// Physical blocks that initiators can be told, in bytes.
pub const PHYSICAL_BLOCKS: [u32; 2] = [512, 4096];

/// Body of `POST /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// `ARRAY/VOLUME`.
    pub name: VolumePath,
    /// Its size; all that is free if absent.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// Acknowledge writes from memory.
    #[serde(default)]
    pub write_cache: bool,
    /// Tell initiators this physical block, in bytes: 512 or 4096. What the disks have if absent.
    #[serde(default)]
    pub physical_block_bytes: Option<u32>,
}

/// Body of `PATCH /v1/volumes/ARRAY/VOLUME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeVolume {
    /// Its new size.
    pub size_bytes: u64,
    /// Cut off what lies beyond a smaller size.
    #[serde(default)]
    pub allow_shrink: bool,
}
