//! Members that fail, or are failed, and writes that end half-way.

use super::*;
use crate::format::layout::MemberLayout;

#[test]
fn unreadable_blocks_are_computed_and_rewritten() {
    for (level, members) in SHAPES {
        run(async {
            let world = World::new(level, members, 0).await;
            let (mut random, mut model) = (Random(5), Model::default());
            for _ in 0..20 {
                model.write(&world.array, &mut random).await;
            }
            let data = world.array.core.table().active().next().unwrap().1.layout.data_offset;
            for stripe in 0..4 {
                let at = data + stripe * (64 << 10);
                world.disks[stripe as usize % members].bad.lock().unwrap().push(at..at + 512);
            }
            for _ in 0..10 {
                model.write(&world.array, &mut random).await;
            }
            let size = world.array.info().size_bytes;
            let (_, result) = world.array.read(0, Buffer::zeroed(size.min(4 << 20) as usize)).await;
            result.unwrap();
            model.check_all(&world.array).await;
            let status = world.array.status().await;
            assert_eq!(status.state, ArrayState::Optimal, "{level}");
            assert!(status.members.iter().any(|member| member.corrected_errors > 0), "{level}: {status:#?}");
        });
    }
}

#[test]
fn a_full_host_fails_the_write_and_nobody_else() {
    for (level, members) in SHAPES {
        run(async {
            let world = World::new(level, members, 0).await;
            world.disks[1].full.store(true, Ordering::Relaxed);
            let data = Bytes::from(vec![9; 128 << 10]);
            let error = world.array.write(0, data, Durability::Durable).await.unwrap_err();
            assert_eq!(error.kind, IoErrorKind::NoSpace, "{level}");
            assert_eq!(world.array.status().await.state, ArrayState::Optimal);
            world.check_redundancy().await;
        });
    }
}

#[test]
fn members_are_refused_and_let_go_by_name() {
    run(async {
        let world = World::new(Level::Raid5, 3, 1).await;
        let add = |index| world.array.add(device(&world.disks, index), false);
        assert!(matches!(add(1).await, Err(MemberError::AlreadyThere { .. })));
        assert!(matches!(world.array.remove(&path(1)).await, Err(MemberError::InUse { .. })));
        assert!(matches!(world.array.fail(&path(9), false).await, Err(MemberError::Unknown { .. })));
        world.array.remove(&path(3)).await.unwrap();
        world.array.fail(&path(1), false).await.unwrap();
        world.array.fail(&path(1), false).await.unwrap();
        assert!(matches!(world.array.fail(&path(2), false).await, Err(MemberError::Indispensable { .. })));
        world.array.remove(&path(1)).await.unwrap();
        add(1).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        let spec = CreateSpec {
            name: "other".to_owned(),
            level: Level::Raid1,
            chunk_bytes: 0,
            policy: Policy::Bitmap,
            members: vec![device(&world.disks, 3), device(&world.disks, 1)],
            spares: Vec::new(),
            force: false,
        };
        let refused = create(spec, &environment()).await;
        assert!(matches!(refused, Err(CreateError::MemberOfArray { .. })), "{refused:?}");
    });
}

#[test]
fn what_a_write_left_half_done_is_never_reconstructed_from() {
    use crate::geometry::Row;
    for (level, members) in [(Level::Raid5, 3), (Level::Raid5, 4), (Level::Raid6, 5)] {
        run(async {
            let world = World::new(level, members, 0).await;
            let chunk = u64::from(world.array.core.geometry.chunk_bytes());
            let stripe = u64::from(world.array.core.geometry.unit_data_bytes());
            world.array.write(0, vec![5; stripe as usize].into(), Durability::Durable).await.unwrap();
            // Row 1 is lost, and then the parities cannot be written any more.
            let (lost, _) = place_of(&world, 0, Row::Data(1));
            world.disks[lost].gone.store(true, Ordering::Relaxed);
            for row in world.array.core.geometry.rows().skip(members - 1 - usize::from(level == Level::Raid6))
            {
                let (disk, range) = place_of(&world, 0, row);
                world.disks[disk].unwritable.lock().unwrap().push((range, IoErrorKind::Medium));
            }
            let refused = world.array.write(0, block(9).into(), Durability::Durable).await.unwrap_err();
            assert_eq!(refused.kind, IoErrorKind::ArrayFailed, "{level}");
            // Nobody wrote row 1.
            let (bytes, result) = world.array.read(chunk, Buffer::zeroed(BLOCK as usize)).await;
            assert!(
                result.is_err() || bytes.iter().all(|&byte| byte == 5),
                "{level}: garbage is returned as data"
            );
        });
    }
}

