//! The life of a write: cut at units, each unit's part queued at its lock, carried out by whoever leads there.
//!
//! No bytes are moved: parts are slices of the client's own buffer. Zeros of whole units go to the members as
//! zeroing, without any data.

use std::ops::Range;
use std::sync::Arc;

use block_io::{Durability, IoError, IoOperation};
use bytes::Bytes;
use futures_util::future::join_all;

use super::core::Core;
use super::locks::{Fragment, Turn};
use super::member::Member;
use super::parity_write::merge;
use crate::geometry::UnitPiece;
use crate::limits;

impl Core {
    /// Write `data` at `offset` of the array.
    pub(crate) async fn write(
        &self,
        offset: u64,
        mut data: Bytes,
        durability: Durability,
    ) -> Result<(), IoError> {
        let _inside = self.enter(IoOperation::Write, offset, data.len() as u64)?;
        let mut parts: smallvec::SmallVec<[(u64, Fragment); 1]> = smallvec::SmallVec::new();
        for UnitPiece { unit, start, length } in self.geometry.pieces(offset, data.len() as u64) {
            parts.push((unit, Fragment { start, data: data.split_to(length as usize), durability }));
        }
        if parts.len() == 1 {
            let Some((unit, fragment)) = parts.pop() else { return Ok(()) };
            return self.write_unit(unit, fragment).await;
        }
        let writes = parts.into_iter().map(|(unit, fragment)| self.write_unit(unit, fragment));
        join_all(writes).await.into_iter().collect()
    }

    /// Queue at the unit; lead the batch if it falls to us.
    async fn write_unit(&self, unit: u64, fragment: Fragment) -> Result<(), IoError> {
        if let Some(journal) = &self.journal {
            return self.write_through_journal(journal, unit, fragment).await;
        }
        let (held, mut batch) = match self.locks.write(unit, fragment).await {
            Turn::Done(outcome) => return outcome,
            Turn::Lead(held, batch) => (held, batch),
        };
        let fragments = merge(std::mem::take(&mut batch.fragments));
        let outcome = self.write_held_unit(unit, &fragments).await;
        drop(held);
        batch.finish(&outcome);
        outcome
    }

    async fn write_held_unit(&self, unit: u64, fragments: &[Fragment]) -> Result<(), IoError> {
        if self.geometry.level().has_parity() {
            self.write_stripe(unit, fragments).await?;
        } else {
            self.write_copies(unit, fragments).await?;
        }
        let written = fragments.iter().map(|fragment| self.in_array(unit, fragment.range()));
        self.written_in_place(written).await
    }

