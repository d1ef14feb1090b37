//! The journal's bookkeeping against plain models. What records mean at a start is in `replay_tests`.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::ledger::{Ledger, Shape, next_epoch};
use super::overlay::Overlay;
use super::pieces::Pieces;
use super::ring::Ring;
use crate::format::labsan::journal_head::{Epoch, JournalHead};
use crate::format::labsan::journal_record::Stamp;

fn filled(length: u32, fill: u8) -> Bytes {
    Bytes::from(vec![fill; length as usize])
}

// ---- ring

/// Live commits of a ring of `length`, as a model has them: number, start, end.
#[derive(Default)]
struct RingModel(VecDeque<(u64, u64, u64)>);

impl RingModel {
    fn free_bytes(&self, length: u64) -> u64 {
        let used: u64 = self.0.iter().map(|(_, start, end)| end - start).sum();
        let ends = self.0.iter().zip(self.0.iter().skip(1));
        let wasted: u64 = ends.filter(|(one, two)| two.1 != one.2).map(|(one, _)| length - one.2).sum();
        length - used - wasted
    }
}

proptest! {
    #[test]
    fn a_ring_never_gives_away_what_is_in_use(
        length in 1u64..20, steps in prop::collection::vec((any::<bool>(), 1u64..8), 0..60)
    ) {
        let mut ring = Ring::new(length);
        let mut model = RingModel::default();
        for (sequence, (allocate, amount)) in (1u64..).zip(steps) {
            if allocate {
                let free = ring.free_bytes();
                match ring.allocate(sequence, amount) {
                    Some(start) => {
                        let end = start + amount;
                        prop_assert!(end <= length, "across the end");
                        prop_assert!(model.0.iter().all(|live| end <= live.1 || live.2 <= start), "overlaps");
                        model.0.push_back((sequence, start, end));
                    }
                    // What the end may waste is less than the commit itself.
                    None => prop_assert!(free < 2 * amount, "{free} bytes free, {amount} refused"),
                }
            } else {
                let tail = model.0.get(amount as usize - 1).map_or(sequence, |live| live.0);
                ring.free_before(tail);
                model.0.retain(|live| live.0 >= tail);
            }
            prop_assert_eq!(ring.free_bytes(), model.free_bytes(length));
            // A start that finds these commits goes on in the same way.
            let mut found = Ring::new(length);
            model.0.iter().for_each(|(sequence, start, end)| found.adopt(*sequence, *start, end - start));
            prop_assert_eq!(found.free_bytes(), ring.free_bytes());
            if !model.0.is_empty() {
                prop_assert_eq!(found.allocate(sequence, 2), ring.clone().allocate(sequence, 2));
            }
        }
    }
}

#[test]
fn a_full_ring_is_told_from_an_empty_one() {
    let mut ring = Ring::new(8);
    assert_eq!((ring.allocate(1, 9), ring.allocate(1, 8)), (None, Some(0)));
    assert_eq!((ring.free_bytes(), ring.allocate(2, 1)), (0, None));
    ring.free_before(1);
    assert_eq!(ring.free_bytes(), 0);
    ring.free_before(2);
    assert_eq!((ring.free_bytes(), ring.allocate(2, 8)), (8, Some(0)));
}

// ---- pieces

/// The ranges of `wanted` laid out byte by byte: what `find` gave, and nothing where it left a gap.
fn as_found(pieces: &[(u32, Bytes)], gaps: &[Range<u32>], length: usize) -> Vec<Option<u8>> {
    let mut bytes = vec![None; length];
    let mut seen = vec![false; length];
    let mut see = |at: usize, byte| {
        assert!(!std::mem::replace(&mut seen[at], true), "byte {at} twice");
        bytes[at] = byte;
    };
    for (start, data) in pieces {
        data.iter().enumerate().for_each(|(index, byte)| see(*start as usize + index, Some(*byte)));
    }
    for gap in gaps {
        assert!(!gap.is_empty());
        gap.clone().for_each(|at| see(at as usize, None));
    }
    bytes
}

