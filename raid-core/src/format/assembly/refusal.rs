//! Why is an array not put together? Each refusal says what, why, and what to do.

use thiserror::Error;
use uuid::Uuid;

use crate::format::labsan::LabsanError;
use crate::format::superblock::SuperblockError;

/// Why the candidates do not make an array.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AssemblyRefusal {
    /// No candidate has a readable superblock of the array.
    #[error("no member of array {array} has a superblock that can be read")]
    NoMembers {
        /// Which array was asked for.
        array: Uuid,
    },
    /// A candidate of another array.
    #[error("{id} belongs to array {found}, not to {wanted}: leave it out, or start that array")]
    OtherArray {
        /// Which candidate.
        id: String,
        /// Its array.
        found: Uuid,
        /// The array asked for.
        wanted: Uuid,
    },
    /// The same device twice, or a copy of one.
    #[error(
        "{first} and {second} are both device {device_uuid} of the array: the same disk twice, or a copy of it. Leave one out"
    )]
    Duplicate {
        /// The device's UUID.
        device_uuid: Uuid,
        /// One path.
        first: String,
        /// The other.
        second: String,
    },
    /// Two devices hold one slot, with equal right.
    #[error("{first} and {second} both hold slot {slot}. Leave out the one that does not belong")]
    SlotTwice {
        /// Which slot.
        slot: u16,
        /// One path.
        first: String,
        /// The other.
        second: String,
    },
    /// Two halves ran apart.
    #[error(
        "{first} (update {first_events}) and {second} (update {second_events}) each count the other as failed: \
             the array ran apart in two halves, and both may hold writes that the other lacks. \
             Start it with the disks of the half you keep, then add the others to rebuild them"
    )]
    SplitBrain {
        /// One path.
        first: String,
        /// Its events.
        first_events: u64,
        /// The other.
        second: String,
        /// Its events.
        second_events: u64,
    },
    /// Members of one array that do not describe the same array.
    #[error(
        "{id} and {freshest} describe the array differently ({field}). Leave out the one that does not belong"
    )]
    Disagree {
        /// Which candidate.
        id: String,
        /// The freshest.
        freshest: String,
        /// md_p.h's name of what differs.
        field: &'static str,
    },
    /// A level that labsan does not run.
    #[error("md level {level} is not one of 0, 1, 4, 5, 6, 10: run it with md")]
    UnknownLevel {
        /// md's number.
        level: i32,
    },
    /// Not enough in sync.
    #[error(
        "array \"{array}\" (RAID {level}) has {in_sync} of {raid_disks} members in sync ({stale} stale, {rebuilding} \
             being rebuilt), too few to hold all its data. Connect the missing disks and try again"
    )]
    TooManyMissing {
        /// Its name.
        array: String,
        /// md's number.
        level: i32,
        /// Members in sync.
        in_sync: usize,
        /// Slots.
        raid_disks: usize,
        /// Members that missed writes.
        stale: usize,
        /// Members that are being rebuilt.
        rebuilding: usize,
    },
    /// The write hole: parity and data may disagree, and a member is missing.
    #[error(
        "array \"{array}\" went down before its parity was in sync everywhere (it was being written without a journal, \
             or resynced), and {missing} of its members are not in sync: their blocks, rebuilt from such parity, may come \
             out wrong. Connect the missing disks, or accept that: raidctl array start --force"
    )]
    UncleanDegraded {
        /// Its name.
        array: String,
        /// Slots not in sync.
        missing: usize,
    },
    /// Acknowledged writes may be in a journal that no member lets us find.
    #[error(
        "array \"{array}\" was not stopped cleanly, and no member's labsan header can be read ({error}), so the journal, \
             which may hold acknowledged writes, cannot be found. To start without it: raidctl array start --force"
    )]
    JournalLost {
        /// Its name.
        array: String,
        /// What the freshest member's header says.
        error: LabsanError,
    },
    /// md is in the middle of something.
    #[error("{id}: {error}")]
    Unsupported {
        /// Which candidate.
        id: String,
        /// What.
        error: SuperblockError,
    },
    /// A newer labsan wrote this.
    #[error("{id}: its labsan header {error}")]
    NewerLabsan {
        /// Which candidate.
        id: String,
        /// What.
        error: LabsanError,
    },
}
