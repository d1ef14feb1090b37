//! A disk with a volatile write cache, and everything that can happen to it.
//!
//! What it holds, and what a power cut leaves of that, is its [`Medium`]. Here are its faults: it goes away and comes back, has
//! ranges that cannot be read, fails writes and flushes, is slow. Bit rot, lost and misdirected writes break what the engine may
//! assume of a medium: they are here, and off, until it keeps checksums.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_io::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult,
    Zeroing,
};
use bytes::Bytes;

use crate::medium::{Medium, Pending, Recent};
use crate::pages::{PAGE, Page};
use crate::rng::Rng;
use crate::world::{Event, Kind, World};

pub(crate) const SECTOR: u64 = 512;

/// Where md's superblock is.
const SUPERBLOCK: Range<u64> = 4096..8192;

/// What kind of disk it is, for life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Make {
    pub(crate) size_bytes: u64,
    pub(crate) block_bytes: u32,
    pub(crate) cheap_zeroing: bool,
    pub(crate) discards: bool,
}

struct State {
    /// Handles of an earlier generation are of a disk that went away.
    generation: u64,
    gone: bool,
    medium: Medium,
    bad: Vec<Range<u64>>,
    failing_writes: u32,
    failing_flushes: u32,
    failing_reads: u32,
    /// Reads failed, and what met that may still be at it.
    flaky: bool,
    /// Cannot be read until the next power cut, unless written.
    weak: Vec<Range<u64>>,
    slowness: u64,
    /// Writes still to be acknowledged and forgotten.
    lost_writes: u32,
    /// Writes still to land this many bytes from where they belong.
    misdirected: Option<u64>,
}

/// One disk. Its handles are [`Handle`]s.
pub(crate) struct Disk {
    index: usize,
    name: Arc<str>,
    make: Make,
    world: Arc<World>,
    state: Mutex<State>,
}

impl Disk {
    pub(crate) fn new(index: usize, make: Make, world: &Arc<World>) -> Arc<Self> {
        let state = State {
            generation: 0,
            gone: false,
            medium: Medium::new(make.size_bytes),
            bad: Vec::new(),
            failing_writes: 0,
            failing_flushes: 0,
            failing_reads: 0,
            flaky: false,
            weak: Vec::new(),
            slowness: 1,
            lost_writes: 0,
            misdirected: None,
        };
        let name = path_of(index).into();
        Arc::new(Self { index, name, make, world: Arc::clone(world), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that works until the disk goes away or the machine does.
    pub(crate) fn handle(self: &Arc<Self>) -> Handle {
        Handle { disk: Arc::clone(self), generation: self.state().generation }
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.state().gone
    }

    /// It may fail what it is asked for next.
    pub(crate) fn has_faults(&self) -> bool {
        let state = self.state();
        let failing = state.failing_writes > 0 || state.failing_flushes > 0 || state.flaky;
        state.gone || !state.bad.is_empty() || !state.weak.is_empty() || failing
    }

    /// All faults but its absence are over.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.bad.clear();
        state.weak.clear();
        (state.failing_writes, state.failing_flushes) = (0, 0);
        (state.failing_reads, state.flaky) = (0, false);
        state.slowness = 1;
        (state.lost_writes, state.misdirected) = (0, None);
    }

    /// Requests do not fail any more; what cannot be read stays so.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        (state.failing_writes, state.failing_flushes) = (0, 0);
        (state.failing_reads, state.flaky) = (0, false);
    }

    /// Handles are dead from now on; what they have under way is not.
    pub(crate) fn detach(&self) {
        self.state().generation += 1;
    }

    /// The run is over: give the memory back, whoever still holds a handle.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.medium = Medium::new(0);
    }

