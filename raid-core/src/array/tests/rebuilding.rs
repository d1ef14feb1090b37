//! Rebuilds and resyncs: where they go on, and what they go around.

use super::*;

#[test]
fn a_rebuild_goes_on_from_its_checkpoint() {
    run(async {
        let mut world = World::new(Level::Raid5, 3, 1).await;
        let (mut random, mut model) = (Random(11), Model::default());
        for _ in 0..40 {
            model.write(&world.array, &mut random).await;
        }
        world.array.fail(&path(0), false).await.unwrap();
        while world.array.core.table().rebuilding().is_none_or(|(_, _, position)| position.get() < 100) {
            tokio::task::yield_now().await;
        }
        let stopped = world.array.clone();
        stopped.stop().await.unwrap();
        let at_rest: Vec<_> = world.disks.iter().map(|disk| disk.inner.contents()).collect();
        let late = stopped.set_attachment(1, serde_json::json!({})).await;
        assert!(late.is_err(), "nothing is written any more");
        tokio::time::sleep(Duration::from_secs(60)).await;
        for (disk, before) in world.disks.iter().zip(&at_rest) {
            assert!(disk.inner.contents() == *before, "{} changed after the stop", disk.inner.name());
        }
        world.array = world.assemble(&[0], false).await.unwrap();
        let resumed = world.array.core.table().rebuilding().map(|(_, _, position)| position.get());
        assert!(resumed.is_some(), "the spare kept its role");
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        model.check_all(&world.array).await;
    });
}

#[test]
fn a_resync_goes_around_what_cannot_be_read() {
    use crate::geometry::Row;
    run(async {
        let mut world = World::new(Level::Raid5, 3, 0).await;
        world.array.core.written.set_all();
        world.array.core.dirty.mark_all_unsynced();
        let units = world.array.core.geometry.units();
        let bits = world.array.core.dirty.unsynced_count();
        assert!(bits > 2);
        // Parity can be computed anew; a data block can not, and its region stays as it is.
        let (parity, range) = place_of(&world, units - 1, Row::P);
        world.disks[parity].bad.lock().unwrap().push(range);
        let (data, range) = place_of(&world, 0, Row::Data(0));
        world.disks[data].bad.lock().unwrap().push(range.clone());
        world.array.core.keeper.notify_one();
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if world.array.core.dirty.unsynced_count() <= 1 {
                break;
            }
        }
        assert_eq!(world.array.core.dirty.unsynced_count(), 1, "one bad block holds up all the rest");
        // Once it is rewritten the region can be resynced as well.
        let chunk = world.array.core.geometry.chunk_bytes() as usize;
        world.array.write(0, vec![3; chunk].into(), Durability::Durable).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
    });
}

#[test]
fn a_write_that_ran_out_of_space_behind_the_resync_is_not_forgotten() {
    use crate::geometry::Row;
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let core = &world.array.core;
        let chunk = u64::from(core.geometry.chunk_bytes());
        core.written.set_all();
        core.dirty.mark_unsynced(0..1);
        // The last window of the first region takes long; the write comes when the first stripe is done.
        let last = core.bits_of(0..1).end * u64::from(core.bitmap.chunk_bytes) / chunk - 1;
        let (data, range) = place_of(&world, last, Row::Data(0));
        world.disks[data].inner.tamper(|bytes| bytes[range.start as usize..range.end as usize].fill(7));
        for disk in &world.disks {
            disk.slow.store(7, Ordering::Relaxed);
        }
        core.keeper.notify_one();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(core.dirty.unsynced_count(), 1, "the resync is at its last window");
        let (parity, range) = place_of(&world, 0, Row::P);
        world.disks[parity].unwritable.lock().unwrap().push((range, IoErrorKind::NoSpace));
        let refused = world.array.write(0, block(5).into(), Durability::Durable).await.unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::NoSpace);
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert_eq!(core.dirty.unsynced_count(), 1, "the stripe is half-written and nobody knows");
        world.disks[parity].unwritable.lock().unwrap().clear();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
    });
}

#[test]
fn a_rebuild_that_cannot_go_on_leaves_the_bitmap_swept() {
    use crate::geometry::Row;
    run(async {
        let mut world = World::new(Level::Raid5, 3, 1).await;
        let stripe = u64::from(world.array.core.geometry.unit_data_bytes());
        for unit in 0..4 {
            world.array.write(unit * stripe, block(unit + 1).into(), Durability::Durable).await.unwrap();
        }
        // Two rows of a stripe that nobody writes are gone.
        let (lost, _) = place_of(&world, 9, Row::Data(0));
        let (unreadable, range) = place_of(&world, 9, Row::Data(1));
        world.disks[unreadable].bad.lock().unwrap().push(range);
        world.disks[unreadable].timeouts.store(true, Ordering::Relaxed);
        world.array.fail(&path(lost), false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(6 * crate::limits::SWEEP_INTERVAL_MS)).await;
        assert_eq!(world.array.status().await.state, ArrayState::Rebuilding);
        assert_eq!(world.array.core.dirty.dirty_count(), 0);
        // So a crash in this state needs no --force.
        world.array.core.stopping.store(true, Ordering::Release);
        world.array = world.assemble(&[lost], false).await.unwrap();
    });
}

#[test]
fn a_resync_without_a_bitmap_goes_on_where_it_was() {
    for policy in [Policy::Journal, Policy::None] {
        run(async {
            let disks: Vec<Faulty> = (0..4).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
            let mut world = World::over_with(disks, Level::Raid5, 4, policy).await;
            let core = Arc::clone(&world.array.core);
            let bits = core.bitmap.bits();
            core.dirty.mark_unsynced(bits - 2..bits);
            world.array.stop().await.unwrap();
            let expected = core.bitmap.sectors_of(bits - 2).start;
            change_superblock(&world.disks[0], |found| {
                assert_eq!(found.resync_offset, expected, "{policy:?}");
            });
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.core.dirty.unsynced_count(), 2, "{policy:?}");
            world.wait_for(ArrayState::Optimal).await;
            world.array.stop().await.unwrap();
            change_superblock(&world.disks[0], |found| assert!(found.is_clean(), "{policy:?}"));
        });
    }
}
