//! Group commit. Whoever has something to commit queues it and, if nobody is at it, carries out commits until his own is durable;
//! what arrives while one is in flight makes up the next. So a lone write costs no hand-off, and many share one record.
//!
//! Order that crashes depend on:
//! 1. One commit is in flight at a time, so only the last one can be incomplete at a start.
//! 2. It is durable on all its members, and a member that failed meanwhile is durably out, before anything in it is read
//!    or acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::Journal;
use crate::array::core::{Core, lock};
use crate::array::member::Member;
use crate::array::table::Slot;
use crate::format::labsan::journal_record::{self, Item, padded, record_bytes};
use crate::geometry::Row;
use crate::limits;
use crate::sabotage::{self, Sabotage};

/// Parity of a stripe, ready to be journalled.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) stripe: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Row, first column, bytes.
    pub(super) parts: Vec<(Row, u32, Bytes)>,
}

/// What is to be committed.
#[derive(Debug)]
pub(super) enum What {
    Data {
        stripe: u64,
        start: u32,
        data: Bytes,
        write: u64,
        promised: u64,
    },
    Group(Group),
    Intent {
        stripe: u64,
        checksums: Bytes,
    },
    Zeros {
        stripe: u64,
        count: u32,
    },
    /// What there is of the stripe from before this commit is in place, and dead.
    Dead {
        stripe: u64,
        before: u64,
    },
    /// All of these in one record, so that a crash leaves all of them or none.
    Together(Vec<What>),
    /// Nothing itself: tells when everything before it is durable.
    Barrier,
}

impl What {
    fn items(&self) -> usize {
        match self {
            Self::Group(group) => group.parts.len().max(1),
            Self::Together(parts) => parts.iter().map(Self::items).sum(),
            Self::Barrier => 0,
            _ => 1,
        }
    }

    fn padded_payload(&self) -> usize {
        match self {
            Self::Data { data, .. } => padded(data.len()),
            Self::Group(group) => group.parts.iter().map(|(.., bytes)| padded(bytes.len())).sum(),
            Self::Intent { checksums, .. } => padded(checksums.len()),
            Self::Together(parts) => parts.iter().map(Self::padded_payload).sum(),
            Self::Zeros { .. } | Self::Dead { .. } | Self::Barrier => 0,
        }
    }

    fn collect_items<'a>(&'a self, into: &mut Vec<(Item, &'a [u8])>) {
        match self {
            Self::Data { stripe, start, data, .. } => {
                into.push((Item::Data { stripe: *stripe, start: *start, length: data.len() as u32 }, data));
            }
            Self::Group(Group { stripe, from, to, parts }) => {
                let (stripe, from, to) = (*stripe, *from, *to);
                let item = |row, column, length| Item::Parity { stripe, row, column, length, from, to };
                if parts.is_empty() {
                    into.push((item(Row::P, 0, 0), &[]));
                }
                into.extend(
                    parts
                        .iter()
                        .map(|(row, column, bytes)| (item(*row, *column, bytes.len() as u32), &bytes[..])),
                );
            }
            Self::Intent { stripe, checksums } => {
                into.push((Item::Intent { stripe: *stripe, blocks: checksums.len() as u32 / 4 }, checksums));
            }
            Self::Zeros { stripe, count } => {
                into.push((Item::Zeros { stripe: *stripe, count: *count }, &[]));
            }
            Self::Dead { stripe, before } => {
                let (stripe, from, to) = (*stripe, *before, before.saturating_sub(1));
                into.push((Item::Parity { stripe, row: Row::P, column: 0, length: 0, from, to }, &[]));
            }
            Self::Together(parts) => parts.iter().for_each(|part| part.collect_items(into)),
            Self::Barrier => {}
        }
    }
}

type Outcome = Result<u64, IoError>;

/// Something in the queue.
#[derive(Debug)]
pub(super) struct Entry {
    what: What,
    /// Ring space promised to its record.
    promised: u64,
    /// Told the commit's sequence number. Nobody listens for cached writes.
    done: Option<oneshot::Sender<Outcome>>,
}

