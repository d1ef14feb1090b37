//! What a start does with the journal it finds (J5). Every step can be cut short and begun again.
//!
//! 1. The rings of members that the newest superblock lists as in sync are read (`scan`); the roles are durable by then.
//! 2. A new epoch is made durable: what is numbered from now on is never mixed up with what was not taken.
//! 3. The last commit, which alone may lack copies, is copied again.
//! 4. Of each stripe the newest group is put in place again, or its whole write settled: resynced, and where a member is
//!    missing as well, restored as far as the intent's CRCs vouch for it. What is left is listed as lost.
//! 5. Data that no group covers goes through the ordinary destaging.
//! 6. The tail passes all of it, durably; then clients are served.

use std::sync::Arc;

use block_io::{Buffer, Durability, IoError};
use bytes::Bytes;
use futures_util::future::join_all;

use super::Journal;
use super::scan::{Copy, FoundJournal};
use crate::array::core::{Core, lock};
use crate::array::member::Member;
use crate::array::settle::Trust;
use crate::format::PAGE_BYTES;
use crate::format::labsan::LabsanError;
use crate::format::labsan::journal_head::JournalHead;
use crate::geometry::Row;
use crate::journal::ledger::{Shape, next_epoch};
use crate::journal::pieces::Pieces;
use crate::journal::replay::{self, Newest, Payload, StripeReplay, Write};
use crate::limits;
use crate::sabotage::{self, Sabotage};
use tokio::time::Instant;

/// Why a journal cannot be recovered as it is.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A commit in the middle cannot be read on any member.
    #[error(
        "array {array}: commit {missing} of the journal cannot be read though commit {later} can: acknowledged writes are \
         lost from there on; attach the disks that are missing, or start with --force to do without those writes"
    )]
    Damaged {
        /// The array's name.
        array: String,
        /// The first that is missing.
        missing: u64,
        /// One that is there.
        later: u64,
    },
    /// No member has a journal head that can be read.
    #[error(
        "array {array}: no member's journal can be found: writes that were acknowledged may be in it; attach the disks that are \
         missing, or start with --force to do without them"
    )]
    Missing {
        /// The array's name.
        array: String,
    },
    /// No member can say whether an atomic write of a mirror is half-way in place.
    #[error(
        "array {array}: no member can read whether an atomic write was cut short: one may be there in part; attach the disks \
         that are missing, or start with --force to leave it as it is"
    )]
    Unread {
        /// The array's name.
        array: String,
    },
    /// The atomic write of a mirror that was cut short cannot be completed.
    #[error(
        "array {array}: an atomic write was cut short, and there is no space to complete it ({error}): make room below its members, \
         or start with --force to leave it in part"
    )]
    NoSpace {
        /// The array's name.
        array: String,
        /// Where space is missing.
        error: IoError,
    },
    /// What may be the record of an atomic write of a mirror cannot be erased, though it is needed no more.
    #[error(
        "array {array}: the place of a record of an atomic write cannot be erased ({error}): make room below its members, or attach \
         the disks that are missing, or start with --force to do without atomic writes until the next start"
    )]
    NotErased {
        /// The array's name.
        array: String,
        /// Why.
        error: IoError,
    },
    /// Nor do the headers take it that no record counts: a later start might undo with it what is written now.
    #[error(
        "array {array}: the place of a record of an atomic write cannot be erased ({erased}), nor can it be noted that none counts \
         ({error}): a later start might undo what is written now; make room below its members, or attach the disks that are missing"
    )]
    NotVoid {
        /// The array's name.
        array: String,
        /// Why it cannot be erased.
        erased: Box<IoError>,
        /// Why it cannot be noted.
        error: IoError,
    },
    /// One start more, and the head could not name all that wrote what is in the journal.
    #[error(
        "array {array}: its recovery was cut short too often, each time after new commits; writes that were acknowledged are \
         in the journal; find out what stops it, or start with --force to do without them"
    )]
    TooManyStarts {
        /// The array's name.
        array: String,
    },
    /// Made by a newer labsan.
    #[error("{member}: {error}")]
    Newer {
        /// The member's path.
        member: String,
        /// What is new.
        error: LabsanError,
    },
    /// A device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl FoundJournal {
    /// The head of the life that begins now.
    pub(in crate::array) fn next_head(&self, nonce: u64) -> JournalHead {
        if sabotage::planted(Sabotage::StaleEpochReplayed) {
            return JournalHead { generation: self.head.generation + 1, ..self.head.clone() };
        }
        next_epoch(Some(&self.head), self.head.tail, self.end, self.head.ring_bytes, nonce)
    }

    /// md ran the array since, or it was stopped cleanly: what the rings hold is dead.
    pub(in crate::array) fn forget_records(&mut self) {
        let beyond = self.records.last().map_or(self.head.tail, |record| record.sequence + 1);
        self.head.tail = beyond.max(self.end);
        self.end = self.head.tail;
        self.records.clear();
        self.copies.clear();
    }

    /// Of one copy of each record.
    fn bytes(&self) -> u64 {
        self.copies.iter().filter_map(|copies| copies.first()).map(|copy| copy.bytes).sum()
    }

    pub(in crate::array) fn ring_bytes(&self) -> u64 {
        self.head.ring_bytes
    }

    /// A journal that goes on behind these records.
    pub(in crate::array) fn journal(
        &self,
        shape: Shape,
        nonce: u64,
        members: impl Iterator<Item = u16>,
    ) -> Journal {
        let journal = Journal::new(shape, self.next_head(nonce), self.end, members);
        let mut ledger = lock(&journal.ledger);
        for (record, copies) in self.records.iter().zip(&self.copies) {
            for copy in copies {
                ledger.open_ring(copy.member.number).adopt(record.sequence, copy.at, copy.bytes);
            }
        }
        drop(ledger);
        journal
    }
}

