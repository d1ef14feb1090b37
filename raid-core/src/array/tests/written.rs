//! The written map: never behind what is in place, and what it is good for.

use super::*;
use crate::format::labsan::written::MIN_REGION_BYTES;
use crate::format::layout::MemberLayout;
use crate::geometry::MemberIndex;

const REGION: u64 = MIN_REGION_BYTES;
const MIB: u64 = 1 << 20;

fn layout() -> MemberLayout {
    MemberLayout::for_member(MEMBER_BYTES as u64).unwrap()
}

/// What a member's copy of the map says of a region, if its page is there at all.
fn on_disk(disk: &Faulty, region: u64) -> bool {
    let at = layout().written_map.offset as usize + 64 + (region / 8) as usize;
    let mut set = false;
    disk.inner.tamper(|bytes| set = bytes[at] & 1 << (region % 8) != 0);
    set
}

fn garbage(disk: &Faulty) {
    disk.inner.tamper(|bytes| bytes[MIB as usize..].fill(0x6b));
}

impl World {
    pub(super) async fn with_policy(level: Level, members: usize, spares: usize, policy: Policy) -> Self {
        let disks: Vec<Faulty> = (0..members + spares).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
        disks[members..].iter().for_each(garbage);
        Self::over_with(disks, level, members, policy).await
    }

    /// Let go of the array as a crash would.
    fn crash(&self) {
        self.array.core.stopping.store(true, Ordering::Release);
    }

    /// Where in the array a region of the members begins, and how long it is there.
    fn region_in_array(&self, region: u64) -> std::ops::Range<u64> {
        let geometry = &self.array.core.geometry;
        let unit = u64::from(geometry.unit_data_bytes());
        let units = geometry.units_touching(&(region * REGION..(region + 1) * REGION));
        units.start * unit..units.end * unit
    }

    fn is_written(&self, region: u64) -> bool {
        self.array.core.written.all_set(region..region + 1)
    }

