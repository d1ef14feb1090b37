//! From the journal to the stripes' places: in the background, many stripes at a time, so that they share commits and flushes.
//!
//! A round, for each of its stripes (J3):
//! 1. hold it, and freeze what is pending;
//! 2. read old data, compute the new parity;
//! 3. journal the parity, mark the regions as written, and wait until both are durable;
//! 4. only then write data and parity in place, then flush;
//! 5. strike off lost blocks that were rewritten, durably; then forget the stripe's records and let it go.
//!
//! A crash before 3 leaves the stripe as it was, and its data in the ring. After 3 all of it is in the ring, and is put in
//! place again: a missing member costs nothing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::{Durability, IoError, IoErrorKind, IoOperation};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::Journal;
use super::commit::{Group, What};
use crate::array::core::{Core, lock};
use crate::array::locks::{Fragment, UnitGuard};
use crate::array::parity_write::Prepared;
use crate::array::settle::Trust;
use crate::journal::overlay::Frozen;
use crate::limits;
use crate::sabotage::{self, Sabotage};

/// Memory of a round for parity and what is read for it: all rounds together leave half of it to clients.
const ROUND_BYTES: u64 = limits::SCRATCH_BYTES / 2 / limits::DESTAGE_ROUNDS as u64;

/// A round that ended.
struct Round {
    stripes: Vec<u64>,
    took: Duration,
    outcome: Result<(), IoError>,
}

/// A stripe of a round. Its guard holds it to the end.
struct Work {
    stripe: u64,
    frozen: Frozen,
    prepared: Prepared,
    _held: UnitGuard,
}

impl Core {
    /// Destage until the array stops. Under pressure several rounds are under way, so that the members have work while one of
    /// them waits for its commit or its flush.
    pub(in crate::array) async fn destage(&self) {
        let Some(journal) = self.has_journal() else { return };
        let _turn = self.destage_turn.lock().await;
        let linger = Duration::from_millis(limits::DESTAGE_LINGER_MS);
        let mut rounds = FuturesUnordered::new();
        let mut under_way = BTreeSet::new();
        let mut seen = self.gate.started();
        let mut failures = 0;
        while !(self.has_failed() || self.is_stopping() && journal.draining.load(Ordering::Acquire)) {
            let at_once = if self.is_pressed(journal) { limits::DESTAGE_ROUNDS } else { 1 };
            while rounds.len() < at_once {
                let stripes = self.pick_stripes(journal, seen, &under_way);
                if stripes.is_empty() {
                    break;
                }
                under_way.extend(&stripes);
                rounds.push(self.timed_round(journal, stripes));
            }
            let Some(Round { stripes, took, outcome }) = rounds.next().await else {
                // Nothing to put in place.
                if let Err(error) = self.move_tail(journal).await {
                    failures += 1;
                    self.destage_failed(failures, &error);
                }
                let _ = tokio::time::timeout(linger, journal.work.notified()).await;
                seen = self.gate.started();
                continue;
            };
            stripes.iter().for_each(|stripe| _ = under_way.remove(stripe));
            match outcome {
                Ok(()) if rounds.is_empty() => {
                    failures = 0;
                    self.yield_to_clients_under(journal, &mut seen, took).await;
                }
                Ok(()) => failures = 0,
                Err(error) => {
                    // The others hold stripes: they end before this one pauses.
                    while rounds.next().await.is_some() {}
                    under_way.clear();
                    failures += 1;
                    self.destage_failed(failures, &error);
                    tokio::time::sleep(linger).await;
                }
            }
        }
        // What was begun is not left half-done.
        while rounds.next().await.is_some() {}
    }

    async fn timed_round(&self, journal: &Journal, stripes: Vec<u64>) -> Round {
        let began = Instant::now();
        let outcome = self.destage_and_free(journal, &stripes).await;
        Round { stripes, took: began.elapsed(), outcome }
    }

