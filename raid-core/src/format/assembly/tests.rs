//! The choice: each rule by an example, then worlds of random histories against a model that knows the truth.

use std::collections::BTreeSet;

use super::*;
use crate::format::labsan::header::REDO_RECORDS;
use crate::format::layout::MemberLayout;
use crate::format::superblock::{Features, MAX_SECTOR, MdTime, NewArray, Role};

mod world;

const SIZE: u64 = 64 << 20;
const ARRAY: Uuid = Uuid::from_u128(0xa11a);

/// Members of a clean array at events 10, with headers that remember it.
fn array(level: i32, disks: u16, spares: u16) -> Vec<Candidate> {
    let layout = MemberLayout::for_member(SIZE).unwrap();
    let new = NewArray {
        uuid: ARRAY,
        name: "box:vault".parse().unwrap(),
        created: MdTime::of_labsan(1_795_000_000, 1),
        level,
        layout: if level == 10 { 0x102 } else { 2 },
        chunk_sectors: 128,
        raid_disks: disks.into(),
        component_bytes: 32 << 20,
        bitmap: level != 0,
        in_sync: true,
        events: 10,
    };
    let roles: Vec<Role> = (0..disks).map(Role::Active).collect();
    (0..disks + spares)
        .map(|number| {
            let device = Uuid::from_u128(0x100 + u128::from(number));
            let superblock = new.superblock(&layout, number.into(), device, &roles);
            let header = Header::new(&superblock, layout.clone(), SIZE, Policy::Journal);
            let bitmap = BitmapHeader::new(ARRAY, 10, superblock.size_sectors, 64 << 10);
            Candidate {
                id: format!("disk{number}"),
                size_bytes: SIZE,
                superblock: Ok(superblock),
                labsan: Ok(header),
                bitmap,
            }
        })
        .collect()
}

fn edit(candidate: &mut Candidate, change: impl FnOnce(&mut Superblock)) {
    change(candidate.superblock.as_mut().unwrap());
}

/// As if the array had been updated with these members present: one event more, these roles changed.
fn update(candidates: &mut [Candidate], present: &[usize], roles: &[(u32, Role)]) {
    for index in present {
        edit(&mut candidates[*index], |superblock| {
            superblock.events += 1;
            for (number, role) in roles {
                assert!(superblock.set_role(*number, *role));
            }
        });
    }
}

fn without_headers(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    for candidate in &mut candidates {
        candidate.labsan = Err(LabsanError::NoMagic);
    }
    candidates
}

fn plan(candidates: &[Candidate]) -> AssemblyPlan {
    choose(ARRAY, candidates, false).unwrap()
}

fn refusal(candidates: &[Candidate]) -> AssemblyRefusal {
    choose(ARRAY, candidates, false).unwrap_err()
}

#[test]
fn a_clean_array_needs_nothing() {
    for (level, disks) in [(0, 2), (1, 2), (5, 3), (6, 4), (10, 4)] {
        let plan = plan(&array(level, disks, 1));
        assert_eq!(plan.slots, (0..usize::from(disks)).map(SlotState::InSync).collect::<Vec<_>>());
        assert_eq!(
            (plan.spares.as_slice(), plan.left_out.as_slice()),
            ([usize::from(disks)].as_slice(), [].as_slice())
        );
        assert_eq!(plan.needs, Needs { replay_journal: false, resync: Resync::None });
        assert!(!plan.md_ran && !plan.is_degraded() && plan.notes.is_empty() && plan.laggards.is_empty());
        assert_eq!(plan.policy, Policy::Journal);
    }
}

#[test]
fn an_interrupted_update_leaves_everyone_current() {
    for updated in 0..8u8 {
        let mut candidates = array(5, 3, 0);
        let present: Vec<usize> = (0..3).filter(|bit| updated & 1 << bit != 0).collect();
        update(&mut candidates, &present, &[]);
        let plan = plan(&candidates);
        assert!(!plan.is_degraded());
        let behind: Vec<usize> =
            if present.is_empty() { vec![] } else { (0..3).filter(|i| !present.contains(i)).collect() };
        assert_eq!(plan.laggards, behind);
        assert_eq!(plan.notes.len(), behind.len());
    }
}

