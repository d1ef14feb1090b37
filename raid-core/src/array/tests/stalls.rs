//! What has begun ends, and what was taken is given back, whatever else goes wrong.

use super::*;
use crate::geometry::Row;

const PATIENCE: Duration = Duration::from_secs(60);

async fn journalled(members: usize) -> World {
    let disks = (0..members).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
    World::over_with(disks, Level::Raid5, members, Policy::Journal).await
}

#[test]
fn a_zeroing_that_ran_out_of_space_does_not_keep_the_array_from_stopping() {
    run(async {
        let world = journalled(3).await;
        let stripe = u64::from(world.array.core.geometry.unit_data_bytes());
        world.array.write(0, vec![5; stripe as usize].into(), Durability::Durable).await.unwrap();
        let (full, range) = place_of(&world, 0, Row::Data(0));
        world.disks[full].unwritable.lock().unwrap().push((range, IoErrorKind::NoSpace));
        let refused = world.array.zero(0, stripe, Durability::Durable).await.unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::NoSpace);
        world.check_redundancy().await;
        tokio::time::timeout(PATIENCE, world.array.stop()).await.expect("it never stops").unwrap();
    });
}

/// Each write has more than one piece, and all the room goes to their first ones.
#[test]
fn writes_of_several_pieces_do_not_wait_for_each_other() {
    run(async {
        let disks: Vec<Faulty> = (0..3).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
        let spec = CreateSpec {
            name: "tank".to_owned(),
            level: Level::Raid5,
            chunk_bytes: 64 << 10,
            policy: Policy::Journal,
            members: (0..3).map(|index| device(&disks, index)).collect(),
            spares: Vec::new(),
            force: false,
        };
        let array = create(spec, &environment()).await.unwrap();
        let stripe = u64::from(array.core.geometry.unit_data_bytes());
        let nobody_yet = array.core.journal.as_ref().unwrap().hold_admission().await;
        let writes: Vec<_> = (0..40)
            .map(|index| {
                let array = array.clone();
                tokio::task::spawn_local(async move {
                    array.write(index * stripe, vec![1; 96 << 10].into(), Durability::Durable).await
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(nobody_yet);
        for write in writes {
            tokio::time::timeout(PATIENCE, write).await.expect("it never ends").unwrap().unwrap();
        }
    });
}

#[test]
fn room_for_parity_is_given_back_by_rounds_that_fail() {
    run(async {
        let world = journalled(3).await;
        let core = &world.array.core;
        let journal = core.journal.as_ref().unwrap();
        let room = journal.room();
        core.dirty.mark_unsynced(0..1);
        let (bad, range) = place_of(&world, 0, Row::Data(1));
        world.disks[bad].timeouts.store(true, Ordering::Relaxed);
        world.disks[bad].bad.lock().unwrap().push(range);
        world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        world.disks[bad].bad.lock().unwrap().clear();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(journal.room(), room);
    });
}

#[test]
fn a_drain_ends_when_the_array_fails() {
    run(async {
        let world = journalled(3).await;
        let core = &world.array.core;
        let journal = core.journal.as_ref().unwrap();
        journal.begin_intent();
        world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
        // It is in place; what keeps the tail back is the intent alone.
        tokio::time::sleep(Duration::from_secs(2)).await;
        core.give_up("for a test");
        let drained = tokio::time::timeout(PATIENCE, core.drain_journal(journal)).await;
        assert_eq!(drained.expect("it never ends").unwrap_err().kind, IoErrorKind::ArrayFailed);
    });
}

/// When all of a spare is filled the journal is drained; that something else cannot be read then is no fault of the spare's.
#[test]
fn a_spare_is_not_failed_for_what_another_member_cannot_read() {
    run(async {
        let mut world = journalled(3).await;
        let geometry = world.array.core.geometry;
        let last = geometry.units() - 1;
        let at = last * u64::from(geometry.unit_data_bytes());
        let chunk = vec![7; geometry.chunk_bytes() as usize];
        world.array.write(at, chunk.into(), Durability::Durable).await.unwrap();
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
        let (lost, _) = place_of(&world, last, Row::Data(0));
        let rows = [Row::Data(0), Row::Data(1), Row::P];
        let places = rows.map(|row| place_of(&world, 0, row));
        world.array.fail(&path(lost), false).await.unwrap();
        // Its last stripe takes a second.
        world.disks.push(Faulty::new("/disks/3"));
        world.disks[3].slow.store(7, Ordering::Relaxed);
        world.array.add(device(&world.disks, 3), false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (disk, range) in places.into_iter().filter(|(disk, _)| *disk != lost) {
            world.disks[disk].timeouts.store(true, Ordering::Relaxed);
            world.disks[disk].bad.lock().unwrap().push(range);
        }
        world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.disks.iter().for_each(|disk| disk.bad.lock().unwrap().clear());
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
    });
}
