//! Requests that end only after their member was taken out.

use std::task::Poll;

use super::*;
use crate::array::MemberError;

const SHAPES: [(Level, usize); 3] = [(Level::Raid1, 2), (Level::Raid5, 3), (Level::Raid10, 4)];

/// Which disk holds the first data, as the array reads it.
fn first_disk(world: &World) -> usize {
    if world.array.core.geometry.level().has_parity() {
        return place_of(world, 0, crate::geometry::Row::Data(0)).0;
    }
    0
}

#[test]
fn a_disk_is_used_again_only_when_its_last_request_has_ended() {
    for (level, members) in SHAPES {
        run(async {
            let world = World::new(level, members, 0).await;
            world.array.write(0, block(7).into(), Durability::Durable).await.unwrap();
            let disk = first_disk(&world);
            let mut read = Box::pin(world.array.read(0, Buffer::zeroed(BLOCK as usize)));
            let sent = std::future::poll_fn(|context| Poll::Ready(read.as_mut().poll(context))).await;
            assert!(sent.is_pending());
            world.array.fail(&path(disk), false).await.unwrap();
            let hangs = |result| matches!(result, Err(MemberError::Hangs { .. }));
            assert!(hangs(world.array.remove(&path(disk)).await), "{level}");
            assert!(hangs(world.array.add(device(&world.disks, disk), false).await), "{level}");
            // Another user of the disk has written to it: that is not what the array holds.
            world.disks[disk].inner.tamper(|bytes| bytes[2 << 20..].fill(0xee));
            let (buffer, result) = read.await;
            result.unwrap();
            assert!(buffer[..] == block(7), "{level}: what came from a disk that was taken out");
            world.array.add(device(&world.disks, disk), false).await.unwrap();
            world.wait_for(ArrayState::Optimal).await;
            world.check_redundancy().await;
        });
    }
}

#[test]
fn a_late_write_does_not_land_on_what_was_filled_anew() {
    for (level, members) in SHAPES {
        run(async {
            let world = World::new(level, members, 0).await;
            let disk = first_disk(&world);
            let slow = &world.disks[disk].slow;
            slow.store(0x55, Ordering::Relaxed);
            let late = world.array.write(0, vec![0x55; BLOCK as usize].into(), Durability::Durable);
            let replace = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                world.array.fail(&path(disk), false).await.unwrap();
                world.array.remove(&path(disk)).await.unwrap();
                slow.store(0, Ordering::Relaxed);
                world.array.add(device(&world.disks, disk), false).await.unwrap();
                world.wait_for(ArrayState::Optimal).await;
            };
            let (written, ()) = tokio::join!(late, replace);
            written.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.check_redundancy().await;
        });
    }
}

#[test]
fn a_member_is_not_added_again_under_another_path() {
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        let alias = MemberDevice { path: "/disks/alias".into(), ..device(&world.disks, 1) };
        let refused = world.array.add(alias, true).await.unwrap_err();
        assert!(matches!(refused, MemberError::AlreadyThere { .. }), "{refused}");
    });
}