#[test]
fn a_member_the_freshest_dropped_is_stale_even_one_update_behind() {
    let mut candidates = array(5, 3, 0);
    update(&mut candidates, &[0, 2], &[(1, Role::Faulty)]);
    let plan = plan(&candidates);
    assert_eq!(plan.slots, [SlotState::InSync(0), SlotState::Stale(1), SlotState::InSync(2)]);
    assert_eq!(plan.notes, [Note { candidate: 1, kind: NoteKind::Dropped { freshest: 11 } }]);
}

#[test]
fn a_member_two_updates_behind_is_stale_though_still_listed() {
    let mut candidates = array(6, 4, 0);
    update(&mut candidates, &[0, 1, 2], &[]);
    update(&mut candidates, &[0, 1, 2], &[]);
    let plan = plan(&candidates);
    assert_eq!(plan.slots[3], SlotState::Stale(3));
    assert_eq!(plan.notes, [Note { candidate: 3, kind: NoteKind::Behind { events: 10, freshest: 12 } }]);
}

#[test]
fn a_rebuild_resumes_at_its_checkpoint_and_is_never_in_sync_early() {
    let mut candidates = array(5, 3, 1);
    update(&mut candidates, &[0, 2, 3], &[(1, Role::Faulty), (3, Role::Active(1))]);
    // The update reached the spare with its checkpoint...
    let mut rebuilding = candidates.clone();
    edit(&mut rebuilding[3], |superblock| superblock.recovery_offset = Some(4096));
    let state = SlotState::Rebuilding { candidate: 3, recovery_offset: 4096, by_bitmap: false };
    assert_eq!(plan(&rebuilding).slots[1], state);
    assert_eq!(plan(&rebuilding).left_out, [1]);
    // ...or did not reach it at all: it was drafted, and knows nothing of it.
    let mut drafted = array(5, 3, 1);
    update(&mut drafted, &[0, 2], &[(1, Role::Faulty), (3, Role::Active(1))]);
    let state = SlotState::Rebuilding { candidate: 3, recovery_offset: 0, by_bitmap: false };
    assert_eq!(plan(&drafted).slots[1], state);
    assert_eq!(plan(&drafted).laggards, [3]);
    // A finished rebuild whose last update missed the spare is not finished.
    let mut last = rebuilding;
    update(&mut last, &[0, 2], &[]);
    assert!(matches!(plan(&last).slots[1], SlotState::Rebuilding { recovery_offset: 4096, .. }));
    // Nor does it help out where too much is missing.
    let lone = [last[0].clone(), last[3].clone()];
    assert!(matches!(refusal(&lone), AssemblyRefusal::TooManyMissing { in_sync: 1, rebuilding: 1, .. }));
    // md was following the bitmap.
    edit(&mut last[3], |superblock| superblock.features = Features::RECOVERY_BITMAP);
    assert!(matches!(plan(&last).slots[1], SlotState::Rebuilding { by_bitmap: true, .. }));
}