/// Make durable what the last life left in the journal. When this returns the ring is empty, and clients may be served.
pub(in crate::array) async fn recover_journal(
    core: &Core,
    found: Option<&FoundJournal>,
) -> Result<(), IoError> {
    let Some(journal) = core.has_journal() else { return Ok(()) };
    // What can be read now must survive the next power cut too.
    core.flush_members().await?;
    let head = lock(&journal.ledger).head().clone();
    core.write_heads(journal, &head).await?;
    let Some(found) = found else { return Ok(()) };
    if found.records.is_empty() {
        return Ok(());
    }
    let began = Instant::now();
    let held =
        format!("{} commits ({:.1} MiB)", found.records.len(), found.bytes() as f64 / f64::from(1 << 20));
    tracing::info!(array = %core.name, "the journal holds {held}: recovering");
    if !sabotage::planted(Sabotage::NoRecopyAtRecovery) {
        core.copy_last_commit(journal, found).await?;
    }
    let stripes = replay::interpret(&found.records, core.geometry.units());
    let work: Vec<(u64, StripeReplay)> = stripes.into_iter().collect();
    let mut later = Vec::new();
    for (stripe, replay) in &work {
        later.extend(replay.later.iter().map(|write| (*stripe, *write)));
    }
    core.replay_groups(found, &work).await?;
    for (stripe, replay) in &work {
        core.resolve_intent(found, *stripe, &replay.newest).await?;
    }
    later.sort_by_key(|(_, write)| write.sequence);
    for (stripe, write) in later {
        core.keep_found_write(journal, found, stripe, write).await?;
    }
    if sabotage::planted(Sabotage::ServedWithIntent) {
        return Ok(());
    }
    core.drain_journal(journal).await?;
    let seconds = began.elapsed().as_secs_f64();
    core.note(format!("the journal held {held}: they were recovered in {seconds:.1} seconds"));
    Ok(())
}

impl Core {
    async fn copy_last_commit(&self, journal: &Journal, found: &FoundJournal) -> Result<(), IoError> {
        let (Some(record), Some(copies)) = (found.records.last(), found.copies.last()) else { return Ok(()) };
        let has = |member: &Member| copies.iter().any(|copy| copy.member.number == member.number);
        let members = self.members_in_sync();
        let wanted = journal.shape.copies.min(members.len());
        let lacking = wanted.saturating_sub(copies.len());
        let bytes = copies.first().map_or(0, |copy| copy.bytes);
        let data = self.read_copies(copies, 0, bytes as usize).await?;
        let members = members.into_iter().filter(|member| !has(member)).take(lacking);
        let places = members.filter_map(|member| {
            let at = lock(&journal.ledger).place(member.number, record.sequence, bytes)?;
            Some((member, at))
        });
        self.write_to_rings(data, places).await
    }

    /// Bytes of a record, from whichever copy can be read.
    async fn read_copies(&self, copies: &[Copy], offset: usize, length: usize) -> Result<Bytes, IoError> {
        let page = PAGE_BYTES;
        let (start, end) = (offset / page * page, (offset + length).next_multiple_of(page));
        let mut outcome =
            self.error(block_io::IoErrorKind::Medium, block_io::IoOperation::Read, 0, length as u64);
        for copy in copies {
            let at = copy.member.layout.journal.offset + copy.at + start as u64;
            let (buffer, result) = copy.member.device.read(at, Buffer::zeroed(end - start)).await;
            match result {
                Ok(()) => return Ok(buffer.freeze().slice(offset - start..offset - start + length)),
                Err(error) => outcome = error,
            }
        }
        Err(outcome)
    }

    async fn payload(&self, found: &FoundJournal, payload: Payload) -> Result<Bytes, IoError> {
        self.read_copies(&found.copies[payload.record], payload.offset, payload.length).await
    }