/// What waits for the next commit. Parity goes first: it is what makes room.
#[derive(Debug, Default)]
pub(super) struct Queue {
    groups: VecDeque<Entry>,
    clients: VecDeque<Entry>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.clients.is_empty()
    }

    /// As many entries as fit into one record, in order.
    fn take_batch(&mut self, max_record_bytes: u64) -> Vec<Entry> {
        let mut batch = Vec::new();
        let (mut items, mut payload) = (0, 0);
        let mut fits = |entry: &Entry| {
            items += entry.what.items();
            payload += entry.what.padded_payload();
            record_bytes(items, payload) as u64 <= max_record_bytes
        };
        for queue in [&mut self.groups, &mut self.clients] {
            while let Some(entry) = queue.front() {
                // One alone always goes: nothing longer than a record is ever queued.
                if !fits(entry) && !batch.is_empty() {
                    return batch;
                }
                batch.extend(queue.pop_front());
            }
        }
        batch
    }
}

impl Journal {
    /// Queue something; the receiver tells when it is durable.
    pub(super) fn enqueue(&self, what: What, promised: u64) -> oneshot::Receiver<Outcome> {
        let (done, receiver) = oneshot::channel();
        self.push(Entry { what, promised, done: Some(done) });
        receiver
    }

    /// Queue a write that was acknowledged already.
    pub(super) fn enqueue_cached(&self, what: What, promised: u64) {
        self.push(Entry { what, promised, done: None });
        self.cached.notify_one();
    }

    fn push(&self, entry: Entry) {
        let mut queue = lock(&self.queue);
        if matches!(entry.what, What::Group(_)) {
            queue.groups.push_back(entry);
        } else {
            queue.clients.push_back(entry);
        }
    }
}

impl Core {
    /// Wait until what was queued is durable, carrying out commits as long as nobody else does.
    pub(super) async fn committed(&self, journal: &Journal, mut done: oneshot::Receiver<Outcome>) -> Outcome {
        loop {
            tokio::select! {
                biased;
                outcome = &mut done => {
                    return outcome.unwrap_or_else(|_| Err(self.error(IoErrorKind::Stopped, IoOperation::Write, 0, 0)));
                }
                _turn = journal.commit_turn.lock() => self.commit_once(journal).await,
            }
        }
    }

    /// Commit what was acknowledged from memory, until the array stops.
    pub(in crate::array) async fn commit_cached_writes(&self) {
        let Some(journal) = self.has_journal() else { return };
        loop {
            journal.cached.notified().await;
            while !lock(&journal.queue).is_empty() {
                let _turn = journal.commit_turn.lock().await;
                self.commit_once(journal).await;
            }
            if journal.draining.load(std::sync::atomic::Ordering::Acquire) {
                return;
            }
        }
    }

    /// One commit of whatever is queued. `commit_turn` is held.
    async fn commit_once(&self, journal: &Journal) {
        let batch = lock(&journal.queue).take_batch(journal.shape.max_record_bytes);
        if batch.is_empty() {
            return;
        }
        if batch.iter().all(|entry| matches!(entry.what, What::Barrier)) {
            finish(batch, &Ok(0));
            return;
        }
        let outcome = self.write_record(journal, &batch).await;
        let promised = batch.iter().map(|entry| entry.promised).sum();
        if let Ok(sequence) = outcome {
            for entry in &batch {
                account(journal, &entry.what, sequence);
            }
        }
        {
            let mut ledger = lock(&journal.ledger);
            ledger.release(promised);
            ledger.end();
        }
        finish(batch, &outcome);
        journal.work.notify_one();
    }

