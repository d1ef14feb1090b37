//! A disk with a volatile write cache, and everything that can happen to it.
//!
//! `view` is what reads see. What is in the view but not yet durable is listed in `cached` (ended writes, in order) and
//! `in_flight` (begun, not ended); `base` holds what is durable of the pages that those touched. At a power cut the
//! pages of `base` come back, and each listed write is kept, dropped, or torn at sectors over them.
//!
//! Assumptions about the medium: a sector of 512 bytes is written wholly or not at all; what a flush or a durable
//! write covered stays. Bit rot, lost and misdirected writes break the second one: they are here, and off, until the engine keeps
//! checksums.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_io::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult,
    Zeroing,
};
use bytes::Bytes;

use crate::pages::{PAGE, Page, Pages, pieces};
use crate::rng::Rng;
use crate::world::{Event, Kind, World};

pub(crate) const SECTOR: u64 = 512;

/// What kind of disk it is, for life.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Make {
    pub(crate) size_bytes: u64,
    pub(crate) block_bytes: u32,
    pub(crate) cheap_zeroing: bool,
    pub(crate) discards: bool,
}

/// A write that is not durable yet; no data means zeros.
struct Pending {
    token: u64,
    offset: u64,
    length: u64,
    data: Option<Bytes>,
    /// When it began (in flight) or ended (cached), in the disk's own count.
    order: u64,
}

struct State {
    /// Handles of an earlier generation are of a disk that went away.
    generation: u64,
    gone: bool,
    view: Pages,
    base: HashMap<usize, Option<Arc<Page>>>,
    cached: Vec<Pending>,
    in_flight: Vec<Pending>,
    order: u64,
    bad: Vec<Range<u64>>,
    failing_writes: u32,
    failing_flushes: u32,
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
            view: Pages::new(make.size_bytes),
            base: HashMap::new(),
            cached: Vec::new(),
            in_flight: Vec::new(),
            order: 0,
            bad: Vec::new(),
            failing_writes: 0,
            failing_flushes: 0,
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
        state.gone || !state.bad.is_empty() || state.failing_writes > 0 || state.failing_flushes > 0
    }

    /// All faults but its absence are over.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.bad.clear();
        (state.failing_writes, state.failing_flushes) = (0, 0);
        state.slowness = 1;
        (state.lost_writes, state.misdirected) = (0, None);
    }

    /// Requests do not fail any more; what cannot be read stays so.
    pub(crate) fn calm(&self) {
        let mut state = self.state();
        (state.failing_writes, state.failing_flushes) = (0, 0);
    }

    /// Handles are dead from now on; what they have under way is not.
    pub(crate) fn detach(&self) {
        self.state().generation += 1;
    }

    /// The run is over: give the memory back, whoever still holds a handle.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.view = Pages::new(0);
        state.base.clear();
        state.cached.clear();
        state.in_flight.clear();
    }

    /// Somebody else's data, here and there.
    pub(crate) fn litter(&self, rng: &mut Rng) {
        let mut state = self.state();
        for _ in 0..64 {
            let page = rng.between(256, self.make.size_bytes / PAGE as u64 / 2);
            let bytes: Vec<u8> = (0..PAGE / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
            state.view.write(page * PAGE as u64, &bytes);
        }
    }

    /// It loses its power: its cache goes, handles are dead.
    pub(crate) fn vanish(&self, rng: &mut Rng) {
        self.power_cut(rng);
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

    pub(crate) fn fail_flushes(&self, count: u32) {
        self.state().failing_flushes += count;
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
        self.state().view.write(offset, data);
    }

    /// Look at a page of what reads see.
    pub(crate) fn with_page<T>(&self, index: usize, look: impl FnOnce(Option<&Page>) -> T) -> T {
        look(self.state().view.page(index))
    }

    /// The power goes: of what was not durable each write is kept, dropped or torn.
    pub(crate) fn power_cut(&self, rng: &mut Rng) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.generation += 1;
        for (index, page) in state.base.drain() {
            state.view.set(index, page);
        }
        let mut pending = std::mem::take(&mut state.cached);
        for late in state.in_flight.drain(..) {
            // Not before what had ended when it began; anywhere after that.
            let first = pending.partition_point(|ended| ended.order < late.order);
            let at = first + rng.below((pending.len() - first) as u64 + 1) as usize;
            // Those behind it may themselves be late ones: any order among them will do.
            let order = if at == 0 { late.order } else { pending[at - 1].order.max(late.order) };
            let order = pending.get(at).map_or(order, |next| order.min(next.order));
            pending.insert(at, Pending { order, ..late });
        }
        let kept_percent = rng.pick(&[0, 15, 50, 85, 100]);
        for write in pending {
            if rng.chance(20) {
                for sector in 0..write.length / SECTOR {
                    if rng.chance(50) {
                        write.apply_part(&mut state.view, sector * SECTOR, SECTOR);
                    }
                }
            } else if rng.chance(kept_percent) {
                write.apply_part(&mut state.view, 0, write.length);
            }
        }
    }
}