    /// Put the newest group of every stripe in place once more, many at a time, then flush.
    async fn replay_groups(&self, found: &FoundJournal, work: &[(u64, StripeReplay)]) -> Result<(), IoError> {
        let unit = u64::from(self.geometry.unit_data_bytes());
        let mut rewritten = Vec::new();
        let groups = work.iter().filter(|(_, replay)| matches!(replay.newest, Newest::Group { .. }));
        self.mark_all_written(groups.map(|(stripe, _)| *stripe..*stripe + 1)).await?;
        for batch in work.chunks(limits::DESTAGE_ROUND) {
            let replays = batch.iter().filter_map(|(stripe, replay)| match &replay.newest {
                Newest::Group { writes, parity } => Some(self.replay_group(found, *stripe, writes, parity)),
                _ => None,
            });
            for replayed in join_all(replays).await {
                let (stripe, pieces) = replayed?;
                rewritten.extend(pieces.iter().map(|(start, data)| {
                    let at = stripe * unit + u64::from(start);
                    at..at + data.len() as u64
                }));
            }
        }
        self.flush_members().await?;
        self.rewritten(rewritten.into_iter()).await
    }

    async fn replay_group(
        &self,
        found: &FoundJournal,
        stripe: u64,
        writes: &[Write],
        parity: &[(Row, u32, Payload)],
    ) -> Result<(u64, Pieces), IoError> {
        let mut pieces = Pieces::default();
        for write in writes {
            let end = write.start.saturating_add(write.payload.length as u32);
            if end <= self.geometry.unit_data_bytes() {
                pieces.insert(write.start, self.payload(found, write.payload).await?, write.sequence);
            }
        }
        let chunk = self.geometry.chunk_bytes();
        let mut rows: Vec<(Row, u32, Bytes)> = Vec::new();
        for (start, data) in pieces.iter() {
            let (mut start, mut data) = (start, data.clone());
            while !data.is_empty() {
                let part = data.split_to(data.len().min((chunk - start % chunk) as usize));
                let length = part.len() as u32;
                rows.push((Row::Data((start / chunk) as u16), start % chunk, part));
                start += length;
            }
        }
        for (row, column, payload) in parity {
            if column.saturating_add(payload.length as u32) <= chunk {
                rows.push((*row, *column, self.payload(found, *payload).await?));
            }
        }
        self.write_rows(stripe, rows).await?;
        Ok((stripe, pieces))
    }

    /// Write columns of rows in place, on the members that are there.
    async fn write_rows(&self, stripe: u64, rows: Vec<(Row, u32, Bytes)>) -> Result<(), IoError> {
        let table = self.table();
        let at = self.geometry.stripe_offset(stripe);
        let writes = rows.into_iter().filter_map(|(row, column, data)| {
            let member = Arc::clone(self.row_member(&table, stripe, row)?);
            Some(async move {
                let result = member.write(at + u64::from(column), data, Durability::Cached).await;
                (member, result)
            })
        });
        let results = join_all(writes).await;
        self.settle_member_failures(results).await
    }

    /// A stripe that was being written, or zeroed, as a whole.
    async fn resolve_intent(
        &self,
        found: &FoundJournal,
        stripe: u64,
        newest: &Newest,
    ) -> Result<(), IoError> {
        match newest {
            Newest::Untouched | Newest::Group { .. } => Ok(()),
            // Nothing of it came to its place: its region would have been marked before.
            Newest::Intent { .. } | Newest::Zeros if self.is_unwritten(stripe) => Ok(()),
            Newest::Intent { checksums } => {
                let bytes = self.payload(found, *checksums).await?;
                let sums: Vec<u32> = bytes
                    .chunks_exact(4)
                    .map(|sum| u32::from_le_bytes([sum[0], sum[1], sum[2], sum[3]]))
                    .collect();
                self.settle_stripe(stripe, Trust::Checksums(&sums)).await
            }
            Newest::Zeros => {
                self.zero_in_place(stripe..stripe + 1, Durability::Cached, false).await?;
                self.flush_members().await?;
                let unit = u64::from(self.geometry.unit_data_bytes());
                self.rewritten(std::iter::once(stripe * unit..(stripe + 1) * unit)).await
            }
        }
    }

    /// Data that nothing covers yet: as if it had just been committed.
    async fn keep_found_write(
        &self,
        journal: &Journal,
        found: &FoundJournal,
        stripe: u64,
        write: Write,
    ) -> Result<(), IoError> {
        let end = write.start.saturating_add(write.payload.length as u32);
        if end > self.geometry.unit_data_bytes() {
            return Ok(());
        }
        let data = self.payload(found, write.payload).await?;
        // Its room was promised before it was acknowledged.
        let promised = journal.parity_room(data.len());
        let number = journal.next_write();
        journal.overlay.admit(stripe);
        let first = journal.overlay.commit(stripe, write.start, data, number, write.sequence, promised);
        let mut ledger = lock(&journal.ledger);
        ledger.promise(promised);
        if first {
            ledger.list_stripe(write.sequence, stripe);
        }
        Ok(())
    }
}
