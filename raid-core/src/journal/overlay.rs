//! Stripes with journalled data, and in which state it is.
//!
//! | state | what | is read | leaves by |
//! |---|---|---|---|
//! | queued | admitted, not in a durable commit | no | its commit: pending |
//! | cached | queued, but acknowledged from memory | yes, before all others | its commit: pending |
//! | pending | in a durable commit | yes | a destage: frozen |
//! | frozen | being put in place together with its parity | yes | in place and flushed: gone |
//!
//! What is frozen counts until data and parity are in place and flushed. A whole stripe that is written in place
//! directly (`bypassing`) has nothing here when it begins; what comes meanwhile is journalled behind it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use smallvec::SmallVec;

use super::pieces::{Pieces, Ranges};

const SHARDS: usize = 64;

/// What is being put in place: data of the commits `from..=to`.
#[derive(Clone, Debug)]
pub(crate) struct Frozen {
    pub(crate) pieces: Pieces,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Ring space promised to its parity.
    pub(crate) promised: u64,
}

/// One stripe.
#[derive(Debug, Default)]
pub(crate) struct Stripe {
    queued: u32,
    cached: Pieces,
    pending: Pieces,
    /// First and last commit of what is pending.
    span: Option<(u64, u64)>,
    promised: u64,
    frozen: Option<Frozen>,
    bypassing: bool,
}

impl Stripe {
    fn is_idle(&self) -> bool {
        self.queued == 0 && !self.is_live() && !self.bypassing
    }

    fn is_live(&self) -> bool {
        self.span.is_some() || self.frozen.is_some()
    }
}

/// What a read finds in memory.
pub(crate) struct Found {
    /// Newest data by place.
    pub(crate) pieces: SmallVec<[(u32, Bytes); 2]>,
    /// What has to come from the members.
    pub(crate) gaps: Ranges,
    /// The stripe is being written in place directly: wait for that, then look again.
    pub(crate) bypassing: bool,
}

type Shard = HashMap<u64, Stripe>;

/// All stripes of the array that have anything.
#[derive(Debug)]
pub(crate) struct Overlay {
    shards: Box<[Mutex<Shard>]>,
    /// Stripes with any state: readers need not look while there are none.
    count: AtomicU64,
}