#[test]
fn bringing_laggards_up_changes_nobodys_standing() {
    // A spare was drafted, a member is at its checkpoint, another in sync; all missed the last update.
    let mut candidates = array(6, 5, 1);
    update(&mut candidates, &[0, 2, 3, 4], &[(1, Role::Faulty), (5, Role::Active(1))]);
    edit(&mut candidates[3], |superblock| superblock.recovery_offset = Some(4096));
    edit(&mut candidates[4], |superblock| superblock.features = Features::BAD_BLOCKS);
    update(&mut candidates, &[0, 2], &[]);
    let before = plan(&candidates);
    assert_eq!(before.laggards, [3, 4, 5]);
    let drafted = SlotState::Rebuilding { candidate: 5, recovery_offset: 0, by_bitmap: false };
    assert_eq!(before.slots[1], drafted);
    // A power cut after any of them.
    for laggard in before.laggards.clone() {
        let own = candidates[laggard].superblock.clone().unwrap();
        let fresh = before.superblock_for(&candidates, laggard).unwrap();
        assert_eq!(Superblock::parse(&fresh.encode()), Ok(fresh.clone()));
        assert_eq!((fresh.dev_number, fresh.device_uuid), (own.dev_number, own.device_uuid));
        assert_eq!(fresh.features, own.features.without(Features::RECOVERY_BITMAP));
        candidates[laggard].superblock = Ok(fresh);
        assert_eq!(plan(&candidates).slots, before.slots);
    }
    assert_eq!(plan(&candidates).laggards, Vec::<usize>::new());
    assert_eq!(before.superblock_for(&candidates, 99), None);
}

#[test]
fn the_same_device_twice_is_refused_by_name() {
    let mut candidates = array(5, 3, 0);
    let mut copy = candidates[1].clone();
    copy.id = "copy".into();
    candidates.push(copy);
    let expected = AssemblyRefusal::Duplicate {
        device_uuid: Uuid::from_u128(0x101),
        first: "copy".into(),
        second: "disk1".into(),
    };
    assert_eq!(refusal(&candidates), expected);
}

#[test]
fn two_devices_in_one_slot_are_refused_by_name() {
    let mut candidates = array(5, 3, 0);
    let mut twin = candidates[1].clone();
    twin.id = "twin".into();
    edit(&mut twin, |superblock| superblock.device_uuid = Uuid::from_u128(0x999));
    candidates.push(twin);
    assert!(matches!(refusal(&candidates), AssemblyRefusal::SlotTwice { slot: 1, .. }));
}

#[test]
fn halves_that_ran_apart_are_refused_by_name() {
    // A mirror: each half counts the other as failed, at the same count...
    let mut candidates = array(1, 2, 0);
    update(&mut candidates, &[0], &[(1, Role::Faulty)]);
    update(&mut candidates, &[1], &[(0, Role::Faulty)]);
    assert!(matches!(refusal(&candidates), AssemblyRefusal::SplitBrain { .. }));
    // ...or at another.
    update(&mut candidates, &[1], &[]);
    update(&mut candidates, &[1], &[]);
    let AssemblyRefusal::SplitBrain { first, first_events, second, second_events } = refusal(&candidates)
    else {
        panic!("not refused as split");
    };
    assert_eq!((first.as_str(), first_events, second.as_str(), second_events), ("disk1", 13, "disk0", 11));
    // Either half alone is fine.
    assert!(plan(&candidates[..1]).is_degraded());
    assert!(plan(&candidates[1..]).is_degraded());
    // RAID 6 in two halves of two.
    let mut candidates = array(6, 4, 0);
    update(&mut candidates, &[0, 1], &[(2, Role::Faulty), (3, Role::Faulty)]);
    update(&mut candidates, &[2, 3], &[(0, Role::Faulty), (1, Role::Faulty)]);
    assert!(matches!(refusal(&candidates), AssemblyRefusal::SplitBrain { .. }));
}

#[test]
fn a_version_that_never_came_into_force_is_no_split() {
    // disk0 wrote "1 failed" and was lost before 2 heard of it; 1 and 2 then went on without 0.
    let mut candidates = array(5, 3, 0);
    update(&mut candidates, &[0], &[(1, Role::Faulty)]);
    update(&mut candidates, &[1, 2], &[(0, Role::Faulty)]);
    assert_eq!(plan(&candidates).slots, [SlotState::Stale(0), SlotState::InSync(1), SlotState::InSync(2)]);
}

