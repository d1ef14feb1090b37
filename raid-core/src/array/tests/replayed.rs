//! What the journal still holds of a stripe must not undo what was made of the stripe since.

use super::*;
use crate::geometry::Row;

/// Every structure of labsan's own begins with this.
const OWN: u8 = b'L';

fn set_slow(disks: &[Faulty], first_byte: u8) {
    disks.iter().for_each(|disk| disk.slow.store(first_byte, Ordering::Relaxed));
}

async fn first_block(array: &Array) -> Result<Vec<u8>, IoErrorKind> {
    let (buffer, result) = array.read(0, Buffer::zeroed(BLOCK as usize)).await;
    result.map(|()| buffer.to_vec()).map_err(|error| error.kind)
}

fn byte_at(disk: &Faulty, at: u64) -> u8 {
    let mut byte = 0;
    disk.inner.tamper(|bytes| byte = bytes[at as usize]);
    byte
}

/// A write was put in place while its row's member was missing; then the block beside it turned out unreadable, so that
/// both are lost. The tail has not passed that write when the power goes: it is still in the journal with its parity.
#[test]
fn a_group_that_is_in_place_is_not_replayed_over_what_was_declared_lost() {
    let disks: Vec<Faulty> = (0..4).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
    let mut left = Vec::new();
    run(async {
        let members = disks[..3].to_vec();
        let mut world = World::over_with(members, Level::Raid5, 3, Policy::Journal).await;
        let stripe = world.array.core.geometry.unit_data_bytes() as usize;
        world.array.write(0, vec![5; stripe].into(), Durability::Durable).await.unwrap();
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
        let (lost, _) = place_of(&world, 0, Row::Data(0));
        let (bad, sectors) = place_of(&world, 0, Row::Data(1));
        let (parity, columns) = place_of(&world, 0, Row::P);
        world.array.fail(&path(lost), false).await.unwrap();

        set_slow(&disks, OWN);
        world.array.write(0, block(9).into(), Durability::Durable).await.unwrap();
        while byte_at(&disks[parity], columns.start) == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The new tail is on its way to the members now, for a second.
        set_slow(&disks, 0);
        disks[bad].bad.lock().unwrap().push(sectors.start..sectors.start + 512);
        world.array.add(device(&disks, 3), false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(world.array.status().await.lost_bytes, 2 * BLOCK);
        assert_eq!(first_block(&world.array).await, Err(IoErrorKind::Medium));
        left = (0..4).filter(|&index| index != lost).map(|index| disks[index].clone()).collect();
    });
    run(async {
        let devices = (0..left.len()).map(|index| device(&left, index)).collect();
        let array = assemble(devices, AssembleOptions { force: false }, &environment()).await.unwrap();
        assert_eq!(first_block(&array).await, Err(IoErrorKind::Medium), "garbage is returned as data");
    });
}
