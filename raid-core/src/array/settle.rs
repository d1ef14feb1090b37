//! A stripe of which something cannot be read or believed is made whole again: what can be known is restored, what cannot is
//! listed as lost with zeros standing for it, and parity agrees with that.
//!
//! It goes by blocks of 4 KiB, because that is what a disk loses and what intents have a CRC for.

use std::ops::Range;
use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};

use super::core::Core;
use super::member::Member;
use crate::format::labsan::journal_record::INTENT_BLOCK_BYTES;
use crate::geometry::Row;
use crate::{limits, parity};

/// What a missing or unreadable block may be restored from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// Parity agrees with the data.
    Parity,
    /// It may not; but this is the CRC32 of each block as it was to be, in the order of the stripe's user data.
    Checksums(&'a [u32]),
    /// Nothing.
    Nothing,
    /// It was being zeroed: zeros are as right as what it held before.
    Zeros,
}

const BLOCK: usize = INTENT_BLOCK_BYTES as usize;

/// The rows of one block column: contents where they are known.
type Column = Vec<Option<Vec<u8>>>;

impl Core {
    /// Make a stripe whole. It is held. What was lost is durably listed, and everything flushed, when this returns.
    pub(crate) async fn settle_stripe(&self, stripe: u64, trust: Trust<'_>) -> Result<(), IoError> {
        let rows: Vec<Row> = self.geometry.rows().collect();
        let read = try_join_all(rows.iter().map(|row| self.row_blocks(stripe, *row))).await?;
        let blocks = self.geometry.chunk_bytes() as usize / BLOCK;
        let mut lost = Vec::new();
        let mut columns = Vec::with_capacity(blocks);
        for block in 0..blocks {
            let found: Column = read.iter().map(|row| row[block].clone()).collect();
            let (column, unknown) = self.restore_column(found, block, blocks, trust);
            lost.extend(unknown.into_iter().map(|row| self.block_in_array(stripe, row, block)));
            columns.push(column);
        }
        // Before any zero stands for it.
        self.declare_lost(&lost).await?;
        let writes = rows.iter().enumerate().flat_map(|(index, row)| {
            let (read, columns) = (&read, &columns);
            (0..blocks)
                .filter(move |&block| read[index][block].as_deref() != Some(&columns[block][index][..]))
                .map(move |block| (*row, block, &columns[block][index]))
        });
        let table = self.table();
        let writing = writes.filter_map(|(row, block, bytes)| {
            let member = self.row_member(&table, stripe, row)?;
            let at = self.geometry.stripe_offset(stripe) + (block * BLOCK) as u64;
            let data = Buffer::copy_of(bytes).freeze();
            Some(write_back(member, at, data))
        });
        let writing: Vec<_> = writing.collect();
        if !(writing.is_empty() && lost.is_empty()) {
            self.mark_written(stripe..stripe + 1).await?;
        }
        let results = join_all(writing).await;
        self.settle_member_failures(results).await?;
        self.trust(stripe..stripe + 1);
        self.flush_members().await
    }

    /// The same for a unit of copies: a block that no copy of it gives is listed, and zeros stand for it on all of them.
    pub(crate) async fn settle_copies(&self, unit: u64) -> Result<(), IoError> {
        let table = self.table();
        let copies: Vec<(u64, Arc<Member>)> = self
            .geometry
            .copies(unit)
            .into_iter()
            .filter_map(|place| Some((place.offset, Arc::clone(table.usable(place.member, unit)?))))
            .collect();
        let blocks = self.geometry.unit_data_bytes() as usize / BLOCK;
        let read = try_join_all(copies.iter().map(|(at, member)| read_blocks(member, *at, blocks))).await?;
        let start = unit * u64::from(self.geometry.unit_data_bytes());
        let range = |block: usize| start + (block * BLOCK) as u64..start + ((block + 1) * BLOCK) as u64;
        let good: Vec<Option<&Vec<u8>>> =
            (0..blocks).map(|block| read.iter().find_map(|copy| copy[block].as_ref())).collect();
        let lost: Vec<Range<u64>> = (0..blocks).filter(|&block| good[block].is_none()).map(range).collect();
        self.declare_lost(&lost).await?;
        let unread = copies.iter().zip(&read).flat_map(|(copy, read)| {
            (0..blocks).filter(|&block| read[block].is_none()).map(move |block| (copy, block))
        });
        let writing = unread.map(|((at, member), block)| {
            let data =
                good[block].map_or_else(|| Buffer::zeroed(BLOCK), |data| Buffer::copy_of(data)).freeze();
            write_back(member, at + (block * BLOCK) as u64, data)
        });
        let results = join_all(writing).await;
        self.settle_member_failures(results).await?;
        self.flush_members().await
    }

    /// A row's blocks, each as it could be read; none where its member is not there.
    async fn row_blocks(&self, stripe: u64, row: Row) -> Result<Vec<Option<Vec<u8>>>, IoError> {
        let blocks = self.geometry.chunk_bytes() as usize / BLOCK;
        let table = self.table();
        match self.row_member(&table, stripe, row) {
            Some(member) => read_blocks(member, self.geometry.stripe_offset(stripe), blocks).await,
            None => Ok(vec![None; blocks]),
        }
    }

