//! Filling a spare. Units are taken in windows, in order; the position moves on while the window is held, so
//! every write sees a unit either as wholly rebuilt or as missing there.
//!
//! What was never written is made zeros on the spare, without reading anybody: whatever it holds is of another life. Progress counts
//! what costs time: where zeroing is cheap, only what was written.
//!
//! Order that crashes depend on: the spare is flushed before the checkpoint that counts on it is durable. After
//! a crash the rebuild goes on from the last checkpoint; what was rebuilt beyond it is done again.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation, Zeroing};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::core::Core;
use super::keeper::Ended;
use super::member::Member;
use super::settle::Trust;
use super::status::{Activity, ActivityKind, ArrayEvent};
use super::stripe_io::RowData;
use super::table::{MemberTable, RebuildPosition, Slot};
use crate::geometry::{Level, MemberIndex, Row};
use crate::limits;
use crate::sabotage::{Sabotage, planted};

const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(limits::CHECKPOINT_INTERVAL_MS);

/// Measures progress for people.
pub(crate) struct Pace {
    since: Instant,
    from_bytes: u64,
}

impl Pace {
    pub(crate) fn starting_at(bytes: u64) -> Self {
        Self { since: Instant::now(), from_bytes: bytes }
    }

    pub(crate) fn bytes_per_second(&self, done_bytes: u64) -> u64 {
        let elapsed = self.since.elapsed().as_secs_f64().max(0.001);
        (done_bytes.saturating_sub(self.from_bytes) as f64 / elapsed) as u64
    }
}

/// The rebuild under way.
struct Rebuild {
    slot: u16,
    member: Arc<Member>,
    position: Arc<RebuildPosition>,
    pace: Pace,
    checkpoint: Instant,
}

impl Core {
    /// Rebuild the slot that is being rebuilt, from its position to the end.
    pub(crate) async fn rebuild(&self) -> Ended {
        let Some((slot, member, position)) = self.table().rebuilding() else { return Ended::Interrupted };
        if self.geometry.level().has_parity() && self.dirty.unsynced_count() > 0 {
            self.note(format!(
                "slot {slot} cannot be rebuilt: {} regions are out of sync after an unclean stop and a member is \
                 missing; to accept what parity gives there, stop the array and start it with --force",
                self.dirty.unsynced_count()
            ));
            return Ended::Blocked;
        }
        let done = self.geometry.member_offset_before(MemberIndex(slot), position.get());
        let pace = Pace::starting_at(self.work_in(&member, &(0..done)));
        let checkpoint = Instant::now();
        let mut rebuild = Rebuild { slot, member, position, pace, checkpoint };
        match self.run_rebuild(&mut rebuild).await {
            Ok(ended) => ended,
            Err(error) => {
                self.background_write_failed(rebuild.member.number, &error).await;
                Ended::Interrupted
            }
        }
    }

    /// An error is of the member being rebuilt.
    async fn run_rebuild(&self, rebuild: &mut Rebuild) -> Result<Ended, IoError> {
        let mut seen = self.gate.started();
        while rebuild.position.get() < self.geometry.units() {
            if self.is_stopping() || !self.is_rebuilding(rebuild) {
                self.checkpoint(rebuild).await?;
                return Ok(Ended::Interrupted);
            }
            let began = Instant::now();
            let first = rebuild.position.get();
            let window = self.next_window(&rebuild.member, first);
            if let Err(error) = self.rebuild_window(rebuild, window).await {
                return self.after_failed_window(rebuild, error).await;
            }
            self.report_rebuild(rebuild);
            if rebuild.checkpoint.elapsed() >= CHECKPOINT_INTERVAL {
                self.checkpoint(rebuild).await?;
            }
            self.yield_to_clients(&mut seen, began.elapsed()).await;
        }
        match self.finish_rebuild(rebuild).await {
            Err(error) => self.after_failed_window(rebuild, error).await,
            ended => ended,
        }
    }

    /// A source that cannot be read leaves the slot as it is; an error of the target fails the target.
    async fn after_failed_window(&self, rebuild: &mut Rebuild, error: IoError) -> Result<Ended, IoError> {
        if *error.device == *rebuild.member.device.name() {
            return Err(error);
        }
        self.checkpoint(rebuild).await?;
        self.note(format!("the rebuild of slot {} stopped: {error}", rebuild.slot));
        // Tried again in a while; at once if a member's failure wakes the keeper.
        Ok(Ended::Blocked)
    }

    fn is_rebuilding(&self, rebuild: &Rebuild) -> bool {
        let table = self.table();
        matches!(&table.slots[usize::from(rebuild.slot)],
            Slot::Rebuilding(member, _) if member.number == rebuild.member.number)
    }

