//! What an array says of itself: plain data for people and programs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How an array fares as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayState {
    /// Every member is in sync.
    Optimal,
    /// Members are missing; data is there, redundancy is not whole.
    Degraded,
    /// Degraded, and a spare is being rebuilt.
    Rebuilding,
    /// All members are there; parity or copies are being made equal.
    Resyncing,
    /// More members are lost than the level tolerates: no writes, and reads only of what is left.
    Failed,
    /// Stopped; nothing is served.
    Stopped,
}

/// How one member fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Holds everything it should.
    InSync,
    /// Being filled; counts as in sync below its checkpoint.
    Rebuilding,
    /// Waits to take a failed member's place.
    Spare,
    /// Was taken out after errors or by command.
    Failed,
    /// The slot has no device.
    Missing,
}

/// One line of the member table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberStatus {
    /// The role it plays, 0 to members - 1; none for spares and failed devices without a slot.
    pub slot: Option<u16>,
    /// The path it was opened by; none for a missing slot.
    pub path: Option<PathBuf>,
    /// How it fares.
    pub state: MemberState,
    /// Reads that failed since the array was started.
    pub read_errors: u64,
    /// Writes that failed since the array was started.
    pub write_errors: u64,
    /// Bad blocks rewritten from redundancy since the array was started.
    pub corrected_errors: u64,
    /// Why it failed or went missing.
    pub reason: Option<String>,
}

/// What runs in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// A spare is being filled.
    Rebuild,
    /// Regions marked by the bitmap are made equal after an unclean stop.
    Resync,
    /// Everything is made equal for the first time.
    InitialSync,
}

/// Progress of background work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Activity {
    /// What is being done.
    pub kind: ActivityKind,
    /// The slot being rebuilt.
    pub slot: Option<u16>,
    /// Bytes per member done.
    pub done_bytes: u64,
    /// Bytes per member to do in all.
    pub total_bytes: u64,
    /// Recent rate in bytes per member and second.
    pub bytes_per_second: u64,
}

/// Everything `status` shows of an array.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ArrayStatus {
    /// The array's name.
    pub name: String,
    /// md's set_uuid.
    pub uuid: Uuid,
    /// 0, 1, 5, 6 or 10.
    pub level: u32,
    /// How it fares.
    pub state: ArrayState,
    /// Chunk size; 0 for RAID 1, which has none.
    pub chunk_bytes: u32,
    /// `journal`, `bitmap` or `none`.
    pub policy: String,
    /// User data the array holds.
    pub size_bytes: u64,
    /// Bytes that volumes hold.
    pub used_bytes: u64,
    /// Slots by number, then spares, then failed devices.
    pub members: Vec<MemberStatus>,
    /// What runs now.
    pub activity: Option<Activity>,
    /// md's event counter.
    pub events: u64,
    /// Regions the bitmap marks now.
    pub dirty_regions: u64,
    /// Regions that may be out of sync until resync has been over them.
    pub unsynced_regions: u64,
    /// Journalled data that is not in its place yet.
    pub journal_bytes: u64,
    /// Bytes that nobody can know any more: they read as errors until they are rewritten.
    pub lost_bytes: u64,
    /// What a person should know: how it was assembled, what went wrong.
    pub notes: Vec<String>,
}

/// Something that happened, under mdadm's names (mdadm(8), MONITOR MODE).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArrayEvent {
    /// An array was created or assembled.
    NewArray,
    /// It was started with members missing.
    DegradedArray,
    /// A member was failed.
    Fail {
        /// Its path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A spare began to be filled, or a resync began.
    RebuildStarted {
        /// What was started.
        kind: ActivityKind,
    },
    /// It ended.
    RebuildFinished {
        /// What ended.
        kind: ActivityKind,
        /// False if it was cut short.
        completed: bool,
    },
    /// A spare took a slot and is in sync.
    SpareActive {
        /// Its path.
        path: PathBuf,
    },
    /// A device was added.
    DeviceAdded {
        /// Its path.
        path: PathBuf,
    },
    /// A device was removed.
    DeviceRemoved {
        /// Its path.
        path: PathBuf,
    },
    /// A bad block was rewritten from redundancy.
    ReadErrorCorrected {
        /// The member's path.
        path: PathBuf,
    },
    /// Blocks became unknowable: they read as errors until they are rewritten.
    DataLost {
        /// How many bytes.
        bytes: u64,
    },
    /// More members are lost than the level tolerates.
    ArrayFailed {
        /// What was the last straw.
        reason: String,
    },
    /// The array was stopped.
    DeviceDisappeared,
}