proptest! {
    #[test]
    fn pieces_follow_the_model(
        steps in prop::collection::vec((0u32..56, 0u32..9, 0u64..4, any::<bool>()), 0..40),
        wanted in (0u32..64, 0u32..64),
    ) {
        let mut pieces = Pieces::default();
        let mut model: Vec<Option<(u8, u64)>> = vec![None; 64];
        for (fill, (start, length, mark, insert)) in (1u8..).zip(steps) {
            if insert {
                pieces.insert(start, filled(length, fill), mark);
                model[start as usize..(start + length) as usize].fill(Some((fill, mark)));
            } else {
                pieces.forget(mark);
                model.iter_mut().filter(|byte| byte.is_some_and(|byte| byte.1 == mark)).for_each(|byte| *byte = None);
            }
        }
        let bytes: Vec<Option<u8>> = model.iter().map(|byte| byte.map(|byte| byte.0)).collect();
        let all: Vec<(u32, Bytes)> = pieces.iter().map(|(start, data)| (start, data.clone())).collect();
        prop_assert_eq!(as_found(&all, &[], 64), bytes.clone());
        prop_assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0));
        prop_assert_eq!(pieces.bytes(), bytes.iter().flatten().count() as u64);
        prop_assert_eq!(pieces.is_empty(), bytes.iter().flatten().count() == 0);
        // Two ranges, so that one's findings are not taken for the other's.
        let middle = wanted.0.min(wanted.1)..wanted.0.max(wanted.1);
        let ranges: Vec<Range<u32>> = [0..middle.start, middle.end..64].into_iter().filter(|r| !r.is_empty()).collect();
        let mut found = SmallVec::new();
        let gaps = pieces.find(&ranges, &mut found);
        let mut expected = bytes;
        expected[middle.start as usize..middle.end as usize].fill(None);
        prop_assert_eq!(as_found(&found, &gaps, 64), expected);
        let sought: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        let given: usize = found.iter().map(|(_, data)| data.len()).chain(gaps.iter().map(ExactSizeIterator::len)).sum();
        prop_assert_eq!(given, sought);
    }
}

// ---- overlay

const STRIPE: u64 = 5;

/// What is in memory of the stripe's first 16 bytes.
fn in_memory(overlay: &Overlay) -> Vec<Option<u8>> {
    let found = overlay.find(STRIPE, 0..16);
    as_found(&found.pieces, &found.gaps, 16)
}

#[test]
fn a_write_is_read_from_its_commit_until_its_group_is_in_place() {
    let overlay = Overlay::new();
    overlay.admit(STRIPE);
    assert!(!overlay.is_idle());
    assert_eq!(in_memory(&overlay)[4], None, "queued, but not durable yet");
    assert!(overlay.freeze(STRIPE).is_none(), "nothing to put in place");
    assert!(overlay.commit(STRIPE, 4, filled(4, 1), 100, 7, 4096), "the first live record");
    assert_eq!(in_memory(&overlay)[3..9], [None, Some(1), Some(1), Some(1), Some(1), None]);
    overlay.admit(STRIPE);
    assert!(!overlay.commit(STRIPE, 0, filled(4, 2), 101, 9, 4096));
    assert!(!overlay.is_whole(STRIPE, 16) && overlay.is_whole(STRIPE, 8));
    let frozen = overlay.freeze(STRIPE).unwrap();
    assert_eq!((frozen.from, frozen.to, frozen.promised, frozen.pieces.bytes()), (7, 9, 8192, 8));
    // Later data waits for the next round, and lies over what is frozen.
    overlay.admit(STRIPE);
    assert!(!overlay.commit(STRIPE, 6, filled(4, 3), 102, 10, 4096), "it is live already");
    let expected: Vec<Option<u8>> = [2, 2, 2, 2, 1, 1, 3, 3, 3, 3].map(Some).to_vec();
    assert_eq!(in_memory(&overlay)[..10], expected);
    // A round that is begun again takes the same, and its parity is not promised room twice.
    overlay.spend(STRIPE);
    let again = overlay.freeze(STRIPE).unwrap();
    assert_eq!((again.from, again.to, again.promised, again.pieces.bytes()), (7, 9, 0, 8));
    assert_eq!(overlay.columns(STRIPE, 4), 4, "of what is frozen, at most a chunk");
    assert_eq!(overlay.thaw(STRIPE), (Some(7), Some(10)));
    assert_eq!(in_memory(&overlay)[..7], [None, None, None, None, None, None, Some(3)]);
    assert_eq!(
        overlay.freeze(STRIPE).map(|frozen| (frozen.from, frozen.to, frozen.promised)),
        Some((10, 10, 4096))
    );
    assert_eq!(overlay.thaw(STRIPE), (Some(10), None));
    assert!(overlay.is_idle());
}

