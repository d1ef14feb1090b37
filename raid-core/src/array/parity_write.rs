//! Levels 5 and 6: carrying out the write of one stripe. The stripe is held from reading old data until the
//! new is in place.
//!
//! Order that crashes depend on: the bitmap marks the stripe durably, then data and parity go to their places.
//! A crash in between leaves a marked stripe, which resync makes agree again. A member that fails meanwhile is
//! durably out before the write is acknowledged (`failure`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use bytes::Bytes;
use futures_util::future::join_all;

use super::core::Core;
use super::locks::Fragment;
use super::member::Member;
use super::stripe_io::{RowData, RowFailure};
use super::table::MemberTable;
use crate::geometry::Row;
use crate::limits;
use crate::plan::{SegmentPlan, compute_parity, plan_segment, segments};

/// A segment with everything it takes: new data, what was read, room for parity.
struct Segment {
    plan: SegmentPlan,
    new: HashMap<Row, Bytes>,
    old: Vec<RowData>,
    parity: Vec<RowData>,
    /// The new parity, once it is computed.
    fresh: Vec<(Row, Bytes)>,
}

/// Columns of one row that are to be written: row, first column, bytes.
pub(crate) type Part = (Row, u32, Bytes);

/// A stripe's write, ready to be carried out.
pub(crate) struct Prepared {
    table: Arc<MemberTable>,
    data: Vec<Part>,
    parity: Vec<Part>,
    /// The whole stripe's parity is computed from all of its data: it will agree, whatever was there.
    agrees: bool,
}

impl Prepared {
    /// The new parity.
    pub(crate) fn parity(&self) -> &[Part] {
        &self.parity
    }

    /// Once this is in place, the stripe is in sync even if it was not.
    pub(crate) fn agrees(&self) -> bool {
        self.agrees
    }

    fn of_segments(table: Arc<MemberTable>, segments: Vec<Segment>) -> Self {
        let (mut data, mut parity) = (Vec::new(), Vec::new());
        for Segment { plan, new, fresh, .. } in segments {
            let column = plan.columns.start;
            data.extend(
                plan.data_writes.iter().filter_map(|row| Some((*row, column, new.get(row)?.clone()))),
            );
            parity.extend(fresh.into_iter().map(|(row, bytes)| (row, column, bytes)));
        }
        Self { table, data, parity, agrees: false }
    }
}

/// Why an attempt to write a stripe did not end.
enum Interrupted {
    /// Plan again: a member went, or a block was repaired.
    Again(RowFailure),
    /// There is no way.
    Refused(IoError),
}

impl Core {
    /// Write disjoint fragments of one stripe. The stripe is held.
    pub(crate) async fn write_stripe(&self, stripe: u64, fragments: &[Fragment]) -> Result<(), IoError> {
        self.provision_stripe(stripe).await?;
        let columns = self.columns_to_settle(stripe);
        let prepared = self.prepare_stripe(stripe, fragments, columns).await?;
        let agrees = prepared.agrees();
        let marked = self.mark_written(stripe..stripe + 1);
        let (dirty, marked) = futures_util::join!(self.mark_dirty(stripe..stripe + 1), marked);
        let _dirty = dirty?;
        marked?;
        let results = self.write_prepared(stripe, prepared, strictest(fragments)).await;
        self.settle_unit_writes(stripe..stripe + 1, results).await?;
        if agrees {
            self.trust(stripe..stripe + 1);
        }
        Ok(())
    }

    /// Everything that writing these (disjoint) fragments of a stripe takes: old data read, parity computed. Nothing is
    /// written, but blocks that could not be read are mended. The stripe is held.
    ///
    /// With `columns`, parity is computed from all data of those columns, which hold all that is written: fewer and longer
    /// reads where much of a stripe is written here and there, and the way to make a stripe agree that is out of sync.
    pub(crate) async fn prepare_stripe(
        &self,
        stripe: u64,
        fragments: &[Fragment],
        columns: Option<Range<u32>>,
    ) -> Result<Prepared, IoError> {
        let narrow = columns.is_some();
        match self.prepare_columns(stripe, fragments, columns).await {
            // What cannot be read there may be beside what is written.
            Err(error) if narrow && error.kind == IoErrorKind::Medium => {
                self.prepare_columns(stripe, fragments, None).await
            }
            result => result,
        }
    }

