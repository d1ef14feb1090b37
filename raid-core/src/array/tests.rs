//! The engine over devices in memory that can be made to fail: bytes against a model, failures, rebuilds,
//! stops and starts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use block_io::{IoErrorKind, IoOperation, MemoryDevice, Zeroing};

use super::*;
use crate::array::ArrayState;
use crate::geometry::Level;
use crate::volume::VolumeSpec;

mod half_written;
mod hanging;
mod late_reads;
mod mirrors_full;
mod replayed;
mod space;
mod stalls;
mod unreadable;
mod written;

const MEMBER_BYTES: usize = 20 << 20;

type Unwritable = (std::ops::Range<u64>, IoErrorKind);

type Watcher = Box<dyn Fn(u64, u64) + Send>;

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Faulty").field(&self.inner).finish()
    }
}

/// A device in memory with a switch: off, it is gone. Single ranges can be made unreadable.
#[derive(Clone)]
struct Faulty {
    inner: MemoryDevice,
    gone: Arc<AtomicBool>,
    bad: Arc<Mutex<Vec<std::ops::Range<u64>>>>,
    /// What cannot be read is not the medium's fault.
    timeouts: Arc<AtomicBool>,
    /// What a write of these ranges ends in.
    unwritable: Arc<Mutex<Vec<Unwritable>>>,
    full: Arc<AtomicBool>,
    /// What it says of its pool.
    room: Arc<Mutex<Option<block_io::ThinSpace>>>,
    /// Writes of data that begins with this byte take a second. 0: none.
    slow: Arc<AtomicU8>,
    /// Reads take ten seconds, and give what is there then.
    late: Arc<AtomicBool>,
    /// Bytes read and written.
    moved: Arc<[AtomicU64; 2]>,
    /// Sees where everything but zeros is written, before it is.
    watcher: Arc<Mutex<Option<Watcher>>>,
    /// Writes that may still be carried out; the others never end.
    fuse: Arc<Mutex<Option<Arc<AtomicI64>>>>,
    /// Zeroing is not cheap, and what was on it before is still there.
    used: bool,
}

impl Faulty {
    fn new(name: &str) -> Self {
        let inner = MemoryDevice::new(name, MEMBER_BYTES);
        Self {
            inner,
            gone: Arc::default(),
            bad: Arc::default(),
            timeouts: Arc::default(),
            unwritable: Arc::default(),
            full: Arc::default(),
            room: Arc::default(),
            slow: Arc::default(),
            late: Arc::default(),
            moved: Arc::default(),
            watcher: Arc::default(),
            fuse: Arc::default(),
            used: false,
        }
    }

    fn watch(&self, watcher: impl Fn(u64, u64) + Send + 'static) {
        *self.watcher.lock().unwrap() = Some(Box::new(watcher));
    }

    fn read_bytes(&self) -> u64 {
        self.moved[0].load(Ordering::Relaxed)
    }

    fn written_bytes(&self) -> u64 {
        self.moved[1].load(Ordering::Relaxed)
    }

    /// A write begins. It never ends where the fuse has blown.
    async fn begin_write(&self, offset: u64, data: &[u8]) {
        self.moved[1].fetch_add(data.len() as u64, Ordering::Relaxed);
        if let Some(watcher) = &*self.watcher.lock().unwrap()
            && data.iter().any(|byte| *byte != 0)
        {
            watcher(offset, data.len() as u64);
        }
        let fuse = self.fuse.lock().unwrap().clone();
        if fuse.is_some_and(|fuse| fuse.fetch_sub(1, Ordering::Relaxed) <= 0) {
            std::future::pending::<()>().await;
        }
    }

    fn error(&self, kind: IoErrorKind, operation: IoOperation, offset: u64, length: u64) -> IoError {
        IoError::new(kind, operation, &self.inner.name().into(), offset, length)
    }

    fn check(&self, operation: IoOperation, offset: u64, length: u64) -> Result<(), IoError> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(self.error(IoErrorKind::Gone, operation, offset, length));
        }
        let mut bad = self.bad.lock().unwrap();
        let hit = |range: &std::ops::Range<u64>| range.start < offset + length && offset < range.end;
        if operation == IoOperation::Read && bad.iter().any(hit) {
            let timeouts = self.timeouts.load(Ordering::Relaxed);
            let kind = if timeouts { IoErrorKind::Other } else { IoErrorKind::Medium };
            return Err(self.error(kind, operation, offset, length));
        }
        if operation == IoOperation::Write {
            let unwritable = self.unwritable.lock().unwrap();
            if let Some((_, kind)) = unwritable.iter().find(|(range, _)| hit(range)) {
                return Err(self.error(*kind, operation, offset, length));
            }
            bad.retain(|range| !hit(range));
        }
        Ok(())
    }
}

