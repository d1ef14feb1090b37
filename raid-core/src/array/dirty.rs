//! Which regions may be out of sync? The write-intent bitmap, in memory and on the members.
//!
//! A region's bit is durable on every member in sync before any write in it starts (`begin`), and is
//! cleared only after its writes are done and flushed and it was idle for a whole sweep. So after a crash, what
//! is not marked is in sync, as far as members were there.
//!
//! | bit | in memory | on disk | leaves by |
//! |---|---|---|---|
//! | clean | not durable, unused | 0 | `begin`: wanted |
//! | wanted | in use, not durable | 0 or 1 | a commit: durable |
//! | dirty | durable, perhaps in use | 1 | `sweep`, when idle: clean in memory first, then on disk |
//!
//! `unsynced` marks what a start after a crash (or a creation without zeroing) found out of sync: there
//! parity or copies are not to be believed until resync has been over it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A plain set of bits with a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BitSet {
    words: Vec<u64>,
    len: u64,
    count: u64,
}

impl BitSet {
    pub(crate) fn new(len: u64) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    pub(crate) fn full(len: u64) -> Self {
        let mut set = Self::new(len);
        for bit in 0..len {
            set.insert(bit);
        }
        set
    }

    pub(crate) fn contains(&self, bit: u64) -> bool {
        self.words.get((bit / 64) as usize).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    /// True if the bit was not there before.
    pub(crate) fn insert(&mut self, bit: u64) -> bool {
        assert!(bit < self.len, "bit {bit} of {}", self.len);
        let word = &mut self.words[(bit / 64) as usize];
        let new = *word & (1 << (bit % 64)) == 0;
        *word |= 1 << (bit % 64);
        self.count += u64::from(new);
        new
    }

    /// True if the bit was there before.
    pub(crate) fn remove(&mut self, bit: u64) -> bool {
        if !self.contains(bit) {
            return false;
        }
        self.words[(bit / 64) as usize] &= !(1 << (bit % 64));
        self.count -= 1;
        true
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index as u64 * 64 + bit)
        })
    }
}

#[derive(Debug)]
struct State {
    durable: BitSet,
    in_use: HashMap<u64, u32>,
    touched: BitSet,
    unsynced: BitSet,
    /// The region that resync is at, unless a write went half-way there since.
    resyncing: Option<u64>,
}

/// The bitmap's memory. What writes it to the members is `bitmap_io`.
#[derive(Debug)]
pub(crate) struct DirtyMap {
    state: Mutex<State>,
    /// Mirrors `unsynced.count()`, so that the hot path need not lock to learn that all is well.
    unsynced_count: AtomicU64,
    /// False for policy `none` and RAID 0: nothing is written, `begin` never waits.
    recorded: bool,
}

