//! What do the records found at a start mean?
//!
//! Of each stripe only the newest parity group or intent counts. What it covers, and everything older, is dead: a group that was
//! freed may still be in the ring, and replaying it over what came after would undo that. Data of the intent's own commit
//! counts as later than the intent.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::labsan::journal_record::{Item, Record};
use crate::geometry::Row;
use crate::sabotage::{self, Sabotage};

/// Where an item's payload is: which record (its place in the list given), and from which byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    pub(crate) record: usize,
    pub(crate) offset: usize,
    pub(crate) length: usize,
}

/// User data, in the order in which it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) sequence: u64,
    pub(crate) start: u32,
    pub(crate) payload: Payload,
}

/// What was going on with a stripe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    /// Nothing in place was touched.
    Untouched,
    /// Data and parity are to be put in place as they are here.
    Group { writes: Vec<Write>, parity: Vec<(Row, u32, Payload)> },
    /// It was being written as a whole; its blocks should have these CRCs.
    Intent { checksums: Payload },
    /// It was being zeroed as a whole.
    Zeros,
}

/// One stripe's part of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StripeReplay {
    pub(crate) newest: Newest,
    /// Data that is to be destaged through the ordinary path.
    pub(crate) later: Vec<Write>,
}

#[derive(Default)]
struct Seen {
    writes: Vec<Write>,
    newest: Option<(u64, Marker)>,
}

enum Marker {
    Group { covers: Range<u64>, parity: Vec<(Row, u32, Payload)> },
    Intent(Payload),
    Zeros,
}

/// Sort records (ascending, each number once) into what has to be done for each stripe of an array that has so many. A
/// record that verified names stripes of this array, or its writer was mad: others are passed over.
pub(crate) fn interpret(records: &[Record], units: u64) -> BTreeMap<u64, StripeReplay> {
    let mut stripes: BTreeMap<u64, Seen> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        for (item, offset) in &record.items {
            let payload = Payload { record: index, offset: *offset, length: item.payload_bytes() };
            see(&mut stripes, record.sequence, *item, payload, units);
        }
    }
    let all = stripes.into_iter().filter(|(stripe, _)| *stripe < units);
    all.map(|(stripe, seen)| (stripe, conclude(seen))).collect()
}

fn see(stripes: &mut BTreeMap<u64, Seen>, sequence: u64, item: Item, payload: Payload, units: u64) {
    match item {
        Item::Data { stripe, start, .. } => {
            stripes.entry(stripe).or_default().writes.push(Write { sequence, start, payload });
        }
        Item::Parity { stripe, row, column, from, to, .. } => {
            let seen = stripes.entry(stripe).or_default();
            let part = (payload.length > 0).then_some((row, column, payload));
            match &mut seen.newest {
                Some((newest, Marker::Group { parity, .. })) if *newest == sequence => parity.extend(part),
                newest => {
                    let covers = from..to.saturating_add(1);
                    *newest = Some((sequence, Marker::Group { covers, parity: part.into_iter().collect() }));
                }
            }
        }
        Item::Intent { stripe, .. } => {
            let seen = stripes.entry(stripe).or_default();
            let grouped = matches!(seen.newest, Some((_, Marker::Group { .. })));
            if grouped && sabotage::planted(Sabotage::OlderGroupReplayed) {
                return;
            }
            seen.newest = Some((sequence, Marker::Intent(payload)));
        }
        Item::Zeros { stripe, count } => {
            for stripe in stripe..stripe.saturating_add(count.into()).min(units) {
                stripes.entry(stripe).or_default().newest = Some((sequence, Marker::Zeros));
            }
        }
    }
}

fn conclude(seen: Seen) -> StripeReplay {
    let Seen { writes, newest } = seen;
    let from =
        |first: u64| writes.iter().copied().filter(|write| write.sequence >= first).collect::<Vec<_>>();
    match newest {
        None => StripeReplay { newest: Newest::Untouched, later: writes },
        Some((_, Marker::Group { covers, parity })) => {
            let covered = writes.iter().copied().filter(|write| covers.contains(&write.sequence)).collect();
            let later = from(covers.end);
            StripeReplay { newest: Newest::Group { writes: covered, parity }, later }
        }
        Some((sequence, Marker::Intent(checksums))) => {
            StripeReplay { newest: Newest::Intent { checksums }, later: from(sequence) }
        }
        Some((sequence, Marker::Zeros)) => StripeReplay { newest: Newest::Zeros, later: from(sequence) },
    }
}
