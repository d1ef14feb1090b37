//! The ways of a client's write under the journal.
//!
//! Part of a stripe: its data goes into the next commit; it is acknowledged when that is durable, or, where the client's write
//! cache is on, as soon as it is queued.
//!
//! A whole stripe, while every member is in sync and nothing of the stripe is journalled or queued: an intent with the CRC of every
//! block is made durable, then data and parity go straight to their places. It is acknowledged when all of that is flushed.
//! Zeros of whole stripes need no CRCs and no members: what a crash leaves half-done is done again as it stands.
//!
//! Room is promised before a stripe is held: who holds one never waits for room, because making room may need that stripe.

use std::ops::Range;

use block_io::{Durability, IoError, IoErrorKind, IoOperation};
use bytes::Bytes;

use super::Journal;
use super::commit::What;
use crate::array::core::{Core, lock};
use crate::array::locks::Fragment;
use crate::array::settle::Trust;
use crate::format::labsan::journal_record::INTENT_BLOCK_BYTES;
use crate::geometry::Row;
use crate::sabotage::{self, Sabotage};

/// Tells when what was queued is durable, and in which commit.
type Announced = tokio::sync::oneshot::Receiver<Result<u64, IoError>>;

impl Core {
    /// Write part of a stripe, or all of it.
    pub(in crate::array) async fn write_through_journal(
        &self,
        journal: &Journal,
        stripe: u64,
        fragment: Fragment,
    ) -> Result<(), IoError> {
        let whole = fragment.data.len() as u64 == u64::from(self.geometry.unit_data_bytes());
        if whole && self.is_optimal() && self.try_bypass(journal, stripe, &fragment).await? {
            return Ok(());
        }
        self.journal_fragment(journal, stripe, fragment).await
    }

    /// Every slot is wholly in sync.
    fn is_optimal(&self) -> bool {
        self.table().not_in_sync().is_empty()
    }

