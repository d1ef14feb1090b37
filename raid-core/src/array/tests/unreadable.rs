//! Sectors that cannot be read where nothing else holds what they held.

use super::*;

/// One more failure than this and data is gone.
const SHAPES: [(Level, usize, Policy); 5] = [
    (Level::Raid1, 2, Policy::Bitmap),
    (Level::Raid10, 4, Policy::Bitmap),
    (Level::Raid5, 3, Policy::Bitmap),
    (Level::Raid5, 4, Policy::None),
    (Level::Raid5, 4, Policy::Journal),
];
const BLOCKS: u64 = 64;

/// Where the first copy or data row of unit 2 lies, and whose member holds the other half.
fn halves(world: &World) -> (usize, std::ops::Range<u64>, usize) {
    use crate::geometry::Row;
    let core = &world.array.core;
    if core.geometry.level().has_parity() {
        let (lost, _) = place_of(world, 2, Row::P);
        let (bad, range) = place_of(world, 2, Row::Data(0));
        return (bad, range, lost);
    }
    let [first, second] = core.geometry.copies(2)[..] else { panic!("two copies") };
    let table = core.table();
    let member = table.usable(first.member, 2).unwrap();
    let disk = |index| {
        let wanted = table.usable(index, 2).unwrap();
        (0..world.disks.len()).find(|&i| path(i) == wanted.path).unwrap()
    };
    let start = member.layout.data_offset + first.offset;
    (disk(first.member), start..start + (16 << 10), disk(second.member))
}

async fn unreadable(array: &Array, expected: impl Fn(u64) -> u64) -> Vec<u64> {
    let mut unreadable = Vec::new();
    for index in 0..BLOCKS {
        let (buffer, result) = array.read(index * BLOCK, Buffer::zeroed(BLOCK as usize)).await;
        match result {
            Ok(()) => assert!(buffer[..] == block(expected(index)), "block {index} is garbage"),
            Err(error) => {
                assert_eq!(error.kind, IoErrorKind::Medium);
                unreadable.push(index);
            }
        }
    }
    unreadable
}

/// A slot is rebuilt although a sector elsewhere cannot be read; what it held, and that alone, reads as an error, until it
/// is written, and after a restart too.
#[test]
fn a_bad_sector_does_not_keep_a_slot_from_being_rebuilt() {
    for (level, members, policy) in SHAPES {
        run(async {
            let disks = (0..=members).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
            let mut world = World::over_with(disks, level, members, policy).await;
            for index in 0..BLOCKS {
                world.array.write(index * BLOCK, block(index + 1).into(), Durability::Cached).await.unwrap();
            }
            world.array.stop().await.unwrap();
            world.array = world.assemble(&[], false).await.unwrap();
            let (bad, range, other) = halves(&world);
            // One sector of it, in the second block.
            let sector = range.start + BLOCK + 512;
            world.disks[bad].bad.lock().unwrap().push(sector..sector + 512);
            world.array.fail(&path(other), false).await.unwrap();
            world.wait_for(ArrayState::Optimal).await;
            let lost = unreadable(&world.array, |index| index + 1).await;
            assert_eq!(lost.len(), 1, "{level} {policy:?}: {lost:?}");
            assert_eq!(world.array.status().await.lost_bytes, BLOCK);

            world.array.stop().await.unwrap();
            world.array = world.assemble(&[other], false).await.unwrap();
            world.check_redundancy().await;
            assert_eq!(unreadable(&world.array, |index| index + 1).await, lost, "{level} {policy:?}");

            let again = if policy == Policy::None { Durability::Durable } else { Durability::Cached };
            world.array.write(lost[0] * BLOCK, block(99).into(), again).await.unwrap();
            world.array.flush().await.unwrap();
            let expected = |index| if index == lost[0] { 99 } else { index + 1 };
            assert_eq!(unreadable(&world.array, expected).await, vec![0_u64; 0], "{level} {policy:?}");
            world.array.stop().await.unwrap();
            world.array = world.assemble(&[other], false).await.unwrap();
            assert_eq!(unreadable(&world.array, expected).await, vec![0_u64; 0]);
            assert_eq!(world.array.status().await.lost_bytes, 0);
            world.check_redundancy().await;
        });
    }
}

/// What is declared lost while it is being read is not returned as the zeros that stand for it.
#[test]
fn a_read_that_meets_what_stands_for_a_lost_block_is_an_error() {
    for policy in [Policy::Bitmap, Policy::Journal] {
        run(async {
            let disks = (0..3).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
            let world = World::over_with(disks, Level::Raid5, 3, policy).await;
            world.array.write(0, block(7).into(), Durability::Durable).await.unwrap();
            world.array.stop().await.unwrap();
            let world = World { array: world.assemble(&[], false).await.unwrap(), ..world };
            let (disk, range) = place_of(&world, 0, crate::geometry::Row::Data(0));
            let mut read = Box::pin(world.array.read(0, Buffer::zeroed(BLOCK as usize)));
            // It is on its way to the member; now zeros take the block's place.
            let sent =
                std::future::poll_fn(|context| std::task::Poll::Ready(read.as_mut().poll(context))).await;
            assert!(sent.is_pending());
            world.array.core.declare_lost(std::slice::from_ref(&(0..BLOCK))).await.unwrap();
            world.disks[disk].inner.tamper(|bytes| bytes[range.start as usize..][..BLOCK as usize].fill(0));
            let (_, result) = read.await;
            assert_eq!(result.unwrap_err().kind, IoErrorKind::Medium, "{policy:?}");
        });
    }
}

/// A cable is not a medium: nothing is given up as lost, nobody waits for ever, and once it is mended all is there.
#[test]
fn what_cannot_be_put_in_place_for_now_stays_in_the_journal() {
    use crate::geometry::Row;
    run(async {
        let disks = (0..3).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
        let mut world = World::over_with(disks, Level::Raid5, 3, Policy::Journal).await;
        let (lost, _) = place_of(&world, 0, Row::Data(1));
        let (cut_off, range) = place_of(&world, 0, Row::Data(0));
        world.array.fail(&path(lost), false).await.unwrap();
        world.disks[cut_off].bad.lock().unwrap().push(range);
        world.disks[cut_off].timeouts.store(true, Ordering::Relaxed);
        world.array.write(16 << 10, block(3).into(), Durability::Durable).await.unwrap();
        world.wait_for(ArrayState::Failed).await;
        let refused = world.array.write(0, block(4).into(), Durability::Durable).await.unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::ArrayFailed);
        assert_eq!(world.array.status().await.lost_bytes, 0);

        world.disks[cut_off].bad.lock().unwrap().clear();
        let _ = world.array.stop().await;
        world.array = world.assemble(&[lost], false).await.unwrap();
        let (buffer, result) = world.array.read(16 << 10, Buffer::zeroed(BLOCK as usize)).await;
        result.unwrap();
        assert!(buffer[..] == block(3));
    });
}