    async fn prepare_columns(
        &self,
        stripe: u64,
        fragments: &[Fragment],
        columns: Option<Range<u32>>,
    ) -> Result<Prepared, IoError> {
        for _ in 0..limits::MAX_WRITE_ATTEMPTS {
            let table = self.table();
            let whole = columns.clone().filter(|_| table.missing(stripe).is_empty());
            let prepared = match whole {
                Some(columns) => self.try_prepare_columns(&table, stripe, fragments, columns).await,
                None => self.try_prepare_stripe(&table, stripe, fragments).await,
            };
            let failure = match prepared {
                Ok(prepared) => return Ok(prepared),
                Err(Interrupted::Refused(error)) => return Err(error),
                Err(Interrupted::Again(failure)) => failure,
            };
            self.mend_before_retry(stripe, failure).await?;
        }
        Err(self.unknown(IoOperation::Write, stripe))
    }

    /// Put what was prepared in place, on whichever members are left. The stripe is held.
    pub(crate) async fn put_in_place(
        &self,
        stripe: u64,
        prepared: Prepared,
        durability: Durability,
    ) -> Result<(), IoError> {
        let results = self.write_prepared(stripe, prepared, durability).await;
        let settled = self.settle_member_failures(results).await;
        if settled.is_err() {
            // Half of it is in place: what is missing there is not reconstructed from the rest.
            self.distrust(stripe..stripe + 1);
        }
        settled
    }

    /// All columns, for a stripe that is out of sync and has all its members: writing it makes it agree.
    pub(crate) fn columns_to_settle(&self, stripe: u64) -> Option<Range<u32>> {
        let wanted = !self.in_sync(stripe) && self.table().missing(stripe).is_empty();
        wanted.then(|| 0..self.geometry.chunk_bytes())
    }

    /// Make sure that no member can run out of space half-way through this stripe.
    async fn provision_stripe(&self, stripe: u64) -> Result<(), IoError> {
        let table = self.table();
        for row in self.geometry.rows() {
            if let Some(member) = self.row_member(&table, stripe, row) {
                self.provision(member, self.geometry.stripe_offset(stripe)).await?;
            }
        }
        Ok(())
    }

    /// Old data could not be read. Write it anew from the other rows; what cannot be written fails its member,
    /// and the next plan does without.
    async fn mend_before_retry(&self, stripe: u64, failure: RowFailure) -> Result<(), IoError> {
        let Some(member) = &failure.member else { return Err(failure.error) };
        let columns = 0..self.geometry.chunk_bytes();
        let Some(place) = failure.error.offset.checked_sub(member.layout.data_offset) else {
            return Err(failure.error);
        };
        let start = place.saturating_sub(self.geometry.stripe_offset(stripe)) as u32;
        let end = start.saturating_add(failure.error.length as u32).min(columns.end);
        let columns = if start < end { start..end } else { columns };
        self.repair_row(stripe, &columns, failure.row, member, &failure.error).await.map(|_| ())
    }

    /// Parity from all data of these columns, what is new laid over what is there. Every member is there.
    async fn try_prepare_columns(
        &self,
        table: &Arc<MemberTable>,
        stripe: u64,
        fragments: &[Fragment],
        columns: Range<u32>,
    ) -> Result<Prepared, Interrupted> {
        let new = self.parts_of(fragments);
        let width = columns.len();
        let covered = |row: Row| {
            new.iter()
                .any(|(of, column, bytes)| *of == row && *column <= columns.start && bytes.len() >= width)
        };
        let rows: Vec<Row> = self.geometry.rows().collect();
        let data_rows = usize::from(self.geometry.data_rows());
        let mut scratch = self.take_scratch(rows.len() * width).await;
        let mut data: Vec<RowData> =
            rows[..data_rows].iter().map(|&row| RowData { row, buffer: scratch.split_to(width) }).collect();
        let (known, wanted): (Vec<RowData>, Vec<RowData>) =
            data.drain(..).partition(|read| covered(read.row));
        let read = self.read_rows(table, stripe, &columns, wanted).await.map_err(Interrupted::Again)?;
        data = known.into_iter().chain(read).collect();
        data.sort_by_key(|read| read.row);
        for (row, column, bytes) in &new {
            let Row::Data(index) = row else { continue };
            // What is written lies within the columns, or covers them.
            let from = column.saturating_sub(columns.start) as usize;
            let skip = columns.start.saturating_sub(*column) as usize;
            let length = (bytes.len() - skip).min(width - from);
            data[usize::from(*index)].buffer[from..from + length]
                .copy_from_slice(&bytes[skip..skip + length]);
        }
        let mut parity: Vec<Buffer> = rows[data_rows..].iter().map(|_| scratch.split_to(width)).collect();
        let views: Vec<&[u8]> = data.iter().map(|read| &read.buffer[..]).collect();
        match &mut parity[..] {
            [p] => self.kernel.generate_p(&views, p),
            [p, q] => self.kernel.generate_pq(&views, p, q),
            _ => return Err(Interrupted::Refused(self.unknown(IoOperation::Write, stripe))),
        }
        let parity = rows[data_rows..].iter().zip(parity);
        let parity = parity.map(|(row, buffer)| (*row, columns.start, buffer.freeze())).collect();
        let agrees = width == self.geometry.chunk_bytes() as usize;
        Ok(Prepared { table: Arc::clone(table), data: new, parity, agrees })
    }