    /// Units worked on at once: a few MiB of each member, and never more than a part of the scratch memory.
    pub(crate) fn window_units(&self) -> u64 {
        (limits::BACKGROUND_WINDOW_BYTES / u64::from(self.geometry.chunk_bytes())).max(1)
    }

    /// What a rebuild does next: some that was written, or a longer run that was not.
    fn next_window(&self, member: &Member, first: u64) -> Range<u64> {
        let units = self.geometry.units();
        let written = self.first_written(first..units);
        if written == first {
            let end = (first + self.window_units()).min(units);
            return first..self.first_unwritten(first..end).max(first + 1);
        }
        let most = if is_zeroed_cheaply(member) { limits::ZERO_RUN_UNITS } else { self.window_units() };
        first..written.min(first + most)
    }

    async fn rebuild_window(&self, rebuild: &Rebuild, window: Range<u64>) -> Result<(), IoError> {
        let _held = self.locks.exclusive_range(window.clone()).await;
        // Asked again now that nobody else can change it.
        let (blank, written): (Vec<u64>, Vec<u64>) =
            window.clone().partition(|unit| self.is_unwritten(*unit));
        self.zero_blank(rebuild, &blank).await?;
        for result in join_all(written.into_iter().map(|unit| self.rebuild_unit(rebuild, unit))).await {
            result?;
        }
        rebuild.position.advance(window.end);
        Ok(())
    }