#[test]
fn a_stripe_is_bypassed_only_while_nothing_of_it_is_live_or_queued() {
    let overlay = Overlay::new();
    let refused = |overlay: &Overlay| !overlay.begin_bypass(STRIPE, || panic!("announced"));
    overlay.admit(STRIPE);
    assert!(refused(&overlay), "queued");
    overlay.commit(STRIPE, 0, filled(1, 1), 0, 1, 0);
    assert!(refused(&overlay), "pending");
    overlay.freeze(STRIPE);
    assert!(refused(&overlay), "frozen");
    overlay.thaw(STRIPE);
    let mut announced = false;
    assert!(overlay.begin_bypass(STRIPE, || announced = true) && announced);
    assert!(refused(&overlay), "bypassing");
    assert!(overlay.is_bypassing(STRIPE) && !overlay.is_bypassing(STRIPE + 64));
    assert!(overlay.find(STRIPE, 0..4).bypassing && !overlay.is_idle());
    // What comes meanwhile is journalled behind it.
    overlay.admit(STRIPE);
    overlay.commit(STRIPE, 0, filled(1, 2), 1, 3, 0);
    overlay.end_bypass(STRIPE);
    assert!(!overlay.find(STRIPE, 0..4).bypassing && in_memory(&overlay)[0] == Some(2));
    overlay.freeze(STRIPE);
    assert_eq!(overlay.thaw(STRIPE), (Some(3), None));
    assert!(overlay.is_idle());
}

#[derive(Debug, Clone)]
enum Step {
    Write { start: u32, length: u32, cached: bool },
    Commit,
    Freeze,
    Thaw,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u32..12, 1u32..5, any::<bool>()).prop_map(|(start, length, cached)| Step::Write { start, length, cached }),
        2 => Just(Step::Commit),
        1 => Just(Step::Freeze),
        1 => Just(Step::Thaw),
    ]
}

proptest! {
    /// Reads give the newest write that is durable or was acknowledged, whichever states it is in.
    #[test]
    fn reads_over_the_overlay_follow_the_model(steps in prop::collection::vec(step(), 0..60)) {
        let overlay = Overlay::new();
        let mut place = [0u8; 16];
        let mut expected = [0u8; 16];
        let mut queue = VecDeque::new();
        let see = |expected: &mut [u8; 16], start: u32, length: u32, number: u8| {
            let range = start as usize..(start + length) as usize;
            expected[range].iter_mut().for_each(|byte| *byte = number.max(*byte));
        };
        for (number, step) in (1u8..).zip(steps) {
            match step {
                Step::Write { start, length, cached } => {
                    overlay.admit(STRIPE);
                    if cached {
                        overlay.cache(STRIPE, start, filled(length, number), number.into());
                        see(&mut expected, start, length, number);
                    }
                    queue.push_back((start, length, number));
                }
                Step::Commit => {
                    let Some((start, length, write)) = queue.pop_front() else { continue };
                    overlay.commit(STRIPE, start, filled(length, write), write.into(), number.into(), 0);
                    see(&mut expected, start, length, write);
                }
                Step::Freeze => drop(overlay.freeze(STRIPE)),
                Step::Thaw => {
                    // Only what was frozen before: nothing new.
                    if let Some(frozen) = overlay.freeze(STRIPE) {
                        for (start, data) in frozen.pieces.iter() {
                            place[start as usize..start as usize + data.len()].copy_from_slice(data);
                        }
                    }
                    overlay.thaw(STRIPE);
                }
            }
            let read: Vec<u8> =
                in_memory(&overlay).into_iter().zip(place).map(|(found, place)| found.unwrap_or(place)).collect();
            prop_assert_eq!(&read[..], &expected[..]);
        }
    }
}

