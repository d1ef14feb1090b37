//! What does a start find after a crash, and what does it refuse?

use super::*;

#[test]
fn a_crash_leaves_marked_regions_that_are_resynced() {
    for (level, members) in SHAPES {
        run(async {
            let mut world = World::new(level, members, 0).await;
            let (mut random, mut model) = (Random(99), Model::default());
            world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
            model.0.insert(0, 3);
            for _ in 0..20 {
                model.write(&world.array, &mut random).await;
            }
            // The daemon dies (the old handle is simply left), having torn a copy or parity of a marked region.
            let marked = world.array.core.dirty.dirty_count();
            assert!(marked > 0);
            let table = world.array.core.table();
            let geometry = world.array.core.geometry;
            let unit = geometry.unit_of(0);
            let torn = if level.has_parity() {
                geometry.row_member(unit, crate::geometry::Row::P)
            } else {
                geometry.copies(unit)[1].member
            };
            let start = table.usable(torn, unit).unwrap().layout.data_offset as usize;
            world.disks[usize::from(torn.0)].inner.tamper(|bytes| bytes[start..start + 512].fill(0xba));
            world.array.core.stopping.store(true, Ordering::Release);
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.core.dirty.unsynced_count(), marked);
            assert_eq!(world.array.status().await.state, ArrayState::Resyncing);
            model.check(&world.array, &mut random).await;
            world.wait_for(ArrayState::Optimal).await;
            world.check_redundancy().await;
            model.check_all(&world.array).await;
        });
    }
}

#[test]
fn a_degraded_array_that_was_idle_starts_after_a_crash_and_a_busy_one_needs_force() {
    run(async {
        let mut world = World::new(Level::Raid5, 4, 0).await;
        world.array.fail(&path(2), false).await.unwrap();
        let (mut random, mut model) = (Random(3), Model::default());
        for _ in 0..10 {
            model.write(&world.array, &mut random).await;
        }
        let crash = |world: &World| world.array.core.stopping.store(true, Ordering::Release);
        crash(&world);
        let refused = world.assemble(&[2], false).await.unwrap_err();
        assert!(refused.to_string().contains("force"), "{refused}");
        world.array = world.assemble(&[2], true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(4 * crate::limits::SWEEP_INTERVAL_MS)).await;
        assert_eq!(world.array.core.dirty.dirty_count(), 0, "idle regions are cleared while degraded, too");
        crash(&world);
        world.array = world.assemble(&[2], false).await.unwrap();
        model.check_all(&world.array).await;
    });
}

#[test]
fn a_document_that_a_crash_left_on_one_member_outlives_that_member() {
    run(async {
        let mut world = World::new(Level::Raid1, 2, 0).await;
        // The daemon dies when the first member has the new document and the second does not.
        let layout = world.array.core.table().active().next().unwrap().1.layout.clone();
        let before = world.disks[1].inner.contents();
        let spec = VolumeSpec {
            name: "v".to_owned(),
            size_bytes: 1 << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        world.array.create_volume(spec).await.unwrap();
        world.array.core.stopping.store(true, Ordering::Release);
        for region in layout.config {
            let bytes = region.offset as usize..(region.offset + region.len) as usize;
            world.disks[1].inner.tamper(|disk| disk[bytes.clone()].copy_from_slice(&before[bytes]));
        }
        world.array = world.assemble(&[], false).await.unwrap();
        let volume = world.array.volume("v").expect("the newest document counts");
        volume.write(0, vec![7; 8192].into(), Durability::Durable).await.unwrap();
        world.array.stop().await.unwrap();
        // What was served once stays.
        world.array = world.assemble(&[0], false).await.unwrap();
        let volume = world.array.volume("v").expect("its data was acknowledged");
        let (bytes, result) = volume.read(0, Buffer::zeroed(8192)).await;
        result.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn a_spare_that_was_away_learns_the_document_before_it_holds_data() {
    run(async {
        let mut world = World::new(Level::Raid1, 2, 1).await;
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[2], false).await.unwrap();
        for name in ["a", "b", "c"] {
            let spec = VolumeSpec {
                name: name.to_owned(),
                size_bytes: 1 << 20,
                write_cache: false,
                physical_block_bytes: None,
            };
            world.array.create_volume(spec).await.unwrap();
        }
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
        world.array.fail(&path(0), false).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.array.fail(&path(1), false).await.unwrap();
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[0, 1], false).await.unwrap();
        assert_eq!(world.array.volumes().len(), 3);
    });
}

#[test]
fn unreadable_metadata_of_one_member_does_not_keep_the_array_from_starting() {
    for (level, members) in SHAPES {
        run(async {
            let mut world = World::new(level, members, 0).await;
            let spec = VolumeSpec {
                name: "v".to_owned(),
                size_bytes: 1 << 20,
                write_cache: false,
                physical_block_bytes: None,
            };
            let volume = world.array.create_volume(spec).await.unwrap();
            volume.write(0, block(3).into(), Durability::Durable).await.unwrap();
            let layout = world.array.core.table().active().next().unwrap().1.layout.clone();
            let dirty = world.array.core.dirty.dirty_count();
            // The daemon dies, and sectors of the first member's bitmap, config and list of lost blocks go bad.
            world.array.core.stopping.store(true, Ordering::Release);
            let regions = layout.config.into_iter().chain(layout.lost).chain([layout.bitmap]);
            let bad = regions.map(crate::format::layout::Region::bytes);
            world.disks[0].bad.lock().unwrap().extend(bad);
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.core.dirty.unsynced_count(), dirty, "{level}");
            assert_eq!(world.array.volumes().len(), 1, "{level}");
        });
    }
}