    /// Somebody else's data, here and there.
    pub(crate) fn litter(&self, rng: &mut Rng) {
        let mut state = self.state();
        for _ in 0..64 {
            let page = rng.between(256, self.make.size_bytes / PAGE as u64 / 2);
            let bytes: Vec<u8> = (0..PAGE / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
            state.medium.overwrite(page * PAGE as u64, &bytes);
        }
    }

    /// It loses its power: its cache goes, handles are dead.
    pub(crate) fn vanish(&self, rng: &mut Rng) {
        let _ = self.power_cut(rng);
        self.state().gone = true;
    }

    /// It is back, with what was durable on it.
    pub(crate) fn come_back(&self) {
        self.state().gone = false;
    }

    /// These bytes cannot be read until they are written again.
    pub(crate) fn spoil(&self, range: Range<u64>) {
        self.state().bad.push(range);
    }

    pub(crate) fn fail_writes(&self, count: u32) {
        self.state().failing_writes += count;
    }

    /// The next reads fail, wherever they are; once more they would not.
    pub(crate) fn fail_reads(&self, count: u32) {
        let mut state = self.state();
        state.failing_reads += count;
        state.flaky = true;
    }

    /// Nobody is at anything that met a read which failed.
    pub(crate) fn forgive(&self) {
        let mut state = self.state();
        state.flaky = state.failing_reads > 0;
    }

    pub(crate) fn fail_flushes(&self, count: u32) {
        self.state().failing_flushes += count;
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.state().slowness > 1
    }

    pub(crate) fn set_slowness(&self, slowness: u64) {
        self.state().slowness = slowness;
    }

    /// The next writes are acknowledged and forgotten.
    pub(crate) fn lose_writes(&self, count: u32) {
        self.state().lost_writes += count;
    }

    /// The next write lands `by` bytes further on.
    pub(crate) fn misdirect_write(&self, by: u64) {
        self.state().misdirected = Some(by);
    }

    /// Change bytes behind everyone's back.
    pub(crate) fn rot(&self, offset: u64, data: &[u8]) {
        self.state().medium.overwrite(offset, data);
    }

    /// Look at a page of what reads see.
    pub(crate) fn with_page<T>(&self, index: usize, look: impl FnOnce(Option<&Page>) -> T) -> T {
        look(self.state().medium.view().page(index))
    }

    /// The power goes: of what was not durable each write is kept, dropped or torn.
    pub(crate) fn power_cut(&self, rng: &mut Rng) -> Vec<Recent> {
        let mut state = self.state();
        state.generation += 1;
        state.weak.clear();
        state.medium.power_cut(rng)
    }

    /// These bytes, just written, cannot be read until the power goes again, unless they are rewritten before.
    pub(crate) fn weaken(&self, range: Range<u64>) {
        // A superblock that cannot be read is nobody's: its disk would have to be left out by hand.
        if range.end <= SUPERBLOCK.start || SUPERBLOCK.end <= range.start {
            self.state().weak.push(range);
        }
    }
}

/// The path a disk is known by.
pub(crate) fn path_of(index: usize) -> String {
    format!("/disks/{index}")
}

impl State {
    /// A write ends: reads see it; it is durable now or waits in the cache.
    fn end_write(&mut self, mut write: Pending) {
        for unreadable in [&mut self.bad, &mut self.weak] {
            *unreadable = std::mem::take(unreadable)
                .into_iter()
                .flat_map(|bad| [bad.start..bad.end.min(write.offset), bad.start.max(write.end())..bad.end])
                .filter(|bad| !bad.is_empty())
                .collect();
        }
        if self.lost_writes > 0 {
            self.lost_writes -= 1;
            return;
        }
        if let Some(by) = self.misdirected.take() {
            write.offset += by;
        }
        self.medium.apply(write);
    }
}

/// An open disk: what the engine is given.
#[derive(Clone)]
pub(crate) struct Handle {
    disk: Arc<Disk>,
    generation: u64,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Handle").field(&self.disk.name).finish()
    }
}

impl Handle {
    fn error(&self, kind: IoErrorKind, operation: IoOperation, offset: u64, length: u64) -> IoError {
        IoError::new(kind, operation, &self.disk.name, offset, length)
    }

    fn is_dead(&self, state: &State) -> bool {
        state.gone || state.generation != self.generation
    }