#[test]
fn an_estranged_member_is_never_in_sync() {
    // 0 lists 1 as active, but 1 went on without 0: whatever led there, one of them lacks writes.
    let mut candidates = array(1, 2, 0);
    update(&mut candidates, &[0], &[]);
    update(&mut candidates, &[0], &[]);
    update(&mut candidates, &[1], &[(0, Role::Faulty)]);
    assert!(matches!(refusal(&candidates), AssemblyRefusal::SplitBrain { .. }));
}

#[test]
fn a_long_stale_member_of_the_same_history_is_no_split() {
    // RAID 6: 3 drops out while 2 is out; 2 is rebuilt later. 3 and 2 exclude each other, 0 and 1 join them.
    let mut candidates = array(6, 4, 0);
    update(&mut candidates, &[0, 1, 3], &[(2, Role::Faulty)]);
    update(&mut candidates, &[0, 1], &[(3, Role::Faulty)]);
    let rejoined = candidates[0].superblock.as_ref().unwrap().events;
    edit(&mut candidates[2], |superblock| {
        superblock.events = rejoined;
        assert!(superblock.set_role(3, Role::Faulty));
    });
    update(&mut candidates, &[0, 1, 2], &[(2, Role::Active(2))]);
    assert_eq!(plan(&candidates).slots[2..], [SlotState::InSync(2), SlotState::Stale(3)]);
}

#[test]
fn other_arrays_and_other_shapes_are_refused_by_name() {
    let mut candidates = array(5, 3, 0);
    edit(&mut candidates[2], |superblock| superblock.array_uuid = Uuid::from_u128(7));
    assert!(matches!(refusal(&candidates), AssemblyRefusal::OtherArray { id, .. } if id == "disk2"));
    let mut candidates = array(5, 3, 0);
    edit(&mut candidates[2], |superblock| superblock.chunk_sectors = 64);
    assert!(matches!(refusal(&candidates), AssemblyRefusal::Disagree { field: "chunksize", .. }));
    assert!(matches!(refusal(&[]), AssemblyRefusal::NoMembers { .. }));
    let mut candidates = array(5, 3, 0);
    candidates.iter_mut().for_each(|candidate| edit(candidate, |superblock| superblock.level = -1));
    assert_eq!(refusal(&candidates), AssemblyRefusal::UnknownLevel { level: -1 });
}

#[test]
fn what_newer_or_reshaping_software_left_stops_everything() {
    let mut candidates = array(5, 3, 0);
    edit(&mut candidates[1], |superblock| superblock.features = Features::RESHAPE_ACTIVE);
    candidates[1].superblock = Superblock::parse(&candidates[1].superblock.as_ref().unwrap().encode());
    assert!(matches!(refusal(&candidates), AssemblyRefusal::Unsupported { id, .. } if id == "disk1"));
    let mut candidates = array(5, 3, 0);
    candidates[2].labsan = Err(LabsanError::NewerVersion { found: 2, known: 1 });
    assert!(matches!(refusal(&candidates), AssemblyRefusal::NewerLabsan { id, .. } if id == "disk2"));
}

#[test]
fn unreadable_and_shrunk_devices_are_left_out_with_a_note() {
    let mut candidates = array(6, 4, 0);
    candidates[0].superblock = Err(SuperblockError::BadChecksum { found: 1, computed: 2 });
    candidates[1].size_bytes = 40 << 20;
    let plan = plan(&candidates);
    assert_eq!(plan.slots[..2], [SlotState::Missing, SlotState::Missing]);
    assert_eq!(plan.left_out, [0, 1]);
    assert!(matches!(plan.notes[0].kind, NoteKind::Unreadable(_)));
    assert!(matches!(plan.notes[1].kind, NoteKind::Shrunk { .. }));
}

