//! Which of the members offered may be trusted, and for what? A pure choice over parsed metadata.
//!
//! The rules, and what each rules out:
//!
//! | a candidate | is | because |
//! |---|---|---|
//! | listed active by the freshest table, by its own too, at events E or E-1, no `recovery_offset` | in sync | an update interrupted by a crash leaves some at E-1, and nothing was acknowledged that the freshest table's members lack |
//! | the same, with `recovery_offset` | rebuilding, from there | the checkpoint is written after the data below it |
//! | listed active, a spare by its own table | rebuilding, from 0 | it was drafted in the very update that it missed |
//! | listed active, but older than E-1, or not listed | stale | it missed writes |
//! | a spare by both tables | a spare | |
//!
//! Refused by name: the same device twice, another array's member, two members for one slot, tables that
//! exclude each other (split brain), an array of which too much is missing, one that was being written while
//! degraded (write hole), and what only a newer labsan or md itself can open.
//!
//! One lag is allowed because updates go to all current members, and no second update is begun before the
//! first is everywhere. So whoever starts an array writes [`AssemblyPlan::superblock_for`] to each of
//! [`AssemblyPlan::laggards`], durably, before its first own update.
//!
//! The choice does not depend on the order of the candidates.

use uuid::Uuid;

use super::bitmap::BitmapHeader;
use super::labsan::{Header, LabsanError, Policy};
use super::superblock::{Superblock, SuperblockError};

mod laggard;
mod level;
mod recovery;
mod refusal;
mod slots;
mod versions;

pub(crate) use laggard::OF_THE_DEVICE;
pub use level::{copies, survives};
pub use recovery::{Needs, Resync};
pub use refusal::AssemblyRefusal;

/// What was read from one device.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// How messages call it: its path.
    pub id: String,
    /// Size of the device.
    pub size_bytes: u64,
    /// Its superblock.
    pub superblock: Result<Superblock, SuperblockError>,
    /// Its labsan header.
    pub labsan: Result<Header, LabsanError>,
    /// Its md bitmap, where there is a valid one.
    pub bitmap: Option<BitmapHeader>,
}

/// What is in a slot of the array. Indices are into the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Holds everything that was acknowledged.
    InSync(usize),
    /// Holds what lies below the checkpoint.
    Rebuilding {
        /// Which candidate.
        candidate: usize,
        /// Data sectors below this are good.
        recovery_offset: u64,
        /// md was bringing it back by the bitmap: what is clean there is good as well.
        by_bitmap: bool,
    },
    /// Missed writes: nothing on it may be read.
    Stale(usize),
    /// Nobody claims it.
    Missing,
}

impl SlotState {
    /// The member in sync, if there is one.
    #[must_use]
    pub fn in_sync(self) -> Option<usize> {
        match self {
            Self::InSync(candidate) => Some(candidate),
            _ => None,
        }
    }
}

/// Something a person should know about a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which candidate.
    pub candidate: usize,
    /// What about it.
    pub kind: NoteKind,
}

/// What is worth telling about a candidate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteKind {
    /// Its superblock cannot be read: it is left out.
    #[error("left out: {0}")]
    Unreadable(SuperblockError),
    /// The device is smaller than its superblock says: it is left out.
    #[error("left out: the device ends at byte {size_bytes}, its data at byte {data_end}")]
    Shrunk {
        /// Size of the device.
        size_bytes: u64,
        /// Where the data should end.
        data_end: u64,
    },
    /// It missed updates.
    #[error("stale: its last update is {events}, the array's {freshest}; add it again to rebuild it")]
    Behind {
        /// Its events.
        events: u64,
        /// The freshest.
        freshest: u64,
    },
    /// The array dropped it.
    #[error(
        "stale: the array runs without it since update {freshest} at the latest; add it again to rebuild it"
    )]
    Dropped {
        /// The freshest events.
        freshest: u64,
    },
    /// Another device holds the slot.
    #[error("left out: its slot {slot} has another member now")]
    SlotTaken {
        /// Which slot.
        slot: u16,
    },
    /// It missed the last superblock update, which a crash interrupted.
    #[error("in sync; the last update of its superblock was interrupted")]
    Lagging,
    /// A copy that md was making to replace a member.
    #[error("left out: an unfinished copy to replace slot {slot}")]
    Replacement {
        /// Which slot.
        slot: u16,
    },
    /// Its labsan header is not usable though the array has them.
    #[error("its labsan header cannot be used: {0}")]
    NoHeader(LabsanError),
}

/// How an array is to be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssemblyPlan {
    /// Whose superblock describes the array.
    pub freshest: usize,
    /// What is in each slot; `raid_disks` of them.
    pub slots: Vec<SlotState>,
    /// Spares.
    pub spares: Vec<usize>,
    /// Candidates that play no part; `notes` says why.
    pub left_out: Vec<usize>,
    /// In sync, rebuilding or spares, but behind the freshest superblock: before anything else each gets
    /// [`AssemblyPlan::superblock_for`] it.
    pub laggards: Vec<usize>,
    /// What has to be done before, or while, clients are served.
    pub needs: Needs,
    /// How the array is kept consistent: as the labsan headers say, else by md's bitmap if it has one.
    pub policy: Policy,
    /// md ran the array since labsan did: journal, written map and checksums are stale.
    pub md_ran: bool,
    /// What a person should know, by candidate.
    pub notes: Vec<Note>,
}

