//! What is an array to the outside? State, members, progress; and the changes that can be asked for.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ExitCode;

/// How an array fares as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrayState {
    /// Every member is in sync.
    Optimal,
    /// Members are missing; data is all there, redundancy is not whole.
    Degraded,
    /// Degraded, and a member is being filled.
    Rebuilding,
    /// All members are there; parity or copies are being made equal.
    Resyncing,
    /// More members are lost than the level tolerates.
    Failed,
    /// Stopped; nothing is served.
    Stopped,
}

impl ArrayState {
    /// What `raidctl status` exits with for it.
    pub fn exit_code(self) -> ExitCode {
        match self {
            Self::Optimal => ExitCode::Ok,
            Self::Degraded | Self::Rebuilding | Self::Resyncing => ExitCode::Degraded,
            Self::Failed | Self::Stopped => ExitCode::Unusable,
        }
    }

    /// The word shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Optimal => "optimal",
            Self::Degraded => "degraded",
            Self::Rebuilding => "rebuilding",
            Self::Resyncing => "resyncing",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ArrayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// How one member fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Holds everything it should.
    InSync,
    /// Being filled.
    Rebuilding,
    /// Waits to take a failed member's place.
    Spare,
    /// Taken out after errors or by command.
    Failed,
    /// The slot has no disk.
    Missing,
}

impl MemberState {
    /// The word shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::InSync => "in sync",
            Self::Rebuilding => "rebuilding",
            Self::Spare => "spare",
            Self::Failed => "failed",
            Self::Missing => "missing",
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// One disk of an array, or the place of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number in the array; none for spares and for disks that lost theirs.
    pub slot: Option<u32>,
    /// The path it was opened by; none for a missing one.
    pub path: Option<PathBuf>,
    /// How it fares.
    pub state: MemberState,
    /// Reads that failed since the array was started.
    pub read_errors: u64,
    /// Writes that failed since the array was started.
    pub write_errors: u64,
    /// Bad blocks rewritten from redundancy since the array was started.
    #[serde(default)]
    pub corrected_errors: u64,
    /// Why it failed or is missing.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What runs in the background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivityKind {
    /// A member is being filled.
    Rebuild,
    /// What an unclean stop left doubtful is made equal.
    Resync,
    /// Everything is made equal for the first time.
    InitialSync,
    /// New members are being zeroed.
    Zeroing,
}

impl ActivityKind {
    /// The word shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::Resync => "resync",
            Self::InitialSync => "initial sync",
            Self::Zeroing => "zeroing",
        }
    }
}

/// Progress of background work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// What is being done.
    pub kind: ActivityKind,
    /// Bytes per member done.
    pub done_bytes: u64,
    /// Bytes per member to do in all.
    pub total_bytes: u64,
    /// Recent rate in bytes per member and second.
    pub bytes_per_second: u64,
}

impl Activity {
    /// Done, in tenths of a percent; 1000 only when all is done.
    pub fn permille(&self) -> u64 {
        let total = self.total_bytes.max(1);
        let permille = u128::from(self.done_bytes.min(total)) * 1000 / u128::from(total);
        permille as u64
    }

    /// Seconds left at the recent rate; none if nothing moves.
    pub fn seconds_left(&self) -> Option<u64> {
        self.total_bytes.saturating_sub(self.done_bytes).checked_div(self.bytes_per_second)
    }
}

/// What a person can do next, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is for.
    pub why: String,
    /// What to type.
    pub command: String,
}

/// Everything about one running array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Its name.
    pub name: String,
    /// md's array UUID.
    pub uuid: Uuid,
    /// 0, 1, 5, 6 or 10.
    pub level: u32,
    /// How it fares.
    pub state: ArrayState,
    /// Chunk size; 0 where the level has none.
    pub chunk_bytes: u32,
    /// What protects it in a crash: `journal`, `bitmap` or `none`.
    pub policy: String,
    /// User data it holds.
    pub size_bytes: u64,
    /// Bytes that volumes hold.
    pub used_bytes: u64,
    /// Slots by number, then spares, then failed disks.
    pub members: Vec<Member>,
    /// What runs in the background.
    pub activity: Option<Activity>,
    /// md's event counter.
    pub events: u64,
    /// Regions that the write-intent bitmap marks.
    pub dirty_regions: u64,
    /// Journalled data that is not in its place yet.
    #[serde(default)]
    pub journal_bytes: u64,
    /// Bytes that nobody can know any more: they read as errors until they are rewritten.
    #[serde(default)]
    pub lost_bytes: u64,
    /// What happened, in sentences; the most important first.
    pub what_happened: Vec<String>,
    /// What to do now.
    pub next: Vec<Step>,
}

