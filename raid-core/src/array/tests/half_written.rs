//! Writes that ended half-way: what they were not about is as it was.

use super::*;
use crate::geometry::Row;

async fn read_block(array: &Array, offset: u64) -> Result<Vec<u8>, IoErrorKind> {
    let (buffer, result) = array.read(offset, Buffer::zeroed(BLOCK as usize)).await;
    result.map(|()| buffer.to_vec()).map_err(|error| error.kind)
}

/// A disk that holds data of this stripe, but not that one.
fn another(world: &World, stripe: u64, not: usize) -> (usize, std::ops::Range<u64>) {
    let rows = [Row::Data(0), Row::Data(1)].into_iter();
    rows.map(|row| place_of(world, stripe, row)).find(|(disk, _)| *disk != not).unwrap()
}

#[test]
fn a_zeroing_that_ran_out_of_space_costs_no_other_stripe_its_redundancy() {
    for policy in [Policy::Bitmap, Policy::Journal] {
        run(async {
            let disks = (0..3).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
            let mut world = World::over_with(disks, Level::Raid5, 3, policy).await;
            let chunk = u64::from(world.array.core.geometry.chunk_bytes());
            let stripe = u64::from(world.array.core.geometry.unit_data_bytes());
            world.array.write(0, vec![5; 2 * stripe as usize].into(), Durability::Durable).await.unwrap();
            let (lost, _) = place_of(&world, 1, Row::Data(1));
            let (full, range) = another(&world, 0, lost);
            world.array.fail(&path(lost), false).await.unwrap();
            world.disks[full].unwritable.lock().unwrap().push((range, IoErrorKind::NoSpace));
            let refused = world.array.zero(0, stripe, Durability::Durable).await.unwrap_err();
            assert_eq!(refused.kind, IoErrorKind::NoSpace, "{policy:?}");
            // What was acknowledged, in a stripe that nobody zeroed.
            let kept = read_block(&world.array, stripe + chunk).await;
            assert!(kept == Ok(vec![5; BLOCK as usize]), "{policy:?}");
            if policy == Policy::Journal {
                world.array.stop().await.unwrap();
                world.array = world.assemble(&[lost], false).await.unwrap();
                let kept = read_block(&world.array, stripe + chunk).await;
                assert!(kept == Ok(vec![5; BLOCK as usize]), "{policy:?}");
            }
        });
    }
}

#[test]
fn what_cannot_be_read_beside_a_write_does_not_refuse_it() {
    for policy in [Policy::Bitmap, Policy::Journal] {
        run(async {
            let disks = (0..3).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
            let world = World::over_with(disks, Level::Raid5, 3, policy).await;
            let core = &world.array.core;
            core.dirty.mark_unsynced(0..1);
            let (bad, range) = place_of(&world, 0, Row::Data(0));
            world.disks[bad].bad.lock().unwrap().push(range.start + BLOCK..range.end);
            world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(read_block(&world.array, 0).await == Ok(block(3)), "{policy:?}");
            assert_eq!(world.array.status().await.lost_bytes, 0, "{policy:?}");
        });
    }
}

#[test]
fn a_volume_that_could_not_be_shrunk_keeps_its_size() {
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let size_bytes = 4 << 20;
        let spec =
            VolumeSpec { name: "v".to_owned(), size_bytes, write_cache: false, physical_block_bytes: None };
        let volume = world.array.create_volume(spec).await.unwrap();
        volume.write((1 << 20) + BLOCK, block(1).into(), Durability::Durable).await.unwrap();
        for disk in &world.disks {
            disk.full.store(true, Ordering::Relaxed);
        }
        world.array.resize_volume("v", (1 << 20) + BLOCK, true).await.unwrap_err();
        assert_eq!(volume.info().size_bytes, size_bytes);
    });
}