    /// Errors may pass, but writers must not wait for room for ever.
    fn destage_failed(&self, failures: usize, error: &IoError) {
        tracing::warn!(array = %self.name, %error, failures, "destaging");
        if failures >= limits::DESTAGE_ATTEMPTS {
            self.give_up(&format!("what is in the journal cannot be put in place: {error}"));
        }
    }

    /// Clients go first, unless they wait for room.
    async fn yield_to_clients_under(&self, journal: &Journal, seen: &mut u64, took: Duration) {
        if journal.waiting.load(Ordering::Acquire) > 0 {
            tokio::task::yield_now().await;
        } else {
            self.yield_to_clients(seen, took).await;
        }
    }

    /// Room is short: writers wait, or soon will.
    fn is_pressed(&self, journal: &Journal) -> bool {
        let half_full = journal.memory.used_bytes() > journal.memory.capacity_bytes() / 2;
        half_full || journal.waiting.load(Ordering::Acquire) > 0 || lock(&journal.ledger).is_pressed()
    }

    /// One round, and the tail if room is short.
    async fn destage_and_free(&self, journal: &Journal, stripes: &[u64]) -> Result<(), IoError> {
        self.destage_round(journal, stripes).await?;
        if self.is_pressed(journal) && !self.has_failed() {
            self.move_tail(journal).await?;
        }
        Ok(())
    }

    /// Whole stripes first; the oldest, where room is short or clients are quiet.
    fn pick_stripes(&self, journal: &Journal, seen: u64, under_way: &BTreeSet<u64>) -> Vec<u64> {
        let quiet = self.gate.started() == seen && self.gate.count() == 0;
        let waiting = journal.waiting.load(Ordering::Acquire) > 0;
        let eager = quiet || self.is_pressed(journal);
        let whole = self.geometry.unit_data_bytes();
        let listed: Vec<u64> = lock(&journal.ledger)
            .oldest_stripes()
            .map(|(_, stripe)| stripe)
            .filter(|stripe| !under_way.contains(stripe))
            .take(limits::DESTAGE_CANDIDATES)
            .collect();
        let mut budget = ROUND_BYTES;
        let cost = |stripe| self.destage_cost(journal, stripe);
        let mut picked: Vec<u64> = Vec::new();
        let is_whole = |stripe: &u64| journal.overlay.is_whole(*stripe, whole);
        let (first, rest): (Vec<u64>, Vec<u64>) = if waiting {
            // Under pressure the oldest, whatever it is: only that moves the tail.
            (listed, Vec::new())
        } else {
            listed.into_iter().partition(is_whole)
        };
        for stripe in first.into_iter().chain(rest.into_iter().filter(|_| eager)) {
            let cost = cost(stripe);
            if !picked.is_empty() && (cost > budget || picked.len() == limits::DESTAGE_ROUND) {
                break;
            }
            budget = budget.saturating_sub(cost);
            picked.push(stripe);
        }
        picked.sort_unstable();
        picked
    }

    /// Memory that a stripe's parity may need, with what is read for it.
    fn destage_cost(&self, journal: &Journal, stripe: u64) -> u64 {
        let chunk = self.geometry.chunk_bytes();
        let columns = match self.columns_to_settle(stripe) {
            Some(all) => all.len() as u64,
            None => journal.overlay.columns(stripe, chunk),
        };
        columns * (u64::from(self.geometry.members()) + u64::from(journal.shape.parities))
    }

