//! Which superblock describes the array now?
//!
//! A *version* is a count of events and who holds which slot at it. Normally there is one at the top, and at
//! most one more below it (an interrupted update). Two at the top with the same count mean that two sets of
//! members went on separately. That is harmless only if one of them never came into force: a version that one
//! of its own active members demonstrably never received had nothing acknowledged under it.

use super::{AssemblyRefusal, Member};
use crate::format::superblock::{Features, Role, Superblock};

/// Who holds which slot: (device number, slot) pairs in order.
fn holders(superblock: &Superblock) -> impl Iterator<Item = (u32, u16)> + '_ {
    (0u32..).zip(&superblock.roles).filter_map(|(number, role)| role.slot().map(|slot| (number, slot)))
}

fn same_holders(a: &Superblock, b: &Superblock) -> bool {
    holders(a).eq(holders(b))
}

/// The member whose superblock counts. `members` are in their canonical order, and not empty.
pub(super) fn freshest<'a>(members: &[Member<'a>]) -> Result<Member<'a>, AssemblyRefusal> {
    let top = members.iter().map(|member| member.superblock.events).max().unwrap_or(0);
    let mut versions: Vec<Member> = Vec::new();
    for member in members.iter().filter(|member| member.superblock.events == top) {
        if !versions.iter().any(|known| same_holders(known.superblock, member.superblock)) {
            versions.push(*member);
        }
    }
    let in_force: Vec<Member> = match versions.len() {
        1 => versions.clone(),
        _ => {
            versions.iter().filter(|version| may_be_in_force(members, version.superblock)).copied().collect()
        }
    };
    match (in_force.as_slice(), versions.as_slice()) {
        ([one], _) => Ok(*one),
        ([a, b, ..], _) | ([], [a, b, ..]) => Err(split(a, b)),
        // `members` is not empty, so there is a version.
        ([], [one]) => Ok(*one),
        ([], []) => Err(AssemblyRefusal::NoMembers { array: uuid::Uuid::nil() }),
    }
}

/// No member that the version counts on holds another one instead of it.
fn may_be_in_force(members: &[Member], version: &Superblock) -> bool {
    members.iter().filter(|member| holds_slot(version, member.superblock)).all(|member| {
        let own = member.superblock;
        own.events > version.events || own.events == version.events && same_holders(own, version)
    })
}

/// `table` gives the device the slot that the device itself claims.
fn holds_slot(table: &Superblock, device: &Superblock) -> bool {
    matches!(device.own_role(), Role::Active(slot) if table.role_of(device.dev_number) == Role::Active(slot))
}

fn split(a: &Member, b: &Member) -> AssemblyRefusal {
    AssemblyRefusal::SplitBrain {
        first: a.id.to_owned(),
        first_events: a.superblock.events,
        second: b.id.to_owned(),
        second_events: b.superblock.events,
    }
}

/// Refuses members that ran on without those of the freshest version.
///
/// - A stale member whose table shares no active device with the freshest's was in a half of its own: in a
///   single history some member was in sync on both sides of every update.
/// - A member that would count as in sync must itself count on all the others that do.
pub(super) fn refuse_split_brain(members: &[Member], freshest: Member) -> Result<(), AssemblyRefusal> {
    let table = freshest.superblock;
    for member in members.iter().filter(|member| member.superblock.own_role().slot().is_some()) {
        let own = member.superblock;
        let shared = holders(own).any(|(number, slot)| table.role_of(number) == Role::Active(slot));
        if !shared {
            return Err(split(&freshest, member));
        }
    }
    let current: Vec<&Member> = members.iter().filter(|member| counts(table, member.superblock)).collect();
    for member in &current {
        let estranged = current.iter().find(|other| !holds_slot(member.superblock, other.superblock));
        if let Some(other) = estranged {
            return Err(split(member, other));
        }
    }
    Ok(())
}

/// The member would count as in sync under this table.
fn counts(table: &Superblock, own: &Superblock) -> bool {
    is_current(table, own)
        && holds_slot(table, own)
        && own.recovery_offset.is_none()
        && !own.features.contains(Features::REPLACEMENT)
}

/// At the freshest count, or one update behind it.
pub(super) fn is_current(freshest: &Superblock, own: &Superblock) -> bool {
    own.events.checked_add(1).is_none_or(|next| next >= freshest.events)
}

/// Refuses current members that describe another array than the freshest does.
pub(super) fn refuse_disagreement(members: &[Member], freshest: Member) -> Result<(), AssemblyRefusal> {
    let shape = |s: &Superblock| {
        [
            ("level", i128::from(s.level)),
            ("layout", s.layout.into()),
            ("raid_disks", s.raid_disks.into()),
            ("size", s.size_sectors.into()),
            ("chunksize", s.chunk_sectors.into()),
        ]
    };
    let table = freshest.superblock;
    for member in members.iter().filter(|member| counts(table, member.superblock)) {
        let differs =
            shape(member.superblock).into_iter().zip(shape(table)).find(|(own, fresh)| own != fresh);
        if let Some(((field, _), _)) = differs {
            return Err(AssemblyRefusal::Disagree {
                id: member.id.to_owned(),
                freshest: freshest.id.to_owned(),
                field,
            });
        }
    }
    Ok(())
}