/// The path a disk is known by.
pub(crate) fn path_of(index: usize) -> String {
    format!("/disks/{index}")
}

impl Pending {
    fn apply_part(&self, to: &mut Pages, start: u64, length: u64) {
        match &self.data {
            Some(data) => to.write(self.offset + start, &data[start as usize..(start + length) as usize]),
            None => to.zero(self.offset + start, length),
        }
    }

    fn end(&self) -> u64 {
        self.offset + self.length
    }

    /// What is left of it outside of `range`.
    fn without(&self, range: &Range<u64>) -> smallvec::SmallVec<[Self; 2]> {
        [(self.offset, self.end().min(range.start)), (self.offset.max(range.end), self.end())]
            .into_iter()
            .filter(|(from, to)| from < to)
            .map(|(from, to)| Self {
                token: self.token,
                offset: from,
                length: to - from,
                data: self
                    .data
                    .as_ref()
                    .map(|data| data.slice((from - self.offset) as usize..(to - self.offset) as usize)),
                order: self.order,
            })
            .collect()
    }
}

impl State {
    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// Lay the write over durable pages, where those are kept apart from the view.
    fn apply_to_base(&mut self, write: &Pending) {
        for (index, start, range) in pieces(write.offset, write.length as usize) {
            let Some(slot) = self.base.get_mut(&index) else { continue };
            let page = Arc::make_mut(slot.get_or_insert_with(|| Arc::new([0; PAGE])));
            let target = &mut page[start..start + range.len()];
            match &write.data {
                Some(data) => target.copy_from_slice(&data[range]),
                None => target.fill(0),
            }
        }
    }

    /// A write ends: reads see it; it is durable now or waits in the cache.
    fn end_write(&mut self, mut write: Pending, durable: bool) {
        self.bad = std::mem::take(&mut self.bad)
            .into_iter()
            .flat_map(|bad| [bad.start..bad.end.min(write.offset), bad.start.max(write.end())..bad.end])
            .filter(|bad| !bad.is_empty())
            .collect();
        if self.lost_writes > 0 {
            self.lost_writes -= 1;
            return;
        }
        if let Some(by) = self.misdirected.take() {
            write.offset += by;
        }
        write.order = self.next_order();
        if durable {
            let range = write.offset..write.end();
            if !self.base.is_empty() {
                self.apply_to_base(&write);
                self.cached = std::mem::take(&mut self.cached)
                    .into_iter()
                    .flat_map(|cached| cached.without(&range))
                    .collect();
            }
            write.apply_part(&mut self.view, 0, write.length);
            return;
        }
        for (index, ..) in pieces(write.offset, write.length as usize) {
            let view = &self.view;
            self.base.entry(index).or_insert_with(|| view.get(index));
        }
        write.apply_part(&mut self.view, 0, write.length);
        // The buffer is the engine's, from a bounded pool: an ended write must not keep it.
        write.data = write.data.map(|data| Bytes::copy_from_slice(&data));
        self.cached.push(write);
    }

    /// A flush that began at `mark` ends.
    fn end_flush(&mut self, mark: u64) {
        let (durable, cached): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.cached).into_iter().partition(|write| write.order <= mark);
        self.cached = cached;
        if self.cached.is_empty() {
            self.base.clear();
            return;
        }
        for write in durable {
            self.apply_to_base(&write);
        }
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
        let begin = |state: &mut State| {
            let order = state.next_order();
            state.in_flight.push(Pending { token: order, offset, length, data, order });
            order
        };
        let end = |state: &mut State, token: u64| {
            let at = state.in_flight.iter().position(|write| write.token == token);
            let Some(at) = at else { return Err(IoErrorKind::Gone) };
            let write = state.in_flight.swap_remove(at);
            if state.failing_writes > 0 {
                state.failing_writes -= 1;
                return Err(IoErrorKind::Other);
            }
            state.end_write(write, durable);
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
            let begin = |state: &mut State| state.view.read(offset, early);
            let late_from = offset + (length - rest.len() as u64);
            let end = |state: &mut State, ()| {
                state.view.read(late_from, rest);
                let hit = |bad: &Range<u64>| bad.start < offset + length && offset < bad.end;
                if state.bad.iter().any(hit) { Err(IoErrorKind::Medium) } else { Ok(()) }
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
            state.end_flush(mark);
            Ok(())
        };
        Box::pin(self.run((Kind::Flush, IoOperation::Flush), 0, 0, |state| state.order, end))
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
