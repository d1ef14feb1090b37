//! What do records found at a start mean? By hand for each rule, and against the life of a stripe cut short anywhere.

use proptest::prelude::*;

use super::replay::{Newest, Payload, StripeReplay, Write, interpret};
use crate::format::labsan::journal_record::{Item, Record, Stamp};
use crate::geometry::Row;

const STRIPE: u64 = 3;

fn record(sequence: u64, items: &[Item]) -> Record {
    let items = items.iter().enumerate().map(|(index, item)| (*item, index)).collect();
    Record { sequence, stamp: Stamp { epoch: 1, nonce: 1 }, items }
}

fn data(start: u32) -> Item {
    Item::Data { stripe: STRIPE, start, length: 512 }
}

fn parity(row: Row, from: u64, to: u64) -> Item {
    Item::Parity { stripe: STRIPE, row, column: 0, length: 512, from, to }
}

const INTENT: Item = Item::Intent { stripe: STRIPE, blocks: 2 };

fn only(records: &[Record]) -> StripeReplay {
    let mut stripes = interpret(records, u64::MAX);
    assert_eq!(stripes.len(), 1);
    stripes.remove(&STRIPE).unwrap()
}

/// Sequence numbers.
fn of(writes: &[Write]) -> Vec<u64> {
    writes.iter().map(|write| write.sequence).collect()
}

fn group(replay: &StripeReplay) -> (Vec<u64>, Vec<Row>) {
    let Newest::Group { writes, parity } = &replay.newest else { panic!("{replay:?}") };
    (of(writes), parity.iter().map(|(row, ..)| *row).collect())
}

#[test]
fn data_without_a_group_is_destaged_in_its_order() {
    let replay = only(&[record(4, &[data(0), data(512)]), record(5, &[data(0)])]);
    assert_eq!((&replay.newest, of(&replay.later)), (&Newest::Untouched, vec![4, 4, 5]));
    assert_eq!(replay.later[1].start, 512);
    assert_eq!(replay.later[1].payload, Payload { record: 0, offset: 1, length: 512 });
    assert_eq!(replay.later[2].payload, Payload { record: 1, offset: 0, length: 512 });
}

#[test]
fn a_group_covers_what_it_names_and_kills_what_is_older() {
    let replay = only(&[
        record(4, &[data(0)]),
        record(5, &[data(0)]),
        record(6, &[data(512)]),
        record(7, &[data(1024)]),
        record(8, &[parity(Row::P, 5, 6), parity(Row::Q, 5, 6), data(0)]),
        record(9, &[data(0)]),
    ]);
    assert_eq!(group(&replay), (vec![5, 6], vec![Row::P, Row::Q]));
    assert_eq!(
        of(&replay.later),
        [7, 8, 9],
        "later than what it covers, whether before it in the ring or not"
    );
}

#[test]
fn a_group_that_covers_nothing_kills_what_is_older_and_keeps_what_waits() {
    let dead = Item::Parity { stripe: STRIPE, row: Row::P, column: 0, length: 0, from: 7, to: 6 };
    let replay = only(&[
        record(5, &[data(0)]),
        record(6, &[parity(Row::P, 5, 5)]),
        record(7, &[data(512)]),
        record(8, &[dead, data(0)]),
    ]);
    assert_eq!((group(&replay), of(&replay.later)), ((vec![], vec![]), vec![7, 8]));
}

#[test]
fn zeros_beyond_the_array_take_no_memory() {
    let zeros = |stripe: u64| Item::Zeros { stripe, count: 1 << 16 };
    let items: Vec<Item> = (0..1 << 16).map(|index| zeros(index << 20)).chain([data(0)]).collect();
    let stripes = interpret(&[record(1, &items)], STRIPE);
    assert_eq!(stripes.into_keys().collect::<Vec<_>>(), [0, 1, 2], "as many stripes as there are");
}

#[test]
fn only_the_newest_group_counts() {
    let replay = only(&[
        record(1, &[data(0)]),
        record(2, &[parity(Row::P, 1, 1)]),
        record(3, &[data(0)]),
        record(4, &[parity(Row::P, 3, 3)]),
    ]);
    assert_eq!((group(&replay), of(&replay.later)), ((vec![3], vec![Row::P]), vec![]));
}