impl DirtyMap {
    pub(crate) fn new(bits: u64, recorded: bool) -> Self {
        let empty = || BitSet::new(bits);
        let state = State {
            durable: empty(),
            in_use: HashMap::new(),
            touched: empty(),
            unsynced: empty(),
            resyncing: None,
        };
        Self { state: Mutex::new(state), unsynced_count: AtomicU64::new(0), recorded }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At start: these bits are set on disk, and (unless the stop was clean) out of sync.
    pub(crate) fn load(&self, dirty: &BitSet, unsynced: bool) {
        let mut state = self.state();
        for bit in dirty.iter() {
            state.durable.insert(bit);
            if unsynced {
                state.unsynced.insert(bit);
            }
        }
        self.unsynced_count.store(state.unsynced.count(), Ordering::Release);
    }

    /// Count writers into the regions. True if every bit is durable already, so that they may start.
    pub(crate) fn enter(&self, bits: Range<u64>) -> bool {
        if !self.recorded {
            return true;
        }
        let mut state = self.state();
        let mut ready = true;
        for bit in bits {
            *state.in_use.entry(bit).or_insert(0) += 1;
            state.touched.insert(bit);
            ready &= state.durable.contains(bit);
        }
        ready
    }

    /// The writers of `enter` are done.
    pub(crate) fn leave(&self, bits: Range<u64>) {
        if !self.recorded {
            return;
        }
        let mut state = self.state();
        for bit in bits {
            if let Some(users) = state.in_use.get_mut(&bit) {
                *users -= 1;
                if *users == 0 {
                    state.in_use.remove(&bit);
                }
            }
        }
    }

    /// Bits in use that are not durable yet: what the next commit has to write.
    pub(crate) fn wanted(&self) -> Vec<u64> {
        let state = self.state();
        let mut wanted: Vec<u64> =
            state.in_use.keys().copied().filter(|&bit| !state.durable.contains(bit)).collect();
        wanted.sort_unstable();
        wanted
    }

    /// The image to be written: every durable bit and those of `adding`.
    pub(crate) fn image(&self, adding: &[u64]) -> BitSet {
        let mut image = self.state().durable.clone();
        for &bit in adding {
            image.insert(bit);
        }
        image
    }

    /// A commit made these durable.
    pub(crate) fn committed(&self, bits: &[u64]) {
        let mut state = self.state();
        for &bit in bits {
            state.durable.insert(bit);
        }
    }

    /// True while `enter`ed bits of the range still lack durability.
    pub(crate) fn is_durable(&self, bits: Range<u64>) -> bool {
        let state = self.state();
        bits.clone().all(|bit| state.durable.contains(bit))
    }

    /// Bits that were idle since the last call and in sync, in ascending order.
    pub(crate) fn idle(&self) -> Vec<u64> {
        let mut state = self.state();
        let len = state.touched.len();
        let touched = std::mem::replace(&mut state.touched, BitSet::new(len));
        state
            .durable
            .iter()
            .filter(|bit| {
                !touched.contains(*bit) && !state.in_use.contains_key(bit) && !state.unsynced.contains(*bit)
            })
            .collect()
    }

    /// Forget those of `bits` that are still idle, before the disk forgets them: a writer that comes
    /// now finds them not durable and waits for a commit of its own. Returns what was forgotten.
    pub(crate) fn forget_idle(&self, bits: &[u64]) -> Vec<u64> {
        let mut state = self.state();
        let idle: Vec<u64> = bits
            .iter()
            .copied()
            .filter(|bit| !state.in_use.contains_key(bit) && !state.touched.contains(*bit))
            .collect();
        for &bit in &idle {
            state.durable.remove(bit);
        }
        idle
    }

    /// A clean stop: everything was flushed, nobody is inside.
    pub(crate) fn forget_all(&self) {
        let mut state = self.state();
        let len = state.durable.len();
        state.durable = BitSet::new(len);
    }

    pub(crate) fn dirty_count(&self) -> u64 {
        self.state().durable.count()
    }

    /// True if any region of `bits` may be out of sync.
    pub(crate) fn is_unsynced(&self, bits: Range<u64>) -> bool {
        if self.unsynced_count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let state = self.state();
        bits.clone().any(|bit| state.unsynced.contains(bit))
    }

    pub(crate) fn unsynced_count(&self) -> u64 {
        self.unsynced_count.load(Ordering::Acquire)
    }

    /// Mark everything out of sync (creation without zeroing, unclean stop without a bitmap).
    pub(crate) fn mark_all_unsynced(&self) {
        let mut state = self.state();
        let len = state.unsynced.len();
        state.unsynced = BitSet::full(len);
        if self.recorded {
            state.durable = BitSet::full(len);
        }
        self.unsynced_count.store(len, Ordering::Release);
    }

    /// Mark regions out of sync: a write in them went half-way, or a resync had not come to them.
    pub(crate) fn mark_unsynced(&self, bits: Range<u64>) {
        let mut state = self.state();
        if state.resyncing.is_some_and(|bit| bits.contains(&bit)) {
            state.resyncing = None;
        }
        for bit in bits {
            state.unsynced.insert(bit);
        }
        self.unsynced_count.store(state.unsynced.count(), Ordering::Release);
    }

    /// The lowest region out of sync at or after `from`.
    pub(crate) fn next_unsynced(&self, from: u64) -> Option<u64> {
        let state = self.state();
        (from..state.unsynced.len()).find(|&bit| state.unsynced.contains(bit))
    }

    /// Resync begins to go over the region.
    pub(crate) fn begin_resync(&self, bit: u64) {
        self.state().resyncing = Some(bit);
    }

    /// Resync has been over the region. Without effect where a write went half-way behind its back.
    pub(crate) fn mark_synced(&self, bit: u64) {
        let mut state = self.state();
        if state.resyncing.take() == Some(bit) {
            state.unsynced.remove(bit);
        }
        self.unsynced_count.store(state.unsynced.count(), Ordering::Release);
    }

    /// The owner accepts what is there as it is (`--force`).
    pub(crate) fn accept_all(&self) {
        let mut state = self.state();
        let len = state.unsynced.len();
        state.unsynced = BitSet::new(len);
        self.unsynced_count.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_is_durable_before_its_writer_starts_and_cleared_only_when_idle() {
        let map = DirtyMap::new(8, true);
        assert!(!map.enter(2..4), "nothing is durable yet");
        assert_eq!(map.wanted(), [2, 3]);
        assert_eq!(map.image(&[2, 3]).iter().collect::<Vec<_>>(), [2, 3]);
        map.committed(&[2, 3]);
        assert!(map.enter(3..4), "already durable");
        map.leave(3..4);
        map.leave(2..4);
        assert_eq!(map.idle(), Vec::<u64>::new(), "touched since the last sweep");
        assert_eq!(map.idle(), [2, 3]);
        assert!(map.enter(3..4), "still durable until the sweep forgets it");
        assert_eq!(map.forget_idle(&[2, 3]), [2], "a writer came in between");
        assert!(!map.enter(2..3), "forgotten: the next writer waits for a commit");
    }

    #[test]
    fn unsynced_regions_stay_marked_until_resynced() {
        let map = DirtyMap::new(8, true);
        let mut dirty = BitSet::new(8);
        dirty.insert(5);
        map.load(&dirty, true);
        assert!(map.is_unsynced(0..8) && !map.is_unsynced(0..5));
        assert_eq!((map.idle(), map.idle()), (vec![], vec![]), "never cleared before resync");
        assert_eq!(map.next_unsynced(0), Some(5));
        map.begin_resync(5);
        map.mark_unsynced(4..6);
        map.mark_synced(5);
        assert!(map.is_unsynced(5..6), "a write went half-way meanwhile");
        for bit in [4, 5] {
            map.begin_resync(bit);
            map.mark_synced(bit);
        }
        assert_eq!(map.next_unsynced(0), None);
        assert_eq!(map.idle(), [5]);
    }

    #[test]
    fn without_a_record_nothing_waits() {
        let map = DirtyMap::new(8, false);
        assert!(map.enter(0..8));
        assert_eq!(map.wanted(), Vec::<u64>::new());
    }
}