#[test]
fn every_set_of_missing_members_is_judged_by_the_level() {
    for (level, disks, losses) in [(0, 3, 0), (1, 3, 2), (5, 4, 1), (6, 5, 2)] {
        for present in 1..1u32 << disks {
            let all = array(level, disks, 0);
            let some: Vec<Candidate> =
                (0..disks).filter(|i| present & 1 << i != 0).map(|i| all[usize::from(i)].clone()).collect();
            let missing = usize::from(disks) - some.len();
            match choose(ARRAY, &some, false) {
                Ok(plan) => assert!(
                    missing <= losses
                        && plan.slots.iter().filter(|s| **s == SlotState::Missing).count() == missing
                ),
                Err(AssemblyRefusal::TooManyMissing { in_sync, .. }) => {
                    assert!(missing > losses && in_sync == some.len());
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn raid10_survives_as_long_as_each_pair_has_one() {
    let survives =
        |present: &[u8]| survives(10, 0x102, &present.iter().map(|p| *p != 0).collect::<Vec<_>>()).unwrap();
    assert!(survives(&[1, 0, 0, 1]) && survives(&[0, 1, 0, 1]));
    assert!(!survives(&[0, 0, 1, 1]) && !survives(&[1, 1, 0, 0]));
    // An odd count: copies wrap around, so that every two neighbours share blocks.
    assert!(
        survives(&[1, 1, 0])
            && survives(&[1, 0, 1, 0, 1])
            && !survives(&[1, 0, 0])
            && !survives(&[0, 1, 1, 1, 0])
    );
    assert_eq!(copies(0x102), 2);
    assert_eq!(copies(0x203), 6);
    assert_eq!(super::survives(-1, 0, &[true]), None);
}

#[test]
fn geometry_and_the_chooser_agree_on_what_survives() {
    use crate::geometry::{Geometry, Level, MemberIndex, MemberSet};
    for level in Level::ALL {
        for disks in usize::from(level.minimum_members())..7 {
            let geometry = Geometry::new(level, disks, 65536, 32 << 20).unwrap();
            for present in 0..1u32 << disks {
                let in_sync: Vec<bool> = (0..disks).map(|i| present & 1 << i != 0).collect();
                let mut missing = MemberSet::new();
                for index in (0..disks).filter(|index| !in_sync[*index]) {
                    missing.insert(MemberIndex(index as u16));
                }
                let ours = survives(level.number() as i32, level.layout_number(), &in_sync);
                assert_eq!(ours, Some(geometry.tolerates(&missing)), "{level} {in_sync:?}");
            }
        }
    }
}

#[test]
fn the_write_hole_is_refused_and_can_be_forced() {
    for level in [4, 5, 6] {
        let mut candidates = without_headers(array(level, 4, 0));
        candidates
            .iter_mut()
            .for_each(|candidate| edit(candidate, |superblock| superblock.resync_offset = 0));
        assert_eq!(plan(&candidates).needs.resync, Resync::Bitmap);
        let degraded = &candidates[..3];
        assert_eq!(refusal(degraded), AssemblyRefusal::UncleanDegraded { array: "vault".into(), missing: 1 });
        assert!(choose(ARRAY, degraded, true).unwrap().is_degraded());
    }
    // Mirrors have no parity that could lie.
    let mut candidates = without_headers(array(1, 2, 0));
    candidates.iter_mut().for_each(|candidate| edit(candidate, |superblock| superblock.resync_offset = 0));
    assert_eq!(plan(&candidates[..1]).needs.resync, Resync::Bitmap);
}

#[test]
fn resync_follows_the_bitmap_only_if_it_is_as_fresh_as_the_superblock() {
    let mut candidates = without_headers(array(5, 3, 0));
    candidates.iter_mut().for_each(|candidate| edit(candidate, |superblock| superblock.resync_offset = 0));
    let with = |change: &dyn Fn(&mut Candidate)| {
        let mut changed = candidates.clone();
        changed.iter_mut().for_each(change);
        plan(&changed).needs.resync
    };
    assert_eq!(with(&|_| {}), Resync::Bitmap);
    assert_eq!(with(&|candidate| candidate.bitmap.as_mut().unwrap().events = 9), Resync::From(0));
    assert_eq!(with(&|candidate| candidate.bitmap.as_mut().unwrap().state = 2), Resync::From(0));
    assert_eq!(with(&|candidate| candidate.bitmap = None), Resync::From(0));
    assert_eq!(with(&|candidate| edit(candidate, |s| s.bitmap_offset = None)), Resync::From(0));
    assert_eq!(with(&|candidate| edit(candidate, |s| s.resync_offset = 800)), Resync::From(800));
    assert_eq!(with(&|candidate| edit(candidate, |s| s.resync_offset = MAX_SECTOR)), Resync::None);
    // One current member with a fresh bitmap is enough.
    let mut lagging = candidates.clone();
    update(&mut lagging, &[1], &[]);
    lagging[1].bitmap.as_mut().unwrap().events = 11;
    assert_eq!(plan(&lagging).needs.resync, Resync::Bitmap);
}

#[test]
fn while_bit_31_is_set_the_journal_counts_whatever_events_say() {
    let mut candidates = array(5, 3, 0);
    candidates.iter_mut().for_each(|candidate| edit(candidate, |s| s.features = Features::LABSAN_RUNNING));
    update(&mut candidates, &[0, 1, 2], &[]);
    let running = plan(&candidates);
    assert!(!running.md_ran && running.needs.replay_journal);
    assert_eq!(running.needs.resync, Resync::None);
    // Degraded is no matter: the journal closes the write hole.
    assert!(plan(&candidates[1..]).needs.replay_journal);
    // A stop that reached one member only: the journal was empty by then.
    update(&mut candidates, &[0], &[]);
    edit(&mut candidates[0], |s| s.features = Features::default());
    let (events, utime) =
        (candidates[0].superblock.as_ref().unwrap().events, MdTime::of_labsan(1_795_000_000, 1));
    for candidate in &mut candidates {
        let header = candidate.labsan.as_mut().unwrap();
        (header.md_events, header.md_utime) = (events, utime);
    }
    let stopped = plan(&candidates);
    assert!(!stopped.md_ran && !stopped.needs.replay_journal);
    // No header, no journal: refused, and forced only with a resync of everything.
    let mut lost = without_headers(array(5, 3, 0));
    lost.iter_mut().for_each(|candidate| edit(candidate, |s| s.features = Features::LABSAN_RUNNING));
    assert!(matches!(refusal(&lost), AssemblyRefusal::JournalLost { .. }));
    assert_eq!(
        choose(ARRAY, &lost, true).unwrap().needs,
        Needs { replay_journal: false, resync: Resync::From(0) }
    );
    // One header is enough; the others are named.
    let mut one = lost.clone();
    one[2].labsan = candidates[2].labsan.clone();
    let plan = plan(&one);
    assert!(plan.needs.replay_journal);
    assert_eq!(plan.notes.iter().map(|note| note.candidate).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_mirrors_records_count_while_bit_31_is_set_and_its_headers_name_them() {
    let mut candidates = array(1, 2, 0);
    candidates.iter_mut().for_each(|candidate| candidate.labsan.as_mut().unwrap().policy = Policy::Bitmap);
    assert!(!plan(&candidates).needs.replay_journal);
    candidates.iter_mut().for_each(|candidate| edit(candidate, |s| s.features = Features::LABSAN_RUNNING));
    assert!(!plan(&candidates).needs.replay_journal, "an older labsan ran it last");
    let named = |candidate: &mut Candidate| candidate.labsan.as_mut().unwrap().incompatible = REDO_RECORDS;
    candidates.iter_mut().for_each(named);
    assert!(plan(&candidates).needs.replay_journal);
    assert!(plan(&candidates[1..]).needs.replay_journal);
    candidates.iter_mut().for_each(|candidate| edit(candidate, |s| s.features = Features::default()));
    assert!(!plan(&candidates).needs.replay_journal, "md may have run it since");
}

#[test]
fn md_is_found_out_by_events_or_by_time() {
    let candidates = array(5, 3, 0);
    let ran = |change: &dyn Fn(&mut Superblock)| {
        let mut changed = candidates.clone();
        changed.iter_mut().for_each(|candidate| edit(candidate, |superblock| change(superblock)));
        plan(&changed).md_ran
    };
    assert!(!ran(&|_| {}));
    assert!(ran(&|superblock| superblock.events += 2));
    // md takes its updates back, so that events may be the same; and within the same second.
    assert!(ran(&|superblock| superblock.utime.micros = 0));
    assert!(!plan(&without_headers(candidates.clone())).md_ran);
}

#[test]
fn mdadms_own_arrays_assemble() {
    let candidate = |name: &str| Candidate {
        id: name.to_owned(),
        size_bytes: fixtures::md::DEVICE_BYTES,
        superblock: Superblock::parse(&fixtures::md::image(name)[4096..]),
        labsan: Err(LabsanError::NoMagic),
        bitmap: None,
    };
    let uuid = |candidates: &[Candidate]| candidates[0].superblock.as_ref().unwrap().array_uuid;
    let raid5 =
        ["raid5-member0", "raid5-failed-member", "raid5-member2", "raid5-rebuilt-spare"].map(candidate);
    let plan = choose(uuid(&raid5), &raid5, false).unwrap();
    assert_eq!(plan.slots, [SlotState::InSync(0), SlotState::InSync(3), SlotState::InSync(2)]);
    assert_eq!((plan.left_out.as_slice(), plan.policy), ([1].as_slice(), Policy::Bitmap));
    let mirror = [candidate("raid1-clean")];
    assert_eq!(
        choose(uuid(&mirror), &mirror, false).unwrap().slots,
        [SlotState::InSync(0), SlotState::Missing]
    );
    let raid10 = ["raid10-degraded", "raid10-failed-member"].map(candidate);
    let error = choose(uuid(&raid10), &raid10, false).unwrap_err();
    assert!(
        matches!(error, AssemblyRefusal::TooManyMissing { in_sync: 1, stale: 1, raid_disks: 4, .. }),
        "{error}"
    );
}

#[test]
fn an_array_without_room_for_a_journal_has_none_to_lose() {
    // mdadm left 1 MiB; labsan ran the array by md's bitmap and was cut off.
    let mut superblock = Superblock::parse(&fixtures::md::image("raid1-clean")[4096..]).unwrap();
    superblock.features = Features::LABSAN_RUNNING;
    superblock.resync_offset = 0;
    let array = superblock.array_uuid;
    let bitmap = BitmapHeader::parse(&fixtures::md::image("raid1-clean")[8192..], array).ok();
    let candidate = Candidate {
        id: "mirror".into(),
        size_bytes: fixtures::md::DEVICE_BYTES,
        superblock: Ok(superblock),
        labsan: Err(LabsanError::NoMagic),
        bitmap,
    };
    let plan = choose(array, &[candidate], false).unwrap();
    assert_eq!(plan.needs, Needs { replay_journal: false, resync: Resync::Bitmap });
    assert_eq!((plan.policy, plan.md_ran), (Policy::Bitmap, false));
}

#[test]
fn refusals_say_what_to_do() {
    let mut candidates = without_headers(array(5, 3, 0));
    candidates.iter_mut().for_each(|candidate| edit(candidate, |superblock| superblock.resync_offset = 0));
    let text = refusal(&candidates[1..]).to_string();
    assert!(text.contains("\"vault\"") && text.ends_with("raidctl array start --force"), "{text}");
    let text = refusal(&candidates[2..]).to_string();
    assert!(text.contains("1 of 3 members in sync"), "{text}");
}
