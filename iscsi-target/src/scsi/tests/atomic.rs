//! WRITE ATOMIC(16), and what shares its lock.

use block_io::{Buffer, DeviceInfo, Durability, IoError, IoFuture, ReadResult};

use super::*;

fn write_atomic(block: u64, blocks: u16) -> Vec<u8> {
    let mut cdb = vec![0x9c, 0];
    cdb.extend_from_slice(&block.to_be_bytes());
    cdb.extend_from_slice(&[0, 0]);
    cdb.extend_from_slice(&blocks.to_be_bytes());
    cdb.extend_from_slice(&[0, 0]);
    cdb
}

#[test]
fn atomic_writes_keep_to_the_limits_that_are_told() {
    let bench = open();
    let limits = bench.data(&[0x12, 1, 0xb0, 0, 255, 0]);
    assert_eq!(limits[44..64], [0, 0, 2, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let data = vec![7; 512 * 512];
    assert_eq!(bench.send("a", 0, &write_atomic(8, 512), &data).status, Status::Good);
    assert_eq!(bench.device.contents()[8 * 512..520 * 512], data);
    assert_eq!(bench.send("a", 0, &write_atomic(8, 0), &[]).status, Status::Good);
    for (block, blocks, what) in [(1, 8, "alignment"), (8, 1, "granularity"), (0, 520, "length")] {
        let refused = bench.codes(&write_atomic(block, blocks), &vec![0; usize::from(blocks) * 512]);
        assert_eq!(refused, (5, 0x24, 0), "{what}");
    }
    let mut bounded = write_atomic(0, 8);
    bounded[11] = 8;
    assert_eq!(bench.codes(&bounded, &[0; 4096]), (5, 0x24, 0), "there are no boundaries");
    assert_eq!(bench.codes(&write_atomic(0, 8), &[0; 512]), (5, 0x24, 0), "all of its data");
    for block in [BLOCKS, BLOCKS - 4, 1 << 63, u64::MAX - 7] {
        assert_eq!(bench.codes(&write_atomic(block, 8), &[0; 4096]), (5, 0x21, 0), "{block:x}");
    }
}

/// A device of which a part may be seen: it stops in the middle of every write, and knows no atomic ones unless told.
#[derive(Debug)]
struct Halting {
    inner: MemoryDevice,
    atomic: u32,
}

impl BlockDevice for Halting {
    fn info(&self) -> DeviceInfo {
        self.inner.info()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let half = data.len() / 1024 * 512;
            self.inner.write(offset, data.slice(..half), durability).await?;
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.inner.write(offset + half as u64, data.slice(half..), durability).await
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.flush()
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.zero(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.discard(offset, length)
    }

    fn atomic_limit_bytes(&self) -> u32 {
        self.atomic
    }

    fn write_atomic(&self, offset: u64, data: Bytes) -> IoFuture<'_, Result<(), IoError>> {
        self.write(offset, data, Durability::Durable)
    }
}

fn halting(atomic: u32) -> Bench {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    let identity = unit.identity().clone();
    bench.luns.remove(0);
    let device = Halting { inner: bench.device.clone(), atomic };
    let unit = LogicalUnit::new(Arc::new(device), identity, LuOptions::default());
    bench.luns.insert(1, unit.view(LuOptions { read_only: true, ..LuOptions::default() })).unwrap();
    bench.luns.insert(0, unit).unwrap();
    for from in ["a", "b"] {
        for lun in [0, 1 << 48] {
            while bench.send(from, lun, &[0x00], &[]).status != Status::Good {}
        }
    }
    bench
}

#[test]
fn nobody_sees_half_an_atomic_write_by_any_path() {
    let bench = halting(256 << 10);
    let (writer, reader) = (nexus("a"), nexus("b"));
    for lun in [0, 1 << 48] {
        run(async {
            for value in 1..20u8 {
                let cdb = write_atomic(0, 16);
                let write = command(0, &cdb, &[value; 16 * 512]);
                let read = command(lun, &[0x28, 0, 0, 0, 0, 0, 0, 0, 16, 0], &[]);
                let reads = async {
                    for _ in 0..usize::from(value) {
                        tokio::task::yield_now().await;
                    }
                    bench.luns.execute(&reader, read, &bench.pool).await
                };
                let (written, seen) = tokio::join!(bench.luns.execute(&writer, write, &bench.pool), reads);
                assert_eq!((written.status, seen.status), (Status::Good, Status::Good));
                let first = seen.data_in[0];
                assert!(seen.data_in.iter().all(|byte| *byte == first), "torn at {value}, by LUN {lun:x}");
            }
        });
    }
}

#[test]
fn where_the_device_has_none_there_is_no_such_command() {
    let bench = halting(0);
    assert_eq!(bench.codes(&write_atomic(0, 8), &[0; 4096]), (5, 0x20, 0));
    assert_eq!(bench.data(&[0x12, 1, 0xb0, 0, 255, 0])[44..64], [0; 20]);
    assert_eq!(bench.data(&[0xa3, 0x0c, 1, 0x9c, 0, 0, 0, 0, 0, 255, 0, 0])[1], 1, "not supported");
    let all = bench.data(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
    assert!(all[4..].chunks(8).all(|command| command[0] != 0x9c));
}