    /// Make the spare's part of these units zeros.
    async fn zero_blank(&self, rebuild: &Rebuild, units: &[u64]) -> Result<(), IoError> {
        if planted(Sabotage::UnwrittenNotZeroed) {
            return Ok(());
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in units.iter().flat_map(|unit| self.unit_on_member(*unit, MemberIndex(rebuild.slot))) {
            match runs.last_mut() {
                Some(run) if run.end == range.start => run.end = range.end,
                _ => runs.push(range),
            }
        }
        for run in runs {
            rebuild.member.zero(run.start, run.end - run.start, Durability::Cached).await?;
        }
        Ok(())
    }

    /// Bytes of a member's data that a rebuild has to write out.
    fn work_in(&self, member: &Member, bytes: &Range<u64>) -> u64 {
        if is_zeroed_cheaply(member) { self.written_bytes(bytes) } else { bytes.end - bytes.start }
    }

    /// Compute what the slot holds of a unit, and write it.
    async fn rebuild_unit(&self, rebuild: &Rebuild, unit: u64) -> Result<(), IoError> {
        let index = MemberIndex(rebuild.slot);
        if self.geometry.level().has_parity() {
            let columns = 0..self.geometry.chunk_bytes();
            let row = self.geometry.member_row(unit, index);
            let data = self.row_for_rebuild(unit, &columns, row).await?;
            let at = self.column_offset(unit, &columns);
            self.provision(&rebuild.member, at).await?;
            return rebuild.member.write(at, data.freeze(), Durability::Cached).await;
        }
        for range in self.unit_on_member(unit, index) {
            let length = (range.end - range.start) as usize;
            let data = self.copy_for_rebuild(unit, length).await?;
            self.provision(&rebuild.member, range.start).await?;
            rebuild.member.write(range.start, data, Durability::Cached).await?;
        }
        Ok(())
    }

    /// One bad sector elsewhere must not keep a whole slot from being rebuilt: what it held is listed as lost.
    async fn row_for_rebuild(&self, stripe: u64, columns: &Range<u32>, row: Row) -> Result<Buffer, IoError> {
        match self.reconstruct_row(stripe, columns, row).await {
            Err(error) if error.kind == IoErrorKind::Medium && self.in_sync(stripe) => {
                self.settle_lost(stripe, Trust::Parity).await?;
                self.reconstruct_row(stripe, columns, row).await
            }
            result => result,
        }
    }

    async fn copy_for_rebuild(&self, unit: u64, length: usize) -> Result<Bytes, IoError> {
        match self.read_good_copy(unit, 0, length, &[]).await {
            Err(error) if error.kind == IoErrorKind::Medium => {
                self.settle_copies(unit).await?;
                self.read_good_copy(unit, 0, length, &[]).await
            }
            result => result,
        }
    }

    fn report_rebuild(&self, rebuild: &Rebuild) {
        let reached = self.geometry.member_offset_before(MemberIndex(rebuild.slot), rebuild.position.get());
        let done = self.work_in(&rebuild.member, &(0..reached));
        self.set_activity(Some(Activity {
            kind: ActivityKind::Rebuild,
            slot: Some(rebuild.slot),
            done_bytes: done,
            total_bytes: self.work_in(&rebuild.member, &(0..self.geometry.member_bytes())),
            bytes_per_second: rebuild.pace.bytes_per_second(done),
        }));
    }

    /// Make the position durable: first the data below it, then the superblock that counts on it.
    async fn checkpoint(&self, rebuild: &mut Rebuild) -> Result<(), IoError> {
        rebuild.checkpoint = Instant::now();
        let reached = rebuild.position.get();
        if !planted(Sabotage::SpareInSyncEarly) {
            rebuild.member.flush().await?;
        }
        rebuild.position.set_flushed(reached);
        let mut control = self.control.lock().await;
        if self.is_rebuilding(rebuild) {
            self.commit_roles(&mut control, MemberTable::clone(&self.table())).await?;
        }
        Ok(())
    }

    async fn finish_rebuild(&self, rebuild: &Rebuild) -> Result<Ended, IoError> {
        if !planted(Sabotage::SpareInSyncEarly) {
            rebuild.member.flush().await?;
        }
        self.tell_lost(&rebuild.member).await?;
        // An atomic write of a mirror has its record on the members in sync at its begin.
        let _no_atomic_write = match &self.redo {
            Some(redo) => Some(redo.pause().await),
            None => None,
        };
        if self.has_failed() {
            // One that was given up has its record on the members that are in sync now, and is half-way in place on this one.
            return Ok(Ended::Interrupted);
        }
        let joined = self.join_journal(&rebuild.member).await;
        let ended = match joined {
            Ok(()) => self.call_in_sync(rebuild).await,
            Err(error) => Err(error),
        };
        self.end_joining();
        ended
    }

    /// All of it is filled and flushed, and its journal holds copies: say so durably.
    async fn call_in_sync(&self, rebuild: &Rebuild) -> Result<Ended, IoError> {
        let mut control = self.control.lock().await;
        if !self.is_rebuilding(rebuild) {
            return Ok(Ended::Interrupted);
        }
        let mut table = MemberTable::clone(&self.table());
        table.slots[usize::from(rebuild.slot)] = Slot::InSync(Arc::clone(&rebuild.member));
        self.commit_roles(&mut control, table).await?;
        drop(control);
        self.emit(ArrayEvent::SpareActive { path: rebuild.member.path.clone() });
        Ok(Ended::Completed)
    }

    /// True if resync can be run: every copy or row it compares is there.
    pub(crate) fn can_resync(&self) -> bool {
        match self.geometry.level() {
            Level::Raid0 => false,
            Level::Raid1 | Level::Raid10 => true,
            Level::Raid5 | Level::Raid6 => self.table().not_in_sync().is_empty(),
        }
    }

    /// Make the regions that are out of sync agree again, in order. A region with something in it that cannot be
    /// read is left as it is, for the next time. What was never written agrees, and is passed over.
    pub(crate) async fn resync(&self) -> Ended {
        let whole = self.dirty.unsynced_count() == self.bitmap.bits();
        self.pass_over_unwritten();
        let total = self.dirty.unsynced_count();
        let region = u64::from(self.bitmap.chunk_bytes);
        let pace = Pace::starting_at(0);
        let mut seen = self.gate.started();
        let mut done = 0;
        let mut from = 0;
        let mut blocked = false;
        let mut checkpoint = Instant::now();
        'regions: while let Some(bit) = self.dirty.next_unsynced(from) {
            from = bit + 1;
            self.dirty.begin_resync(bit);
            let units = self.units_of_bit(bit);
            for first in units.clone().step_by(self.window_units() as usize) {
                if self.is_stopping() || !self.can_resync() {
                    return Ended::Interrupted;
                }
                let began = Instant::now();
                let window = first..(first + self.window_units()).min(units.end);
                if let Err(error) = self.resync_window(window).await {
                    self.note(format!("resync left out a region: {error}"));
                    blocked = true;
                    continue 'regions;
                }
                self.yield_to_clients(&mut seen, began.elapsed()).await;
            }
            if self.flush_members().await.is_err() {
                return Ended::Interrupted;
            }
            self.dirty.mark_synced(bit);
            if !self.dirty.is_unsynced(bit..bit + 1) {
                self.forget_settled(self.units_of_bit(bit));
            }
            done += 1;
            if self.journal.is_some() && checkpoint.elapsed() >= CHECKPOINT_INTERVAL {
                checkpoint = Instant::now();
                if self.commit_progress().await.is_err() {
                    return Ended::Interrupted;
                }
            }
            self.set_activity(Some(Activity {
                kind: if whole { ActivityKind::InitialSync } else { ActivityKind::Resync },
                slot: None,
                done_bytes: done * region,
                total_bytes: total * region,
                bytes_per_second: pace.bytes_per_second(done * region),
            }));
        }
        match self.dirty.unsynced_count() {
            0 => Ended::Completed,
            _ if blocked => Ended::Blocked,
            // A write went half-way behind us.
            _ => Ended::Interrupted,
        }
    }

