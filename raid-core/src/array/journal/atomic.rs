//! Writes of which a crash leaves all or nothing, whatever stripes they lie in.
//!
//! All pieces go into one record, which counts only as a whole. Under the journal what is written in place later comes from there. So
//! the direct way of whole stripes is closed to them, and acknowledging from memory as well. Mirrors: `redo`.

use block_io::{IoError, IoErrorKind, IoOperation};
use bytes::Bytes;

use super::Journal;
use super::commit::What;
use crate::array::core::Core;
use crate::format::labsan::journal_record::{padded, record_bytes};
use crate::geometry::UnitPiece;
use crate::limits;

/// A piece of one stripe or mirrored chunk: which, from which byte of its data, and what.
pub(super) type Piece = (u64, u32, Bytes);

impl Journal {
    /// The longest atomic write. Half a record, so that the longest still leaves room in the ring for its parity.
    fn atomic_limit_bytes(&self) -> u32 {
        let most = (self.shape.max_record_bytes / 2).min(limits::MAX_ATOMIC_BYTES);
        (most / 4096 * 4096) as u32
    }
}

impl Core {
    /// The longest write that is atomic over crashes; 0 where there is nothing to record it in.
    pub(in crate::array) fn atomic_limit_bytes(&self) -> u32 {
        let redo = self.redo.as_ref().filter(|redo| redo.is_on());
        let of_mirror = || redo.map_or(0, |_| limits::MAX_ATOMIC_BYTES as u32);
        self.has_journal().map_or_else(of_mirror, Journal::atomic_limit_bytes)
    }

    fn max_record_bytes(&self) -> u64 {
        self.has_journal().map_or(limits::REDO_RING_BYTES, |journal| journal.shape.max_record_bytes)
    }

    /// Write all of these, given by their places on the array, durably and in one commit.
    pub(in crate::array) async fn write_atomic(&self, parts: Vec<(u64, Bytes)>) -> Result<(), IoError> {
        let refused = |kind| {
            let offset = parts.first().map_or(0, |(offset, _)| *offset);
            let length = parts.iter().map(|(_, data)| data.len() as u64).sum();
            self.error(kind, IoOperation::Write, offset, length)
        };
        let mut entered = Vec::with_capacity(parts.len());
        for (offset, data) in &parts {
            entered.push(self.enter(IoOperation::Write, *offset, data.len() as u64)?);
        }
        let pieces = self.stripe_pieces(&parts);
        let payload = pieces.iter().map(|(.., data)| padded(data.len())).sum();
        let record_room = record_bytes(pieces.len(), payload) as u64;
        let bytes: usize = parts.iter().map(|(_, data)| data.len()).sum();
        if bytes > self.atomic_limit_bytes() as usize || record_room > self.max_record_bytes() {
            return Err(refused(IoErrorKind::Unsupported));
        }
        if pieces.is_empty() {
            return Ok(());
        }
        if let Some(redo) = &self.redo {
            return self.write_recorded(redo, &pieces).await;
        }
        let Some(journal) = self.has_journal() else { return Err(refused(IoErrorKind::Unsupported)) };
        for (stripe, start, data) in &pieces {
            self.provision_touched(*stripe, &(*start..*start + data.len() as u32)).await?;
        }
        self.commit_together(journal, &pieces, record_room).await
    }

    fn stripe_pieces(&self, parts: &[(u64, Bytes)]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for (offset, data) in parts {
            let mut rest = data.clone();
            for UnitPiece { unit, start, length } in self.geometry.pieces(*offset, data.len() as u64) {
                pieces.push((unit, start, rest.split_to(length as usize)));
            }
        }
        pieces
    }

    async fn commit_together(
        &self,
        journal: &Journal,
        pieces: &[Piece],
        record_room: u64,
    ) -> Result<(), IoError> {
        let whole: Vec<u8> = pieces.iter().flat_map(|(.., data)| data.iter().copied()).collect();
        // One buffer for all of it: who holds a part of the journal's memory must not wait for more.
        let mut kept = self.keep_in_memory(journal, &whole).await?;
        let parity_room: u64 = pieces.iter().map(|(.., data)| journal.parity_room(data.len())).sum();
        let room = self.promise_room(journal, record_room + parity_room).await?;
        if self.has_failed() {
            let length = whole.len() as u64;
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, length));
        }
        room.hand_on();
        let write = journal.next_write();
        let parts = pieces.iter().map(|(stripe, start, data)| {
            journal.overlay.admit(*stripe);
            let promised = journal.parity_room(data.len());
            let data = kept.split_to(data.len());
            What::Data { stripe: *stripe, start: *start, data, write, promised }
        });
        let done = journal.enqueue(What::Together(parts.collect()), record_room);
        self.committed(journal, done).await.map(|_| ())
    }
}
