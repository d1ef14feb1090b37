//! How is a write to a parity stripe carried out? Pure: plans name rows and columns, and the engine reads
//! and writes what they name.
//!
//! A stripe's columns are cut into segments in which every data row is either written whole or not at all;
//! each segment gets the method that reads least among those that are possible:
//!
//! | method | possible when | reads |
//! |---|---|---|
//! | `DataOnly` | no parity row is left | nothing |
//! | `Reconstruct` | every data row that is not written is there | those rows (none for a whole stripe) |
//! | `ReadModify` | the stripe is in sync, every written row is there | the written rows and the parities, old |
//! | `Recover` | the stripe is in sync, parity can restore what is missing | every row that is there, old |
//!
//! A stripe that is not known to be in sync is only ever written by `Reconstruct` (or `DataOnly`): the other
//! two would carry the error on.

use std::ops::Range;

use smallvec::SmallVec;

use crate::geometry::{Geometry, MemberSet, Row};
use crate::parity::{Kernel, RecoverError, field, recover};

/// A list of rows; arrays of up to nine members stay off the heap.
pub type Rows = SmallVec<[Row; 8]>;

/// How a segment's new parity is come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// There is no parity to keep.
    DataOnly,
    /// From all data: the new, and what is read of the rest.
    Reconstruct,
    /// From the old parity and the difference the write makes.
    ReadModify,
    /// From all data, the missing part of which is first restored.
    Recover,
}

/// What to do in one range of columns (bytes within a chunk).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPlan {
    /// The columns.
    pub columns: Range<u32>,
    /// How parity is come by.
    pub method: Method,
    /// Rows to read, as they are before the write.
    pub reads: Rows,
    /// Every data row the client writes here, there or not.
    pub written: Rows,
    /// Those of them that are there and get their new data.
    pub data_writes: Rows,
    /// Parity rows that are there and get computed.
    pub parity_writes: Rows,
}

/// A write that cannot be carried out without inventing data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stripe is not in sync and a member is missing: its other data cannot be known")]
pub struct CannotPlan;

/// Cut a stripe's columns where the set of wholly written data rows changes. `ranges` are byte ranges of the
/// stripe's user data, in any order, overlapping or not. Columns nobody writes are left out.
pub fn segments(chunk_bytes: u32, ranges: &[Range<u32>]) -> Vec<(Range<u32>, Rows)> {
    let mut pieces: SmallVec<[(u32, Range<u32>); 8]> = SmallVec::new();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let (row, column) = (at / chunk_bytes, at % chunk_bytes);
            let length = (chunk_bytes - column).min(range.end - at);
            pieces.push((row, column..column + length));
            at += length;
        }
    }
    let mut cuts: SmallVec<[u32; 16]> = pieces.iter().flat_map(|(_, c)| [c.start, c.end]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .filter_map(|cut| {
            let mut rows: SmallVec<[u32; 8]> = pieces
                .iter()
                .filter(|(_, columns)| columns.start <= cut[0] && cut[1] <= columns.end)
                .map(|(row, _)| *row)
                .collect();
            rows.sort_unstable();
            rows.dedup();
            let rows: Rows = rows.into_iter().map(|row| Row::Data(row as u16)).collect();
            (!rows.is_empty()).then_some((cut[0]..cut[1], rows))
        })
        .collect()
}

/// Plan one segment of a stripe in which `written` rows are replaced.
pub fn plan_segment(
    geometry: &Geometry,
    stripe: u64,
    missing: &MemberSet,
    in_sync: bool,
    columns: Range<u32>,
    written: &Rows,
) -> Result<SegmentPlan, CannotPlan> {
    let there = |row: &Row| !missing.contains(geometry.row_member(stripe, *row));
    let data: Rows = geometry.rows().filter(|row| matches!(row, Row::Data(_))).collect();
    let parity_writes: Rows =
        geometry.rows().filter(|row| !matches!(row, Row::Data(_))).filter(there).collect();
    let kept: Rows = data.iter().copied().filter(|row| !written.contains(row)).collect();
    let data_writes: Rows = written.iter().copied().filter(there).collect();
    let plan = |method, reads| SegmentPlan {
        columns: columns.clone(),
        method,
        reads,
        written: written.clone(),
        data_writes: data_writes.clone(),
        parity_writes: parity_writes.clone(),
    };
    if parity_writes.is_empty() {
        return Ok(plan(Method::DataOnly, Rows::new()));
    }
    let modify_reads: Rows = written.iter().chain(&parity_writes).copied().collect();
    let can_reconstruct = kept.iter().all(there);
    let can_modify = in_sync && data_writes.len() == written.len();
    // On a tie reconstruct: it also mends parity that was wrong.
    if can_reconstruct && (!can_modify || kept.len() <= modify_reads.len()) {
        return Ok(plan(Method::Reconstruct, kept));
    }
    if can_modify {
        return Ok(plan(Method::ReadModify, modify_reads));
    }
    if in_sync && geometry.tolerates(missing) {
        return Ok(plan(Method::Recover, geometry.rows().filter(there).collect()));
    }
    Err(CannotPlan)
}

