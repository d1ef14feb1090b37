//! The journal of a RAID 5/6 array: nothing acknowledged is ever lost, and no stripe is ever half-written
//! (`docs/crash-consistency.md` has the rules, numbered J1 to J5, and why each holds).
//!
//! - `admission`: room in memory and in the rings, before anything is promised.
//! - `commit`: queued writes, parity and intents become one record on several members.
//! - `write`: the ways of a client's write: through the journal, or in place with an intent. `atomic`: all of it or none.
//! - `destage`: from the journal to the stripes' places.
//! - `tail`: freeing ring space.
//! - `recovery`: what a start does with what it finds.
//! - `redo`: the record that mirrors keep of an atomic write, in the same places. They have no journal otherwise. `half_done`: what
//!   one that was given up leaves.

mod admission;
mod atomic;
mod commit;
mod destage;
mod half_done;
mod open;
mod read;
mod recovery;
mod redo;
mod scan;
mod settle;
mod tail;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use block_io::BufferPool;
use tokio::sync::{Notify, watch};

pub(super) use tail::write_head;

pub(super) use open::open_journal;
pub use recovery::JournalError;
pub(super) use recovery::recover_journal;
pub(super) use redo::{Redo, find_record};

use super::core::{Core, lock};
use super::member::Member;
use crate::format::SECTOR_BYTES;
use crate::format::labsan::journal_head::JournalHead;
use crate::format::labsan::journal_record::record_bytes;
use crate::geometry::{Geometry, Level};
use crate::journal::ledger::{Ledger, Shape, next_epoch};
use crate::journal::overlay::Overlay;
use crate::limits;
use commit::Queue;

/// The journal of a running array.
#[derive(Debug)]
pub(crate) struct Journal {
    shape: Shape,
    /// Journalled data; what does not fit waits at the door.
    memory: BufferPool,
    /// Records on their way to the members: one at a time, and those that recovery copies.
    records: BufferPool,
    ledger: Mutex<Ledger>,
    overlay: Overlay,
    queue: Mutex<Queue>,
    /// Held by whoever carries out a commit.
    commit_turn: tokio::sync::Mutex<()>,
    /// Held by whoever waits for ring space first; the others wait behind.
    admission_turn: tokio::sync::Mutex<()>,
    tail_turn: tokio::sync::Mutex<()>,
    /// Writers that wait for room.
    waiting: AtomicU64,
    /// Numbers of writes.
    writes: AtomicU64,
    /// A tail was moved, or the array failed.
    room: watch::Sender<u64>,
    /// There may be something to destage.
    work: Notify,
    /// There are cached writes that nobody waits for.
    cached: Notify,
    /// A member that is about to be in sync gets a copy of every commit.
    joining: Mutex<Option<Arc<Member>>>,
    draining: AtomicBool,
}

/// Why an array cannot have a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a chunk of {chunk_bytes} bytes needs a journal ring of {needed_bytes} bytes on each member, there is room for {ring_bytes}"
)]
pub struct ChunkTooLarge {
    /// The chunk asked for.
    pub chunk_bytes: u32,
    /// What its journal takes.
    pub needed_bytes: u64,
    /// What the smallest member has for it.
    pub ring_bytes: u64,
}

/// The shape of an array's journal on members with rings of at least `ring_bytes`.
pub(super) fn shape_for(geometry: &Geometry, ring_bytes: u64) -> Result<Shape, ChunkTooLarge> {
    let parities: u32 = if geometry.level() == Level::Raid6 { 2 } else { 1 };
    let ring_bytes = ring_bytes.min(limits::MAX_RING_BYTES);
    let max_record_bytes = (ring_bytes / 8).min(limits::MAX_RECORD_BYTES) / 4096 * 4096;
    // A stripe's whole parity and its items go into one record.
    let chunk_bytes = u64::from(geometry.chunk_bytes());
    let items = parities as usize * (chunk_bytes / SECTOR_BYTES) as usize;
    let group_bytes = record_bytes(items, (u64::from(parities) * chunk_bytes) as usize) as u64;
    if group_bytes > max_record_bytes {
        let needed_bytes = group_bytes * 8;
        return Err(ChunkTooLarge { chunk_bytes: geometry.chunk_bytes(), needed_bytes, ring_bytes });
    }
    let copies = usize::from(geometry.tolerated_losses()) + 1;
    Ok(Shape { ring_bytes, max_record_bytes, copies, parities, chunk_bytes: geometry.chunk_bytes() })
}