    /// Fragments cut at chunks: which row each part belongs to, and where in it.
    fn parts_of(&self, fragments: &[Fragment]) -> Vec<Part> {
        let chunk = self.geometry.chunk_bytes();
        let mut parts = Vec::with_capacity(fragments.len());
        for fragment in fragments {
            let (mut start, mut data) = (fragment.start, fragment.data.clone());
            while !data.is_empty() {
                let bytes = data.split_to(data.len().min((chunk - start % chunk) as usize));
                let length = bytes.len() as u32;
                parts.push((Row::Data((start / chunk) as u16), start % chunk, bytes));
                start += length;
            }
        }
        parts
    }

    async fn try_prepare_stripe(
        &self,
        table: &Arc<MemberTable>,
        stripe: u64,
        fragments: &[Fragment],
    ) -> Result<Prepared, Interrupted> {
        let mut segments = self.plan_stripe(table, stripe, fragments).map_err(Interrupted::Refused)?;
        self.give_scratch(&mut segments).await;
        for segment in
            join_all(segments.iter_mut().map(|segment| self.read_old(table, stripe, segment))).await
        {
            segment.map_err(Interrupted::Again)?;
        }
        for segment in &mut segments {
            self.compute(segment)
                .map_err(|()| Interrupted::Refused(self.unknown(IoOperation::Write, stripe)))?;
            let parity = std::mem::take(&mut segment.parity);
            segment.fresh = parity.into_iter().map(|row| (row.row, row.buffer.freeze())).collect();
        }
        Ok(Prepared::of_segments(Arc::clone(table), segments))
    }

    fn plan_stripe(
        &self,
        table: &MemberTable,
        stripe: u64,
        fragments: &[Fragment],
    ) -> Result<Vec<Segment>, IoError> {
        let missing = self.missing_for_write(table, stripe)?;
        let in_sync = self.in_sync(stripe);
        let ranges: Vec<Range<u32>> = fragments.iter().map(Fragment::range).collect();
        segments(self.geometry.chunk_bytes(), &ranges)
            .into_iter()
            .map(|(columns, written)| {
                let plan = plan_segment(&self.geometry, stripe, &missing, in_sync, columns.clone(), &written)
                    .map_err(|_| self.unknown(IoOperation::Write, stripe))?;
                let new = written.iter().map(|&row| (row, self.new_data(fragments, row, &columns))).collect();
                Ok(Segment { plan, new, old: Vec::new(), parity: Vec::new(), fresh: Vec::new() })
            })
            .collect()
    }

    /// The new bytes of a written row in these columns: segments are cut at every fragment's edge, so exactly
    /// one (disjoint) fragment holds them all.
    fn new_data(&self, fragments: &[Fragment], row: Row, columns: &Range<u32>) -> Bytes {
        let Row::Data(index) = row else { return Bytes::new() };
        let base = u32::from(index) * self.geometry.chunk_bytes();
        let wanted = base + columns.start..base + columns.end;
        fragments
            .iter()
            .find(|fragment| fragment.start <= wanted.start && wanted.end <= fragment.range().end)
            .map(|fragment| {
                let from = (wanted.start - fragment.start) as usize;
                fragment.data.slice(from..from + wanted.len())
            })
            .unwrap_or_default()
    }