/// Compute a segment's new parity. `new` gives the new bytes of a written row, `old` the bytes that were read
/// of a row in `plan.reads`; both exactly `plan.columns` long. `parity` are buffers of that length, one for each
/// row of `plan.parity_writes`, in that order.
pub fn compute_parity<'n, 'o>(
    kernel: &Kernel,
    geometry: &Geometry,
    plan: &SegmentPlan,
    new: impl Fn(Row) -> &'n [u8],
    old: impl Fn(Row) -> &'o [u8],
    parity: &mut [&mut [u8]],
) -> Result<(), RecoverError> {
    let data_rows = geometry.data_rows();
    match plan.method {
        Method::DataOnly => Ok(()),
        Method::Reconstruct => {
            let data: SmallVec<[&[u8]; 8]> = (0..data_rows)
                .map(Row::Data)
                .map(|row| if plan.written.contains(&row) { new(row) } else { old(row) })
                .collect();
            generate(kernel, plan, &data, parity);
            Ok(())
        }
        Method::ReadModify => {
            modify(kernel, plan, &new, &old, parity);
            Ok(())
        }
        Method::Recover => {
            let restored = restore(kernel, geometry, plan, &old)?;
            let data: SmallVec<[&[u8]; 8]> = (0..data_rows)
                .map(|row| {
                    let written = plan.written.contains(&Row::Data(row));
                    if written { new(Row::Data(row)) } else { restored[usize::from(row)].as_slice() }
                })
                .collect();
            generate(kernel, plan, &data, parity);
            Ok(())
        }
    }
}

fn generate(kernel: &Kernel, plan: &SegmentPlan, data: &[&[u8]], parity: &mut [&mut [u8]]) {
    match (&plan.parity_writes[..], parity) {
        ([Row::P], [p]) => kernel.generate_p(data, p),
        ([Row::P, Row::Q], [p, q]) => kernel.generate_pq(data, p, q),
        ([Row::Q], [q]) => {
            let mut unused = vec![0; q.len()];
            kernel.generate_pq(data, &mut unused, q);
        }
        (rows, buffers) => unreachable!("{} buffers for parity rows {rows:?}", buffers.len()),
    }
}

fn modify<'n, 'o>(
    kernel: &Kernel,
    plan: &SegmentPlan,
    new: &impl Fn(Row) -> &'n [u8],
    old: &impl Fn(Row) -> &'o [u8],
    parity: &mut [&mut [u8]],
) {
    for (row, target) in plan.parity_writes.iter().zip(parity) {
        target.copy_from_slice(old(*row));
        for written in &plan.written {
            let Row::Data(index) = *written else { continue };
            let factor = if *row == Row::Q { field::power(usize::from(index)) } else { 1 };
            kernel.multiply_into(target, old(*written), factor);
            kernel.multiply_into(target, new(*written), factor);
        }
    }
}

/// Every data row as it was before the write.
fn restore<'a>(
    kernel: &Kernel,
    geometry: &Geometry,
    plan: &SegmentPlan,
    old: &impl Fn(Row) -> &'a [u8],
) -> Result<Vec<Vec<u8>>, RecoverError> {
    let width = (plan.columns.end - plan.columns.start) as usize;
    let mut lost = Vec::new();
    let mut rows: Vec<Vec<u8>> = geometry
        .rows()
        .enumerate()
        .map(|(index, row)| {
            if plan.reads.contains(&row) {
                return old(row).to_vec();
            }
            lost.push(index);
            vec![0; width]
        })
        .collect();
    let mut views: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
    recover(kernel, &mut views, usize::from(geometry.data_rows()), &lost)?;
    Ok(rows)
}

#[cfg(test)]
mod tests;