impl AssemblyPlan {
    /// Members in sync, in the order of their slots.
    pub fn in_sync(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().filter_map(|slot| slot.in_sync())
    }

    /// Whether any slot is not in sync.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.in_sync().count() != self.slots.len()
    }
}

/// A candidate whose superblock is the array's and whose data fits its device.
#[derive(Clone, Copy)]
struct Member<'a> {
    index: usize,
    id: &'a str,
    superblock: &'a Superblock,
}

/// Decide how the array `array_uuid` is to be put together from `candidates`.
///
/// `force` overrides what may cost data that cannot be known: the write hole, and a journal that cannot be found.
pub fn choose(
    array_uuid: Uuid,
    candidates: &[Candidate],
    force: bool,
) -> Result<AssemblyPlan, AssemblyRefusal> {
    let mut notes = Vec::new();
    let members = admit(array_uuid, candidates, &mut notes)?;
    refuse_duplicates(&members)?;
    let freshest = versions::freshest(&members)?;
    versions::refuse_split_brain(&members, freshest)?;
    versions::refuse_disagreement(&members, freshest)?;
    let filled = slots::fill(&members, freshest, &mut notes)?;
    refuse_too_many_missing(freshest, &filled.slots)?;
    let recovery = recovery::decide(candidates, freshest, &filled.slots, force, &mut notes)?;
    let used = |index: usize| {
        filled.spares.contains(&index)
            || filled.slots.iter().any(|slot| match slot {
                SlotState::InSync(c) | SlotState::Stale(c) | SlotState::Rebuilding { candidate: c, .. } => {
                    *c == index
                }
                SlotState::Missing => false,
            })
    };
    notes.sort_by_key(|note| note.candidate);
    Ok(AssemblyPlan {
        freshest: freshest.index,
        left_out: (0..candidates.len()).filter(|index| !used(*index)).collect(),
        slots: filled.slots,
        spares: filled.spares,
        laggards: filled.laggards,
        needs: recovery.needs,
        policy: recovery.policy,
        md_ran: recovery.md_ran,
        notes,
    })
}

/// The candidates whose superblock can be used.
fn admit<'a>(
    array_uuid: Uuid,
    candidates: &'a [Candidate],
    notes: &mut Vec<Note>,
) -> Result<Vec<Member<'a>>, AssemblyRefusal> {
    let mut members = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let superblock = match &candidate.superblock {
            Ok(superblock) => superblock,
            Err(error @ SuperblockError::Unsupported { .. }) => {
                // It may well be the freshest: starting the others without it would be starting stale ones.
                return Err(AssemblyRefusal::Unsupported { id: candidate.id.clone(), error: error.clone() });
            }
            Err(error) => {
                notes.push(Note { candidate: index, kind: NoteKind::Unreadable(error.clone()) });
                continue;
            }
        };
        if superblock.array_uuid != array_uuid {
            return Err(AssemblyRefusal::OtherArray {
                id: candidate.id.clone(),
                found: superblock.array_uuid,
                wanted: array_uuid,
            });
        }
        if let Err(error) = &candidate.labsan
            && error.is_newer()
        {
            return Err(AssemblyRefusal::NewerLabsan { id: candidate.id.clone(), error: error.clone() });
        }
        members.push(Member { index, id: &candidate.id, superblock });
    }
    // From here on the order is that of the devices' names for life, not of the candidates.
    members.sort_by(|a, b| (a.superblock.device_uuid, a.id).cmp(&(b.superblock.device_uuid, b.id)));
    if members.is_empty() {
        return Err(AssemblyRefusal::NoMembers { array: array_uuid });
    }
    // A device that shrank still has a say about who is in sync; its data is another matter (slots.rs).
    for member in &members {
        let size_bytes = candidates[member.index].size_bytes;
        let data_end =
            member.superblock.data_offset.saturating_add(member.superblock.data_size).saturating_mul(512);
        if data_end > size_bytes {
            notes.push(Note { candidate: member.index, kind: NoteKind::Shrunk { size_bytes, data_end } });
        }
    }
    Ok(members)
}

fn refuse_duplicates(members: &[Member]) -> Result<(), AssemblyRefusal> {
    // Sorted by device UUID.
    match members.windows(2).find(|pair| pair[0].superblock.device_uuid == pair[1].superblock.device_uuid) {
        Some(pair) => Err(AssemblyRefusal::Duplicate {
            device_uuid: pair[0].superblock.device_uuid,
            first: pair[0].id.to_owned(),
            second: pair[1].id.to_owned(),
        }),
        None => Ok(()),
    }
}

fn refuse_too_many_missing(freshest: Member, slots: &[SlotState]) -> Result<(), AssemblyRefusal> {
    let superblock = freshest.superblock;
    let present: Vec<bool> = slots.iter().map(|slot| slot.in_sync().is_some()).collect();
    match survives(superblock.level, superblock.layout, &present) {
        None => Err(AssemblyRefusal::UnknownLevel { level: superblock.level }),
        Some(true) => Ok(()),
        Some(false) => Err(AssemblyRefusal::TooManyMissing {
            array: superblock.name.bare(),
            level: superblock.level,
            in_sync: present.iter().filter(|present| **present).count(),
            raid_disks: slots.len(),
            stale: slots.iter().filter(|slot| matches!(slot, SlotState::Stale(_))).count(),
            rebuilding: slots.iter().filter(|slot| matches!(slot, SlotState::Rebuilding { .. })).count(),
        }),
    }
}

#[cfg(test)]
mod tests;