    async fn all_in_place(&self) {
        for _ in 0..1000 {
            let journal = self.array.core.journal.as_ref();
            if journal.is_none_or(|journal| journal.first_journalled(&(0..u64::MAX)).is_none()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the journal is never empty");
    }
}

fn policies(level: Level) -> &'static [Policy] {
    match level {
        Level::Raid0 => &[Policy::None],
        Level::Raid1 | Level::Raid10 => &[Policy::Bitmap],
        Level::Raid5 | Level::Raid6 => &[Policy::Journal, Policy::Bitmap, Policy::None],
    }
}

fn all_kinds(mut test: impl AsyncFnMut(Level, usize, Policy)) {
    for (level, members) in SHAPES.into_iter().chain([(Level::Raid0, 3)]) {
        for policy in policies(level) {
            run(test(level, members, *policy));
        }
    }
}

#[test]
fn nothing_is_written_in_place_before_every_member_says_so() {
    all_kinds(async |level, members, policy| {
        let world = World::with_policy(level, members, 0, policy).await;
        let (all, data) = (world.disks.clone(), layout().data_offset);
        for disk in &world.disks {
            let all = all.clone();
            disk.watch(move |offset, length| {
                let regions = (offset.max(data) - data) / REGION
                    ..(offset + length).saturating_sub(data).div_ceil(REGION);
                for region in regions {
                    assert!(
                        all.iter().all(|disk| on_disk(disk, region)),
                        "{level} {policy:?}: region {region}"
                    );
                }
            });
        }
        let (mut random, mut model) = (Random(77), Model::default());
        for _ in 0..60 {
            model.write(&world.array, &mut random).await;
        }
        let whole = vec![9; 2 * world.array.core.geometry.unit_data_bytes() as usize];
        world.array.write(0, whole.into(), Durability::Durable).await.unwrap();
        world.all_in_place().await;
    });
}

#[test]
fn a_crash_forgets_no_region_and_a_rebuild_brings_all_of_it_back() {
    all_kinds(async |level, members, policy| {
        if level == Level::Raid0 || policy == Policy::None {
            return;
        }
        let mut world = World::with_policy(level, members, 1, policy).await;
        world.disks[members].gone.store(true, Ordering::Relaxed);
        let (mut random, mut model) = (Random(5), Model::default());
        for _ in 0..12 {
            model.write(&world.array, &mut random).await;
        }
        world.all_in_place().await;
        // Swept: a degraded start is not refused for the write hole.
        tokio::time::sleep(Duration::from_secs(30)).await;
        world.crash();
        world.disks[members].gone.store(false, Ordering::Relaxed);
        world.array = world.assemble(&[0], false).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        model.check_all(&world.array).await;
    });
}

#[test]
fn a_rebuild_moves_what_was_written_and_the_rest_is_zeros() {
    for (level, members) in SHAPES {
        run(async {
            let world = World::with_policy(level, members, 1, policies(level)[0]).await;
            let part = world.region_in_array(2);
            let data: Vec<u8> = (part.start..part.end).map(|at| (at / 512 % 250) as u8 + 1).collect();
            world.array.write(part.start, data.into(), Durability::Durable).await.unwrap();
            world.all_in_place().await;
            let written = world.array.core.written.count(0..u64::MAX / REGION);
            assert!((1..=3).contains(&written), "{level}: {written} regions");
            let mut events = world.array.events();
            let (read, wrote) = (world.disks[1].read_bytes(), world.disks[members].written_bytes());
            world.array.fail(&path(0), false).await.unwrap();
            let mut most = 0;
            while world.array.core.table().rebuilding().is_some() || most == 0 {
                if let Some(activity) = world.array.status().await.activity {
                    assert_eq!(activity.total_bytes, written * REGION, "{level}: what is to be done");
                    assert!(activity.done_bytes >= most && activity.done_bytes <= activity.total_bytes);
                    most = activity.done_bytes;
                }
                tokio::task::yield_now().await;
            }
            world.wait_for(ArrayState::Optimal).await;
            while let Ok(event) = events.try_recv() {
                assert!(!matches!(event, ArrayEvent::ArrayFailed { .. }));
            }
            let (read, wrote) =
                (world.disks[1].read_bytes() - read, world.disks[members].written_bytes() - wrote);
            assert!(read <= (written + 1) * REGION, "{level}: {read} bytes were read of a member");
            assert!(wrote <= (written + 1) * REGION, "{level}: {wrote} bytes were written to the spare");
            // The spare was full of somebody else's data.
            world.check_redundancy().await;
        });
    }
}

#[test]
fn a_returning_member_and_one_without_cheap_zeroing_are_made_zeros_too() {
    for (level, members) in SHAPES {
        run(async {
            let mut world = World::with_policy(level, members, 0, policies(level)[0]).await;
            let (mut random, mut model) = (Random(8), Model::default());
            for _ in 0..4 {
                model.write(&world.array, &mut random).await;
            }
            world.all_in_place().await;
            for used in [false, true] {
                world.array.fail(&path(1), false).await.unwrap();
                garbage(&world.disks[1]);
                world.disks[1].used = used;
                world.array.add(device(&world.disks, 1), false).await.unwrap();
                world.wait_for(ArrayState::Optimal).await;
                world.check_redundancy().await;
                model.check_all(&world.array).await;
            }
        });
    }
}

#[test]
fn only_whole_regions_of_zeros_are_forgotten_and_stay_so() {
    all_kinds(async |level, members, policy| {
        let mut world = World::with_policy(level, members, 0, policy).await;
        let end = world.region_in_array(6).end;
        world.array.write(0, vec![7; end as usize].into(), Durability::Durable).await.unwrap();
        world.all_in_place().await;
        assert!((0..6).all(|region| world.is_written(region)));
        let (first, third) = (world.region_in_array(1), world.region_in_array(3));
        // All of 1 and 2, all but a block of 3.
        let length = third.end - BLOCK - first.start;
        world.array.discard(first.start, length).await.unwrap();
        let written = |world: &World| (0..5).map(|region| world.is_written(region)).collect::<Vec<_>>();
        assert_eq!(written(&world), [true, false, false, true, true], "{level} {policy:?}");
        assert!(world.disks[..members].iter().all(|disk| on_disk(disk, 3) && !on_disk(disk, 1)));
        let run = world.array.space_run(first.start, end - first.start);
        assert_eq!((run.mapped, run.length), (false, third.start - first.start), "{level} {policy:?}");
        assert!(world.array.space_run(0, end).mapped);
        if policy != Policy::None {
            world.crash();
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(
                written(&world),
                [true, false, false, true, true],
                "{level} {policy:?}: after a crash"
            );
        }
        // Zeros leave it so, also where they are parts of units; data does not.
        world.array.zero(first.start + BLOCK, REGION, Durability::Durable).await.unwrap();
        assert!(!world.is_written(1));
        world.array.write(first.start + BLOCK, block(3).into(), Durability::Durable).await.unwrap();
        assert!(
            world.array.space_run(first.start, BLOCK).mapped,
            "{level} {policy:?}: in the journal or in place"
        );
        world.all_in_place().await;
        assert!(world.is_written(1) && world.disks[..members].iter().all(|disk| on_disk(disk, 1)));
        let (bytes, result) = world.array.read(first.start, Buffer::zeroed(2 * BLOCK as usize)).await;
        result.unwrap();
        assert!(bytes[..BLOCK as usize].iter().all(|byte| *byte == 0) && bytes[BLOCK as usize..] == block(3));
    });
}

#[test]
fn one_copy_that_verifies_is_enough_and_without_any_all_is_written() {
    run(async {
        let mut world = World::with_policy(Level::Raid5, 3, 0, Policy::Journal).await;
        world
            .array
            .write(world.region_in_array(4).start, block(1).into(), Durability::Durable)
            .await
            .unwrap();
        world.all_in_place().await;
        let map = layout().written_map.offset as usize;
        // Torn on all but one.
        for disk in &world.disks[1..] {
            disk.inner.tamper(|bytes| bytes[map + 4095] ^= 1);
        }
        world.crash();
        world.array = world.assemble(&[], false).await.unwrap();
        let count = |world: &World| world.array.core.written.count(0..1000);
        assert_eq!(count(&world), 1);
        // And it is spread: that one may go.
        world.crash();
        world.array = world.assemble(&[0], false).await.unwrap();
        assert_eq!(count(&world), 1);
        for disk in &world.disks {
            disk.inner.tamper(|bytes| bytes[map + 4095] ^= 1);
        }
        world.crash();
        world.array = world.assemble(&[0], false).await.unwrap();
        assert_eq!(count(&world), world.array.core.geometry.member_bytes().div_ceil(REGION));
    });
}

#[test]
fn a_start_makes_the_union_durable_before_it_relies_on_it() {
    run(async {
        let mut world = World::with_policy(Level::Raid1, 2, 0, Policy::Bitmap).await;
        let map = layout().written_map.offset as usize;
        let mut old = Vec::new();
        world.disks[1].inner.tamper(|bytes| old = bytes[map..map + 4096].to_vec());
        world.array.write(3 * REGION, block(5).into(), Durability::Durable).await.unwrap();
        world.crash();
        // The cut came when only one of them had the bit.
        world.disks[1].inner.tamper(|bytes| bytes[map..map + 4096].copy_from_slice(&old));
        world.array = world.assemble(&[], false).await.unwrap();
        assert!(world.is_written(3) && on_disk(&world.disks[1], 3));
    });
}

#[test]
fn what_a_member_says_that_missed_updates_does_not_count() {
    run(async {
        let mut world = World::with_policy(Level::Raid1, 3, 0, Policy::Bitmap).await;
        world.array.write(0, block(5).into(), Durability::Durable).await.unwrap();
        world.disks[0].gone.store(true, Ordering::Relaxed);
        // A map that it does not get, then a region that only it still calls written.
        world.array.write(3 * REGION, block(6).into(), Durability::Durable).await.unwrap();
        world.array.discard(0, REGION).await.unwrap();
        world.disks[0].gone.store(false, Ordering::Relaxed);
        assert!(on_disk(&world.disks[0], 0) && !on_disk(&world.disks[0], 3));
        world.crash();
        world.array = world.assemble(&[], false).await.unwrap();
        assert!(!world.is_written(0) && world.is_written(3));
        world.array.add(device(&world.disks, 0), false).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        assert!(
            !on_disk(&world.disks[0], 0) && on_disk(&world.disks[0], 3),
            "it was given the map with its role"
        );
    });
}

#[test]
fn what_md_wrote_is_not_known_and_a_crash_in_the_next_start_does_not_change_that() {
    for cut in [0, 1, 2, 3, 4, 6, 8, 10, 12, 1000] {
        run(async {
            let mut world = World::with_policy(Level::Raid5, 3, 0, Policy::Journal).await;
            world.array.stop().await.unwrap();
            let data = layout().data_offset as usize;
            for (index, disk) in world.disks.iter().enumerate() {
                change_superblock(disk, |superblock| superblock.events += 5);
                // Parity and data that agree, in a stripe of region 5.
                let fill = [0x3d, 0x3d, 0][index];
                disk.inner.tamper(|bytes| bytes[data + (5 << 20)..data + (5 << 20) + 16384].fill(fill));
            }
            // The first start is cut short after so many writes.
            let left = Arc::new(AtomicI64::new(cut));
            for disk in &world.disks {
                *disk.fuse.lock().unwrap() = Some(Arc::clone(&left));
            }
            let started = tokio::time::timeout(Duration::from_secs(1), world.assemble(&[], false)).await;
            for disk in &world.disks {
                *disk.fuse.lock().unwrap() = None;
            }
            if let Ok(array) = started {
                array.unwrap().core.stopping.store(true, Ordering::Release);
            }
            world.array = world.assemble(&[], false).await.unwrap();
            assert!((0..6).all(|region| world.is_written(region)), "cut after {cut} writes");
            world.array.fail(&path(0), false).await.unwrap();
            garbage(&world.disks[0]);
            world.array.add(device(&world.disks, 0), false).await.unwrap();
            world.wait_for(ArrayState::Optimal).await;
            let chunk = layout().data_offset + 5 * MIB;
            let mut found = 0;
            world.disks[0].inner.tamper(|bytes| found = bytes[chunk as usize]);
            assert_eq!(found, 0x3d, "cut after {cut} writes");
        });
    }
}

#[test]
fn used_disks_that_were_not_zeroed_are_all_written() {
    run(async {
        let disks = (0..3).map(|i| Faulty { used: true, ..Faulty::new(&format!("/disks/{i}")) }).collect();
        let world = World::over(disks, Level::Raid5, 3).await;
        assert!((0..10).all(|region| world.is_written(region)));
        assert!(world.array.space_run(0, MIB).mapped);
    });
}

#[test]
fn a_resync_passes_over_what_was_never_written() {
    run(async {
        let mut world = World::with_policy(Level::Raid6, 6, 0, Policy::None).await;
        let part = world.region_in_array(2);
        world.array.write(part.start, block(4).into(), Durability::Durable).await.unwrap();
        world.crash();
        let read = world.disks[0].read_bytes();
        world.array = world.assemble(&[], false).await.unwrap();
        assert_eq!(world.array.status().await.state, ArrayState::Resyncing);
        world.wait_for(ArrayState::Optimal).await;
        let head = 4 * MIB;
        let read = world.disks[0].read_bytes() - read;
        assert!(read <= REGION + head, "{read} bytes were read");
        world.check_redundancy().await;
    });
}

#[test]
fn runs_of_units_follow_the_regions_at_every_level() {
    all_kinds(async |level, members, policy| {
        let world = World::with_policy(level, members, 0, policy).await;
        let core = &world.array.core;
        core.written.commit(&[1, 4, 5].into_iter().collect());
        let units = core.geometry.units();
        let written: Vec<bool> = (0..units)
            .map(|unit| {
                let touched = core.geometry.touched_by(&(unit..unit + 1));
                [1, 4, 5]
                    .iter()
                    .any(|region| touched.start < (region + 1) * REGION && region * REGION < touched.end)
            })
            .collect();
        let index = MemberIndex(0);
        for unit in 0..units {
            assert_eq!(core.is_unwritten(unit), !written[unit as usize], "{level} {unit} {index:?}");
            let next = |wanted| (unit..units).find(|unit| written[*unit as usize] == wanted).unwrap_or(units);
            assert_eq!(
                (core.first_written(unit..units), core.first_unwritten(unit..units)),
                (next(true), next(false))
            );
            assert_eq!(
                (core.first_mapped(unit..units), core.first_unmapped(unit..units)),
                (next(true), next(false))
            );
        }
        assert_eq!(core.written_bytes(&(0..core.geometry.member_bytes())), 3 * REGION);
        assert_eq!(core.written_bytes(&(0..REGION + 5)), 5);
        assert_eq!(core.written_bytes(&(REGION + 5..4 * REGION + 1)), REGION - 4);
    });
}

/// What is unmapped as a rule was written not long ago.
#[test]
fn space_comes_back_also_of_what_was_just_written() {
    all_kinds(async |level, members, policy| {
        let world = World::with_policy(level, members, 0, policy).await;
        let (first, end) = (world.region_in_array(1), world.region_in_array(2).end);
        world.array.write(first.start + BLOCK, block(3).into(), Durability::Durable).await.unwrap();
        world.array.discard(first.start, end - first.start).await.unwrap();
        let run = world.array.space_run(first.start, end - first.start);
        assert_eq!((run.mapped, run.length), (false, end - first.start), "{level} {policy:?}");
    });
}

/// Sizes that end in the middle of a region: each volume gives back all its space, whoever lies behind it.
#[test]
fn volumes_share_no_region() {
    all_kinds(async |level, members, policy| {
        let world = World::with_policy(level, members, 0, policy).await;
        let grain = world.array.info().discard_grain_bytes;
        let mut volumes = Vec::new();
        for (name, size_bytes) in [("a", 64 << 10), ("b", grain + BLOCK), ("c", 2 * grain - BLOCK)] {
            let spec =
                VolumeSpec { name: name.into(), size_bytes, write_cache: false, physical_block_bytes: None };
            volumes.push(world.array.create_volume(spec).await.unwrap());
        }
        for volume in &volumes {
            let size = volume.info().size_bytes;
            volume.write(0, vec![7; size as usize].into(), Durability::Durable).await.unwrap();
        }
        for (gone, volume) in volumes.iter().enumerate() {
            let size = volume.info().size_bytes;
            volume.discard(0, size).await.unwrap();
            let run = volume.space_run(0, size);
            assert_eq!((run.mapped, run.length), (false, size), "{level} {policy:?}: {}", volume.name());
            for other in &volumes[gone + 1..] {
                let (bytes, result) = other.read(0, Buffer::zeroed(other.info().size_bytes as usize)).await;
                result.unwrap();
                assert!(bytes.iter().all(|byte| *byte == 7), "{level} {policy:?}: {}", other.name());
            }
        }
    });
}

#[test]
fn a_volume_tells_the_physical_block_it_was_made_with() {
    run(async {
        let world = World::new(Level::Raid5, 4, 0).await;
        let spec = |name: &str, physical_block_bytes| VolumeSpec {
            name: name.into(),
            size_bytes: 1 << 20,
            write_cache: false,
            physical_block_bytes,
        };
        let own = world.array.info().physical_block_bytes;
        for (name, asked, told) in
            [("as-it-is", None, own), ("small", Some(512), 512), ("large", Some(4096), 4096)]
        {
            let volume = world.array.create_volume(spec(name, asked)).await.unwrap();
            assert_eq!(volume.info().physical_block_bytes, told, "{name}");
        }
        let refused = world.array.create_volume(spec("odd", Some(1000))).await;
        assert!(matches!(refused, Err(VolumeError::BadPhysicalBlock(1000))));
    });
}