    async fn journal_fragment(
        &self,
        journal: &Journal,
        stripe: u64,
        fragment: Fragment,
    ) -> Result<(), IoError> {
        self.provision_touched(stripe, &fragment.range()).await?;
        let cached =
            fragment.durability == Durability::Cached || sabotage::planted(Sabotage::AckBeforeCommit);
        let Fragment { mut start, mut data, .. } = fragment;
        let mut last = None;
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(journal.max_piece_bytes()));
            let length = piece.len() as u32;
            let done = self.journal_piece(journal, stripe, start, &piece, cached).await?;
            start += length;
            if done.is_some() && !data.is_empty() {
                // The next piece may have to wait for room that only this one's commit makes.
                journal.cached.notify_one();
            }
            if let Some(earlier) = last.take() {
                self.committed(journal, earlier).await?;
            }
            last = done;
        }
        match last {
            Some(done) => self.committed(journal, done).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Queue one piece. Gives what to wait for, unless it counts as written already.
    async fn journal_piece(
        &self,
        journal: &Journal,
        stripe: u64,
        start: u32,
        piece: &[u8],
        cached: bool,
    ) -> Result<Option<Announced>, IoError> {
        let data = self.keep_in_memory(journal, piece).await?;
        let record_room = Journal::record_room(1, piece.len());
        let parity_room = journal.parity_room(piece.len());
        let room = self.promise_room(journal, record_room + parity_room).await?;
        if self.has_failed() {
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, piece.len() as u64));
        }
        room.hand_on();
        let write = journal.next_write();
        journal.overlay.admit(stripe);
        if cached {
            journal.overlay.cache(stripe, start, data.clone(), write);
        }
        let what = What::Data { stripe, start, data, write, promised: parity_room };
        if cached {
            journal.enqueue_cached(what, record_room);
            return Ok(None);
        }
        Ok(Some(journal.enqueue(what, record_room)))
    }

    /// Make sure that putting this range in place cannot run out of space: its rows and all parity.
    pub(super) async fn provision_touched(&self, stripe: u64, range: &Range<u32>) -> Result<(), IoError> {
        let table = self.table();
        self.missing_for_write(&table, stripe)?;
        let chunk = self.geometry.chunk_bytes();
        let (first, last) = (range.start / chunk, range.end.saturating_sub(1) / chunk);
        for row in self.geometry.rows() {
            let touched = match row {
                Row::Data(index) => (first..=last).contains(&u32::from(index)),
                Row::P | Row::Q => true,
            };
            if touched && let Some(member) = self.row_member(&table, stripe, row) {
                self.provision(member, self.geometry.stripe_offset(stripe)).await?;
            }
        }
        Ok(())
    }

    /// Write a whole stripe in place, if that is allowed; false if it has to be journalled.
    async fn try_bypass(&self, journal: &Journal, stripe: u64, fragment: &Fragment) -> Result<bool, IoError> {
        let checksums = block_checksums(&fragment.data);
        let room_bytes = Journal::record_room(1, checksums.len());
        self.provision_touched(stripe, &fragment.range()).await?;
        let room = self.promise_room(journal, room_bytes).await?;
        let _held = self.locks.exclusive(stripe).await;
        if !self.is_optimal() {
            return Ok(false);
        }
        if sabotage::planted(Sabotage::BypassWithoutIntent) && journal.overlay.begin_bypass(stripe, || {}) {
            let durable = Fragment { durability: Durability::Durable, ..fragment.clone() };
            let outcome = self.write_stripe(stripe, &[durable]).await;
            journal.overlay.end_bypass(stripe);
            return outcome.map(|()| true);
        }
        let mut announced = None;
        let announce =
            || announced = Some(journal.enqueue(What::Intent { stripe, checksums }, room.hand_on()));
        if sabotage::planted(Sabotage::BypassWithLiveRecord) {
            announce();
        } else if !journal.overlay.begin_bypass(stripe, announce) {
            return Ok(false);
        }
        let Some(announced) = announced else { return Ok(false) };
        let outcome = self.carry_out_bypass(journal, stripe, fragment, announced).await;
        journal.overlay.end_bypass(stripe);
        outcome.map(|()| true)
    }

    /// The intent is queued: wait for it, write everything, flush.
    async fn carry_out_bypass(
        &self,
        journal: &Journal,
        stripe: u64,
        fragment: &Fragment,
        announced: Announced,
    ) -> Result<(), IoError> {
        // Marked meanwhile; `write_stripe` asks again, and there an error is dealt with.
        let marked = self.mark_written(stripe..stripe + 1);
        let (sequence, _) = futures_util::join!(self.committed(journal, announced), marked);
        let sequence = sequence?;
        let durable = Fragment { durability: Durability::Durable, ..fragment.clone() };
        let written = self.write_stripe(stripe, &[durable]).await;
        if let Err(error) = &written
            && error.kind != IoErrorKind::ArrayFailed
        {
            // Some of it is in place and some is not: parity must agree again before the intent may go.
            self.settle_half_written(stripe..stripe + 1, Trust::Nothing).await?;
        }
        if self.has_failed() {
            return written;
        }
        let bytes = u64::from(self.geometry.unit_data_bytes());
        if written.is_ok() {
            self.trust(stripe..stripe + 1);
            self.rewritten(std::iter::once(stripe * bytes..(stripe + 1) * bytes)).await?;
        }
        lock(&journal.ledger).resolve_intent(sequence);
        journal.work.notify_one();
        written
    }

    /// Zero whole stripes: in place where nothing of a stripe is journalled, else through the journal.
    pub(in crate::array) async fn zero_through_journal(
        &self,
        journal: &Journal,
        stripes: Range<u64>,
        discard: bool,
    ) -> Result<(), IoError> {
        let count = (stripes.end - stripes.start) as usize;
        let room = self.promise_room(journal, Journal::record_room(count, 0)).await?;
        let held = self.locks.exclusive_range(stripes.clone()).await;
        let mut promised = room.hand_on();
        let mut announced = Vec::new();
        let mut busy = Vec::new();
        for stripe in stripes {
            // Each announced while its look is still true, so that no write slips in between.
            let announce = || {
                let what = What::Zeros { stripe, count: 1 };
                announced.push((stripe, journal.enqueue(what, std::mem::take(&mut promised))));
            };
            if !journal.overlay.begin_bypass(stripe, announce) {
                busy.push(stripe);
            }
        }
        lock(&journal.ledger).release(promised);
        let free: Vec<u64> = announced.iter().map(|(stripe, _)| *stripe).collect();
        let outcome = self.carry_out_zeros(journal, announced, discard).await;
        for stripe in free {
            journal.overlay.end_bypass(stripe);
        }
        drop(held);
        outcome?;
        for stripe in busy {
            let data = block_io::Buffer::zeroed(self.geometry.unit_data_bytes() as usize).freeze();
            let fragment = Fragment { start: 0, data, durability: Durability::Durable };
            self.write_through_journal(journal, stripe, fragment).await?;
        }
        Ok(())
    }

    /// The intents are queued: wait for them, zero, flush.
    async fn carry_out_zeros(
        &self,
        journal: &Journal,
        announced: Vec<(u64, Announced)>,
        discard: bool,
    ) -> Result<(), IoError> {
        let mut runs: Vec<Range<u64>> = Vec::new();
        let mut sequences = Vec::with_capacity(announced.len());
        for (stripe, done) in announced {
            sequences.push(self.committed(journal, done).await?);
            match runs.last_mut() {
                Some(run) if run.end == stripe => run.end += 1,
                _ => runs.push(stripe..stripe + 1),
            }
        }
        let zeroed = self.zero_runs(&runs, discard).await;
        if let Err(error) = &zeroed
            && error.kind != IoErrorKind::ArrayFailed
        {
            for run in &runs {
                self.settle_half_written(run.clone(), Trust::Zeros).await?;
            }
        }
        if self.has_failed() {
            return zeroed;
        }
        let mut ledger = lock(&journal.ledger);
        sequences.into_iter().for_each(|sequence| ledger.resolve_intent(sequence));
        drop(ledger);
        journal.work.notify_one();
        zeroed
    }

    async fn zero_runs(&self, runs: &[Range<u64>], discard: bool) -> Result<(), IoError> {
        for run in runs {
            self.zero_in_place(run.clone(), Durability::Cached, discard).await?;
        }
        self.flush_members().await?;
        let bytes = u64::from(self.geometry.unit_data_bytes());
        self.rewritten(runs.iter().map(|run| run.start * bytes..run.end * bytes)).await?;
        for run in runs {
            self.forget_written(run, true).await?;
        }
        Ok(())
    }

    /// Wait until everything that was acknowledged from memory is durable.
    pub(in crate::array) async fn flush_journal(&self, journal: &Journal) -> Result<(), IoError> {
        let barrier = journal.enqueue(What::Barrier, 0);
        self.committed(journal, barrier).await?;
        if self.has_failed() {
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Flush, 0, 0));
        }
        Ok(())
    }
}

/// The CRC32 of each block, as intents carry them.
pub(super) fn block_checksums(data: &[u8]) -> Bytes {
    let sums = data.chunks(INTENT_BLOCK_BYTES as usize).map(crc32fast::hash);
    sums.flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into()
}