    /// All rows of one block column, and the data rows for which zeros had to stand in.
    fn restore_column(
        &self,
        found: Column,
        block: usize,
        blocks: usize,
        trust: Trust<'_>,
    ) -> (Vec<Vec<u8>>, Vec<usize>) {
        let data_rows = usize::from(self.geometry.data_rows());
        let missing: Vec<usize> = (0..data_rows).filter(|&row| found[row].is_none()).collect();
        let restored = match trust {
            _ if missing.is_empty() => Some(Vec::new()),
            Trust::Parity => self.candidates(&found, &missing).into_iter().next(),
            Trust::Checksums(sums) => self.candidates(&found, &missing).into_iter().find(|candidate| {
                candidate
                    .iter()
                    .all(|(row, bytes)| sums.get(row * blocks + block) == Some(&crc32fast::hash(bytes)))
            }),
            Trust::Nothing => None,
            Trust::Zeros => Some(missing.iter().map(|&row| (row, vec![0; BLOCK])).collect()),
        };
        let mut rows: Vec<Vec<u8>> =
            found.into_iter().map(|bytes| bytes.unwrap_or_else(|| vec![0; BLOCK])).collect();
        let lost = if restored.is_some() { Vec::new() } else { missing };
        for (row, bytes) in restored.unwrap_or_default() {
            rows[row] = bytes;
        }
        self.compute_parity_rows(&mut rows);
        (rows, lost)
    }

    fn compute_parity_rows(&self, rows: &mut [Vec<u8>]) {
        let (data, parities) = rows.split_at_mut(usize::from(self.geometry.data_rows()));
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        match parities {
            [p] => self.kernel.generate_p(&data, p),
            [p, q] => self.kernel.generate_pq(&data, p, q),
            _ => {}
        }
    }

    /// What the missing data rows may be, by each parity that is there: P, Q, or both.
    fn candidates(&self, found: &Column, missing: &[usize]) -> Vec<Vec<(usize, Vec<u8>)>> {
        let data_rows = usize::from(self.geometry.data_rows());
        let parities: Vec<usize> = (data_rows..found.len()).filter(|&row| found[row].is_some()).collect();
        let mut uses: Vec<Vec<usize>> = Vec::new();
        match missing.len() {
            1 => uses.extend(parities.iter().map(|&parity| vec![parity])),
            2 if parities.len() == 2 => uses.push(parities),
            _ => {}
        }
        uses.into_iter().filter_map(|used| self.restore_by(found, missing, &used)).collect()
    }

    fn restore_by(&self, found: &Column, missing: &[usize], used: &[usize]) -> Option<Vec<(usize, Vec<u8>)>> {
        let data_rows = usize::from(self.geometry.data_rows());
        let mut rows: Vec<Vec<u8>> =
            found.iter().map(|bytes| bytes.clone().unwrap_or_else(|| vec![0; BLOCK])).collect();
        let unused = (data_rows..rows.len()).filter(|row| !used.contains(row));
        let lost: Vec<usize> = missing.iter().copied().chain(unused).collect();
        let mut views: Vec<&mut [u8]> = rows.iter_mut().map(Vec::as_mut_slice).collect();
        parity::recover(self.kernel, &mut views, data_rows, &lost).ok()?;
        Some(missing.iter().map(|&row| (row, rows[row].clone())).collect())
    }

    fn block_in_array(&self, stripe: u64, row: usize, block: usize) -> Range<u64> {
        let start = stripe * u64::from(self.geometry.unit_data_bytes())
            + row as u64 * u64::from(self.geometry.chunk_bytes())
            + (block * BLOCK) as u64;
        start..start + BLOCK as u64
    }

    /// Every error of a write, a full device's too, takes its member out: what is written here is known to have its place.
    pub(crate) async fn settle_member_failures(
        &self,
        results: Vec<(Arc<Member>, Result<(), IoError>)>,
    ) -> Result<(), IoError> {
        for (member, result) in results {
            if let Err(error) = result {
                self.fail_member(member.number, &error.to_string(), block_io::IoOperation::Write).await?;
            }
        }
        Ok(())
    }
}

async fn write_back(member: &Arc<Member>, at: u64, data: Bytes) -> (Arc<Member>, Result<(), IoError>) {
    (Arc::clone(member), member.write(at, data, Durability::Cached).await)
}

/// Blocks of a member one after the other; none where its medium has lost them. Any other error may pass, and is one.
async fn read_blocks(member: &Member, at: u64, blocks: usize) -> Result<Vec<Option<Vec<u8>>>, IoError> {
    let (buffer, result) = member.read(at, Buffer::zeroed(blocks * BLOCK)).await;
    if result.is_ok() {
        return Ok(buffer.chunks(BLOCK).map(|block| Some(block.to_vec())).collect());
    }
    let mut read = Vec::with_capacity(blocks);
    for block in 0..blocks {
        read.push(read_block(member, at + (block * BLOCK) as u64).await?);
    }
    Ok(read)
}

/// What cannot be read will be overwritten: not before it was tried a few times.
async fn read_block(member: &Member, at: u64) -> Result<Option<Vec<u8>>, IoError> {
    for _ in 0..limits::LAST_READ_ATTEMPTS {
        match member.read(at, Buffer::zeroed(BLOCK)).await {
            (buffer, Ok(())) => return Ok(Some(buffer.to_vec())),
            (_, Err(error)) if error.kind != IoErrorKind::Medium => return Err(error),
            _ => {}
        }
    }
    Ok(None)
}
