//! What is written is read, whatever happens to members meanwhile.

use super::*;

#[test]
fn what_is_written_is_read_through_failures_rebuilds_and_restarts() {
    for (level, members) in SHAPES {
        for seed in 1..=3 {
            run(async {
                println!("{level} of {members}, seed {seed}");
                let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
                let mut world = World::new(level, members, 1).await;
                let mut model = Model::default();
                let mut step = async |world: &World, random: &mut Random, count| {
                    for _ in 0..count {
                        model.write(&world.array, random).await;
                        model.check(&world.array, random).await;
                    }
                    model.check_all(&world.array).await;
                };
                step(&world, &mut random, 30).await;
                world.check_redundancy().await;
                let victim = random.below(members as u64) as usize;
                world.disks[victim].gone.store(true, Ordering::Relaxed);
                step(&world, &mut random, 20).await;
                world.wait_for(ArrayState::Optimal).await;
                step(&world, &mut random, 10).await;
                world.check_redundancy().await;
                world.array.stop().await.unwrap();
                world.disks[victim].gone.store(false, Ordering::Relaxed);
                world.array = world.assemble(&[], false).await.unwrap();
                step(&world, &mut random, 10).await;
                world.wait_for(ArrayState::Optimal).await;
                world.check_redundancy().await;
                let table = world.array.core.table();
                assert!(table.find(&path(victim)).is_none(), "the stale member is not trusted");
            });
        }
    }
}

#[test]
fn raid6_serves_with_two_members_missing_and_takes_writes() {
    run(async {
        let world = World::new(Level::Raid6, 5, 0).await;
        let (mut random, mut model) = (Random(7), Model::default());
        for victim in [None, Some(1), Some(3)] {
            if let Some(victim) = victim {
                world.disks[victim].gone.store(true, Ordering::Relaxed);
            }
            for _ in 0..30 {
                model.write(&world.array, &mut random).await;
            }
            model.check_all(&world.array).await;
        }
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
        world.disks[0].gone.store(true, Ordering::Relaxed);
        let data = Bytes::from(vec![1; 4096]);
        let mut refused = false;
        for unit in 0..8 {
            let result = world.array.write(unit * 48 * 1024, data.clone(), Durability::Durable).await;
            refused |= result.is_err_and(|error| error.kind == IoErrorKind::ArrayFailed);
        }
        assert!(refused, "beyond what the level tolerates, writes are refused");
        assert_eq!(world.array.status().await.state, ArrayState::Failed);
    });
}

#[test]
fn volumes_keep_their_bytes_and_start_as_zeros() {
    run(async {
        let mut world = World::new(Level::Raid5, 4, 0).await;
        let spec = |name: &str, mib: u64| VolumeSpec {
            name: name.to_owned(),
            size_bytes: mib << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        let first = world.array.create_volume(spec("first", 4)).await.unwrap();
        first.write(0, vec![7; 4 << 20].into(), Durability::Durable).await.unwrap();
        let second = world.array.create_volume(spec("second", 1)).await.unwrap();
        second.write(0, vec![8; 1 << 20].into(), Durability::Durable).await.unwrap();
        assert!(matches!(world.array.create_volume(spec("first", 5)).await, Err(VolumeError::Exists(_))));
        assert!(world.array.create_volume(spec("first", 4)).await.is_ok(), "the same again is no error");
        assert!(matches!(world.array.create_volume(spec("../x", 4)).await, Err(VolumeError::BadName(_))));
        assert!(matches!(
            world.array.create_volume(spec("big", 4000)).await,
            Err(VolumeError::NoRoom { .. })
        ));
        world.array.delete_volume("first").await.unwrap();
        // Into the gap that `first` left and on behind `second`.
        let third = world.array.create_volume(spec("third", 6)).await.unwrap();
        let (bytes, result) = third.read(0, Buffer::zeroed(6 << 20)).await;
        result.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows nothing of an old one");
        let refused = world.array.resize_volume("third", 1 << 20, false).await;
        assert!(matches!(refused, Err(VolumeError::Shrinks { .. })));
        world.array.resize_volume("second", 3 << 20, false).await.unwrap();
        world.array.set_attachment(5, serde_json::json!({"targets": []})).await.unwrap();
        let identity = second.uuid();
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[2], false).await.unwrap();
        let second = world.array.volume("second").unwrap();
        assert_eq!((second.uuid(), second.info().size_bytes), (identity, 3 << 20));
        let (bytes, result) = second.read(0, Buffer::zeroed(3 << 20)).await;
        result.unwrap();
        assert!(bytes[..1 << 20].iter().all(|&byte| byte == 8) && bytes[1 << 20..].iter().all(|&b| b == 0));
        assert_eq!(world.array.attachment().await, (5, serde_json::json!({"targets": []})));
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
    });
}

