//! Who gets which slot? Each member is judged by the freshest table and by its own, then the slots are filled.

use super::versions::is_current;
use super::{AssemblyRefusal, Member, Note, NoteKind, SlotState};
use crate::format::superblock::{Features, Role, Superblock};
use crate::sabotage::{Sabotage, planted};

/// The slots, and who is beside them.
pub(super) struct Filled {
    pub(super) slots: Vec<SlotState>,
    pub(super) spares: Vec<usize>,
    pub(super) laggards: Vec<usize>,
}

/// What one member is to the array.
enum Standing {
    Holds(u16, SlotState),
    Spare,
    LeftOut(Option<NoteKind>),
}

pub(super) fn fill(
    members: &[Member],
    freshest: Member,
    notes: &mut Vec<Note>,
) -> Result<Filled, AssemblyRefusal> {
    let table = freshest.superblock;
    let mut slots: Vec<(SlotState, Option<Member>)> =
        vec![(SlotState::Missing, None); table.raid_disks as usize];
    let mut spares = Vec::new();
    let shrunk: Vec<usize> = notes
        .iter()
        .filter(|note| matches!(note.kind, NoteKind::Shrunk { .. }))
        .map(|note| note.candidate)
        .collect();
    for member in members.iter().filter(|member| !shrunk.contains(&member.index)) {
        let mut note = |kind| notes.push(Note { candidate: member.index, kind });
        match judge(member, table, &mut note) {
            Standing::Spare => spares.push(member.index),
            Standing::LeftOut(kind) => kind.into_iter().for_each(&mut note),
            Standing::Holds(slot, state) => {
                let Some(place) = slots.get_mut(slot as usize) else {
                    note(NoteKind::SlotTaken { slot });
                    continue;
                };
                take(place, slot, state, member, notes)?;
            }
        }
    }
    let slots: Vec<SlotState> = slots.into_iter().map(|(state, _)| state).collect();
    spares.sort_unstable();
    Ok(Filled { laggards: laggards(members, table, &slots, &spares, notes), slots, spares })
}

fn judge(member: &Member, table: &Superblock, note: &mut impl FnMut(NoteKind)) -> Standing {
    let (index, own) = (member.index, member.superblock);
    let behind = NoteKind::Behind { events: own.events, freshest: table.events };
    match (table.role_of(own.dev_number), own.own_role()) {
        (_, Role::Active(slot)) if own.features.contains(Features::REPLACEMENT) => {
            Standing::LeftOut(Some(NoteKind::Replacement { slot }))
        }
        (Role::Active(slot), Role::Active(claimed)) if slot == claimed => {
            if !is_current(table, own) && !planted(Sabotage::StaleMemberTrusted) {
                note(behind);
                return Standing::Holds(slot, SlotState::Stale(index));
            }
            Standing::Holds(slot, current(index, own))
        }
        (Role::Active(slot), Role::Spare) => Standing::Holds(
            slot,
            SlotState::Rebuilding { candidate: index, recovery_offset: 0, by_bitmap: false },
        ),
        (_, Role::Active(claimed))
            if planted(Sabotage::StaleMemberTrusted) && !table.roles.contains(&Role::Active(claimed)) =>
        {
            Standing::Holds(claimed, current(index, own))
        }
        (_, Role::Active(claimed)) => {
            note(NoteKind::Dropped { freshest: table.events });
            Standing::Holds(claimed, SlotState::Stale(index))
        }
        (Role::Spare, Role::Spare) => Standing::Spare,
        _ => Standing::LeftOut(Some(NoteKind::Dropped { freshest: table.events })),
    }
}

fn current(index: usize, own: &Superblock) -> SlotState {
    match own.recovery_offset {
        None => SlotState::InSync(index),
        Some(offset) => SlotState::Rebuilding {
            candidate: index,
            recovery_offset: offset.min(own.size_sectors),
            by_bitmap: own.features.contains(Features::RECOVERY_BITMAP),
        },
    }
}

/// The better claim gets the slot; equal claims, unless both are stale, are refused.
fn take<'a>(
    place: &mut (SlotState, Option<Member<'a>>),
    slot: u16,
    state: SlotState,
    member: &Member<'a>,
    notes: &mut Vec<Note>,
) -> Result<(), AssemblyRefusal> {
    let rank = |state: SlotState| match state {
        SlotState::InSync(_) => 3,
        SlotState::Rebuilding { .. } => 2,
        SlotState::Stale(_) => 1,
        SlotState::Missing => 0,
    };
    let (held, holder) = *place;
    let Some(holder) = holder else {
        *place = (state, Some(*member));
        return Ok(());
    };
    let loser = match rank(state).cmp(&rank(held)) {
        std::cmp::Ordering::Equal if rank(state) > 1 => {
            return Err(AssemblyRefusal::SlotTwice {
                slot,
                first: holder.id.to_owned(),
                second: member.id.to_owned(),
            });
        }
        std::cmp::Ordering::Greater => holder,
        // Of two stale ones the fresher is shown in the slot.
        std::cmp::Ordering::Equal if member.superblock.events > holder.superblock.events => holder,
        _ => *member,
    };
    if loser.index == holder.index {
        *place = (state, Some(*member));
    }
    notes.push(Note { candidate: loser.index, kind: NoteKind::SlotTaken { slot } });
    Ok(())
}

/// Members with a part to play whose superblock is not the freshest one.
fn laggards(
    members: &[Member],
    table: &Superblock,
    slots: &[SlotState],
    spares: &[usize],
    notes: &mut Vec<Note>,
) -> Vec<usize> {
    let mut laggards = Vec::new();
    for member in members.iter().filter(|member| member.superblock.events < table.events) {
        let in_sync = slots.contains(&SlotState::InSync(member.index));
        let rebuilding = slots.iter().any(
            |slot| matches!(slot, SlotState::Rebuilding { candidate, .. } if *candidate == member.index),
        );
        if in_sync {
            notes.push(Note { candidate: member.index, kind: NoteKind::Lagging });
        }
        if in_sync || rebuilding || spares.contains(&member.index) {
            laggards.push(member.index);
        }
    }
    laggards.sort_unstable();
    laggards
}