impl BlockDevice for Faulty {
    fn info(&self) -> DeviceInfo {
        let zeroing = if self.used { Zeroing::Slow } else { Zeroing::Cheap };
        DeviceInfo { thin: true, zeroing, ..self.inner.info() }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.moved[0].fetch_add(buffer.len() as u64, Ordering::Relaxed);
            if self.late.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            match self.check(IoOperation::Read, offset, buffer.len() as u64) {
                Ok(()) => self.inner.read(offset, buffer).await,
                Err(error) => (buffer, Err(error)),
            }
        })
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            self.begin_write(offset, &data).await;
            self.check(IoOperation::Write, offset, data.len() as u64)?;
            let slow = self.slow.load(Ordering::Relaxed);
            if slow != 0 && data.first() == Some(&slow) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.inner.write(offset, data, durability).await
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.check(IoOperation::Flush, 0, 0) })
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Write, offset, length)?;
            self.inner.zero(offset, length, durability).await
        })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.zero(offset, length, Durability::Durable)
    }

    fn thin_space(&self) -> IoFuture<'_, Result<Option<block_io::ThinSpace>, IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Provision, 0, 0)?;
            Ok(*self.room.lock().unwrap())
        })
    }

    fn provision(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        let full = self.full.load(Ordering::Relaxed);
        let result = if full {
            Err(self.error(IoErrorKind::NoSpace, IoOperation::Provision, offset, length))
        } else {
            Ok(())
        };
        Box::pin(std::future::ready(result))
    }
}

/// Numbers from a seed, so that a failure can be had again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

struct World {
    disks: Vec<Faulty>,
    array: Array,
}

fn path(index: usize) -> PathBuf {
    format!("/disks/{index}").into()
}

fn environment() -> Environment {
    Environment { hostname: "box".to_owned() }
}

fn device(disks: &[Faulty], index: usize) -> MemberDevice {
    MemberDevice { path: path(index), device: Arc::new(disks[index].clone()) }
}

impl World {
    async fn new(level: Level, members: usize, spares: usize) -> Self {
        let disks = (0..members + spares).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
        Self::over(disks, level, members).await
    }

    async fn over(disks: Vec<Faulty>, level: Level, members: usize) -> Self {
        Self::over_with(disks, level, members, Policy::Bitmap).await
    }

    async fn over_with(disks: Vec<Faulty>, level: Level, members: usize, policy: Policy) -> Self {
        let spec = CreateSpec {
            name: "tank".to_owned(),
            level,
            chunk_bytes: 16 << 10,
            policy,
            members: (0..members).map(|i| device(&disks, i)).collect(),
            spares: (members..disks.len()).map(|i| device(&disks, i)).collect(),
            force: false,
        };
        let array = create(spec, &environment()).await.unwrap();
        Self { disks, array }
    }

    /// Start again from all disks but those, in reverse order.
    async fn assemble(&self, without: &[usize], force: bool) -> Result<Array, AssembleError> {
        let devices =
            (0..self.disks.len()).rev().filter(|i| !without.contains(i)).map(|i| device(&self.disks, i));
        assemble(devices.collect(), AssembleOptions { force }, &environment()).await
    }