#[test]
fn a_group_without_a_parity_member_left_still_covers() {
    let empty = Item::Parity { stripe: STRIPE, row: Row::P, column: 0, length: 0, from: 1, to: 1 };
    let replay = only(&[record(1, &[data(0)]), record(2, &[empty]), record(3, &[data(0)])]);
    assert_eq!((group(&replay), of(&replay.later)), ((vec![1], vec![]), vec![3]));
}

#[test]
fn an_intent_kills_older_groups_and_data_but_not_that_of_its_own_commit() {
    let replay = only(&[
        record(1, &[data(0)]),
        record(2, &[parity(Row::P, 1, 1)]),
        record(3, &[INTENT, data(512)]),
        record(4, &[data(0)]),
    ]);
    let checksums = Payload { record: 2, offset: 0, length: 8 };
    assert_eq!((&replay.newest, of(&replay.later)), (&Newest::Intent { checksums }, vec![3, 4]));
}

#[test]
fn a_group_after_an_intent_counts_instead_of_it() {
    let replay =
        only(&[record(3, &[INTENT, data(512)]), record(4, &[parity(Row::P, 3, 3)]), record(5, &[data(0)])]);
    assert_eq!((group(&replay), of(&replay.later)), ((vec![3], vec![Row::P]), vec![5]));
    let replay = only(&[record(4, &[parity(Row::P, 3, 3)]), record(6, &[INTENT])]);
    assert!(matches!(replay.newest, Newest::Intent { .. }));
}

#[test]
fn zeros_stand_for_every_stripe_they_name() {
    let records = [
        record(1, &[data(0)]),
        record(2, &[Item::Zeros { stripe: STRIPE - 1, count: 3 }, data(512)]),
        record(3, &[Item::Data { stripe: STRIPE + 1, start: 0, length: 512 }]),
    ];
    let stripes = interpret(&records, u64::MAX);
    assert_eq!(stripes.keys().copied().collect::<Vec<_>>(), [STRIPE - 1, STRIPE, STRIPE + 1]);
    assert!(stripes.values().all(|replay| replay.newest == Newest::Zeros));
    assert_eq!(of(&stripes[&STRIPE].later), [2]);
    assert_eq!(of(&stripes[&(STRIPE + 1)].later), [3]);
    assert_eq!(interpret(&[record(1, &[])], u64::MAX).len(), 0);
}

const SECTORS: usize = 4;

/// A write under way to all of the stripe.
struct Bypass {
    sequence: u64,
    fill: u8,
    zeros: bool,
}

/// One stripe, its journal, and what each of its sectors may hold.
struct Life {
    sequence: u64,
    records: Vec<Record>,
    /// What each item of each record says its sector gets.
    fills: Vec<Vec<u8>>,
    place: [u8; SECTORS],
    pending: Vec<(u64, usize, u8)>,
    frozen: Vec<(u64, usize, u8)>,
    bypass: Option<Bypass>,
    allowed: [Vec<u8>; SECTORS],
}

impl Life {
    fn new() -> Self {
        Self {
            sequence: 0,
            records: Vec::new(),
            fills: Vec::new(),
            place: [0; SECTORS],
            pending: Vec::new(),
            frozen: Vec::new(),
            bypass: None,
            allowed: [const { Vec::new() }; SECTORS].map(|_: Vec<u8>| vec![0]),
        }
    }

    fn commit(&mut self, items: &[(Item, u8)]) {
        self.sequence += 1;
        let only: Vec<Item> = items.iter().map(|item| item.0).collect();
        self.records.push(record(self.sequence, &only));
        self.fills.push(items.iter().map(|item| item.1).collect());
    }

    fn acknowledge(&mut self, sector: usize, fill: u8) {
        self.pending.push((self.sequence, sector, fill));
        self.allowed[sector] = vec![fill];
    }

    fn write(&mut self, sector: usize, fill: u8) {
        self.commit(&[(data(sector as u32 * 512), fill)]);
        self.acknowledge(sector, fill);
    }

    fn journal_group(&mut self) {
        if self.bypass.is_none() && self.frozen.is_empty() && !self.pending.is_empty() {
            self.frozen = std::mem::take(&mut self.pending);
            let (from, to) = (self.frozen[0].0, self.frozen[self.frozen.len() - 1].0);
            self.commit(&[(parity(Row::P, from, to), 0)]);
        }
    }