impl Journal {
    /// A journal with empty rings on these members; `next` is its next commit's number.
    pub(super) fn new(
        shape: Shape,
        head: JournalHead,
        next: u64,
        members: impl Iterator<Item = u16>,
    ) -> Self {
        let mut ledger = Ledger::new(shape, head, next);
        for number in members {
            ledger.open_ring(number);
        }
        Self {
            shape,
            memory: BufferPool::new(limits::JOURNAL_MEMORY_BYTES),
            records: BufferPool::new(2 * shape.max_record_bytes as usize),
            ledger: Mutex::new(ledger),
            overlay: Overlay::new(),
            queue: Mutex::default(),
            commit_turn: tokio::sync::Mutex::default(),
            admission_turn: tokio::sync::Mutex::default(),
            tail_turn: tokio::sync::Mutex::default(),
            waiting: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            room: watch::channel(0).0,
            work: Notify::new(),
            cached: Notify::new(),
            joining: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// The head of a new array's journal.
    pub(super) fn first_head(shape: &Shape) -> JournalHead {
        next_epoch(None, 1, 1, shape.ring_bytes, nonce())
    }

    /// The head in force.
    pub(super) fn head(&self) -> JournalHead {
        lock(&self.ledger).head().clone()
    }

    /// Let the tasks of the journal end when nothing is left.
    pub(super) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Release);
        self.wake_waiting();
    }

    /// Wake everyone who waits for room: there is some, or there never will be.
    pub(super) fn wake_waiting(&self) {
        self.room.send_modify(|count| *count += 1);
        self.work.notify_one();
        self.cached.notify_one();
    }

    fn next_write(&self) -> u64 {
        self.writes.fetch_add(1, Ordering::Relaxed)
    }

    /// The first of these stripes of which something is journalled, or on its way to its place.
    pub(super) fn first_journalled(&self, stripes: &std::ops::Range<u64>) -> Option<u64> {
        self.overlay.first_in(stripes)
    }

    /// For `status`: bytes of memory that hold journalled data.
    pub(super) fn used_bytes(&self) -> u64 {
        self.memory.used_bytes() as u64
    }

    /// Bytes of records on their way.
    pub(super) fn records_used_bytes(&self) -> u64 {
        self.records.used_bytes() as u64
    }
}

/// A number that no other start of any array has.
pub(super) fn nonce() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the epoch's number alone has to do.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

impl Core {
    /// The journal, for code that runs only where there is one.
    pub(super) fn has_journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Bytes of every ring that are used.
    pub(super) fn ring_bytes(&self) -> u64 {
        let of_mirror = || self.redo.as_ref().map_or(0, |_| limits::REDO_RING_BYTES);
        self.has_journal().map_or_else(of_mirror, |journal| journal.shape.ring_bytes)
    }
}

#[cfg(test)]
impl Journal {
    /// Room in the rings that could be promised.
    pub(super) fn room(&self) -> u64 {
        lock(&self.ledger).room()
    }

    /// While this is held nobody is admitted; who waits is served in order.
    pub(super) async fn hold_admission(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.admission_turn.lock().await
    }

    /// As if a whole stripe's write had begun, and would not end.
    pub(super) fn begin_intent(&self) {
        let mut ledger = lock(&self.ledger);
        let sequence = ledger.head().tail;
        ledger.add_intent(sequence);
    }
}

#[cfg(test)]
mod force_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twice_tests;