    /// Make durable how far resync has come: what it went over is flushed.
    async fn commit_progress(&self) -> Result<(), IoError> {
        let mut control = self.control.lock().await;
        let table = MemberTable::clone(&self.table());
        self.commit_roles(&mut control, table).await
    }

    /// Regions in which nothing was ever written are in sync.
    fn pass_over_unwritten(&self) {
        let mut from = 0;
        while let Some(bit) = self.dirty.next_unsynced(from) {
            from = bit + 1;
            let units = self.units_of_bit(bit);
            // In this order: a write that comes and goes half-way in between marks the region again.
            self.dirty.begin_resync(bit);
            if self.first_written(units.clone()) == units.end {
                self.dirty.mark_synced(bit);
                self.forget_settled(units);
            }
        }
    }

    /// Units that lie in a region of the bitmap, wholly or in part.
    pub(crate) fn units_of_bit(&self, bit: u64) -> Range<u64> {
        let chunk = u64::from(self.geometry.chunk_bytes());
        let sectors = self.bitmap.sectors_of(bit);
        let bytes = sectors.start * crate::format::SECTOR_BYTES..sectors.end * crate::format::SECTOR_BYTES;
        bytes.start / chunk..bytes.end.div_ceil(chunk).min(self.geometry.units())
    }

    async fn resync_window(&self, window: Range<u64>) -> Result<(), IoError> {
        let _held = self.locks.exclusive_range(window.clone()).await;
        let parity = self.geometry.level().has_parity();
        let units = window.filter(|unit| !self.is_unwritten(*unit)).map(|unit| async move {
            if parity { self.resync_stripe(unit).await } else { self.equalize_held_unit(unit).await }
        });
        join_all(units).await.into_iter().collect()
    }

    /// Compute parity from the data, and write what differs.
    async fn resync_stripe(&self, stripe: u64) -> Result<(), IoError> {
        let table = self.table();
        let columns = 0..self.geometry.chunk_bytes();
        let width = columns.end as usize;
        let rows: Vec<Row> = self.geometry.rows().collect();
        let data_rows = usize::from(self.geometry.data_rows());
        let parities = rows.len() - data_rows;
        let mut scratch = self.take_scratch(width * (rows.len() + parities)).await;
        let mut reading: Vec<RowData> =
            rows.iter().map(|&row| RowData { row, buffer: scratch.split_to(width) }).collect();
        let parity = reading.split_off(data_rows);
        // Parity that cannot be read is like parity that is wrong.
        let parity = parity.into_iter().map(|row| self.read_rows(&table, stripe, &columns, vec![row]));
        let (data, parity) =
            futures_util::join!(self.read_rows(&table, stripe, &columns, reading), join_all(parity));
        for failure in
            data.as_ref().err().into_iter().chain(parity.iter().filter_map(|row| row.as_ref().err()))
        {
            if let Some(member) = &failure.member {
                self.read_failed(member, &failure.error).await;
            }
        }
        let read = data.map_err(|failure| failure.error)?;
        let data: Vec<&[u8]> = read.iter().map(|row| &row.buffer[..]).collect();
        let mut fresh: Vec<Buffer> = (0..parities).map(|_| scratch.split_to(width)).collect();
        match &mut fresh[..] {
            [p] => self.kernel.generate_p(&data, p),
            [p, q] => self.kernel.generate_pq(&data, p, q),
            _ => return Err(self.unknown(IoOperation::Write, stripe)),
        }
        let mut writes = Vec::new();
        for ((row, old), new) in rows[data_rows..].iter().zip(&parity).zip(fresh) {
            if old.as_ref().is_ok_and(|old| old.iter().all(|old| old.buffer[..] == new[..])) {
                continue;
            }
            let Some(member) = self.row_member(&table, stripe, *row) else { continue };
            let (member, at) = (Arc::clone(member), self.column_offset(stripe, &columns));
            writes.push(async move {
                let result = member.write(at, new.freeze(), Durability::Cached).await;
                (member, result)
            });
        }
        let results = join_all(writes).await;
        self.settle_writes(results).await
    }
}

fn is_zeroed_cheaply(member: &Member) -> bool {
    member.device.info().zeroing == Zeroing::Cheap
}