#[test]
fn striping_over_members_of_different_sizes_means_the_same_after_any_start() {
    run(async {
        let sizes = [20 << 20, 32 << 20, 24 << 20];
        let disks: Vec<MemoryDevice> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| MemoryDevice::new(&format!("/disks/{i}"), *size))
            .collect();
        let devices = |order: [usize; 3]| -> Vec<MemberDevice> {
            order
                .into_iter()
                .map(|i| MemberDevice { path: path(i), device: Arc::new(disks[i].clone()) })
                .collect()
        };
        let spec = CreateSpec {
            name: "stripes".to_owned(),
            level: Level::Raid0,
            chunk_bytes: 16 << 10,
            policy: Policy::None,
            members: devices([0, 1, 2]),
            spares: Vec::new(),
            force: false,
        };
        let mut array = create(spec, &environment()).await.unwrap();
        let size = array.info().size_bytes;
        let mut model = Model::default();
        let mut random = Random(17);
        for order in [[1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            for _ in 0..20 {
                model.write(&array, &mut random).await;
            }
            array.stop().await.unwrap();
            array = assemble(devices(order), AssembleOptions::default(), &environment()).await.unwrap();
            assert_eq!(array.info().size_bytes, size);
            model.check_all(&array).await;
        }
    });
}

#[test]
fn used_disks_that_cannot_be_zeroed_cheaply_are_synced_in_the_background() {
    for (level, members) in SHAPES {
        run(async {
            let disks: Vec<Faulty> = (0..members)
                .map(|index| {
                    let disk = Faulty { used: true, ..Faulty::new(&format!("/disks/{index}")) };
                    disk.inner.tamper(|bytes| bytes[2 << 20..].fill(0x5a + index as u8));
                    disk
                })
                .collect();
            let mut world = World::over(disks, level, members).await;
            assert_eq!(world.array.status().await.state, ArrayState::Resyncing, "{level}");
            let spec = VolumeSpec {
                name: "v".to_owned(),
                size_bytes: 1 << 20,
                write_cache: false,
                physical_block_bytes: None,
            };
            let volume = world.array.create_volume(spec).await.unwrap();
            let (bytes, result) = volume.read(0, Buffer::zeroed(1 << 20)).await;
            result.unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows nothing of the disks' past");
            volume.write(4096, vec![7; 8192].into(), Durability::Durable).await.unwrap();
            // Killed before the sync is through: it is not forgotten.
            world.array.core.stopping.store(true, Ordering::Release);
            world.array = world.assemble(&[], false).await.unwrap();
            world.wait_for(ArrayState::Optimal).await;
            world.check_redundancy().await;
            let volume = world.array.volume("v").unwrap();
            let (bytes, result) = volume.read(0, Buffer::zeroed(16 << 10)).await;
            result.unwrap();
            assert!(bytes[..4096].iter().all(|&b| b == 0) && bytes[4096..12_288].iter().all(|&b| b == 7));
        });
    }
}

#[test]
fn a_write_under_way_never_lands_in_space_that_was_given_to_another_volume() {
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        let spec = |name: &str, mib: u64| VolumeSpec {
            name: name.to_owned(),
            size_bytes: mib << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        // Its second half lies behind another volume, so that a write across the middle is two.
        let old = world.array.create_volume(spec("old", 1)).await.unwrap();
        world.array.create_volume(spec("between", 1)).await.unwrap();
        world.array.resize_volume("old", 2 << 20, false).await.unwrap();
        for shrinks in [true, false] {
            for disk in &world.disks {
                disk.slow.store(7, Ordering::Relaxed);
            }
            let mut data = vec![7; 8192];
            data[4096..].fill(8);
            let writing = old.write((1 << 20) - 4096, data.into(), Durability::Durable);
            let giving_away = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if shrinks {
                    world.array.resize_volume("old", 1 << 20, true).await.unwrap();
                } else {
                    world.array.delete_volume("old").await.unwrap();
                    world.array.create_volume(spec("first-gap", 1)).await.unwrap();
                }
                world.array.create_volume(spec("new", 1)).await.unwrap()
            };
            let (_, new) = futures_util::join!(writing, giving_away);
            let (bytes, result) = new.read(0, Buffer::zeroed(1 << 20)).await;
            result.unwrap();
            assert!(
                bytes.iter().all(|&byte| byte == 0),
                "the new volume holds what was written to the old one"
            );
            let late = old.write(1 << 20, block(9).into(), Durability::Durable).await;
            assert_eq!(late.unwrap_err().kind, IoErrorKind::OutOfRange);
            if shrinks {
                world.array.delete_volume("new").await.unwrap();
                world.array.resize_volume("old", 2 << 20, false).await.unwrap();
            }
        }
    });
}