// ---- ledger

const RECORD: u64 = 4096;

fn head(tail: u64, epochs: &[(u64, u64)]) -> JournalHead {
    let epochs = epochs
        .iter()
        .map(|&(number, first)| Epoch { stamp: Stamp { epoch: number, nonce: number ^ 0xabc }, first })
        .collect();
    JournalHead { generation: 10, tail, ring_bytes: 16 * RECORD, epochs }
}

fn ledger(next: u64) -> Ledger {
    let shape = Shape {
        ring_bytes: 16 * RECORD,
        max_record_bytes: RECORD,
        copies: 2,
        parities: 1,
        chunk_bytes: 4096,
    };
    let mut ledger = Ledger::new(shape, head(1, &[(1, 1)]), next);
    for number in 0..3 {
        ledger.open_ring(number);
    }
    ledger
}

#[test]
fn room_is_promised_once_and_on_the_fullest_ring() {
    let mut ledger = ledger(1);
    // Three records stay free of promises.
    assert!(!ledger.reserve(13 * RECORD + 1));
    assert!(ledger.reserve(13 * RECORD));
    assert!(!ledger.reserve(1));
    ledger.release(3 * RECORD);
    assert!(ledger.reserve(3 * RECORD));
    ledger.release(13 * RECORD);
    let (sequence, _) = ledger.begin();
    assert_eq!(ledger.place(2, sequence, 10 * RECORD), Some(0));
    ledger.end();
    assert!(!ledger.reserve(3 * RECORD + 1) && ledger.reserve(3 * RECORD));
    ledger.release(3 * RECORD);
    assert!(ledger.is_pressed());
    // A member that left takes its ring along.
    ledger.retain_rings(|number| number != 2);
    assert!(ledger.reserve(13 * RECORD));
    ledger.release(13 * RECORD);
    assert!(!ledger.is_pressed());
    // What was promised before this start counts, whether there is room or not.
    ledger.promise(20 * RECORD);
    assert!(!ledger.reserve(0));
    ledger.release(u64::MAX);
    assert!(ledger.reserve(0));
}

#[test]
fn the_tail_waits_for_the_oldest_of_all_that_is_needed() {
    let mut ledger = ledger(5);
    assert_eq!((ledger.oldest_needed(), ledger.next_sequence(), ledger.could_free()), (5, 5, true));
    let (sequence, stamp) = ledger.begin();
    assert_eq!((sequence, stamp.epoch), (5, 1));
    assert_eq!((ledger.oldest_needed(), ledger.next_sequence()), (5, 6), "it may be durable");
    ledger.list_stripe(5, 70);
    ledger.add_intent(5);
    ledger.add_intent(5);
    ledger.end();
    ledger.begin();
    ledger.list_stripe(6, 8);
    ledger.end();
    assert_eq!(ledger.oldest_stripes().collect::<Vec<_>>(), [(5, 70), (6, 8)]);
    ledger.unlist_stripe(5, 70);
    assert_eq!(ledger.oldest_needed(), 5, "two intents");
    ledger.resolve_intent(5);
    ledger.resolve_intent(99);
    assert_eq!(ledger.oldest_needed(), 5, "one intent");
    ledger.resolve_intent(5);
    assert_eq!(ledger.oldest_needed(), 6);
    ledger.unlist_stripe(6, 8);
    assert_eq!(ledger.oldest_needed(), 7);
}

