//! COMPARE AND WRITE and ORWRITE: nothing of anybody else comes between what they read and what they write.

use std::pin::Pin;
use std::sync::atomic::Ordering;

use futures_util::poll;

use super::sanitizing::{READ, Slow, slow, slow_of};
use super::*;

const WRITE: [u8; 10] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// The two commands on block 0, with data, and what becomes of zeros.
fn undivided() -> [(&'static str, Vec<u8>, Vec<u8>, u8); 2] {
    let cdb = |opcode, length_at: usize| {
        let mut cdb = vec![0; 16];
        (cdb[0], cdb[length_at]) = (opcode, 1);
        cdb
    };
    [
        ("COMPARE AND WRITE", cdb(0x89, 13), [[0; 512], [5; 512]].concat(), 5),
        ("ORWRITE", cdb(0x8b, 13), vec![5; 512], 5),
    ]
}

/// As far as it gets by itself.
async fn end_of<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    for _ in 0..50 {
        if let std::task::Poll::Ready(end) = poll!(&mut work) {
            return Some(end);
        }
        tokio::task::yield_now().await;
    }
    None
}

fn come(slow: &Slow) -> usize {
    slow.come.load(Ordering::SeqCst)
}

#[test]
fn no_plain_write_or_read_comes_between_what_is_read_and_what_is_written() {
    for (name, cdb, data, left) in undivided() {
        // By the same LUN, and by another that leads to the same unit.
        for lun in [0, 1 << 48] {
            let (bench, slow) = slow();
            run(async {
                let mut both = std::pin::pin!(bench.send_now(0, &cdb, &data));
                assert!(end_of(both.as_mut()).await.is_none() && come(&slow) == 1, "{name} has read");
                let mut write = std::pin::pin!(bench.send_now(0, &WRITE, &[9; 512]));
                let mut read = std::pin::pin!(bench.send_now(lun, &READ, &[]));
                assert!(end_of(write.as_mut()).await.is_none());
                assert_eq!(come(&slow), 1, "{name}: a write comes in between");
                let seen = end_of(read.as_mut()).await;
                assert!(seen.is_none(), "{name}: a read sees what is to be replaced, by LUN {lun:x}");
                slow.leave.add_permits(1);
                assert_eq!(end_of(both.as_mut()).await.unwrap().status, Status::Good, "{name}");
                assert_eq!(slow.inner.contents()[0], left, "{name}");
                slow.leave.add_permits(1);
                assert_eq!(end_of(write.as_mut()).await.unwrap().status, Status::Good);
                assert_eq!(end_of(read.as_mut()).await.unwrap().status, Status::Good);
                assert_eq!(slow.inner.contents()[0], 9, "the write came after {name}");
            });
        }
    }
}

#[test]
fn what_they_read_is_what_a_write_under_way_leaves() {
    for (name, cdb, data, _) in undivided() {
        let (bench, slow) = slow();
        run(async {
            let mut write = std::pin::pin!(bench.send_now(0, &WRITE, &[8; 512]));
            assert!(end_of(write.as_mut()).await.is_none() && come(&slow) == 1, "the write is at the device");
            let mut both = std::pin::pin!(bench.send_now(0, &cdb, &data));
            assert!(end_of(both.as_mut()).await.is_none(), "{name} waits");
            slow.leave.add_permits(2);
            assert_eq!(end_of(write.as_mut()).await.unwrap().status, Status::Good);
            let ended = end_of(both.as_mut()).await.unwrap();
            let (status, left) = match cdb[0] {
                0x89 => (Status::CheckCondition, 8),
                _ => (Status::Good, 8 | 5),
            };
            assert_eq!((ended.status, slow.inner.contents()[0]), (status, left), "{name}");
        });
    }
}

/// 40 MiB of blocks, from the middle of a piece: three pieces.
fn long_unmap() -> (Vec<u8>, Vec<u8>) {
    let mut list = vec![0; 24];
    (list[1], list[3]) = (22, 16);
    list[8..16].copy_from_slice(&(8u64 << 11).to_be_bytes());
    list[16..20].copy_from_slice(&(40u32 << 11).to_be_bytes());
    (vec![0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], list)
}

/// ESXi's heartbeat is one: it waits for a piece, not for all of it.
#[test]
fn a_long_unmap_keeps_nobody_out_but_for_a_piece() {
    let (bench, slow) = slow_of(64 << 20);
    slow.inner.tamper(|bytes| bytes.fill(3));
    let (cdb, list) = long_unmap();
    run(async {
        let mut unmap = std::pin::pin!(bench.send_now(0, &cdb, &list));
        assert!(end_of(unmap.as_mut()).await.is_none() && come(&slow) == 1);
        let (name, compare, _, _) = &undivided()[0];
        let data = [[3; 512], [5; 512]].concat();
        let mut heartbeat = std::pin::pin!(bench.send_now(0, compare, &data));
        assert!(end_of(heartbeat.as_mut()).await.is_none());
        slow.leave.add_permits(1);
        assert!(end_of(unmap.as_mut()).await.is_none());
        slow.leave.add_permits(1);
        let between = end_of(heartbeat.as_mut()).await.expect("it waits for all of it");
        assert_eq!(between.status, Status::Good, "{name}");
        assert!(end_of(unmap.as_mut()).await.is_none());
        slow.leave.add_permits(9);
        assert_eq!(end_of(unmap.as_mut()).await.unwrap().status, Status::Good);
    });
    let contents = slow.inner.contents();
    let unmapped = 8 << 20..48 << 20;
    assert_eq!(come(&slow), 1 + 3, "a write and three pieces");
    assert!(contents[unmapped.clone()].iter().all(|byte| *byte == 0));
    assert!(contents[512..unmapped.start].iter().chain(&contents[unmapped.end..]).all(|byte| *byte == 3));
}

#[test]
fn a_reservation_ends_an_unmap_that_is_under_way() {
    let (bench, slow) = slow_of(64 << 20);
    slow.inner.tamper(|bytes| bytes.fill(3));
    let (cdb, list) = long_unmap();
    let other = nexus("b");
    while bench.send("b", 0, &[0x00], &[]).status != Status::Good {}
    run(async {
        let mut unmap = std::pin::pin!(bench.send_now(0, &cdb, &list));
        assert!(end_of(unmap.as_mut()).await.is_none() && come(&slow) == 1);
        let reserve = bench.luns.execute(&other, command(0, &[0x16, 0, 0, 0, 0, 0], &[]), &bench.pool);
        let mut reserve = std::pin::pin!(reserve);
        assert!(end_of(reserve.as_mut()).await.is_none(), "a piece is under way");
        slow.leave.add_permits(9);
        assert!(end_of(unmap.as_mut()).await.is_none(), "others waited before the next piece");
        assert_eq!(end_of(reserve.as_mut()).await.unwrap().status, Status::Good);
        let ended = end_of(unmap.as_mut()).await.unwrap();
        assert_eq!(ended.status, Status::ReservationConflict);
    });
    assert_eq!(slow.inner.contents()[16 << 20], 3, "the next piece");
}
