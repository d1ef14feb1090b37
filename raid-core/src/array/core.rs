//! What every part of the engine shares: the array's state, and the small questions asked of it.
//!
//! Locks, in the order in which they are taken: `keeper_turn`, `volume_turn`, the turn of `redo`, unit locks, then `control`, then `written_turn`, then `bitmap_turn`.
//! `control` is held while superblocks and config are written, `written_turn` while the written map is, `bitmap_turn` while the bitmap
//! is. No lock of std is held across an await.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use block_io::{BufferPool, DeviceInfo, IoError, IoErrorKind, IoOperation, Zeroing};
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

use super::dirty::DirtyMap;
use super::in_flight::{InFlight, InFlightGuard};
use super::journal::{Journal, Redo};
use super::locks::UnitLocks;
use super::metadata::Control;
use super::status::{Activity, ArrayEvent};
use super::table::MemberTable;
use super::unit_set::UnitSet;
use super::written::WrittenRegions;
use crate::format::SECTOR_BYTES;
use crate::format::bitmap::BitmapHeader;
use crate::format::labsan::Policy;
use crate::format::labsan::lost::LostBlocks;
use crate::geometry::Geometry;
use crate::parity::Kernel;

/// The state of one running array.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) name: Arc<str>,
    pub(crate) uuid: Uuid,
    pub(crate) geometry: Geometry,
    pub(crate) policy: Policy,
    pub(crate) info: DeviceInfo,
    pub(crate) kernel: &'static Kernel,
    pub(crate) table: ArcSwap<MemberTable>,
    pub(crate) locks: Arc<UnitLocks>,
    pub(crate) dirty: DirtyMap,
    /// The shape of the bitmap; its `events` are filled in when it is written.
    pub(crate) bitmap: BitmapHeader,
    pub(crate) bitmap_events: AtomicU64,
    pub(crate) events_cleared: AtomicU64,
    pub(crate) bitmap_turn: tokio::sync::Mutex<()>,
    pub(crate) written: WrittenRegions,
    pub(crate) written_turn: tokio::sync::Mutex<()>,
    pub(crate) control: tokio::sync::Mutex<Control>,
    /// Held by whoever makes, resizes or deletes a volume, from the choice of its place until it is durable.
    pub(crate) volume_turn: tokio::sync::Mutex<()>,
    /// Parity and what is read to compute it. Whoever takes from it takes all it needs at once and waits for
    /// nobody else's memory meanwhile.
    pub(crate) scratch: BufferPool,
    pub(crate) gate: Arc<InFlight>,
    /// More members are lost than the level tolerates: no more writes.
    pub(crate) failed: AtomicBool,
    pub(crate) keeper: Notify,
    /// Held by the keeper for as long as it runs: who has it knows that nothing goes on in the background.
    pub(crate) keeper_turn: tokio::sync::Mutex<()>,
    pub(crate) stopping: AtomicBool,
    pub(crate) events: broadcast::Sender<ArrayEvent>,
    /// Of RAID 5 and 6 with the policy `journal`.
    pub(crate) journal: Option<Journal>,
    /// Of RAID 1 and 10: the record of the atomic write that is under way.
    pub(crate) redo: Option<Redo>,
    /// Held by whoever destages in the background, for as long as it runs.
    pub(crate) destage_turn: tokio::sync::Mutex<()>,
    /// Blocks that nobody can know any more.
    pub(crate) lost: Mutex<LostBlocks>,
    pub(crate) lost_turn: tokio::sync::Mutex<()>,
    /// Raised with every change of the list, before anything stands in for what is lost.
    pub(crate) lost_changes: AtomicU64,
    /// Stripes of regions out of sync that were made whole since the start.
    pub(crate) settled: Mutex<UnitSet>,
    pub(crate) activity: Mutex<Option<Activity>>,
    pub(crate) notes: Mutex<Vec<String>>,
}

impl Core {
    pub(crate) fn table(&self) -> Arc<MemberTable> {
        self.table.load_full()
    }

    pub(crate) fn error(
        &self,
        kind: IoErrorKind,
        operation: IoOperation,
        offset: u64,
        length: u64,
    ) -> IoError {
        IoError::new(kind, operation, &self.name, offset, length)
    }

