//! What has to be recovered before the array is as it should be?
//!
//! | bit 31 | policy | superblock | journal | resync |
//! |---|---|---|---|---|
//! | set | journal | | replay | from `resync_offset`, where that is not "clean" |
//! | set | bitmap, none, no labsan area | unclean | replay, of mirrors whose header says so | by the bitmap if it is fresh, else from `resync_offset` |
//! | clear | any | unclean | | the same: md, or mdadm's creation, left it so |
//! | clear | any | clean | | none |
//!
//! Under the journal policy labsan leaves `resync_offset` at "clean" while it runs: the journal stands for what
//! is under way, and bit 31 keeps md off. A lower value there is how far a resync had come.
//!
//! md ran if bit 31 is clear and the freshest superblock is not the one that labsan's header remembers. While
//! the bit is set md cannot have run, whatever the counts say.

use super::{AssemblyRefusal, Candidate, Member, Note, NoteKind, SlotState};
use crate::format::bitmap::BitmapHeader;
use crate::format::labsan::header::REDO_RECORDS;
use crate::format::labsan::{Header, LabsanError, Policy};
use crate::format::layout::{LayoutError, MemberLayout};
use crate::format::superblock::Superblock;

/// How redundancy is made consistent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// It is.
    None,
    /// Where md's bitmap has bits set.
    Bitmap,
    /// Everything from this component sector on.
    From(u64),
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The rings may hold records that count: recover them before anything is served.
    pub replay_journal: bool,
    /// Stripes whose redundancy may not match.
    pub resync: Resync,
}

pub(super) struct Recovery {
    pub(super) needs: Needs,
    pub(super) policy: Policy,
    pub(super) md_ran: bool,
}

pub(super) fn decide(
    candidates: &[Candidate],
    freshest: Member,
    slots: &[SlotState],
    force: bool,
    notes: &mut Vec<Note>,
) -> Result<Recovery, AssemblyRefusal> {
    let superblock = freshest.superblock;
    let current: Vec<usize> = slots.iter().filter_map(|slot| slot.in_sync()).collect();
    let header = newest_header(candidates, &current);
    let running = superblock.labsan_running();
    let journal_lost = running && header.is_none() && had_room(candidates, &current);
    if journal_lost && !force {
        let error = candidates[freshest.index].labsan.as_ref().err().cloned();
        return Err(AssemblyRefusal::JournalLost {
            array: superblock.name.bare(),
            error: error.unwrap_or(LabsanError::NoMagic),
        });
    }
    if header.is_some() {
        note_headers(candidates, &current, notes);
    }
    let md_ran = !running
        && header.is_some_and(|header| {
            (header.md_events, header.md_utime) != (superblock.events, superblock.utime)
        });
    let policy = header.map_or_else(|| md_policy(superblock), |header| header.policy);
    let needs = Needs {
        replay_journal: running && header.is_some_and(has_records),
        // A journal that was lost leaves stripes half-written anywhere.
        resync: if journal_lost { Resync::From(0) } else { resync(candidates, superblock, &current) },
    };
    let missing = slots.len() - current.len();
    let has_parity = matches!(superblock.level, 4..=6);
    if has_parity && missing > 0 && needs.resync != Resync::None && !force {
        return Err(AssemblyRefusal::UncleanDegraded { array: superblock.name.bare(), missing });
    }
    Ok(Recovery { needs, policy, md_ran })
}

/// The rings may hold what was acknowledged (the journal), or what is half-way in place (a mirror's atomic write).
fn has_records(header: &Header) -> bool {
    header.policy == Policy::Journal || header.incompatible & REDO_RECORDS != 0
}

/// The members' headers say the same of the array; the one written last, if a write was interrupted.
fn newest_header<'a>(candidates: &'a [Candidate], current: &[usize]) -> Option<&'a Header> {
    current
        .iter()
        .filter_map(|index| candidates[*index].labsan.as_ref().ok())
        .max_by_key(|header| (header.md_events, header.md_utime, header.generation))
}

/// A labsan area may have been there. Where mdadm left too small a gap there never was one, nor a journal.
fn had_room(candidates: &[Candidate], current: &[usize]) -> bool {
    current.iter().map(|index| &candidates[*index]).any(|candidate| {
        let Ok(superblock) = &candidate.superblock else { return false };
        let bitmap_bytes = candidate.bitmap.as_ref().map_or(0, BitmapHeader::image_bytes);
        !matches!(
            MemberLayout::adopt(superblock, bitmap_bytes, candidate.size_bytes),
            Err(LayoutError::GapTooSmall { .. })
        )
    })
}

fn note_headers(candidates: &[Candidate], current: &[usize], notes: &mut Vec<Note>) {
    for index in current {
        if let Err(error) = &candidates[*index].labsan {
            notes.push(Note { candidate: *index, kind: NoteKind::NoHeader(error.clone()) });
        }
    }
}

/// How an array that labsan never ran is kept consistent.
fn md_policy(superblock: &Superblock) -> Policy {
    if superblock.bitmap_offset.is_some() { Policy::Bitmap } else { Policy::None }
}

fn resync(candidates: &[Candidate], superblock: &Superblock, current: &[usize]) -> Resync {
    if superblock.is_clean() || superblock.level == 0 {
        return Resync::None;
    }
    // As md does: a bitmap that lags behind the superblock is out of date. A member that lags with its
    // superblock lags with its bitmap too, so any current member's bitmap may serve.
    let fresh = superblock.bitmap_offset.is_some()
        && current
            .iter()
            .filter_map(|index| candidates[*index].bitmap.as_ref())
            .any(|bitmap| !bitmap.is_stale() && bitmap.events >= superblock.events);
    if fresh && superblock.resync_offset == 0 {
        Resync::Bitmap
    } else {
        Resync::From(superblock.resync_offset)
    }
}