    fn check_range(&self, operation: IoOperation, offset: u64, length: u64) -> Result<(), IoError> {
        let block = u64::from(self.disk.make.block_bytes);
        if !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
            return Err(self.error(IoErrorKind::Misaligned, operation, offset, length));
        }
        if offset + length > self.disk.make.size_bytes {
            return Err(self.error(IoErrorKind::OutOfRange, operation, offset, length));
        }
        Ok(())
    }

    /// Take a step, or hang for ever where there is no power.
    async fn step(&self, kind: Kind, ends: bool, offset: u64, length: u64) {
        if !self.disk.world.step(Event { kind, ends, disk: self.disk.index, offset, length }) {
            std::future::pending::<()>().await;
        }
    }

    async fn take_time(&self) {
        let slowness = self.disk.state().slowness;
        match self.disk.world.latency(slowness) {
            0 => tokio::task::yield_now().await,
            ms => tokio::time::sleep(std::time::Duration::from_millis(ms)).await,
        }
    }

    /// The common course of an operation that changes nothing until it ends.
    async fn run<T>(
        &self,
        (kind, operation): (Kind, IoOperation),
        offset: u64,
        length: u64,
        begin: impl FnOnce(&mut State) -> T,
        end: impl FnOnce(&mut State, T) -> Result<(), IoErrorKind>,
    ) -> Result<(), IoError> {
        self.check_range(operation, offset, length)?;
        let error = |kind| self.error(kind, operation, offset, length);
        // Without a step: whoever buries a dead engine must not change what happens next.
        if self.is_dead(&self.disk.state()) {
            return Err(error(IoErrorKind::Gone));
        }
        self.step(kind, false, offset, length).await;
        let begun = begin(&mut self.disk.state());
        self.take_time().await;
        if self.is_dead(&self.disk.state()) {
            return Err(error(IoErrorKind::Gone));
        }
        self.step(kind, true, offset, length).await;
        end(&mut self.disk.state(), begun).map_err(error)
    }

    async fn change(
        &self,
        (kind, operation): (Kind, IoOperation),
        offset: u64,
        length: u64,
        data: Option<Bytes>,
    ) -> Result<(), IoError> {
        let durable = kind == Kind::DurableWrite;
        let world = Arc::clone(&self.disk.world);
        let begin = |state: &mut State| {
            state.medium.begin_write(offset..offset + length, data, durable, world.steps())
        };
        let end = |state: &mut State, token: u64| {
            let Some(write) = state.medium.take_write(token) else { return Err(IoErrorKind::Gone) };
            if state.failing_writes > 0 {
                state.failing_writes -= 1;
                state.medium.fail_write(&write);
                return Err(IoErrorKind::Other);
            }
            state.end_write(write);
            Ok(())
        };
        self.run((kind, operation), offset, length, begin, end).await
    }
}

impl BlockDevice for Handle {
    fn info(&self) -> DeviceInfo {
        let Make { size_bytes, block_bytes, cheap_zeroing, discards } = self.disk.make;
        DeviceInfo {
            size_bytes,
            logical_block_bytes: block_bytes,
            physical_block_bytes: 4096,
            optimal_write_bytes: 0,
            volatile_write_cache: true,
            discard: discards,
            discard_grain_bytes: 0,
            zeroing: if cheap_zeroing { Zeroing::Cheap } else { Zeroing::Slow },
            thin: false,
            read_only: false,
        }
    }

    fn name(&self) -> &str {
        &self.disk.name
    }

    fn read(&self, offset: u64, mut buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            let length = buffer.len() as u64;
            // Part of it is read as the operation begins, the rest as it ends: reads are not atomic.
            let early = match self.disk.world.random(|rng| rng.below(8)) {
                0 => length / 2 / SECTOR * SECTOR,
                _ => 0,
            } as usize;
            let mut start = buffer.split_to(early);
            let (early, rest) = (&mut start, &mut buffer);
            let begin = |state: &mut State| state.medium.view().read(offset, early);
            let late_from = offset + (length - rest.len() as u64);
            let end = |state: &mut State, ()| {
                state.medium.view().read(late_from, rest);
                let hit = |bad: &Range<u64>| bad.start < offset + length && offset < bad.end;
                if state.failing_reads > 0 {
                    state.failing_reads -= 1;
                    return Err(IoErrorKind::Medium);
                }
                let unreadable = state.bad.iter().chain(&state.weak).any(hit);
                if unreadable { Err(IoErrorKind::Medium) } else { Ok(()) }
            };
            let result = self.run((Kind::Read, IoOperation::Read), offset, length, begin, end).await;
            match start.unsplit(buffer) {
                Ok(()) => (start, result),
                Err(rest) => (rest, result),
            }
        })
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        let kind = if durability == Durability::Durable { Kind::DurableWrite } else { Kind::Write };
        let length = data.len() as u64;
        Box::pin(self.change((kind, IoOperation::Write), offset, length, Some(data)))
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        let end = |state: &mut State, mark| {
            if state.failing_flushes > 0 {
                state.failing_flushes -= 1;
                return Err(IoErrorKind::Other);
            }
            state.medium.end_flush(mark);
            Ok(())
        };
        Box::pin(self.run((Kind::Flush, IoOperation::Flush), 0, 0, |state| state.medium.mark(), end))
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.change((Kind::Zero, IoOperation::Zero), offset, length, None).await?;
            // Zeroing goes through the cache like any write.
            if durability == Durability::Durable { self.flush().await } else { Ok(()) }
        })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        if !self.disk.make.discards {
            let error = self.error(IoErrorKind::Unsupported, IoOperation::Discard, offset, length);
            return Box::pin(std::future::ready(Err(error)));
        }
        Box::pin(self.change((Kind::Discard, IoOperation::Discard), offset, length, None))
    }
}
