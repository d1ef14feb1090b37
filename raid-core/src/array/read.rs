//! The life of a read: cut at chunks, sent to members, all at once, into disjoint parts of one buffer.
//!
//! A part whose member is there is read from it without any lock. Only where a member is missing, or a read
//! fails, is the unit held and the part computed from the others (and written back where it was unreadable).

use block_io::{Buffer, IoError, IoErrorKind, IoOperation, ReadResult};
use futures_util::future::join_all;

use super::core::Core;
use crate::geometry::{Level, Place, Row, UnitPiece};
use crate::volume::rejoin;

/// A part of a read that lies in one chunk: where it is, and where it goes.
struct Part {
    unit: u64,
    /// Bytes into the unit's data.
    start: u32,
    buffer: Buffer,
}

impl Core {
    /// Read `buffer.len()` bytes at `offset` of the array.
    pub(crate) async fn read(&self, offset: u64, mut buffer: Buffer) -> ReadResult {
        let length = buffer.len() as u64;
        let _inside = match self.enter(IoOperation::Read, offset, length) {
            Ok(guard) => guard,
            Err(error) => return (buffer, Err(error)),
        };
        let mut whole = buffer.split_to(0);
        let parts = self.cut(offset, buffer);
        if parts.len() <= 1 {
            // The usual small read: no list of futures.
            let Some(part) = parts.into_iter().next() else { return (whole, Ok(())) };
            return self.read_part(part).await;
        }
        let mut outcome = Ok(());
        for (part, result) in join_all(parts.into_iter().map(|part| self.read_part(part))).await {
            outcome = outcome.and(result);
            rejoin(&mut whole, part);
        }
        (whole, outcome)
    }

    fn cut(&self, offset: u64, mut buffer: Buffer) -> smallvec::SmallVec<[Part; 1]> {
        let chunk = self.geometry.chunk_bytes();
        let mut parts = smallvec::SmallVec::new();
        for UnitPiece { unit, mut start, length } in self.geometry.pieces(offset, buffer.len() as u64) {
            let end = start + length;
            while start < end {
                let take = (chunk - start % chunk).min(end - start);
                parts.push(Part { unit, start, buffer: buffer.split_to(take as usize) });
                start += take;
            }
        }
        parts
    }

    async fn read_part(&self, part: Part) -> ReadResult {
        let Part { unit, start, mut buffer } = part;
        loop {
            let seen = self.lost_changes();
            let (back, result) = self.read_once(Part { unit, start, buffer }).await;
            // What is declared lost while it is being read may already have zeros standing in for it.
            if result.is_err() || self.lost_changes() == seen {
                return (back, result);
            }
            buffer = back;
        }
    }

    async fn read_once(&self, part: Part) -> ReadResult {
        let Part { unit, start, buffer } = part;
        if let Some(journal) = &self.journal {
            return self.read_through_journal(journal, unit, start, buffer).await;
        }
        let range = self.in_array(unit, start..start + buffer.len() as u32);
        if self.is_lost(range.clone()) {
            return (buffer, Err(self.lost_error(range)));
        }
        if self.geometry.level().has_parity() {
            self.read_in_place(unit, start, buffer).await
        } else {
            let part = start..start + buffer.len() as u32;
            let (buffer, result) = self.read_from_copies(Part { unit, start, buffer }).await;
            (buffer, result.and_then(|()| self.check_whole(unit, part)))
        }
    }

    /// A part of a unit's data as a range of the array's.
    pub(crate) fn in_array(&self, unit: u64, part: std::ops::Range<u32>) -> std::ops::Range<u64> {
        let at = unit * u64::from(self.geometry.unit_data_bytes());
        at + u64::from(part.start)..at + u64::from(part.end)
    }

    /// What is in place of a part of a chunk: `start` bytes into the stripe's user data.
    pub(crate) async fn read_in_place(&self, unit: u64, start: u32, buffer: Buffer) -> ReadResult {
        let chunk = self.geometry.chunk_bytes();
        let row = Row::Data((start / chunk) as u16);
        let column = start % chunk;
        let columns = column..column + buffer.len() as u32;
        let table = self.table();
        let Some(member) = self.row_member(&table, unit, row) else {
            return self.read_degraded(Part { unit, start, buffer }, row, columns).await;
        };
        let (buffer, result) = member.read(self.column_offset(unit, &columns), buffer).await;
        match result {
            Ok(()) => (buffer, Ok(())),
            Err(_) => self.read_degraded(Part { unit, start, buffer }, row, columns).await,
        }
    }

    /// The row's member is missing or could not read: hold the stripe, look again, compute if need be.
    async fn read_degraded(&self, part: Part, row: Row, columns: std::ops::Range<u32>) -> ReadResult {
        let Part { unit, mut buffer, .. } = part;
        let _held = self.locks.exclusive(unit).await;
        let table = self.table();
        let computed = match self.row_member(&table, unit, row) {
            // Rebuilt meanwhile, or a read that failed and is tried once more before it is repaired.
            Some(member) => {
                let (back, result) = member.read(self.column_offset(unit, &columns), buffer).await;
                buffer = back;
                match result {
                    Ok(()) => return (buffer, Ok(())),
                    Err(error) => self.repair_row(unit, &columns, row, member, &error).await,
                }
            }
            None => self.reconstruct_row(unit, &columns, row).await.map(Buffer::freeze),
        };
        match computed {
            Ok(data) => {
                buffer.copy_from_slice(&data);
                (buffer, Ok(()))
            }
            Err(error) => (buffer, Err(error)),
        }
    }

    async fn read_from_copies(&self, part: Part) -> ReadResult {
        // What was once read from an unequal mirror must stay: make its copies equal first.
        if self.geometry.level() != Level::Raid0
            && !self.in_sync(part.unit)
            && let Err(error) = self.equalize_unit(part.unit).await
        {
            return (part.buffer, Err(error));
        }
        let Part { unit, start, mut buffer } = part;
        let copies = self.geometry.copies(unit);
        let mut failed: smallvec::SmallVec<[(Place, IoError); 2]> = smallvec::SmallVec::new();
        let mut tried: smallvec::SmallVec<[u16; 2]> = smallvec::SmallVec::new();
        loop {
            // A slow disk may have taken so long to fail that others have come in sync meanwhile: look again.
            let table = self.table();
            // Units take turns, so that a long read keeps every disk busy.
            let turns = (0..copies.len()).map(|turn| copies[(unit as usize + turn) % copies.len()]);
            let next = turns
                .filter_map(|place| Some((place, table.usable(place.member, unit)?)))
                .find(|(_, member)| !tried.contains(&member.number));
            let Some((place, member)) = next else { break };
            tried.push(member.number);
            let (back, result) = member.read(place.offset + u64::from(start), buffer).await;
            buffer = back;
            match result {
                Ok(()) => {
                    self.repair_copies(unit, start, &buffer, failed).await;
                    return (buffer, Ok(()));
                }
                Err(error) => {
                    self.read_failed(member, &error).await;
                    failed.push((place, error));
                }
            }
        }
        let error = failed.pop().map_or_else(|| self.no_copy(unit, start, buffer.len()), |(_, error)| error);
        (buffer, Err(error))
    }

    fn no_copy(&self, unit: u64, start: u32, length: usize) -> IoError {
        let at = unit * u64::from(self.geometry.unit_data_bytes()) + u64::from(start);
        self.error(IoErrorKind::ArrayFailed, IoOperation::Read, at, length as u64)
    }
}