    /// Let a client operation in, after checking its range.
    pub(crate) fn enter(
        &self,
        operation: IoOperation,
        offset: u64,
        length: u64,
    ) -> Result<InFlightGuard, IoError> {
        let block = u64::from(self.info.logical_block_bytes);
        if !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
            return Err(self.error(IoErrorKind::Misaligned, operation, offset, length));
        }
        if offset.checked_add(length).is_none_or(|end| end > self.geometry.size_bytes()) {
            return Err(self.error(IoErrorKind::OutOfRange, operation, offset, length));
        }
        self.gate.enter().ok_or_else(|| self.error(IoErrorKind::Stopped, operation, offset, length))
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The bitmap's bits for a unit.
    pub(crate) fn bits_of(&self, units: Range<u64>) -> Range<u64> {
        let start = self.geometry.unit_bitmap_range(units.start).start;
        let end = self.geometry.unit_bitmap_range(units.end.saturating_sub(1)).end;
        self.bitmap.bits_of(start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES))
    }

    /// Parity or copies of this unit agree with its data.
    pub(crate) fn in_sync(&self, unit: u64) -> bool {
        !self.dirty.is_unsynced(self.bits_of(unit..unit + 1)) || lock(&self.settled).contains(unit)
    }

    /// These units' parity agrees with their data, whatever is said of their region.
    pub(crate) fn trust(&self, units: Range<u64>) {
        if self.dirty.is_unsynced(self.bits_of(units.clone())) {
            lock(&self.settled).insert(units);
        }
    }

    /// These units may not agree: resync is to go over their regions. What else lies there is as good as it was.
    pub(crate) fn distrust(&self, units: Range<u64>) {
        let bits = self.bits_of(units.clone());
        let synced = |unit: &u64| !self.dirty.is_unsynced(self.bits_of(*unit..*unit + 1));
        let beside: Vec<u64> = bits.clone().flat_map(|bit| self.units_of_bit(bit)).filter(synced).collect();
        let mut settled = lock(&self.settled);
        beside.into_iter().for_each(|unit| settled.insert(unit..unit + 1));
        settled.remove(units);
        drop(settled);
        self.dirty.mark_unsynced(bits);
    }

    /// Resync was here: nothing need be known of single units.
    pub(crate) fn forget_settled(&self, units: Range<u64>) {
        lock(&self.settled).remove(units);
    }

    pub(crate) fn emit(&self, event: ArrayEvent) {
        tracing::info!(array = %self.name, ?event, "array event");
        // Nobody listening is no failure.
        let _ = self.events.send(event);
    }

    pub(crate) fn note(&self, note: String) {
        tracing::warn!(array = %self.name, "{note}");
        let mut notes = lock(&self.notes);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    pub(crate) fn set_activity(&self, activity: Option<Activity>) {
        *lock(&self.activity) = activity;
    }
}

/// The journal needs no bitmap: what was under way is in it.
pub(crate) fn keeps_bitmap(policy: Policy) -> bool {
    policy == Policy::Bitmap
}

/// A std lock whose holder cannot panic half-way through a change.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the array can do, from what its members can. `region_bytes`: of the written map.
pub(crate) fn combined_info(geometry: &Geometry, region_bytes: u64, members: &[DeviceInfo]) -> DeviceInfo {
    let all = |ability: fn(&DeviceInfo) -> bool| members.iter().all(ability);
    DeviceInfo {
        size_bytes: geometry.size_bytes(),
        logical_block_bytes: members.iter().map(|m| m.logical_block_bytes).max().unwrap_or(512),
        physical_block_bytes: members.iter().map(|m| m.physical_block_bytes).max().unwrap_or(4096),
        optimal_write_bytes: geometry.stripe_data_bytes(),
        volatile_write_cache: !all(|m| !m.volatile_write_cache),
        // Where members cannot, zeros are written instead: clients always get zeros back.
        discard: true,
        discard_grain_bytes: geometry.data_bytes_of_members(region_bytes),
        zeroing: if all(|m| m.zeroing == Zeroing::Cheap) { Zeroing::Cheap } else { Zeroing::Slow },
        thin: !all(|m| !m.thin),
        read_only: false,
    }
}