    /// Make everything acknowledged so far durable.
    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        let _inside = self.enter(IoOperation::Flush, 0, 0)?;
        match &self.journal {
            Some(journal) => self.flush_journal(journal).await,
            None => self.flush_members().await,
        }
    }

    /// Make a range read as zeros; `discard` gives the members' space back as well.
    pub(crate) async fn zero(
        &self,
        offset: u64,
        length: u64,
        durability: Durability,
        discard: bool,
    ) -> Result<(), IoError> {
        let operation = if discard { IoOperation::Discard } else { IoOperation::Zero };
        let _inside = self.enter(operation, offset, length)?;
        let unit_bytes = u64::from(self.geometry.unit_data_bytes());
        let whole = offset.div_ceil(unit_bytes)..(offset + length) / unit_bytes;
        if whole.is_empty() {
            return self.write_zeros(offset, length, durability).await;
        }
        let (start, end) = (whole.start * unit_bytes, whole.end * unit_bytes);
        self.write_zeros(offset, start - offset, durability).await?;
        if discard {
            self.put_in_place_first(&whole).await?;
        }
        let mut from = whole.start;
        while let Some(run) = self.next_run_to_zero(from..whole.end) {
            from = run.end;
            match &self.journal {
                Some(journal) => self.zero_through_journal(journal, run, discard).await?,
                None => self.zero_units(run, durability, discard).await?,
            }
        }
        self.write_zeros(end, offset + length - end, durability).await
    }

    /// The next units to be zeroed at once. What reads as zeros already is passed over: a write that comes meanwhile is in no
    /// order with this. Runs end where regions do, so that the written map can forget whole regions.
    fn next_run_to_zero(&self, units: Range<u64>) -> Option<Range<u64>> {
        let start = if self.may_pass_over_zeros() { self.first_mapped(units.clone()) } else { units.start };
        let region = self.geometry.units_touching(&(0..self.written.region_bytes())).end;
        let step = (limits::ZERO_RUN_BYTES / u64::from(self.geometry.chunk_bytes()))
            .max(region)
            .clamp(1, limits::ZERO_RUN_UNITS);
        let end = if start + step >= units.end {
            units.end
        } else {
            let touched = self.geometry.touched_by(&(start..start + step)).end;
            let boundary = touched - touched % self.written.region_bytes();
            let aligned = self.geometry.units_touching(&(0..boundary)).end;
            if aligned > start { aligned } else { start + step }
        };
        (start < units.end).then_some(start..end)
    }

    /// Zeros need not be written where zeros are: not if the array refuses writes, or a block is lost until it is written.
    fn may_pass_over_zeros(&self) -> bool {
        !self.has_failed() && self.lost_bytes() == 0
    }

    /// Zeros through the ordinary path, for parts of units.
    async fn write_zeros(&self, offset: u64, length: u64, durability: Durability) -> Result<(), IoError> {
        for UnitPiece { unit, start, length } in self.geometry.pieces(offset, length) {
            if self.may_pass_over_zeros() && self.first_mapped(unit..unit + 1) != unit {
                continue;
            }
            let data = block_io::Buffer::zeroed(length as usize).freeze();
            self.write_unit(unit, Fragment { start, data, durability }).await?;
        }
        Ok(())
    }

    /// Zero whole units on every member: zeros agree with each other at every level, parity included.
    async fn zero_units(
        &self,
        units: Range<u64>,
        durability: Durability,
        discard: bool,
    ) -> Result<(), IoError> {
        let _held = self.locks.exclusive_range(units.clone()).await;
        self.zero_in_place(units.clone(), durability, discard).await?;
        let bytes = u64::from(self.geometry.unit_data_bytes());
        self.written_in_place(std::iter::once(units.start * bytes..units.end * bytes)).await?;
        self.forget_written(&units, false).await
    }

    /// The same for units that are held.
    pub(crate) async fn zero_in_place(
        &self,
        units: Range<u64>,
        durability: Durability,
        discard: bool,
    ) -> Result<(), IoError> {
        let table = self.table();
        self.missing_for_write(&table, units.start)?;
        let _dirty = self.mark_dirty(units.clone()).await?;
        let mut work: Vec<(Arc<Member>, Range<u64>)> = Vec::new();
        for index in self.geometry.member_indices() {
            for unit in units.clone() {
                let Some(member) = table.usable(index, unit) else { continue };
                for range in self.unit_on_member(unit, index) {
                    match work.last_mut() {
                        Some((last, run)) if last.number == member.number && run.end == range.start => {
                            run.end = range.end;
                        }
                        _ => work.push((Arc::clone(member), range)),
                    }
                }
            }
        }
        let zeroing = work.into_iter().map(|(member, range)| async move {
            let length = range.end - range.start;
            let result = if discard && member.device.info().discard {
                member.discard(range.start, length).await
            } else {
                member.zero(range.start, length, durability).await
            };
            (member, result)
        });
        let results = join_all(zeroing).await;
        self.settle_unit_writes(units.clone(), results).await?;
        if self.geometry.level().has_parity() {
            self.trust(units);
        }
        Ok(())
    }

    /// The ranges of a member's data area that belong to a unit.
    pub(crate) fn unit_on_member(
        &self,
        unit: u64,
        index: crate::geometry::MemberIndex,
    ) -> impl Iterator<Item = Range<u64>> + use<> {
        let chunk = u64::from(self.geometry.chunk_bytes());
        let stripe = self.geometry.level().has_parity().then(|| self.geometry.stripe_offset(unit));
        let copies = self.geometry.copies(unit);
        let offsets = stripe
            .into_iter()
            .chain(copies.into_iter().filter(move |place| place.member == index).map(|place| place.offset));
        offsets.map(move |offset| offset..offset + chunk)
    }
}
