//! A member comes in sync while atomic writes of mirrors are under way.

use super::*;
use crate::format::layout::MemberLayout;

const MIB: usize = 1 << 20;
const LENGTH: usize = 64 << 10;

/// It would have no record of it, and may soon be the only one that is left.
#[test]
fn nobody_comes_in_sync_in_the_middle_of_an_atomic_write() {
    run(async {
        let world = World::new(Level::Raid1, 2, 1).await;
        world.array.write(0, vec![1; 8 * MIB].into(), Durability::Durable).await.unwrap();
        let half = MemberLayout::for_member(MEMBER_BYTES as u64).unwrap().data_offset + 4 * MIB as u64;
        let passed = Arc::new(tokio::sync::Notify::new());
        let tell = Arc::clone(&passed);
        world.disks[2].watch(move |offset, _| {
            if offset >= half {
                tell.notify_one();
            }
        });
        world.array.fail(&path(1), true).await.unwrap();
        passed.notified().await;

        // The rebuild is beyond it, and would be done long before it is.
        world.disks[0].slow.store(2, Ordering::Relaxed);
        let write = world.array.write_atomic_parts(vec![(0, vec![2; LENGTH].into())]);
        let mut write = std::pin::pin!(write);
        let spare = async || {
            world.array.status().await.members.into_iter().find(|member| member.path == Some(path(2)))
        };
        let mut looks = 0;
        while futures_util::poll!(&mut write).is_pending() {
            assert_eq!(spare().await.unwrap().state, MemberState::Rebuilding);
            tokio::time::sleep(Duration::from_millis(10)).await;
            looks += 1;
        }
        assert!(looks > 50, "it took {looks} looks only");
        world.wait_for(ArrayState::Optimal).await;
        assert_eq!(spare().await.unwrap().state, MemberState::InSync);
        world.check_redundancy().await;
    });
}