    /// Whatever is under way reaches some of its sectors.
    fn put_some_in_place(&mut self, sectors: usize) {
        let reached = |sector: usize| sectors & 1 << sector != 0;
        for (_, sector, fill) in self.frozen.iter().filter(|write| reached(write.1)) {
            self.place[*sector] = *fill;
        }
        if let Some(bypass) = &self.bypass {
            (0..SECTORS)
                .filter(|sector| reached(*sector))
                .for_each(|sector| self.place[sector] = bypass.fill);
        }
    }

    fn begin_bypass(&mut self, fill: u8, zeros: bool, with: Option<(usize, u8)>) {
        if self.bypass.is_some() || !self.frozen.is_empty() || !self.pending.is_empty() {
            return;
        }
        let fill = if zeros { 0 } else { fill };
        let item = if zeros { Item::Zeros { stripe: STRIPE, count: 1 } } else { INTENT };
        let items: Vec<(Item, u8)> = [(item, 0)]
            .into_iter()
            .chain(with.map(|(sector, fill)| (data(sector as u32 * 512), fill)))
            .collect();
        self.commit(&items);
        self.bypass = Some(Bypass { sequence: self.sequence, fill, zeros });
        self.allowed.iter_mut().for_each(|allowed| allowed.push(fill));
        if let Some((sector, fill)) = with {
            self.acknowledge(sector, fill);
        }
    }

    /// All of what is under way is in place and flushed.
    fn finish(&mut self) {
        self.put_some_in_place(usize::MAX);
        self.frozen.clear();
        let Some(bypass) = self.bypass.take() else { return };
        for sector in (0..SECTORS).filter(|sector| self.pending.iter().all(|write| write.1 != *sector)) {
            self.allowed[sector] = vec![bypass.fill];
        }
    }

    fn oldest_needed(&self) -> u64 {
        let writes = self.frozen.iter().chain(&self.pending).map(|write| write.0);
        let bypass = self.bypass.as_ref().map(|bypass| bypass.sequence);
        writes.chain(bypass).min().unwrap_or(self.sequence + 1)
    }

    /// What a start makes of the records from `tail` on.
    fn recover(&self, tail: u64) -> [u8; SECTORS] {
        let from = (tail - 1) as usize;
        let mut place = self.place;
        let Some(replay) = interpret(&self.records[from..], u64::MAX).remove(&STRIPE) else { return place };
        let fill = |write: &Write| self.fills[from + write.payload.record][write.payload.offset];
        let sector = |write: &Write| write.start as usize / 512;
        match &replay.newest {
            Newest::Group { writes, .. } => {
                writes.iter().for_each(|write| place[sector(write)] = fill(write));
            }
            Newest::Zeros => place = [0; SECTORS],
            // What is in place stays: some of it old, some new.
            Newest::Intent { .. } | Newest::Untouched => {}
        }
        replay.later.iter().for_each(|write| place[sector(write)] = fill(write));
        place
    }
}

proptest! {
    #[test]
    fn a_stripe_cut_short_anywhere_holds_what_was_acknowledged(
        steps in prop::collection::vec((0u8..6, 0usize..SECTORS, 0usize..1 << SECTORS), 0..40), lag in 0u64..12
    ) {
        let mut life = Life::new();
        for (fill, (step, sector, mask)) in (1u8..).step_by(2).zip(steps) {
            match step {
                0 | 1 => life.write(sector, fill),
                2 => life.journal_group(),
                3 => life.put_some_in_place(mask),
                4 => life.finish(),
                _ => life.begin_bypass(fill, mask & 1 == 0, (mask & 2 == 0).then_some((sector, fill + 1))),
            }
            // The tail trails: what was freed may still be in the ring.
            let tail = life.oldest_needed().saturating_sub(lag).max(1);
            let found = life.recover(tail);
            let zeroing = life.bypass.as_ref().is_some_and(|bypass| bypass.zeros);
            for (sector, (value, allowed)) in found.into_iter().zip(&life.allowed).enumerate() {
                prop_assert!(allowed.contains(&value), "{} holds {}, not {:?} (tail {})", sector, value, allowed, tail);
                let written = life.pending.iter().any(|write| write.1 == sector);
                prop_assert!(!zeroing || written || value == 0, "zeros are done again");
            }
        }
    }
}
