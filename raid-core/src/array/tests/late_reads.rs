//! Reads hold nothing: what they give counts only if what they relied on is still so when they end.

use super::*;

#[test]
fn a_read_that_ends_when_its_disk_has_another_role_is_not_believed() {
    for (level, members) in [(Level::Raid1, 3), (Level::Raid5, 3), (Level::Raid10, 4), (Level::Raid6, 4)] {
        run(async {
            let world = World::new(level, members, 0).await;
            let unit = u64::from(world.array.core.geometry.unit_data_bytes());
            let bytes: Vec<u8> = (0..4 * unit).map(|at| 1 + (at / 4096 % 251) as u8).collect();
            world.array.write(0, bytes.clone().into(), Durability::Durable).await.unwrap();
            for disk in 0..members {
                world.disks[disk].late.store(true, Ordering::Relaxed);
                let reads = (0..bytes.len() / 4096)
                    .map(|page| world.array.read(page as u64 * 4096, Buffer::zeroed(4096)));
                let reads = futures_util::future::join_all(reads);
                let replaced = async {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    world.array.fail(&path(disk), false).await.unwrap();
                    world.disks[disk].inner.tamper(|bytes| bytes.fill(0xee));
                    world.disks[disk].late.store(false, Ordering::Relaxed);
                };
                let (reads, ()) = futures_util::join!(reads, replaced);
                for (page, (read, result)) in reads.into_iter().enumerate() {
                    result.unwrap();
                    assert!(
                        read[..] == bytes[page * 4096..(page + 1) * 4096],
                        "{level}: disk {disk}, page {page}"
                    );
                }
                world.array.add(device(&world.disks, disk), true).await.unwrap();
                world.wait_for(ArrayState::Optimal).await;
            }
            world.check_redundancy().await;
        });
    }
}