    async fn wait_for(&self, state: ArrayState) {
        for _ in 0..10_000 {
            if self.array.status().await.state == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {state:?}: {:#?}", self.array.status().await);
    }

    /// Parity or copies agree on every unit, straight from the disks.
    async fn check_redundancy(&self) {
        let core = &self.array.core;
        let table = core.table();
        for unit in 0..core.geometry.units() {
            let read = async |place: crate::geometry::Place| {
                let member = table.usable(place.member, unit).unwrap();
                let length = core.geometry.chunk_bytes() as usize;
                let (buffer, result) = member.read(place.offset, Buffer::zeroed(length)).await;
                result.unwrap();
                buffer.to_vec()
            };
            if core.geometry.level().has_parity() {
                let offset = core.geometry.stripe_offset(unit);
                let mut rows = Vec::new();
                for row in core.geometry.rows() {
                    let member = core.geometry.row_member(unit, row);
                    rows.push(read(crate::geometry::Place { member, offset }).await);
                }
                let data_rows = usize::from(core.geometry.data_rows());
                let expected = rows.clone();
                let lost: Vec<usize> = (data_rows..rows.len()).collect();
                let mut views: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
                crate::parity::recover(core.kernel, &mut views, data_rows, &lost).unwrap();
                assert!(rows == expected, "parity of stripe {unit} is wrong");
            } else {
                let copies = core.geometry.copies(unit);
                let first = read(copies[0]).await;
                for place in &copies[1..] {
                    assert!(read(*place).await == first, "copies of unit {unit} differ");
                }
            }
        }
    }
}

/// What the array should hold: blocks of 4 KiB, by a number each.
#[derive(Default)]
struct Model(HashMap<u64, u64>);

const BLOCK: u64 = 4096;

fn block(fill: u64) -> Vec<u8> {
    if fill == 0 { vec![0; BLOCK as usize] } else { fill.to_le_bytes().repeat(BLOCK as usize / 8) }
}

impl Model {
    async fn write(&mut self, array: &Array, random: &mut Random) {
        let blocks = 1 + random.below(40);
        let at = random.below(array.info().size_bytes / BLOCK - blocks);
        let fills: Vec<u64> = (0..blocks).map(|_| random.next() | 1).collect();
        if random.below(8) == 0 {
            array.zero(at * BLOCK, blocks * BLOCK, Durability::Durable).await.unwrap();
            self.0.extend((at..at + blocks).map(|b| (b, 0)));
            return;
        }
        let data: Vec<u8> = fills.iter().flat_map(|&fill| block(fill)).collect();
        array.write(at * BLOCK, data.into(), Durability::Durable).await.unwrap();
        self.0.extend((at..at + blocks).zip(fills));
    }

    async fn check(&self, array: &Array, random: &mut Random) {
        let blocks = 1 + random.below(40);
        let at = random.below(array.info().size_bytes / BLOCK - blocks);
        let (buffer, result) = array.read(at * BLOCK, Buffer::zeroed((blocks * BLOCK) as usize)).await;
        result.unwrap();
        for (index, got) in (at..at + blocks).zip(buffer.chunks(BLOCK as usize)) {
            let fill = self.0.get(&index).copied().unwrap_or(0);
            assert!(got == block(fill), "block {index} is not {fill:#x}");
        }
    }

    async fn check_all(&self, array: &Array) {
        for (&index, &fill) in &self.0 {
            let (buffer, result) = array.read(index * BLOCK, Buffer::zeroed(BLOCK as usize)).await;
            result.unwrap();
            assert!(buffer[..] == block(fill), "block {index} is not {fill:#x}");
        }
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

const SHAPES: [(Level, usize); 7] = [
    (Level::Raid1, 2),
    (Level::Raid1, 3),
    (Level::Raid5, 3),
    (Level::Raid5, 5),
    (Level::Raid6, 6),
    (Level::Raid10, 4),
    (Level::Raid10, 5),
];

#[test]
fn what_is_written_is_read_through_failures_rebuilds_and_restarts() {
    for (level, members) in SHAPES {
        for seed in 1..=3 {
            run(async {
                println!("{level} of {members}, seed {seed}");
                let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
                let mut world = World::new(level, members, 1).await;
                let mut model = Model::default();
                let mut step = async |world: &World, random: &mut Random, count| {
                    for _ in 0..count {
                        model.write(&world.array, random).await;
                        model.check(&world.array, random).await;
                    }
                    model.check_all(&world.array).await;
                };
                step(&world, &mut random, 30).await;
                world.check_redundancy().await;
                let victim = random.below(members as u64) as usize;
                world.disks[victim].gone.store(true, Ordering::Relaxed);
                step(&world, &mut random, 20).await;
                world.wait_for(ArrayState::Optimal).await;
                step(&world, &mut random, 10).await;
                world.check_redundancy().await;
                world.array.stop().await.unwrap();
                world.disks[victim].gone.store(false, Ordering::Relaxed);
                world.array = world.assemble(&[], false).await.unwrap();
                step(&world, &mut random, 10).await;
                world.wait_for(ArrayState::Optimal).await;
                world.check_redundancy().await;
                let table = world.array.core.table();
                assert!(table.find(&path(victim)).is_none(), "the stale member is not trusted");
            });
        }
    }
}

#[test]
fn raid6_serves_with_two_members_missing_and_takes_writes() {
    run(async {
        let world = World::new(Level::Raid6, 5, 0).await;
        let (mut random, mut model) = (Random(7), Model::default());
        for victim in [None, Some(1), Some(3)] {
            if let Some(victim) = victim {
                world.disks[victim].gone.store(true, Ordering::Relaxed);
            }
            for _ in 0..30 {
                model.write(&world.array, &mut random).await;
            }
            model.check_all(&world.array).await;
        }
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
        world.disks[0].gone.store(true, Ordering::Relaxed);
        let data = Bytes::from(vec![1; 4096]);
        let mut refused = false;
        for unit in 0..8 {
            let result = world.array.write(unit * 48 * 1024, data.clone(), Durability::Durable).await;
            refused |= result.is_err_and(|error| error.kind == IoErrorKind::ArrayFailed);
        }
        assert!(refused, "beyond what the level tolerates, writes are refused");
        assert_eq!(world.array.status().await.state, ArrayState::Failed);
    });
}

#[test]
fn a_crash_leaves_marked_regions_that_are_resynced() {
    for (level, members) in SHAPES {
        run(async {
            let mut world = World::new(level, members, 0).await;
            let (mut random, mut model) = (Random(99), Model::default());
            world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
            model.0.insert(0, 3);
            for _ in 0..20 {
                model.write(&world.array, &mut random).await;
            }
            // The daemon dies (the old handle is simply left), having torn a copy or parity of a marked region.
            let marked = world.array.core.dirty.dirty_count();
            assert!(marked > 0);
            let table = world.array.core.table();
            let geometry = world.array.core.geometry;
            let unit = geometry.unit_of(0);
            let torn = if level.has_parity() {
                geometry.row_member(unit, crate::geometry::Row::P)
            } else {
                geometry.copies(unit)[1].member
            };
            let start = table.usable(torn, unit).unwrap().layout.data_offset as usize;
            world.disks[usize::from(torn.0)].inner.tamper(|bytes| bytes[start..start + 512].fill(0xba));
            world.array.core.stopping.store(true, Ordering::Release);
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.core.dirty.unsynced_count(), marked);
            assert_eq!(world.array.status().await.state, ArrayState::Resyncing);
            model.check(&world.array, &mut random).await;
            world.wait_for(ArrayState::Optimal).await;
            world.check_redundancy().await;
            model.check_all(&world.array).await;
        });
    }
}

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
fn volumes_keep_their_bytes_and_start_as_zeros() {
    run(async {
        let mut world = World::new(Level::Raid5, 4, 0).await;
        let spec = |name: &str, mib: u64| VolumeSpec {
            name: name.to_owned(),
            size_bytes: mib << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        let first = world.array.create_volume(spec("first", 4)).await.unwrap();
        first.write(0, vec![7; 4 << 20].into(), Durability::Durable).await.unwrap();
        let second = world.array.create_volume(spec("second", 1)).await.unwrap();
        second.write(0, vec![8; 1 << 20].into(), Durability::Durable).await.unwrap();
        assert!(matches!(world.array.create_volume(spec("first", 5)).await, Err(VolumeError::Exists(_))));
        assert!(world.array.create_volume(spec("first", 4)).await.is_ok(), "the same again is no error");
        assert!(matches!(world.array.create_volume(spec("../x", 4)).await, Err(VolumeError::BadName(_))));
        assert!(matches!(
            world.array.create_volume(spec("big", 4000)).await,
            Err(VolumeError::NoRoom { .. })
        ));
        world.array.delete_volume("first").await.unwrap();
        // Into the gap that `first` left and on behind `second`.
        let third = world.array.create_volume(spec("third", 6)).await.unwrap();
        let (bytes, result) = third.read(0, Buffer::zeroed(6 << 20)).await;
        result.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows nothing of an old one");
        let refused = world.array.resize_volume("third", 1 << 20, false).await;
        assert!(matches!(refused, Err(VolumeError::Shrinks { .. })));
        world.array.resize_volume("second", 3 << 20, false).await.unwrap();
        world.array.set_attachment(5, serde_json::json!({"targets": []})).await.unwrap();
        let identity = second.uuid();
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[2], false).await.unwrap();
        let second = world.array.volume("second").unwrap();
        assert_eq!((second.uuid(), second.info().size_bytes), (identity, 3 << 20));
        let (bytes, result) = second.read(0, Buffer::zeroed(3 << 20)).await;
        result.unwrap();
        assert!(bytes[..1 << 20].iter().all(|&byte| byte == 8) && bytes[1 << 20..].iter().all(|&b| b == 0));
        assert_eq!(world.array.attachment().await, (5, serde_json::json!({"targets": []})));
        assert_eq!(world.array.status().await.state, ArrayState::Degraded);
    });
}

#[test]
fn a_rebuild_goes_on_from_its_checkpoint() {
    run(async {
        let mut world = World::new(Level::Raid5, 3, 1).await;
        let (mut random, mut model) = (Random(11), Model::default());
        for _ in 0..40 {
            model.write(&world.array, &mut random).await;
        }
        world.array.fail(&path(0), false).await.unwrap();
        while world.array.core.table().rebuilding().is_none_or(|(_, _, position)| position.get() < 100) {
            tokio::task::yield_now().await;
        }
        let stopped = world.array.clone();
        stopped.stop().await.unwrap();
        let at_rest: Vec<_> = world.disks.iter().map(|disk| disk.inner.contents()).collect();
        let late = stopped.set_attachment(1, serde_json::json!({})).await;
        assert!(late.is_err(), "nothing is written any more");
        tokio::time::sleep(Duration::from_secs(60)).await;
        for (disk, before) in world.disks.iter().zip(&at_rest) {
            assert!(disk.inner.contents() == *before, "{} changed after the stop", disk.inner.name());
        }
        world.array = world.assemble(&[0], false).await.unwrap();
        let resumed = world.array.core.table().rebuilding().map(|(_, _, position)| position.get());
        assert!(resumed.is_some(), "the spare kept its role");
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        model.check_all(&world.array).await;
    });
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
fn a_degraded_array_that_was_idle_starts_after_a_crash_and_a_busy_one_needs_force() {
    run(async {
        let mut world = World::new(Level::Raid5, 4, 0).await;
        world.array.fail(&path(2), false).await.unwrap();
        let (mut random, mut model) = (Random(3), Model::default());
        for _ in 0..10 {
            model.write(&world.array, &mut random).await;
        }
        let crash = |world: &World| world.array.core.stopping.store(true, Ordering::Release);
        crash(&world);
        let refused = world.assemble(&[2], false).await.unwrap_err();
        assert!(refused.to_string().contains("force"), "{refused}");
        world.array = world.assemble(&[2], true).await.unwrap();
        tokio::time::sleep(Duration::from_millis(4 * crate::limits::SWEEP_INTERVAL_MS)).await;
        assert_eq!(world.array.core.dirty.dirty_count(), 0, "idle regions are cleared while degraded, too");
        crash(&world);
        world.array = world.assemble(&[2], false).await.unwrap();
        model.check_all(&world.array).await;
    });
}

#[test]
fn striping_over_members_of_different_sizes_means_the_same_after_any_start() {
    run(async {
        let sizes = [20 << 20, 32 << 20, 24 << 20];
        let disks: Vec<MemoryDevice> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| MemoryDevice::new(&format!("/disks/{i}"), *size))
            .collect();
        let devices = |order: [usize; 3]| -> Vec<MemberDevice> {
            order
                .into_iter()
                .map(|i| MemberDevice { path: path(i), device: Arc::new(disks[i].clone()) })
                .collect()
        };
        let spec = CreateSpec {
            name: "stripes".to_owned(),
            level: Level::Raid0,
            chunk_bytes: 16 << 10,
            policy: Policy::None,
            members: devices([0, 1, 2]),
            spares: Vec::new(),
            force: false,
        };
        let mut array = create(spec, &environment()).await.unwrap();
        let size = array.info().size_bytes;
        let mut model = Model::default();
        let mut random = Random(17);
        for order in [[1, 0, 2], [2, 1, 0], [1, 2, 0]] {
            for _ in 0..20 {
                model.write(&array, &mut random).await;
            }
            array.stop().await.unwrap();
            array = assemble(devices(order), AssembleOptions::default(), &environment()).await.unwrap();
            assert_eq!(array.info().size_bytes, size);
            model.check_all(&array).await;
        }
    });
}

#[test]
fn used_disks_that_cannot_be_zeroed_cheaply_are_synced_in_the_background() {
    for (level, members) in SHAPES {
        run(async {
            let disks: Vec<Faulty> = (0..members)
                .map(|index| {
                    let disk = Faulty { used: true, ..Faulty::new(&format!("/disks/{index}")) };
                    disk.inner.tamper(|bytes| bytes[2 << 20..].fill(0x5a + index as u8));
                    disk
                })
                .collect();
            let mut world = World::over(disks, level, members).await;
            assert_eq!(world.array.status().await.state, ArrayState::Resyncing, "{level}");
            let spec = VolumeSpec {
                name: "v".to_owned(),
                size_bytes: 1 << 20,
                write_cache: false,
                physical_block_bytes: None,
            };
            let volume = world.array.create_volume(spec).await.unwrap();
            let (bytes, result) = volume.read(0, Buffer::zeroed(1 << 20)).await;
            result.unwrap();
            assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows nothing of the disks' past");
            volume.write(4096, vec![7; 8192].into(), Durability::Durable).await.unwrap();
            // Killed before the sync is through: it is not forgotten.
            world.array.core.stopping.store(true, Ordering::Release);
            world.array = world.assemble(&[], false).await.unwrap();
            world.wait_for(ArrayState::Optimal).await;
            world.check_redundancy().await;
            let volume = world.array.volume("v").unwrap();
            let (bytes, result) = volume.read(0, Buffer::zeroed(16 << 10)).await;
            result.unwrap();
            assert!(bytes[..4096].iter().all(|&b| b == 0) && bytes[4096..12_288].iter().all(|&b| b == 7));
        });
    }
}

/// Where a unit's row (parity levels) or first copy lies: the disk, and the bytes on it.
fn place_of(world: &World, unit: u64, row: crate::geometry::Row) -> (usize, std::ops::Range<u64>) {
    let core = &world.array.core;
    let index = core.geometry.row_member(unit, row);
    let table = core.table();
    let member = table.usable(index, unit).unwrap();
    let disk = (0..world.disks.len()).find(|&i| path(i) == member.path).unwrap();
    let start = member.layout.data_offset + core.geometry.stripe_offset(unit);
    (disk, start..start + u64::from(core.geometry.chunk_bytes()))
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
fn a_document_that_a_crash_left_on_one_member_outlives_that_member() {
    run(async {
        let mut world = World::new(Level::Raid1, 2, 0).await;
        // The daemon dies when the first member has the new document and the second does not.
        let layout = world.array.core.table().active().next().unwrap().1.layout.clone();
        let before = world.disks[1].inner.contents();
        let spec = VolumeSpec {
            name: "v".to_owned(),
            size_bytes: 1 << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        world.array.create_volume(spec).await.unwrap();
        world.array.core.stopping.store(true, Ordering::Release);
        for region in layout.config {
            let bytes = region.offset as usize..(region.offset + region.len) as usize;
            world.disks[1].inner.tamper(|disk| disk[bytes.clone()].copy_from_slice(&before[bytes]));
        }
        world.array = world.assemble(&[], false).await.unwrap();
        let volume = world.array.volume("v").expect("the newest document counts");
        volume.write(0, vec![7; 8192].into(), Durability::Durable).await.unwrap();
        world.array.stop().await.unwrap();
        // What was served once stays.
        world.array = world.assemble(&[0], false).await.unwrap();
        let volume = world.array.volume("v").expect("its data was acknowledged");
        let (bytes, result) = volume.read(0, Buffer::zeroed(8192)).await;
        result.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
    });
}

#[test]
fn a_spare_that_was_away_learns_the_document_before_it_holds_data() {
    run(async {
        let mut world = World::new(Level::Raid1, 2, 1).await;
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[2], false).await.unwrap();
        for name in ["a", "b", "c"] {
            let spec = VolumeSpec {
                name: name.to_owned(),
                size_bytes: 1 << 20,
                write_cache: false,
                physical_block_bytes: None,
            };
            world.array.create_volume(spec).await.unwrap();
        }
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
        world.array.fail(&path(0), false).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.array.fail(&path(1), false).await.unwrap();
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[0, 1], false).await.unwrap();
        assert_eq!(world.array.volumes().len(), 3);
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
fn a_write_under_way_never_lands_in_space_that_was_given_to_another_volume() {
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        let spec = |name: &str, mib: u64| VolumeSpec {
            name: name.to_owned(),
            size_bytes: mib << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        // Its second half lies behind another volume, so that a write across the middle is two.
        let old = world.array.create_volume(spec("old", 1)).await.unwrap();
        world.array.create_volume(spec("between", 1)).await.unwrap();
        world.array.resize_volume("old", 2 << 20, false).await.unwrap();
        for shrinks in [true, false] {
            for disk in &world.disks {
                disk.slow.store(7, Ordering::Relaxed);
            }
            let mut data = vec![7; 8192];
            data[4096..].fill(8);
            let writing = old.write((1 << 20) - 4096, data.into(), Durability::Durable);
            let giving_away = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if shrinks {
                    world.array.resize_volume("old", 1 << 20, true).await.unwrap();
                } else {
                    world.array.delete_volume("old").await.unwrap();
                    world.array.create_volume(spec("first-gap", 1)).await.unwrap();
                }
                world.array.create_volume(spec("new", 1)).await.unwrap()
            };
            let (_, new) = futures_util::join!(writing, giving_away);
            let (bytes, result) = new.read(0, Buffer::zeroed(1 << 20)).await;
            result.unwrap();
            assert!(
                bytes.iter().all(|&byte| byte == 0),
                "the new volume holds what was written to the old one"
            );
            let late = old.write(1 << 20, block(9).into(), Durability::Durable).await;
            assert_eq!(late.unwrap_err().kind, IoErrorKind::OutOfRange);
            if shrinks {
                world.array.delete_volume("new").await.unwrap();
                world.array.resize_volume("old", 2 << 20, false).await.unwrap();
            }
        }
    });
}

/// The superblock on a disk, and what md or mdadm might have made of it.
fn change_superblock(disk: &Faulty, change: impl FnOnce(&mut crate::format::superblock::Superblock)) {
    use crate::format::superblock::{SUPER_OFFSET_BYTES, Superblock};
    let at = SUPER_OFFSET_BYTES as usize;
    disk.inner.tamper(|bytes| {
        let mut superblock = Superblock::parse(&bytes[at..]).unwrap();
        change(&mut superblock);
        bytes[at..at + 4096].copy_from_slice(&superblock.encode());
    });
}

#[test]
fn what_md_says_of_one_device_is_not_said_of_the_others() {
    use crate::format::superblock::{Features, Role};
    run(async {
        // Stopped while md was copying slot 0 to a third device, which happens to come first by its UUID.
        let mut world = World::new(Level::Raid1, 2, 0).await;
        world.array.write(0, block(3).into(), Durability::Durable).await.unwrap();
        world.array.stop().await.unwrap();
        let copy = Faulty::new(&path(2).display().to_string());
        let bytes = world.disks[0].inner.contents();
        copy.inner.tamper(|disk| disk.copy_from_slice(&bytes));
        world.disks.push(copy);
        for disk in &world.disks {
            change_superblock(disk, |superblock| superblock.roles = [0, 1, 0].map(Role::Active).to_vec());
        }
        change_superblock(&world.disks[2], |superblock| {
            superblock.dev_number = 2;
            superblock.device_uuid = Uuid::nil();
            superblock.recovery_offset = Some(8);
            superblock.features = superblock.features.with(Features::REPLACEMENT);
        });
        for _ in 0..2 {
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.status().await.state, ArrayState::Optimal);
            world.array.stop().await.unwrap();
        }
    });
}

#[test]
fn blocks_that_md_lists_as_bad_are_not_read() {
    use crate::format::superblock::Features;
    run(async {
        let world = World::new(Level::Raid1, 2, 0).await;
        world.array.stop().await.unwrap();
        change_superblock(&world.disks[1], |superblock| {
            superblock.features = superblock.features.with(Features::BAD_BLOCKS);
        });
        let refused = world.assemble(&[], false).await.unwrap_err();
        assert!(matches!(refused, AssembleError::Unsupported { .. }), "{refused:?}");
        world.assemble(&[1], false).await.unwrap();
    });
}

#[test]
fn the_places_that_mdadm_chose_stay_in_the_superblock() {
    use crate::format::superblock::BadBlockLog;
    run(async {
        let mut world = World::new(Level::Raid1, 2, 0).await;
        let headers = world.array.core.table().active().next().unwrap().1.layout.headers;
        world.array.stop().await.unwrap();
        // mdadm puts the log right behind its small bitmap, and keeps no labsan area.
        let log = BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: 24 };
        for disk in &world.disks {
            change_superblock(disk, |superblock| {
                superblock.bitmap_offset = Some(16);
                superblock.bad_block_log = log;
            });
            disk.inner.tamper(|bytes| {
                bytes.copy_within(8192..8192 + 4096, 4096 + 16 * 512);
                bytes[headers.offset as usize..][..headers.len as usize].fill(0);
            });
        }
        for _ in 0..2 {
            world.array = world.assemble(&[], false).await.unwrap();
            world.array.stop().await.unwrap();
            for disk in &world.disks {
                change_superblock(disk, |superblock| {
                    assert_eq!((superblock.bitmap_offset, superblock.bad_block_log), (Some(16), log));
                });
            }
        }
    });
}

#[test]
fn a_resync_goes_around_what_cannot_be_read() {
    use crate::geometry::Row;
    run(async {
        let mut world = World::new(Level::Raid5, 3, 0).await;
        world.array.core.written.set_all();
        world.array.core.dirty.mark_all_unsynced();
        let units = world.array.core.geometry.units();
        let bits = world.array.core.dirty.unsynced_count();
        assert!(bits > 2);
        // Parity can be computed anew; a data block can not, and its region stays as it is.
        let (parity, range) = place_of(&world, units - 1, Row::P);
        world.disks[parity].bad.lock().unwrap().push(range);
        let (data, range) = place_of(&world, 0, Row::Data(0));
        world.disks[data].bad.lock().unwrap().push(range.clone());
        world.array.core.keeper.notify_one();
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            if world.array.core.dirty.unsynced_count() <= 1 {
                break;
            }
        }
        assert_eq!(world.array.core.dirty.unsynced_count(), 1, "one bad block holds up all the rest");
        // Once it is rewritten the region can be resynced as well.
        let chunk = world.array.core.geometry.chunk_bytes() as usize;
        world.array.write(0, vec![3; chunk].into(), Durability::Durable).await.unwrap();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
        world.array.stop().await.unwrap();
        world.array = world.assemble(&[], false).await.unwrap();
    });
}

#[test]
fn a_write_that_ran_out_of_space_behind_the_resync_is_not_forgotten() {
    use crate::geometry::Row;
    run(async {
        let world = World::new(Level::Raid5, 3, 0).await;
        let core = &world.array.core;
        let chunk = u64::from(core.geometry.chunk_bytes());
        core.written.set_all();
        core.dirty.mark_unsynced(0..1);
        // The last window of the first region takes long; the write comes when the first stripe is done.
        let last = core.bits_of(0..1).end * u64::from(core.bitmap.chunk_bytes) / chunk - 1;
        let (data, range) = place_of(&world, last, Row::Data(0));
        world.disks[data].inner.tamper(|bytes| bytes[range.start as usize..range.end as usize].fill(7));
        for disk in &world.disks {
            disk.slow.store(7, Ordering::Relaxed);
        }
        core.keeper.notify_one();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(core.dirty.unsynced_count(), 1, "the resync is at its last window");
        let (parity, range) = place_of(&world, 0, Row::P);
        world.disks[parity].unwritable.lock().unwrap().push((range, IoErrorKind::NoSpace));
        let refused = world.array.write(0, block(5).into(), Durability::Durable).await.unwrap_err();
        assert_eq!(refused.kind, IoErrorKind::NoSpace);
        tokio::time::sleep(Duration::from_millis(800)).await;
        assert_eq!(core.dirty.unsynced_count(), 1, "the stripe is half-written and nobody knows");
        world.disks[parity].unwritable.lock().unwrap().clear();
        world.wait_for(ArrayState::Optimal).await;
        world.check_redundancy().await;
    });
}

#[test]
fn unreadable_metadata_of_one_member_does_not_keep_the_array_from_starting() {
    for (level, members) in SHAPES {
        run(async {
            let mut world = World::new(level, members, 0).await;
            let spec = VolumeSpec {
                name: "v".to_owned(),
                size_bytes: 1 << 20,
                write_cache: false,
                physical_block_bytes: None,
            };
            let volume = world.array.create_volume(spec).await.unwrap();
            volume.write(0, block(3).into(), Durability::Durable).await.unwrap();
            let layout = world.array.core.table().active().next().unwrap().1.layout.clone();
            let dirty = world.array.core.dirty.dirty_count();
            // The daemon dies, and sectors of the first member's bitmap, config and list of lost blocks go bad.
            world.array.core.stopping.store(true, Ordering::Release);
            let regions = layout.config.into_iter().chain(layout.lost).chain([layout.bitmap]);
            let bad = regions.map(crate::format::layout::Region::bytes);
            world.disks[0].bad.lock().unwrap().extend(bad);
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.core.dirty.unsynced_count(), dirty, "{level}");
            assert_eq!(world.array.volumes().len(), 1, "{level}");
        });
    }
}