#[test]
fn a_zeroing_that_ran_out_of_space_leaves_nothing_to_reconstruct_from() {
    use crate::geometry::Row;
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let chunk = u64::from(world.array.core.geometry.chunk_bytes());
        let stripe = u64::from(world.array.core.geometry.unit_data_bytes());
        world.array.write(0, vec![6; stripe as usize].into(), Durability::Durable).await.unwrap();
        world.array.write(chunk, vec![5; chunk as usize].into(), Durability::Durable).await.unwrap();
        let (parity, range) = place_of(&world, 0, Row::P);
        world.disks[parity].unwritable.lock().unwrap().push((range, IoErrorKind::NoSpace));
        let refused = world.array.zero(0, stripe, Durability::Durable).await.unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::NoSpace);
        let (lost, _) = place_of(&world, 0, Row::Data(1));
        world.disks[lost].gone.store(true, Ordering::Relaxed);
        let (bytes, result) = world.array.read(chunk, Buffer::zeroed(BLOCK as usize)).await;
        let known = bytes.iter().all(|&byte| byte == 5) || bytes.iter().all(|&byte| byte == 0);
        assert!(result.is_err() || known, "neither the old nor the new data");
    });
}

#[test]
fn two_members_failed_by_command_at_once_do_not_stop_the_array() {
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let (first, second) = (path(0), path(1));
        let (first, second) =
            futures_util::join!(world.array.fail(&first, false), world.array.fail(&second, false));
        first.unwrap();
        assert!(matches!(second, Err(MemberError::Indispensable { .. })), "{second:?}");
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
        world.array.write(0, block(1).into(), Durability::Durable).await.unwrap();
    });
}

#[test]
fn read_errors_of_two_members_at_once_do_not_stop_the_array() {
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let core = &world.array.core;
        let table = core.table();
        let members: Vec<_> = table.active().map(|(_, member)| Arc::clone(member)).collect();
        for member in &members[..2] {
            member.counters.read_errors.store(crate::limits::MAX_READ_ERRORS, Ordering::Relaxed);
        }
        let medium = |index: usize| world.disks[index].error(IoErrorKind::Medium, IoOperation::Read, 0, 512);
        let (first, second) = (medium(0), medium(1));
        futures_util::join!(core.read_failed(&members[0], &first), core.read_failed(&members[1], &second));
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
        world.array.write(0, block(1).into(), Durability::Durable).await.unwrap();
    });
}

#[test]
fn a_flush_that_ran_out_of_space_fails_its_member() {
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        let core = &world.array.core;
        let member = Arc::clone(core.table().active().next().unwrap().1);
        // What it had in its cache may be lost for good: the next flush would say that all is well.
        let error = world.disks[0].error(IoErrorKind::NoSpace, IoOperation::Flush, 0, 0);
        core.settle_writes(vec![(member, Err(error))]).await.unwrap();
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
    });
}

#[test]
fn a_member_is_not_failed_for_read_errors_while_only_it_knows_its_data() {
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let core = &world.array.core;
        let member = Arc::clone(core.table().active().next().unwrap().1);
        member.counters.read_errors.store(crate::limits::MAX_READ_ERRORS, Ordering::Relaxed);
        core.dirty.mark_unsynced(0..1);
        let error = world.disks[0].error(IoErrorKind::Medium, IoOperation::Read, 0, 512);
        core.read_failed(&member, &error).await;
        assert_eq!(world.array.status().await.state, ArrayState::Resyncing);
    });
}

/// It is the host that is full, and the next one would be as full.
#[test]
fn a_bitmap_without_space_takes_no_member_out() {
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        let (at, layout) = (64 << 10, MemberLayout::for_member(world.disks[0].info().size_bytes).unwrap());
        let write = async |value: u8| {
            let data = vec![value; BLOCK as usize].into();
            world.array.write(at, data, Durability::Durable).await.map_err(|error| error.kind)
        };
        let dirty = || world.array.core.dirty.dirty_count();
        write(1).await.unwrap();
        assert_eq!(dirty(), 1);
        let bitmap = layout.bitmap.offset..layout.bitmap.offset + layout.bitmap.len;
        world.disks[1].unwritable.lock().unwrap().push((bitmap, IoErrorKind::NoSpace));
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let status = world.array.status().await;
        assert!(status.members.iter().all(|member| member.state == MemberState::InSync), "{status:?}");
        let bits = |disk: usize| {
            let image = &world.disks[disk].inner.contents()[layout.bitmap.offset as usize..][..4096];
            image[256..].iter().map(|byte| byte.count_ones()).sum::<u32>()
        };
        assert_eq!((bits(0), bits(1)), (0, 1), "one took it");
        assert_eq!(dirty(), 0, "what is cleared on one member is not durable");
        assert_eq!(
            write(2).await,
            Err(IoErrorKind::NoSpace),
            "nothing is written that no bit is durable for"
        );
        world.disks[1].unwritable.lock().unwrap().clear();
        write(3).await.unwrap();
        assert_eq!((bits(0), bits(1)), (1, 1));
        world.array.stop().await.unwrap();
        assert_eq!((bits(0), bits(1)), (0, 0));
    });
}
