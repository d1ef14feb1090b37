//! What md and mdadm wrote is understood, and stays as they wrote it.

use super::*;

#[test]
fn what_md_says_of_one_device_is_not_said_of_the_others() {
    use crate::format::superblock::{Features, Role};
    run(async {
        // Stopped while md was copying slot 0 to a third device, which happens to come first by its UUID.
        let mut world = World::new(Level::Raid1, 2, 0).await;
        world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
        world.array.stop().await.unwrap();
        let copy = Faulty::new(&path(2).display().to_string());
        let bytes = world.disks[0].inner.contents();
        copy.inner.tamper(|disk| disk.copy_from_slice(&bytes));
        world.disks.push(copy);
        for disk in &world.disks {
            change_superblock(disk, |superblock| superblock.roles = [0, 1, 0].map(Role::Active).to_vec());
        }
        change_superblock(&world.disks[2], |superblock| {
            superblock.dev_number = 2;
            superblock.device_uuid = Uuid::nil();
            superblock.recovery_offset = Some(8);
            superblock.features = superblock.features.with(Features::REPLACEMENT);
        });
        for _ in 0..2 {
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.status().await.state, ArrayState::Optimal);
            world.array.stop().await.unwrap();
        }
    });
}

#[test]
fn blocks_that_md_lists_as_bad_are_not_read() {
    use crate::format::superblock::Features;
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        world.array.stop().await.unwrap();
        change_superblock(&world.disks[1], |superblock| {
            superblock.features = superblock.features.with(Features::BAD_BLOCKS);
        });
        let refused = world.assemble(&[], false).await.unwrap_err();
        assert!(matches!(refused, AssembleError::Unsupported { .. }), "{refused:?}");
        world.assemble(&[1], false).await.unwrap();
    });
}

#[test]
fn the_places_that_mdadm_chose_stay_in_the_superblock() {
    use crate::format::superblock::BadBlockLog;
    run(async {
        let mut world = World::new(Level::Raid1, 2, 0).await;
        let headers = world.array.core.table().active().next().unwrap().1.layout.headers;
        world.array.stop().await.unwrap();
        // mdadm puts the log right behind its small bitmap, and keeps no labsan area.
        let log = BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: 24 };
        for disk in &world.disks {
            change_superblock(disk, |superblock| {
                superblock.bitmap_offset = Some(16);
                superblock.bad_block_log = log;
            });
            disk.inner.tamper(|bytes| {
                bytes.copy_within(8192..8192 + 4096, 4096 + 16 * 512);
                bytes[headers.offset as usize..][..headers.len as usize].fill(0);
            });
        }
        for _ in 0..2 {
            world.array = world.assemble(&[], false).await.unwrap();
            world.array.stop().await.unwrap();
            for disk in &world.disks {
                change_superblock(disk, |superblock| {
                    assert_eq!((superblock.bitmap_offset, superblock.bad_block_log), (Some(16), log));
                });
            }
        }
    });
}

#[test]
fn space_that_md_wrote_to_meanwhile_is_zeroed_before_it_is_given_away() {
    run(async {
        let mut world = World::new(Level::Raid1, 2, 0).await;
        world.array.stop().await.unwrap();
        for disk in &world.disks {
            change_superblock(disk, |superblock| superblock.events += 5);
            let data = world.array.core.table().active().next().unwrap().1.layout.data_offset as usize;
            disk.inner.tamper(|bytes| bytes[data..data + (2 << 20)].fill(0x3d));
        }
        world.array = world.assemble(&[], false).await.unwrap();
        let spec = VolumeSpec {
            name: "v".to_owned(),
            size_bytes: 1 << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        let volume = world.array.create_volume(spec).await.unwrap();
        let (bytes, result) = volume.read(0, Buffer::zeroed(1 << 20)).await;
        result.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows what md wrote");
    });
}
