//! COMPARE AND WRITE and ORWRITE: nothing of anybody else comes between what they read and what they write.

use std::pin::Pin;
use std::sync::atomic::Ordering;

use futures_util::poll;

use super::sanitizing::{READ, Slow, slow};
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
