//! What is in the rings, what is promised room there, and how far the tail may move.

use std::collections::{BTreeMap, BTreeSet};

use super::ring::Ring;
use crate::format::labsan::journal_head::{Epoch, JournalHead};
use crate::format::labsan::journal_record::Stamp;

/// The journal's shape; the same for all members. Bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Of every ring that are used.
    pub(crate) ring_bytes: u64,
    /// The longest record.
    pub(crate) max_record_bytes: u64,
    /// Members that get a copy of each commit: one more than the level can lose.
    pub(crate) copies: usize,
    /// Parity rows.
    pub(crate) parities: u32,
    pub(crate) chunk_bytes: u32,
}

/// The state of all rings.
#[derive(Debug)]
pub(crate) struct Ledger {
    shape: Shape,
    rings: BTreeMap<u16, Ring>,
    /// Bytes promised to writes, intents and parity that are not in a ring yet. Whichever member they go to must have them.
    reserved: u64,
    next: u64,
    /// The commit under way: durable perhaps, but not yet accounted for below.
    committing: Option<u64>,
    /// Stripes with live records, by the oldest of them.
    stripes: BTreeSet<(u64, u64)>,
    /// Commits with intents that are not resolved, and how many.
    intents: BTreeMap<u64, u32>,
    head: JournalHead,
}

impl Ledger {
    /// A journal whose rings are empty.
    pub(crate) fn new(shape: Shape, head: JournalHead, next: u64) -> Self {
        Self {
            shape,
            rings: BTreeMap::new(),
            reserved: 0,
            next,
            committing: None,
            stripes: BTreeSet::new(),
            intents: BTreeMap::new(),
            head,
        }
    }

    /// Use this member's ring, empty so far.
    pub(crate) fn open_ring(&mut self, number: u16) -> &mut Ring {
        let length = self.shape.ring_bytes;
        self.rings.entry(number).or_insert_with(|| Ring::new(length))
    }

    /// Members that are not in `current` hold nothing that counts.
    pub(crate) fn retain_rings(&mut self, current: impl Fn(u16) -> bool) {
        self.rings.retain(|&number, _| current(number));
    }

    /// Room kept free of reservations: what the ends of the rings may waste, and a copy of the last commit at recovery.
    fn margin(&self) -> u64 {
        3 * self.shape.max_record_bytes
    }

    fn least_free(&self) -> u64 {
        self.rings.values().map(Ring::free_bytes).min().unwrap_or(0)
    }

    /// Room on every ring that could be promised.
    pub(crate) fn room(&self) -> u64 {
        self.least_free().saturating_sub(self.margin() + self.reserved)
    }

    /// Promise room, if there is any on every ring.
    pub(crate) fn reserve(&mut self, bytes: u64) -> bool {
        let fits = self.reserved + bytes + self.margin() <= self.least_free();
        if fits {
            self.reserved += bytes;
        }
        fits
    }

    /// Note a promise that was made before this start.
    pub(crate) fn promise(&mut self, bytes: u64) {
        self.reserved += bytes;
    }

    /// The head in force.
    pub(crate) fn head(&self) -> &JournalHead {
        &self.head
    }

    /// A promise was used up, or is not needed.
    pub(crate) fn release(&mut self, bytes: u64) {
        self.reserved = self.reserved.saturating_sub(bytes);
    }

    /// More than half of what can be promised is in use.
    pub(crate) fn is_pressed(&self) -> bool {
        let usable = self.shape.ring_bytes - self.margin();
        self.room() < usable / 2
    }

    /// Begin a commit: its sequence number and stamp.
    pub(crate) fn begin(&mut self) -> (u64, Stamp) {
        let sequence = self.next;
        self.next += 1;
        self.committing = Some(sequence);
        let stamp = self.head.epochs.last().map_or(Stamp { epoch: 0, nonce: 0 }, |epoch| epoch.stamp);
        (sequence, stamp)
    }

    /// A place for it on a member.
    pub(crate) fn place(&mut self, number: u16, sequence: u64, bytes: u64) -> Option<u64> {
        self.open_ring(number).allocate(sequence, bytes)
    }

    /// Everything the commit holds is accounted for.
    pub(crate) fn end(&mut self) {
        self.committing = None;
    }

    /// A stripe's oldest live record is now this one.
    pub(crate) fn list_stripe(&mut self, oldest: u64, stripe: u64) {
        self.stripes.insert((oldest, stripe));
    }

    pub(crate) fn unlist_stripe(&mut self, oldest: u64, stripe: u64) {
        self.stripes.remove(&(oldest, stripe));
    }