    /// Put these stripes (ascending) in place.
    async fn destage_round(&self, journal: &Journal, stripes: &[u64]) -> Result<(), IoError> {
        let mut held = Vec::with_capacity(stripes.len());
        let mut budget = ROUND_BYTES;
        for &stripe in stripes {
            let guard = self.locks.exclusive(stripe).await;
            let Some(frozen) = journal.overlay.freeze(stripe) else { continue };
            // More may have come while others held their stripes. What is frozen and not held waits for the next round.
            let cost = self.destage_cost(journal, stripe);
            if !held.is_empty() && cost > budget {
                break;
            }
            budget = budget.saturating_sub(cost);
            held.push((stripe, frozen, guard));
        }
        let preparing = held.into_iter().map(|(stripe, mut frozen, _held)| async move {
            let fragments = fragments_of(&frozen);
            let columns = self.choose_columns(journal, stripe, &mut frozen);
            let prepared = self.prepare_or_settle(stripe, &fragments, columns).await?;
            Ok::<Work, IoError>(Work { stripe, frozen, prepared, _held })
        });
        let mut outcome = Ok(());
        let mut round = Vec::new();
        for prepared in join_all(preparing).await {
            match prepared {
                Ok(work) => round.push(work),
                Err(error) => outcome = Err(error),
            }
        }
        // Both at once: a crash between them leaves a record that is put in place again, or a bit too many.
        let stripes = round.iter().map(|work| work.stripe..work.stripe + 1);
        let (journalled, marked) =
            futures_util::join!(self.journal_parity(journal, &round), self.mark_all_written(stripes));
        journalled.and(marked)?;
        if sabotage::planted(Sabotage::OverlayDroppedEarly) {
            round.iter().for_each(|work| self.forget_frozen(journal, work.stripe));
        }
        if sabotage::planted(Sabotage::TailAdvancedEarly) {
            round.iter().for_each(|work| lock(&journal.ledger).unlist_stripe(work.frozen.from, work.stripe));
            self.move_tail(journal).await?;
        }
        self.put_round_in_place(journal, round).await.and(outcome)
    }

    /// Whether parity is computed from all data, to make a stripe agree that is out of sync: as far as there is room for that
    /// parity in the ring.
    fn choose_columns(&self, journal: &Journal, stripe: u64, frozen: &mut Frozen) -> Option<Range<u32>> {
        let all = self.columns_to_settle(stripe)?;
        let more = journal.group_room(all.len()).saturating_sub(frozen.promised);
        if !lock(&journal.ledger).reserve(more) {
            return None;
        }
        // For as long as it is frozen: the round may fail before the parity is in the ring.
        journal.overlay.promise(stripe, more);
        frozen.promised += more;
        Some(all)
    }

    /// Compute a stripe's parity; what cannot be known any more is listed, so that what is known can be put in place.
    async fn prepare_or_settle(
        &self,
        stripe: u64,
        fragments: &[Fragment],
        columns: Option<Range<u32>>,
    ) -> Result<Prepared, IoError> {
        match self.prepare_stripe(stripe, fragments, columns).await {
            Err(error) if error.kind == IoErrorKind::Medium => {
                let trust = if self.in_sync(stripe) { Trust::Parity } else { Trust::Nothing };
                self.settle_lost(stripe, trust).await?;
                self.prepare_stripe(stripe, fragments, None).await
            }
            result => result,
        }
    }

    async fn journal_parity(&self, journal: &Journal, round: &[Work]) -> Result<(), IoError> {
        if sabotage::planted(Sabotage::ParityNotJournalled) {
            for work in round {
                lock(&journal.ledger).release(work.frozen.promised);
                journal.overlay.spend(work.stripe);
            }
            return Ok(());
        }
        let queued: Vec<_> = round
            .iter()
            .map(|work| {
                let group = Group {
                    stripe: work.stripe,
                    from: work.frozen.from,
                    to: work.frozen.to,
                    parts: work.prepared.parity().to_vec(),
                };
                journal.enqueue(What::Group(group), work.frozen.promised)
            })
            .collect();
        for done in queued {
            self.committed(journal, done).await?;
        }
        Ok(())
    }