    /// All the memory a stripe's segments need, taken at once.
    async fn give_scratch(&self, segments: &mut [Segment]) {
        let width = |plan: &SegmentPlan| (plan.columns.end - plan.columns.start) as usize;
        let total = segments
            .iter()
            .map(|segment| {
                width(&segment.plan) * (segment.plan.reads.len() + segment.plan.parity_writes.len())
            })
            .sum();
        if total == 0 {
            return;
        }
        let mut scratch = self.take_scratch(total).await;
        for Segment { plan, old, parity, .. } in segments {
            let mut part = |&row: &Row| RowData { row, buffer: scratch.split_to(width(plan)) };
            *old = plan.reads.iter().map(&mut part).collect();
            *parity = plan.parity_writes.iter().map(&mut part).collect();
        }
    }

    async fn read_old(
        &self,
        table: &MemberTable,
        stripe: u64,
        segment: &mut Segment,
    ) -> Result<(), RowFailure> {
        let rows = std::mem::take(&mut segment.old);
        segment.old = self.read_rows(table, stripe, &segment.plan.columns, rows).await?;
        Ok(())
    }

    fn compute(&self, segment: &mut Segment) -> Result<(), ()> {
        let Segment { plan, new, old, parity, .. } = segment;
        let mut views: Vec<&mut [u8]> = parity.iter_mut().map(|row| &mut row.buffer[..]).collect();
        let new = |row: Row| new.get(&row).map_or(&[][..], |data| &data[..]);
        let old = |row: Row| old.iter().find(|read| read.row == row).map_or(&[][..], |read| &read.buffer[..]);
        compute_parity(self.kernel, &self.geometry, plan, new, old, &mut views).map_err(|_| ())
    }

    /// Only members that the plan counted on are written (one that came since is not there for this stripe yet), and of
    /// those only who is still in the array.
    async fn write_prepared(
        &self,
        stripe: u64,
        prepared: Prepared,
        durability: Durability,
    ) -> Vec<(Arc<Member>, Result<(), IoError>)> {
        let Prepared { table, data, parity, .. } = prepared;
        let current = self.table();
        let at = self.geometry.stripe_offset(stripe);
        let writes = data.into_iter().chain(parity).filter_map(|(row, column, bytes)| {
            let member = Arc::clone(self.row_member(&table, stripe, row)?);
            current.slot_of(member.number)?;
            Some(async move {
                let result = member.write(at + u64::from(column), bytes, durability).await;
                (member, result)
            })
        });
        join_all(writes).await
    }
}

/// Make fragments disjoint and as long as they can be: later ones win, neighbours join. One fragment alone is
/// left as it is, without a copy.
pub(crate) fn merge(fragments: Vec<Fragment>) -> Vec<Fragment> {
    if fragments.len() < 2 {
        return fragments;
    }
    let durability = strictest(&fragments);
    let mut ranges: Vec<Range<u32>> = fragments.iter().map(Fragment::range).collect();
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
        .into_iter()
        .map(|range| {
            let inside: Vec<&Fragment> =
                fragments.iter().filter(|f| range.start <= f.start && f.range().end <= range.end).collect();
            if let [only] = inside[..] {
                return Fragment { durability, ..only.clone() };
            }
            let mut data = Buffer::zeroed(range.len());
            for fragment in inside {
                let at = (fragment.start - range.start) as usize;
                data[at..at + fragment.data.len()].copy_from_slice(&fragment.data);
            }
            Fragment { start: range.start, data: data.freeze(), durability }
        })
        .collect()
}

/// Durable if any fragment has to be.
fn strictest(fragments: &[Fragment]) -> Durability {
    if fragments.iter().any(|fragment| fragment.durability == Durability::Durable) {
        Durability::Durable
    } else {
        Durability::Cached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(start: u32, fill: u8, length: usize) -> Fragment {
        let data = Bytes::from(vec![fill; length]);
        Fragment { start, data, durability: Durability::Cached }
    }

    #[test]
    fn merging_joins_neighbours_and_lets_the_later_win() {
        let merged = merge(vec![fragment(0, 1, 8), fragment(20, 2, 4), fragment(8, 3, 4), fragment(4, 4, 6)]);
        let shape: Vec<(u32, Vec<u8>)> = merged.into_iter().map(|f| (f.start, f.data.to_vec())).collect();
        assert_eq!(
            shape,
            [(0, vec![1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 3, 3]), (20, vec![2, 2, 2, 2])],
            "fragment 4 came last and lies over 1 and 3"
        );
    }

    #[test]
    fn a_durable_fragment_makes_its_batch_durable() {
        let mut durable = fragment(64, 1, 4);
        durable.durability = Durability::Durable;
        let merged = merge(vec![fragment(0, 1, 4), durable]);
        assert!(merged.iter().all(|f| f.durability == Durability::Durable));
    }
}
