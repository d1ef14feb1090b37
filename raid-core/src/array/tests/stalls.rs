//! What has begun ends, and what was taken is given back, whatever else goes wrong.

use super::*;
use crate::geometry::Row;

const PATIENCE: Duration = Duration::from_secs(60);

async fn journalled(members: usize) -> World {
    let disks = (0..members).map(|index| Faulty::new(&format!("/disks/{index}"))).collect();
    World::with_policy(disks, Level::Raid5, members, Policy::Journal).await
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
