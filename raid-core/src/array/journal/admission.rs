//! Nothing is promised before there is room for all of it: memory for the data, ring space for its record and for the parity
//! that will go with it. So a full ring never stops destaging, which is what empties it.
//!
//! Who waits here holds no unit and no ring space. Memory is taken first: destaging needs none of it.

use std::sync::atomic::Ordering;

use block_io::{Buffer, IoError, IoErrorKind, IoOperation};
use bytes::Bytes;

use super::Journal;
use crate::array::core::{Core, lock};
use crate::format::labsan::journal_record::{padded, record_bytes};
use crate::limits;

/// Ring space promised to a write. Given back when dropped, unless it was handed on.
#[derive(Debug)]
pub(super) struct Promise<'a> {
    journal: &'a Journal,
    bytes: u64,
}

impl Promise<'_> {
    /// The bytes, to be released by whoever uses them up.
    pub(super) fn hand_on(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            lock(&self.journal.ledger).release(self.bytes);
            self.journal.wake_waiting();
        }
    }
}

impl Journal {
    /// Ring space of a record that holds only this.
    pub(super) fn record_room(items: usize, payload: usize) -> u64 {
        record_bytes(items, padded(payload)) as u64
    }

    /// Ring space of the parity that a piece of data may need: a record of its own, in the worst case.
    pub(super) fn parity_room(&self, data: usize) -> u64 {
        let columns = (data as u64).min(self.shape.chunk_bytes.into()).next_multiple_of(4096);
        limits::RECORD_HEAD_BYTES + columns * u64::from(self.shape.parities)
    }

    /// Ring space of a parity group over so many columns.
    pub(super) fn group_room(&self, columns: usize) -> u64 {
        let parities = self.shape.parities as usize;
        record_bytes(parities, parities * padded(columns)) as u64
    }

    /// The longest piece of data that is journalled in one item.
    pub(super) fn max_piece_bytes(&self) -> usize {
        ((self.shape.max_record_bytes / 4) as usize).min(limits::MAX_PIECE_BYTES)
    }
}

impl Core {
    /// Wait for ring space.
    pub(super) async fn promise_room<'a>(
        &self,
        journal: &'a Journal,
        bytes: u64,
    ) -> Result<Promise<'a>, IoError> {
        let promise = |bytes| Promise { journal, bytes };
        // In order: a large one is not overtaken for ever by small ones.
        let _turn = journal.admission_turn.lock().await;
        if lock(&journal.ledger).reserve(bytes) {
            return Ok(promise(bytes));
        }
        journal.waiting.fetch_add(1, Ordering::AcqRel);
        let mut room = journal.room.subscribe();
        let outcome = loop {
            room.mark_unchanged();
            if self.has_failed() {
                break Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, bytes));
            }
            if lock(&journal.ledger).reserve(bytes) {
                break Ok(promise(bytes));
            }
            journal.work.notify_one();
            // The sender lives as long as the journal does.
            let _ = room.changed().await;
        };
        journal.waiting.fetch_sub(1, Ordering::AcqRel);
        outcome
    }

    /// Copy data into the journal's memory, as soon as there is some.
    pub(super) async fn keep_in_memory(&self, journal: &Journal, data: &[u8]) -> Result<Bytes, IoError> {
        let mut buffer = match journal.memory.try_take(data.len()) {
            Some(buffer) => buffer,
            None => self.wait_for_memory(journal, data.len()).await?,
        };
        buffer.copy_from_slice(data);
        Ok(buffer.freeze())
    }

    async fn wait_for_memory(&self, journal: &Journal, length: usize) -> Result<Buffer, IoError> {
        journal.waiting.fetch_add(1, Ordering::AcqRel);
        let mut room = journal.room.subscribe();
        let taking = journal.memory.take(length);
        tokio::pin!(taking);
        let refused = |kind| self.error(kind, IoOperation::Write, 0, length as u64);
        let outcome = loop {
            room.mark_unchanged();
            if self.has_failed() {
                break Err(refused(IoErrorKind::ArrayFailed));
            }
            journal.work.notify_one();
            tokio::select! {
                biased;
                taken = &mut taking => break taken.map_err(|_| refused(IoErrorKind::Other)),
                _ = room.changed() => {}
            }
        };
        journal.waiting.fetch_sub(1, Ordering::AcqRel);
        outcome
    }
}
