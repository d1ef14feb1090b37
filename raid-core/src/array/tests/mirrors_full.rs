//! Atomic writes of mirrors on a host that is full, though nothing said so before: no member is at fault.

use super::*;
use crate::array::journal::JournalError;
use crate::format::layout::MemberLayout;

const LENGTH: usize = 64 << 10;

async fn first_bytes(array: &Array) -> [u8; 2] {
    let (buffer, result) = array.read(0, Buffer::zeroed(LENGTH)).await;
    result.unwrap();
    [buffer[0], buffer[LENGTH - 1]]
}

async fn refused(world: &World, force: bool) -> bool {
    matches!(world.assemble(&[], force).await, Err(AssembleError::Journal(JournalError::NoSpace { .. })))
}

/// With an atomic write that found no space when it came in place, and the power gone since.
async fn half_way() -> World {
    let disks = (0..2).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
    let world = World::over_with(disks, Level::Raid1, 2, Policy::Bitmap).await;
    world.array.write(0, vec![1; LENGTH].into(), Durability::Durable).await.unwrap();
    let data = MemberLayout::for_member(world.disks[0].info().size_bytes).unwrap().data_offset;
    for disk in &world.disks {
        disk.unwritable.lock().unwrap().push((data + BLOCK..data + 2 * BLOCK, IoErrorKind::NoSpace));
    }
    let ended = world.array.write_atomic_parts(vec![(0, vec![2; LENGTH].into())]).await;
    assert_eq!(ended.unwrap_err().kind, IoErrorKind::NoSpace);
    let status = world.array.status().await;
    assert!(status.members.iter().all(|member| member.state == MemberState::InSync), "{status:?}");
    let later = world.array.write(0, vec![3; LENGTH].into(), Durability::Durable).await;
    assert_eq!(later.unwrap_err().kind, IoErrorKind::ArrayFailed, "not over what a start may put in place");
    world
}

async fn read(world: &World, offset: u64, length: usize) -> Result<(), IoErrorKind> {
    world.array.read(offset, Buffer::zeroed(length)).await.1.map_err(|error| error.kind)
}

/// As a whole or not at all, to readers too, and nothing is made of its halves.
#[test]
fn what_an_atomic_write_that_was_given_up_left_is_not_read_until_it_is_completed() {
    run(async {
        let mut world = half_way().await;
        let length = LENGTH as u64;
        for (offset, bytes) in [(0, LENGTH), (0, BLOCK as usize), (length - BLOCK, 3 * BLOCK as usize)] {
            assert_eq!(
                read(&world, offset, bytes).await,
                Err(IoErrorKind::ArrayFailed),
                "{bytes} at {offset}"
            );
        }
        assert_eq!(read(&world, length, LENGTH).await, Ok(()), "beside it");
        let contents = || world.disks.iter().map(|disk| disk.inner.contents()).collect::<Vec<_>>();
        let before = contents();
        // A copy that cannot be read is not mended from another one of it.
        let data = MemberLayout::for_member(world.disks[0].info().size_bytes).unwrap().data_offset;
        world.disks[0].bad.lock().unwrap().push(data..data + BLOCK);
        assert_eq!(read(&world, 0, BLOCK as usize).await, Err(IoErrorKind::ArrayFailed));
        assert_eq!(world.disks[0].bad.lock().unwrap().len(), 1);
        world.disks[0].bad.lock().unwrap().clear();
        // Nor are copies that may differ made equal, whichever of them would be taken.
        world.disks[1].inner.tamper(|bytes| bytes[data as usize..][..4096].fill(9));
        world.array.core.distrust(0..1);
        assert_eq!(read(&world, 0, BLOCK as usize).await, Err(IoErrorKind::ArrayFailed));
        world.disks[1].inner.tamper(|bytes| bytes[data as usize..][..4096].fill(1));
        assert!(contents() == before, "something was written");
        world.array.stop().await.unwrap();
        world.disks.iter().for_each(|disk| disk.unwritable.lock().unwrap().clear());
        world.array = world.assemble(&[], false).await.unwrap();
        assert_eq!(first_bytes(&world.array).await, [2, 2]);
    });
}

#[test]
fn an_atomic_write_without_space_takes_no_member_out_and_is_completed_when_there_is_some() {
    run(async {
        let mut world = half_way().await;
        world.array.stop().await.unwrap();
        assert!(refused(&world, false).await);
        for disk in &world.disks {
            disk.unwritable.lock().unwrap().clear();
        }
        world.array = world.assemble(&[], false).await.unwrap();
        assert_eq!(first_bytes(&world.array).await, [2, 2]);
        world.array.write(0, vec![4; LENGTH].into(), Durability::Durable).await.unwrap();
    });
}

/// Nor is there space to erase its record: no atomic write is taken, and no later start undoes what was written instead.
#[test]
fn an_array_can_be_started_without_the_space_to_erase_a_record() {
    run(async {
        let mut world = half_way().await;
        world.array.stop().await.unwrap();
        let layout = MemberLayout::for_member(world.disks[0].info().size_bytes).unwrap();
        let (ring, headers) = (layout.journal.offset, layout.headers);
        let full = |range: std::ops::Range<u64>| {
            let unwritable = &world.disks[1].unwritable;
            unwritable.lock().unwrap().push((range, IoErrorKind::NoSpace));
        };
        full(ring..ring + BLOCK);
        full(headers.offset..headers.offset + headers.len / 2);
        let mut refusals = Vec::new();
        for _ in 0..2 {
            refusals.push(world.assemble(&[], true).await.map(|_| ()));
        }
        let not_void = |refusal: &Result<(), AssembleError>| {
            matches!(refusal, Err(AssembleError::Journal(JournalError::NotVoid { .. })))
        };
        assert!(refusals.iter().all(Result::is_err) && refusals.iter().any(not_void), "{refusals:?}");
        world.disks[1].unwritable.lock().unwrap().pop();
        world.array = world.assemble(&[], true).await.unwrap();
        let status = world.array.status().await;
        assert!(status.members.iter().all(|member| member.state == MemberState::InSync), "{status:?}");
        assert!(status.notes.iter().any(|note| note.contains("atomic writes are refused")), "{status:?}");
        assert_eq!(world.array.atomic_limit_bytes(), 0);
        let ended = world.array.write_atomic_parts(vec![(0, vec![7; LENGTH].into())]).await;
        assert_eq!(ended.unwrap_err().kind, IoErrorKind::Unsupported);
        world.disks.iter().for_each(|disk| disk.unwritable.lock().unwrap().clear());
        world.array.write(0, vec![5; LENGTH].into(), Durability::Durable).await.unwrap();
        // The power goes.
        world.array = world.assemble(&[], false).await.unwrap();
        assert_eq!(first_bytes(&world.array).await, [5, 5], "the record came back");
        assert!(world.array.atomic_limit_bytes() > 0);
        world.array.write_atomic_parts(vec![(0, vec![6; LENGTH].into())]).await.unwrap();
        assert_eq!(first_bytes(&world.array).await, [6, 6]);
    });
}

#[test]
fn an_array_can_be_started_without_the_space_for_an_atomic_write() {
    run(async {
        let mut world = half_way().await;
        world.array.stop().await.unwrap();
        assert!(refused(&world, false).await);
        world.array = world.assemble(&[], true).await.unwrap();
        for disk in &world.disks {
            disk.unwritable.lock().unwrap().clear();
        }
        world.array.write(0, vec![5; LENGTH].into(), Durability::Durable).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
        assert_eq!(first_bytes(&world.array).await, [5, 5], "it does not come back");
    });
}
