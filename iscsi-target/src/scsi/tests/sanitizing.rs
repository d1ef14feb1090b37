//! SANITIZE: what it does to the medium, and to everybody else.

use block_io::{Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult};
use std::num::NonZeroU64;
use std::time::Duration;

use super::*;

pub(super) const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const ERASE: [u8; 10] = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 0, 0];
pub(super) const EXIT: [u8; 10] = [0x48, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0];

pub(super) fn overwrite(flags: u8, length: u16) -> [u8; 10] {
    let [high, low] = length.to_be_bytes();
    [0x48, flags | 0x01, 0, 0, 0, 0, 0, high, low, 0]
}

#[test]
fn everything_is_overwritten_or_erased() {
    let bench = open();
    bench.device.tamper(|bytes| bytes.fill(9));
    let list = [0x83, 0, 0, 3, 1, 2, 3];
    assert_eq!(bench.send("a", 0, &overwrite(0, 7), &list).status, Status::Good);
    let block: Vec<u8> = [1, 2, 3].into_iter().cycle().take(512).collect();
    assert!(bench.device.contents().chunks(512).all(|found| found == block));
    assert_eq!(bench.send("a", 0, &ERASE, &[]).status, Status::Good);
    assert!(bench.device.contents().iter().all(|byte| *byte == 0));
    assert_eq!(bench.send("a", 0, &READ, &[]).status, Status::Good);
    assert_eq!(bench.data(&[0x12, 1, 0xb1, 0, 64, 0])[7] >> 6, 1, "reads are good after an erase");
}

#[test]
fn what_is_reserved_or_not_there_is_refused() {
    let bench = open();
    let mut reserved = ERASE;
    reserved[1] |= 0x40;
    assert_eq!(bench.codes(&reserved, &[]), (5, 0x24, 0));
    for at in 2..7 {
        let mut reserved = ERASE;
        reserved[at] = 1;
        assert_eq!(bench.codes(&reserved, &[]), (5, 0x24, 0), "byte {at}");
    }
    for action in [0x00, 0x03, 0x04, 0x1e] {
        assert_eq!(bench.codes(&[0x48, action], &[]), (5, 0x24, 0), "action {action}");
    }
    let with_list = [0x48, 0x02, 0, 0, 0, 0, 0, 0, 8, 0];
    assert_eq!(bench.codes(&with_list, &[0; 8]), (5, 0x24, 0));
    assert_eq!(bench.send("a", 0, &EXIT, &[]).status, Status::Good, "nothing has failed");
    for length in [0, 3, 4, 517] {
        let list = vec![1; usize::from(length)];
        assert_eq!(bench.codes(&overwrite(0, length), &list), (5, 0x24, 0), "a list of {length}");
    }
}

/// A device whose writes wait for leave, and fail while told to.
#[derive(Clone, Debug)]
pub(super) struct Slow {
    pub(super) inner: MemoryDevice,
    pub(super) leave: Arc<tokio::sync::Semaphore>,
    /// Writes that have come so far.
    pub(super) come: Arc<std::sync::atomic::AtomicUsize>,
    /// The kind of error that writes end in.
    pub(super) failing: Arc<std::sync::Mutex<Option<IoErrorKind>>>,
}

impl BlockDevice for Slow {
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
            self.come.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            self.leave.acquire().await.unwrap().forget();
            if let Some(kind) = *self.failing.lock().unwrap() {
                let length = data.len() as u64;
                return Err(IoError::new(kind, IoOperation::Write, &"slow".into(), offset, length));
            }
            self.inner.write(offset, data, durability).await
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.flush()
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.zero(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.come.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            self.leave.acquire().await.unwrap().forget();
            self.inner.discard(offset, length).await
        })
    }
}

/// LUN 0 and a read-only view of the same as LUN 1, over a slow device of four pieces.
pub(super) fn slow() -> (Bench, Slow) {
    slow_of(4 << 20)
}

/// The same of another size.
pub(super) fn slow_of(bytes: usize) -> (Bench, Slow) {
    let bench = open();
    let (_, unit) = bench.luns.units().remove(0);
    let identity = unit.identity().clone();
    bench.luns.remove(0);
    let slow = Slow {
        inner: MemoryDevice::new("slow", bytes),
        leave: no_leave(),
        come: Arc::default(),
        failing: Arc::default(),
    };
    let unit = LogicalUnit::new(Arc::new(slow.clone()), identity, LuOptions::default());
    bench.luns.insert(1, unit.view(LuOptions { read_only: true, ..LuOptions::default() })).unwrap();
    bench.luns.insert(0, unit).unwrap();
    for lun in [0, 1 << 48] {
        while bench.send("a", lun, &[0x00], &[]).status != Status::Good {}
    }
    (bench, slow)
}

pub(super) fn no_leave() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(0))
}

