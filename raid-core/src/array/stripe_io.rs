//! Reading parity stripes, whole or with rows missing. Callers hold the stripe wherever they reconstruct.

use std::ops::Range;
use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use futures_util::future::join_all;

use super::core::Core;
use super::member::{Counters, Member};
use super::status::ArrayEvent;
use super::table::MemberTable;
use crate::geometry::{MemberSet, Row};
use crate::parity;

/// Columns of one row, read or to be written.
pub(crate) struct RowData {
    pub(crate) row: Row,
    pub(crate) buffer: Buffer,
}

/// Why a row could not be read: the error, and the member it came from if it came from one.
pub(crate) struct RowFailure {
    pub(crate) member: Option<Arc<Member>>,
    pub(crate) row: Row,
    pub(crate) error: IoError,
}

impl Core {
    /// Where on every member these columns of a stripe lie.
    pub(crate) fn column_offset(&self, stripe: u64, columns: &Range<u32>) -> u64 {
        self.geometry.stripe_offset(stripe) + u64::from(columns.start)
    }

    pub(crate) fn row_member<'a>(
        &self,
        table: &'a MemberTable,
        stripe: u64,
        row: Row,
    ) -> Option<&'a Arc<Member>> {
        table.usable(self.geometry.row_member(stripe, row), stripe)
    }

    /// A medium error for what cannot be known.
    pub(crate) fn unknown(&self, operation: IoOperation, stripe: u64) -> IoError {
        let bytes = u64::from(self.geometry.unit_data_bytes());
        self.error(IoErrorKind::Medium, operation, stripe * bytes, bytes)
    }

    /// Read these rows' columns, all at once.
    pub(crate) async fn read_rows(
        &self,
        table: &MemberTable,
        stripe: u64,
        columns: &Range<u32>,
        rows: Vec<RowData>,
    ) -> Result<Vec<RowData>, RowFailure> {
        let at = self.column_offset(stripe, columns);
        let reads = rows.into_iter().map(|RowData { row, buffer }| async move {
            let Some(member) = self.row_member(table, stripe, row) else {
                let error = self.unknown(IoOperation::Read, stripe);
                return Err(RowFailure { member: None, row, error });
            };
            let (buffer, result) = member.read(at, buffer).await;
            match result {
                Ok(()) => Ok(RowData { row, buffer }),
                Err(error) => Err(RowFailure { member: Some(Arc::clone(member)), row, error }),
            }
        });
        join_all(reads).await.into_iter().collect()
    }

    /// Compute the columns of one row from the others. The stripe is held. Rows that turn out unreadable count
    /// as lost too, as long as parity lasts.
    pub(crate) async fn reconstruct_row(
        &self,
        stripe: u64,
        columns: &Range<u32>,
        wanted: Row,
    ) -> Result<Buffer, IoError> {
        if !self.in_sync(stripe) {
            return Err(self.unknown(IoOperation::Read, stripe));
        }
        let mut lost = vec![wanted];
        let mut passing = None;
        loop {
            match self.try_reconstruct(stripe, columns, &lost).await {
                Ok(buffer) => return Ok(buffer),
                // What a bad cable kept from us is not unknown.
                Err(failure) if lost.contains(&failure.row) => return Err(passing.unwrap_or(failure.error)),
                Err(failure) => {
                    if let Some(member) = &failure.member {
                        self.read_failed(member, &failure.error).await;
                        if self.table().slot_of(member.number).is_none() {
                            // Taken out meanwhile: the table says now what its row is, and another may have it already.
                            continue;
                        }
                    }
                    lost.push(failure.row);
                    if failure.error.kind != IoErrorKind::Medium {
                        passing = Some(failure.error);
                    }
                }
            }
        }
    }

    /// One attempt; the first of `lost` is what is wanted.
    async fn try_reconstruct(
        &self,
        stripe: u64,
        columns: &Range<u32>,
        lost: &[Row],
    ) -> Result<Buffer, RowFailure> {
        let table = self.table();
        let unknown = |row| RowFailure { member: None, row, error: self.unknown(IoOperation::Read, stripe) };
        let is_lost = |row: &Row| lost.contains(row) || self.row_member(&table, stripe, *row).is_none();
        let width = (columns.end - columns.start) as usize;
        let data_rows = usize::from(self.geometry.data_rows());
        let lost_data =
            self.geometry.rows().filter(|row| matches!(row, Row::Data(_)) && is_lost(row)).count();
        let (p_lost, has_q) = (is_lost(&Row::P), self.geometry.rows().any(|row| row == Row::Q));
        // Q is only read when P alone cannot do it.
        let need_q = has_q && (lost[0] == Row::Q || lost_data > usize::from(!p_lost && lost[0] != Row::P));
        let rows: Vec<Row> = self.geometry.rows().filter(|row| *row != Row::Q || need_q).collect();
        let mut scratch = self.take_scratch(rows.len() * width).await;
        let mut buffers: Vec<RowData> =
            rows.iter().map(|&row| RowData { row, buffer: scratch.split_to(width) }).collect();
        let present: Vec<usize> = (0..rows.len()).filter(|&index| !is_lost(&rows[index])).collect();
        let missing: Vec<usize> = (0..rows.len()).filter(|&index| is_lost(&rows[index])).collect();
        let reading: Vec<RowData> = present
            .iter()
            .map(|&index| RowData {
                row: rows[index],
                buffer: std::mem::replace(&mut buffers[index].buffer, Buffer::zeroed(0)),
            })
            .collect();
        for (index, read) in present.iter().zip(self.read_rows(&table, stripe, columns, reading).await?) {
            buffers[*index] = read;
        }
        let mut views: Vec<&mut [u8]> = buffers.iter_mut().map(|row| &mut row.buffer[..]).collect();
        parity::recover(self.kernel, &mut views, data_rows, &missing).map_err(|_| unknown(lost[0]))?;
        let wanted = rows.iter().position(|row| *row == lost[0]).ok_or_else(|| unknown(lost[0]))?;
        Ok(buffers.swap_remove(wanted).buffer)
    }

    /// Memory for parity and old data, in one piece to be split.
    pub(crate) async fn take_scratch(&self, bytes: usize) -> Buffer {
        match self.scratch.take(bytes).await {
            Ok(buffer) => buffer,
            // Sized at start for the widest stripe; an unpooled buffer is still better than a stall.
            Err(_) => Buffer::zeroed(bytes),
        }
    }

    /// A row's columns are unreadable on its member: compute them and write them back there. The stripe is held.
    /// Gives what the row holds.
    pub(crate) async fn repair_row(
        &self,
        stripe: u64,
        columns: &Range<u32>,
        row: Row,
        member: &Arc<Member>,
        error: &IoError,
    ) -> Result<bytes::Bytes, IoError> {
        self.read_failed(member, error).await;
        let data = self.reconstruct_row(stripe, columns, row).await?.freeze();
        let still_there = self.table().slot_of(member.number).is_some();
        if still_there {
            let at = self.column_offset(stripe, columns);
            match member.write(at, data.clone(), Durability::Durable).await {
                Ok(()) => {
                    Counters::count(&member.counters.corrected);
                    self.emit(ArrayEvent::ReadErrorCorrected { path: member.path.clone() });
                }
                Err(error) => self.write_failed(member, &error).await?,
            }
        }
        Ok(data)
    }

    /// Slots that cannot be used for this stripe, if the array still stands without them.
    pub(crate) fn missing_for_write(&self, table: &MemberTable, unit: u64) -> Result<MemberSet, IoError> {
        let missing = table.missing(unit);
        if self.has_failed() || !self.geometry.tolerates(&missing) {
            let bytes = u64::from(self.geometry.unit_data_bytes());
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, unit * bytes, bytes));
        }
        Ok(missing)
    }
}