    /// The parity is in the ring: data and parity go to their places.
    async fn put_round_in_place(&self, journal: &Journal, round: Vec<Work>) -> Result<(), IoError> {
        let mut rewritten: Vec<Range<u64>> = Vec::new();
        let unit = u64::from(self.geometry.unit_data_bytes());
        let mut guards = Vec::with_capacity(round.len());
        let mut writing = Vec::with_capacity(round.len());
        for Work { stripe, frozen, prepared, _held } in round {
            rewritten.extend(frozen.pieces.iter().map(|(start, data)| {
                let at = stripe * unit + u64::from(start);
                at..at + data.len() as u64
            }));
            let agrees = prepared.agrees();
            writing.push(self.put_in_place(stripe, prepared, Durability::Cached));
            guards.push((stripe, agrees, _held));
        }
        for result in join_all(writing).await {
            result?;
        }
        self.flush_members().await?;
        self.rewritten(rewritten.into_iter()).await?;
        for (stripe, agrees, _held) in guards {
            if agrees {
                self.trust(stripe..stripe + 1);
            }
            self.forget_frozen(journal, stripe);
        }
        journal.wake_waiting();
        Ok(())
    }

    /// What was frozen is in place: it counts no more.
    fn forget_frozen(&self, journal: &Journal, stripe: u64) {
        let (frozen, pending) = journal.overlay.thaw(stripe);
        let mut ledger = lock(&journal.ledger);
        if let Some(oldest) = frozen {
            ledger.unlist_stripe(oldest, stripe);
        }
        if let Some(oldest) = pending {
            ledger.list_stripe(oldest, stripe);
        }
    }

    /// Put everything in place that is journalled. Nobody writes meanwhile, or it goes on until they stop.
    pub(in crate::array) async fn drain_journal(&self, journal: &Journal) -> Result<(), IoError> {
        self.drain_up_to(journal, u64::MAX).await
    }

    /// Put everything in place that was committed before `sequence`, and say so durably.
    pub(super) async fn drain_up_to(&self, journal: &Journal, sequence: u64) -> Result<(), IoError> {
        loop {
            let barrier = journal.enqueue(What::Barrier, 0);
            self.committed(journal, barrier).await?;
            let oldest = lock(&journal.ledger).oldest_needed();
            let next = lock(&journal.ledger).next_sequence();
            if oldest >= sequence.min(next) {
                break;
            }
            if self.has_failed() {
                // Nothing is put in place any more, and whole stripes that were under way stay so.
                return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Flush, 0, 0));
            }
            self.destage_oldest(journal, sequence).await?;
        }
        self.move_tail(journal).await
    }

    /// Before the space of these stripes is given back: where data is in the journal, zeros would be journalled behind it, and
    /// what was written shortly before would keep its space for good.
    pub(in crate::array) async fn put_in_place_first(&self, stripes: &Range<u64>) -> Result<(), IoError> {
        match self.has_journal() {
            Some(journal) if journal.first_journalled(stripes).is_some() => {
                let next = lock(&journal.ledger).next_sequence();
                self.drain_up_to(journal, next).await
            }
            _ => Ok(()),
        }
    }

    async fn destage_oldest(&self, journal: &Journal, before: u64) -> Result<(), IoError> {
        let listed: Vec<u64> = {
            let ledger = lock(&journal.ledger);
            ledger
                .oldest_stripes()
                .take_while(|(oldest, _)| *oldest < before)
                .map(|(_, stripe)| stripe)
                .take(limits::DESTAGE_ROUND)
                .collect()
        };
        let mut budget = ROUND_BYTES;
        let mut picked = Vec::new();
        for stripe in listed {
            let cost = self.destage_cost(journal, stripe);
            if !picked.is_empty() && cost > budget {
                break;
            }
            budget = budget.saturating_sub(cost);
            picked.push(stripe);
        }
        if picked.is_empty() {
            // Only an intent is in the way: its writer is at it.
            let pause = Duration::from_millis(limits::DRAIN_PAUSE_MS);
            let _ = tokio::time::timeout(pause, journal.work.notified()).await;
            return Ok(());
        }
        picked.sort_unstable();
        self.destage_round(journal, &picked).await
    }
}

fn fragments_of(frozen: &Frozen) -> Vec<Fragment> {
    let durability = Durability::Cached;
    frozen.pieces.iter().map(|(start, data)| Fragment { start, data: data.clone(), durability }).collect()
}