impl Slow {
    /// Let so many writes go on, and everybody do what follows.
    pub(super) async fn step(&self, writes: usize) {
        self.leave.add_permits(writes);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

impl Bench {
    pub(super) async fn send_now(&self, lun: u64, cdb: &[u8], data: &[u8]) -> ScsiResponse {
        self.luns.execute(&nexus("a"), command(lun, cdb, data), &self.pool).await
    }
}

pub(super) const PATTERN: [u8; 5] = [1, 0, 0, 1, 0x55];

#[test]
fn meanwhile_nobody_gets_at_the_medium_by_any_path() {
    let (bench, slow) = slow();
    run(async {
        let begun = bench.send_now(0, &overwrite(0x80, 5), &PATTERN).await;
        assert_eq!(begun.status, Status::Good, "IMMED");
        slow.step(2).await;
        for lun in [0, 1 << 48] {
            let refused = bench.send_now(lun, &READ, &[]).await;
            assert_eq!(codes(&refused), (2, 0x04, 0x1b));
            assert_eq!(refused.sense[15..18], [0x80, 0x80, 0], "half of it is done");
            let asked = bench.send_now(lun, &[0x03, 0, 0, 0, 18, 0], &[]).await;
            assert_eq!(asked.data_in[2..14], refused.sense[2..14]);
            assert_eq!(bench.send_now(lun, &[0x12, 0, 0, 0, 36, 0], &[]).await.status, Status::Good);
        }
        assert_eq!(codes(&bench.send_now(0, &ERASE, &[]).await), (2, 0x04, 0x1b), "one at a time");
        slow.step(2).await;
        assert_eq!(bench.send_now(0, &READ, &[]).await.data_in[..], [0x55; 512]);
    });
    assert!(slow.inner.contents().iter().all(|byte| *byte == 0x55));
}

#[test]
fn a_write_that_waited_for_its_turn_does_not_come_after_it() {
    let (bench, slow) = slow();
    run(async {
        let write = bench.send_now(0, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 512]);
        let mut compare = vec![0; 16];
        (compare[0], compare[13]) = (0x89, 1);
        let waiting = bench.send_now(0, &compare, &[0; 1024]);
        let sanitize = async {
            let begun = bench.send_now(0, &overwrite(0x80, 5), &PATTERN).await;
            slow.step(1).await;
            begun
        };
        let (first, second, sanitized) = tokio::join!(write, waiting, sanitize);
        assert_eq!((first.status, sanitized.status), (Status::Good, Status::Good));
        assert_eq!(codes(&second), (2, 0x04, 0x1b));
        slow.step(4).await;
    });
    assert!(slow.inner.contents().iter().all(|byte| *byte == 0x55));
}

#[test]
fn an_abort_ends_the_wait_and_not_the_work() {
    let (bench, slow) = slow();
    run(async {
        let (abort, aborted) = watch::channel(false);
        let patient = ScsiCommand { abort: Some(aborted), ..command(0, &overwrite(0, 5), &PATTERN) };
        let from = nexus("a");
        let waiting = bench.luns.execute(&from, patient, &bench.pool);
        let aborting = async {
            slow.step(1).await;
            abort.send_replace(true);
        };
        let (response, ()) = tokio::join!(waiting, aborting);
        assert_eq!(response.status, Status::TaskAborted);
        assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), (2, 0x04, 0x1b), "it goes on");
        slow.step(3).await;
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
    });
    assert!(slow.inner.contents().iter().all(|byte| *byte == 0x55));
}

#[test]
fn after_a_failure_the_medium_stays_closed_until_it_is_repeated_or_left() {
    let (bench, slow) = slow();
    let failing = |yes: bool| *slow.failing.lock().unwrap() = yes.then_some(IoErrorKind::Medium);
    run(async {
        slow.step(100).await;
        failing(true);
        assert_eq!(codes(&bench.send_now(0, &overwrite(0, 5), &PATTERN).await), (3, 0x31, 3));
        assert_eq!(codes(&bench.send_now(0, &READ, &[]).await), (3, 0x31, 3));
        assert_eq!(codes(&bench.send_now(0, &EXIT, &[]).await), (5, 0x24, 0), "AUSE was not set");
        let loosened = bench.send_now(0, &overwrite(0x20, 5), &PATTERN).await;
        assert_eq!(codes(&loosened), (5, 0x24, 0), "no way out by failing once more");
        assert_eq!(codes(&bench.send_now(0, &EXIT, &[]).await), (5, 0x24, 0));
        failing(false);
        assert_eq!(bench.send_now(0, &overwrite(0, 5), &PATTERN).await.status, Status::Good, "repeated");
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
        failing(true);
        assert_eq!(codes(&bench.send_now(0, &overwrite(0x20, 5), &PATTERN).await), (3, 0x31, 3));
        assert_eq!(bench.send_now(0, &EXIT, &[]).await.status, Status::Good);
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
    });
}

#[test]
fn overwriting_keeps_to_its_rate_and_never_pauses_for_long() {
    let size = BLOCKS * 512;
    let bench = Bench::new(LuOptions { sanitize_rate: NonZeroU64::new(size / 16), ..LuOptions::default() });
    while bench.send("a", 0, &[0x00], &[]).status != Status::Good {}
    run(async {
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        assert_eq!(bench.send_now(0, &overwrite(0x80, 5), &PATTERN).await.status, Status::Good, "IMMED");
        for second in 0..16_u16 {
            tokio::time::sleep_until(began + Duration::from_millis(u64::from(second) * 1000 + 500)).await;
            let refused = bench.send_now(0, &READ, &[]).await;
            assert_eq!(codes(&refused), (2, 0x04, 0x1b), "after {second} seconds");
            let sixteenths = u16::from_be_bytes([refused.sense[16], refused.sense[17]]) >> 12;
            assert_eq!(sixteenths, (second + 1).min(15), "after {second} seconds");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.send_now(0, &READ, &[]).await.status, Status::Good);
    });
}