#[test]
fn space_that_md_wrote_to_meanwhile_is_zeroed_before_it_is_given_away() {
    run(async {
        let mut world = World::new(Level::Raid1, 2, 0).await;
        world.array.stop().await.unwrap();
        for disk in &world.disks {
            change_superblock(disk, |superblock| superblock.events += 5);
            let data = world.array.core.table().active().next().unwrap().1.layout.data_offset as usize;
            disk.inner.tamper(|bytes| bytes[data..data + (2 << 20)].fill(0x3d));
        }
        world.array = world.assemble(&[], false).await.unwrap();
        let spec = VolumeSpec {
            name: "v".to_owned(),
            size_bytes: 1 << 20,
            write_cache: false,
            physical_block_bytes: None,
        };
        let volume = world.array.create_volume(spec).await.unwrap();
        let (bytes, result) = volume.read(0, Buffer::zeroed(1 << 20)).await;
        result.unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows what md wrote");
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
fn a_rebuild_that_cannot_go_on_leaves_the_bitmap_swept() {
    use crate::geometry::Row;
    run(async {
        let mut world = World::new(Level::Raid5, 3, 1).await;
        let stripe = u64::from(world.array.core.geometry.unit_data_bytes());
        for unit in 0..4 {
            world.array.write(unit * stripe, block(unit + 1).into(), Durability::Durable).await.unwrap();
        }
        // Two rows of a stripe that nobody writes are gone.
        let (lost, _) = place_of(&world, 9, Row::Data(0));
        let (unreadable, range) = place_of(&world, 9, Row::Data(1));
        world.disks[unreadable].bad.lock().unwrap().push(range);
        world.disks[unreadable].timeouts.store(true, Ordering::Relaxed);
        world.array.fail(&path(lost), false).await.unwrap();
        tokio::time::sleep(Duration::from_millis(6 * crate::limits::SWEEP_INTERVAL_MS)).await;
        assert_eq!(world.array.status().await.state, ArrayState::Rebuilding);
        assert_eq!(world.array.core.dirty.dirty_count(), 0);
        // So a crash in this state needs no --force.
        world.array.core.stopping.store(true, Ordering::Release);
        world.array = world.assemble(&[lost], false).await.unwrap();
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

#[test]
fn a_resync_without_a_bitmap_goes_on_where_it_was() {
    for policy in [Policy::Journal, Policy::None] {
        run(async {
            let disks: Vec<Faulty> = (0..4).map(|i| Faulty::new(&format!("/disks/{i}"))).collect();
            let mut world = World::over_with(disks, Level::Raid5, 4, policy).await;
            let core = Arc::clone(&world.array.core);
            let bits = core.bitmap.bits();
            core.dirty.mark_unsynced(bits - 2..bits);
            world.array.stop().await.unwrap();
            let expected = core.bitmap.sectors_of(bits - 2).start;
            change_superblock(&world.disks[0], |found| {
                assert_eq!(found.resync_offset, expected, "{policy:?}");
            });
            world.array = world.assemble(&[], false).await.unwrap();
            assert_eq!(world.array.core.dirty.unsynced_count(), 2, "{policy:?}");
            world.wait_for(ArrayState::Optimal).await;
            world.array.stop().await.unwrap();
            change_superblock(&world.disks[0], |found| assert!(found.is_clean(), "{policy:?}"));
        });
    }
}