impl Overlay {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), count: AtomicU64::new(0) }
    }

    /// Work on a stripe's state; it goes when nothing is left in it.
    fn with<R>(&self, stripe: u64, work: impl FnOnce(&mut Stripe) -> R) -> R {
        let mut shard = self.shard(stripe);
        let mut new = false;
        let state = shard.entry(stripe).or_insert_with(|| {
            new = true;
            Stripe::default()
        });
        let result = work(state);
        let idle = state.is_idle();
        if idle {
            shard.remove(&stripe);
        }
        match (new, idle) {
            (true, false) => self.count.fetch_add(1, Ordering::AcqRel),
            (false, true) => self.count.fetch_sub(1, Ordering::AcqRel),
            _ => 0,
        };
        result
    }

    fn shard(&self, stripe: u64) -> MutexGuard<'_, Shard> {
        let index = (stripe % SHARDS as u64) as usize;
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is journalled, queued or bypassing anywhere.
    pub(crate) fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// A write to the stripe was admitted.
    pub(crate) fn admit(&self, stripe: u64) {
        self.with(stripe, |state| state.queued += 1);
    }

    /// An admitted write is acknowledged from memory: readers see it from now on.
    pub(crate) fn cache(&self, stripe: u64, start: u32, data: Bytes, write: u64) {
        self.with(stripe, |state| state.cached.insert(start, data, write));
    }

    /// An admitted write is durable in commit `sequence`, with so much ring space promised to its parity. Gives true if the
    /// stripe had no live records before.
    pub(crate) fn commit(
        &self,
        stripe: u64,
        start: u32,
        data: Bytes,
        write: u64,
        sequence: u64,
        promised: u64,
    ) -> bool {
        self.with(stripe, |state| {
            let first = !state.is_live();
            state.queued = state.queued.saturating_sub(1);
            state.cached.forget(write);
            state.pending.insert(start, data, sequence);
            state.span = Some((state.span.map_or(sequence, |(from, _)| from), sequence));
            state.promised += promised;
            first
        })
    }

    /// Take what is pending to put it in place. The stripe is held.
    pub(crate) fn freeze(&self, stripe: u64) -> Option<Frozen> {
        self.with(stripe, |state| {
            if state.frozen.is_some() {
                return state.frozen.clone();
            }
            let (from, to) = state.span.take()?;
            let pieces = std::mem::take(&mut state.pending);
            let frozen = Frozen { pieces, from, to, promised: std::mem::take(&mut state.promised) };
            state.frozen = Some(frozen.clone());
            Some(frozen)
        })
    }

    /// More ring space is promised to the parity of what is frozen.
    pub(crate) fn promise(&self, stripe: u64, bytes: u64) {
        self.with(stripe, |state| {
            if let Some(frozen) = &mut state.frozen {
                frozen.promised += bytes;
            }
        });
    }

    /// Its parity is in the ring: the promise was used.
    pub(crate) fn spend(&self, stripe: u64) {
        self.with(stripe, |state| {
            if let Some(frozen) = &mut state.frozen {
                frozen.promised = 0;
            }
        });
    }

    /// What was frozen is in place and flushed. Gives its oldest commit, and that of what is pending by now.
    pub(crate) fn thaw(&self, stripe: u64) -> (Option<u64>, Option<u64>) {
        self.with(stripe, |state| {
            let frozen = state.frozen.take().map(|frozen| frozen.from);
            (frozen, state.span.map(|(from, _)| from))
        })
    }

    /// Begin to write the whole stripe in place, if nothing of it is live or queued. `announce` puts the intent into the queue,
    /// before any write that comes later. The stripe is held.
    pub(crate) fn begin_bypass(&self, stripe: u64, announce: impl FnOnce()) -> bool {
        self.with(stripe, |state| {
            let free = state.is_idle();
            if free {
                state.bypassing = true;
                announce();
            }
            free
        })
    }

    pub(crate) fn end_bypass(&self, stripe: u64) {
        self.with(stripe, |state| state.bypassing = false);
    }

    pub(crate) fn is_bypassing(&self, stripe: u64) -> bool {
        !self.is_idle() && self.shard(stripe).get(&stripe).is_some_and(|state| state.bypassing)
    }

    /// The first of these stripes of which anything is journalled, queued or being written in place directly.
    pub(crate) fn first_in(&self, stripes: &Range<u64>) -> Option<u64> {
        if self.is_idle() || stripes.is_empty() {
            return None;
        }
        if stripes.end - stripes.start == 1 {
            return self.shard(stripes.start).contains_key(&stripes.start).then_some(stripes.start);
        }
        let shards = 0..SHARDS as u64;
        shards
            .filter_map(|index| {
                let shard = self.shard(index);
                shard.keys().copied().filter(|stripe| stripes.contains(stripe)).min()
            })
            .min()
    }

    /// Bytes of each member that the stripe's pending data may concern, at most.
    pub(crate) fn columns(&self, stripe: u64, chunk_bytes: u32) -> u64 {
        let shard = self.shard(stripe);
        let Some(state) = shard.get(&stripe) else { return 0 };
        let pieces = state.frozen.as_ref().map_or(&state.pending, |frozen| &frozen.pieces);
        pieces
            .iter()
            .map(|(_, data)| (data.len() as u64).min(chunk_bytes.into()))
            .sum::<u64>()
            .min(chunk_bytes.into())
    }

    /// The oldest commit with data of the stripe that is not in place.
    pub(crate) fn oldest(&self, stripe: u64) -> Option<u64> {
        let shard = self.shard(stripe);
        let state = shard.get(&stripe)?;
        state.frozen.as_ref().map(|frozen| frozen.from).or(state.span.map(|(from, _)| from))
    }

    /// All of the stripe's user data is pending.
    pub(crate) fn is_whole(&self, stripe: u64, bytes: u32) -> bool {
        let shard = self.shard(stripe);
        shard.get(&stripe).is_some_and(|state| state.pending.bytes() == u64::from(bytes))
    }

    /// What is in memory of this range of a stripe.
    pub(crate) fn find(&self, stripe: u64, range: Range<u32>) -> Found {
        let mut pieces = SmallVec::new();
        let mut gaps: Ranges = SmallVec::from_iter([range]);
        if self.is_idle() {
            return Found { pieces, gaps, bypassing: false };
        }
        let shard = self.shard(stripe);
        let Some(state) = shard.get(&stripe) else { return Found { pieces, gaps, bypassing: false } };
        let frozen = state.frozen.as_ref().map(|frozen| &frozen.pieces);
        for layer in [Some(&state.cached), Some(&state.pending), frozen].into_iter().flatten() {
            if !layer.is_empty() && !gaps.is_empty() {
                gaps = layer.find(&gaps, &mut pieces);
            }
        }
        Found { pieces, gaps, bypassing: state.bypassing }
    }
}