    /// Build the record and make it durable on its members.
    async fn write_record(&self, journal: &Journal, batch: &[Entry]) -> Outcome {
        if self.has_failed() {
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, 0));
        }
        let mut items = Vec::with_capacity(batch.len());
        for entry in batch {
            entry.what.collect_items(&mut items);
        }
        let length = record_bytes(items.len(), batch.iter().map(|entry| entry.what.padded_payload()).sum());
        let (sequence, stamp) = lock(&journal.ledger).begin();
        let mut buffer = match journal.records.take(length).await {
            Ok(buffer) => buffer,
            Err(_) => Buffer::zeroed(length),
        };
        journal_record::encode(&mut buffer, self.uuid, sequence, stamp, items.into_iter());
        let record = buffer.freeze();
        let places = self.place_record(journal, sequence, length as u64).await?;
        self.write_to_rings(record, places.into_iter()).await?;
        Ok(sequence)
    }

    /// Make a record durable on these members, each with its place in the ring. Who does not take it is durably out.
    pub(super) async fn write_to_rings(
        &self,
        record: Bytes,
        places: impl Iterator<Item = (Arc<Member>, u64)>,
    ) -> Result<(), IoError> {
        let results = self.ring_writes(record, places).await;
        self.settle_member_failures(results).await
    }

    /// The same, with what became of it on each.
    pub(super) async fn ring_writes(
        &self,
        record: Bytes,
        places: impl Iterator<Item = (Arc<Member>, u64)>,
    ) -> Vec<(Arc<Member>, Result<(), IoError>)> {
        let writes = places.map(|(member, at)| {
            let record = record.clone();
            async move {
                let at = member.layout.journal.offset + at;
                let result = member.device.write(at, record, Durability::Durable).await;
                (member, result)
            }
        });
        join_all(writes).await
    }

    /// Members in turn, as many as one more than the level can lose, and a place on each.
    async fn place_record(
        &self,
        journal: &Journal,
        sequence: u64,
        length: u64,
    ) -> Result<Vec<(Arc<Member>, u64)>, IoError> {
        for _ in 0..limits::MAX_WRITE_ATTEMPTS {
            if let Some(places) = self.try_place_record(journal, sequence, length) {
                return Ok(places);
            }
            // Admission promised the room; a ring that lost it to a change of members gets it back by the tail.
            self.move_tail(journal).await?;
        }
        self.give_up("the journal has no room for what it promised");
        Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, length))
    }

    fn try_place_record(
        &self,
        journal: &Journal,
        sequence: u64,
        length: u64,
    ) -> Option<Vec<(Arc<Member>, u64)>> {
        let members = self.members_in_sync();
        let mut wanted = journal.shape.copies.min(members.len());
        if sabotage::planted(Sabotage::FewerCopies) {
            wanted = wanted.min(journal.shape.copies - 1);
        }
        let mut ledger = lock(&journal.ledger);
        let mut places = Vec::with_capacity(wanted + 1);
        for turn in 0..members.len() {
            if places.len() == wanted {
                break;
            }
            let member = &members[(sequence as usize + turn) % members.len()];
            if let Some(at) = ledger.place(member.number, sequence, length) {
                places.push((Arc::clone(member), at));
            }
        }
        if let Some(joining) = lock(&journal.joining).clone()
            && !places.iter().any(|(member, _)| member.number == joining.number)
        {
            let at = ledger.place(joining.number, sequence, length)?;
            places.push((joining, at));
        }
        (places.len() >= wanted).then_some(places)
    }

    /// Members whose journal counts.
    pub(super) fn members_in_sync(&self) -> Vec<Arc<Member>> {
        let table = self.table();
        table
            .slots
            .iter()
            .filter_map(|slot| match slot {
                Slot::InSync(member) => Some(Arc::clone(member)),
                _ => None,
            })
            .collect()
    }
}

/// What is durable now: readers see its data, the tail waits for it.
fn account(journal: &Journal, what: &What, sequence: u64) {
    match what {
        What::Data { stripe, start, data, write, promised } => {
            let first = journal.overlay.commit(*stripe, *start, data.clone(), *write, sequence, *promised);
            if first {
                lock(&journal.ledger).list_stripe(sequence, *stripe);
            }
        }
        What::Group(group) => journal.overlay.spend(group.stripe),
        What::Intent { .. } | What::Zeros { .. } => lock(&journal.ledger).add_intent(sequence),
        What::Together(parts) => parts.iter().for_each(|part| account(journal, part, sequence)),
        What::Dead { .. } | What::Barrier => {}
    }
}

fn finish(batch: Vec<Entry>, outcome: &Outcome) {
    for entry in batch {
        if let Some(done) = entry.done {
            // Whoever went away has nobody left to tell.
            let _ = done.send(outcome.clone());
        }
    }
}