impl Array {
    /// How many disks it is made of, spares not counted.
    pub fn slots(&self) -> u32 {
        self.members.iter().filter_map(|member| member.slot).max().map_or(0, |slot| slot.saturating_add(1))
    }
}

/// An array whose disks are here but which was not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedArray {
    /// Its name, if its disks agree on one.
    pub name: Option<String>,
    /// md's array UUID.
    pub uuid: Uuid,
    /// The disks found.
    pub disks: Vec<PathBuf>,
    /// Why it was not started.
    pub reason: String,
    /// What to do now.
    pub next: Vec<Step>,
}

/// Reply of `GET /v1/arrays`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrays {
    /// Running arrays by name.
    pub arrays: Vec<Array>,
    /// Arrays found but not started.
    pub refused: Vec<RefusedArray>,
}

/// What an array's crash protection is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// A journal closes the write hole (RAID 5 and 6).
    Journal,
    /// md's write-intent bitmap.
    Bitmap,
    /// Nothing: a full resync after a crash.
    None,
}

/// Body of `POST /v1/arrays`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateArray {
    /// A name no other array here has.
    pub name: String,
    /// 0, 1, 5, 6 or 10.
    pub level: u32,
    /// Chunk size; the default if absent.
    #[serde(default)]
    pub chunk_bytes: Option<u32>,
    /// The level's default if absent.
    #[serde(default)]
    pub policy: Option<Policy>,
    /// Absolute paths of the members, in order.
    pub disks: Vec<PathBuf>,
    /// Absolute paths of the spares.
    #[serde(default)]
    pub spares: Vec<PathBuf>,
    /// Overwrite whatever the disks hold now.
    #[serde(default)]
    pub force: bool,
    /// Make files of this size where a path does not exist.
    #[serde(default)]
    pub create_size_bytes: Option<u64>,
    /// Make those files sparse, so that the file system may run full under the array later.
    #[serde(default)]
    pub sparse: bool,
}

/// Body of `POST /v1/start`: start what is found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartArrays {
    /// Absolute paths of the members.
    #[serde(default)]
    pub disks: Vec<PathBuf>,
    /// Look at everything the configuration names.
    #[serde(default)]
    pub scan: bool,
    /// Start arrays that are refused otherwise, as far as that loses nothing silently.
    #[serde(default)]
    pub force: bool,
}

/// Reply of `POST /v1/start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Names of the arrays that were started now.
    pub started: Vec<String>,
    /// Names of those that ran already.
    pub running: Vec<String>,
    /// Those that were not started.
    pub refused: Vec<RefusedArray>,
}

/// Body of the member commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberChange {
    /// Absolute path of the disk.
    pub disk: PathBuf,
    /// `fail`: also if the array cannot do without it. `add`: also if it holds other data.
    #[serde(default)]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_never_flattered() {
        let mut activity = Activity {
            kind: ActivityKind::Rebuild,
            done_bytes: 999_999,
            total_bytes: 1_000_000,
            bytes_per_second: 0,
        };
        assert_eq!((activity.permille(), activity.seconds_left()), (999, None));
        activity.done_bytes = 500_000;
        activity.bytes_per_second = 1000;
        assert_eq!((activity.permille(), activity.seconds_left()), (500, Some(500)));
        activity.total_bytes = 0;
        assert_eq!(activity.permille(), 1000);
    }

    #[test]
    fn unknown_fields_of_a_request_are_refused() {
        assert!(serde_json::from_str::<MemberChange>(r#"{"disk":"/a","forse":true}"#).is_err());
    }
}