#[test]
fn ring_space_is_free_only_when_the_moved_head_is_durable() {
    let mut ledger = ledger(1);
    for _ in 0..3 {
        let (sequence, _) = ledger.begin();
        ledger.place(0, sequence, 4 * RECORD);
        ledger.end();
    }
    ledger.list_stripe(3, 1);
    let moved = ledger.moved_head();
    assert_eq!((moved.generation, moved.tail), (11, 3));
    assert_eq!(ledger.open_ring(0).free_bytes(), 4 * RECORD);
    assert_eq!(ledger.same_head(), JournalHead { generation: 11, ..ledger.head().clone() });
    ledger.moved(moved.clone());
    assert_eq!(ledger.open_ring(0).free_bytes(), 12 * RECORD);
    assert_eq!((ledger.head(), ledger.could_free()), (&moved, false));
}

proptest! {
    /// Whoever owned a number that still counts owns it after the tail moved; epochs that own nothing more are dropped.
    #[test]
    fn a_moved_head_keeps_the_epochs_that_count(
        gaps in prop::collection::vec(1u64..9, 1..6), more in 0u64..9, oldest in 0u64..60
    ) {
        let mut epochs = Vec::new();
        let mut first = 1;
        for (number, gap) in (1u64..).zip(&gaps) {
            epochs.push((number, first));
            first += gap;
        }
        let next = first + more;
        let before = head(1, &epochs);
        let mut ledger = ledger(next);
        ledger.moved(before.clone());
        let oldest = oldest.clamp(1, next);
        if oldest < next {
            ledger.list_stripe(oldest, 1);
        }
        let after = ledger.moved_head();
        prop_assert_eq!(after.tail, oldest);
        prop_assert!(after.epochs.len() == 1 || after.epochs[1].first > oldest);
        for sequence in oldest..next + 3 {
            for epoch in &before.epochs {
                prop_assert_eq!(before.owns(sequence, epoch.stamp), after.owns(sequence, epoch.stamp), "{}", sequence);
            }
        }
    }

    /// A start takes what lies before `first`, and nothing else is ever taken for its own; so often as you like.
    #[test]
    fn every_start_has_an_epoch_of_its_own(starts in prop::collection::vec(0u64..50, 1..300)) {
        let mut head = next_epoch(None, 1, 1, 4096, 1);
        prop_assert_eq!((head.generation, head.tail, head.epochs.len()), (1, 1, 1));
        for (nonce, first) in (2u64..).zip(starts) {
            let after = next_epoch(Some(&head), 1, first + 1, 4096, nonce);
            let own = *after.epochs.last().unwrap();
            prop_assert_eq!((own.first, own.stamp.nonce), (first + 1, nonce));
            prop_assert!(own.stamp.epoch > head.epochs.last().unwrap().stamp.epoch);
            prop_assert_eq!(after.generation, head.generation + 1);
            for sequence in 0..60 {
                prop_assert_eq!(after.owns(sequence, own.stamp), sequence > first);
                for epoch in &head.epochs {
                    let owned = sequence <= first && head.owns(sequence, epoch.stamp);
                    prop_assert_eq!(after.owns(sequence, epoch.stamp), owned);
                }
            }
            // What is written is what is read, or the records of an epoch would be lost with it.
            let uuid = uuid::Uuid::nil();
            let page = after.encode(uuid);
            prop_assert_eq!(JournalHead::find(&page, uuid), Ok(after.clone()));
            head = after;
        }
    }
}