    pub(crate) fn add_intent(&mut self, sequence: u64) {
        *self.intents.entry(sequence).or_insert(0) += 1;
    }

    pub(crate) fn resolve_intent(&mut self, sequence: u64) {
        if let Some(count) = self.intents.get_mut(&sequence) {
            *count -= 1;
            if *count == 0 {
                self.intents.remove(&sequence);
            }
        }
    }

    /// Stripes with live records, those with the oldest first.
    pub(crate) fn oldest_stripes(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.stripes.iter().copied()
    }

    /// The sequence number of the next commit.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Commits before this one are accounted for.
    pub(crate) fn accounted_before(&self) -> u64 {
        self.committing.unwrap_or(self.next)
    }

    /// The oldest commit that is still needed.
    pub(crate) fn oldest_needed(&self) -> u64 {
        let stripe = self.stripes.first().map(|&(oldest, _)| oldest);
        let intent = self.intents.keys().next().copied();
        [stripe, intent, self.committing].into_iter().flatten().min().unwrap_or(self.next)
    }

    /// Bytes of all rings that moving the tail would free.
    pub(crate) fn could_free(&self) -> bool {
        self.oldest_needed() > self.head.tail
    }

    /// The head with the tail moved on, to be made durable before [`Ledger::moved`].
    pub(crate) fn moved_head(&self) -> JournalHead {
        let mut head = self.head.clone();
        head.generation += 1;
        head.tail = self.oldest_needed();
        let current = head.epochs.partition_point(|epoch| epoch.first <= head.tail).saturating_sub(1);
        head.epochs.drain(..current);
        head
    }

    /// The same head once more, under a new generation.
    pub(crate) fn same_head(&self) -> JournalHead {
        JournalHead { generation: self.head.generation + 1, ..self.head.clone() }
    }

    /// This head is durable on all current members: what it frees may be used again.
    pub(crate) fn moved(&mut self, head: JournalHead) {
        for ring in self.rings.values_mut() {
            ring.free_before(head.tail);
        }
        self.head = head;
    }
}

/// The head for a new start that took every commit before `first`. Epochs that began there or later own nothing any more:
/// they go, so that the list stays in order, and starts that are cut short again and again do not push out one that counts.
pub(crate) fn next_epoch(
    found: Option<&JournalHead>,
    tail: u64,
    first: u64,
    ring_bytes: u64,
    nonce: u64,
) -> JournalHead {
    let mut epochs: Vec<Epoch> = found.map(|head| head.epochs.clone()).unwrap_or_default();
    let number = epochs.last().map_or(0, |epoch| epoch.stamp.epoch) + 1;
    epochs.retain(|epoch| epoch.first < first);
    epochs.push(Epoch { stamp: Stamp { epoch: number, nonce }, first });
    let generation = found.map_or(0, |head| head.generation) + 1;
    JournalHead { generation, tail, ring_bytes, epochs }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn starts_that_are_cut_short_do_not_make_the_head_forget_whose_the_records_are() {
        let uuid = Uuid::from_bytes([7; 16]);
        let mut head = next_epoch(None, 1, 1, 1 << 20, 42);
        let stamp = head.epochs[0].stamp;
        for nonce in 0..300 {
            head = next_epoch(Some(&head), 1, 50, 1 << 20, nonce);
            let mut region = vec![0; 2 * crate::format::PAGE_BYTES];
            region[..crate::format::PAGE_BYTES].copy_from_slice(&head.encode(uuid));
            head = JournalHead::find(&region, uuid).unwrap();
            assert!(head.owns(49, stamp), "after {nonce} starts");
        }
    }

    /// The last commit was on one member only, which is missing by the time of the second start.
    #[test]
    fn a_start_that_finds_less_than_the_one_before_leaves_a_head_that_can_be_read() {
        let uuid = Uuid::from_bytes([7; 16]);
        let life = next_epoch(None, 1, 1, 1 << 20, 1);
        let cut_short = next_epoch(Some(&life), 1, 60, 1 << 20, 2);
        let head = next_epoch(Some(&cut_short), 1, 59, 1 << 20, 3);
        let mut region = vec![0; 2 * crate::format::PAGE_BYTES];
        region[..crate::format::PAGE_BYTES].copy_from_slice(&head.encode(uuid));
        let found = JournalHead::find(&region, uuid).unwrap();
        assert!(found.owns(58, life.epochs[0].stamp) && found.owns(60, head.epochs[1].stamp));
    }
}
