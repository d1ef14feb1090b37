//! What fuzz targets see of the journal's inside. No part of the interface.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::format::labsan::journal_head::JournalHead;
use crate::format::labsan::journal_record::Record;
use crate::journal::found::{end_of, records_in};
use crate::journal::ledger::next_epoch;
use crate::journal::replay::{self, Newest, Payload, Write};

/// A payload that a start would read: which record (of [`Recovered::records`]), first byte in it, bytes.
pub type Bytes = (usize, usize, usize);

/// What a start makes of one stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stripe {
    /// Put in place at once: sequence number, first byte of the stripe, payload.
    pub covered: Vec<(u64, u32, Bytes)>,
    /// Parity that goes with it: first column, payload.
    pub parity: Vec<(u32, Bytes)>,
    /// The CRCs of a whole stripe that was being written.
    pub intent: Option<Bytes>,
    /// It was being zeroed as a whole.
    pub zeroed: bool,
    /// Destaged afterwards.
    pub later: Vec<(u64, u32, Bytes)>,
}

/// What a start makes of rings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Records that count, none missing between them.
    pub records: Vec<Record>,
    /// The number after the last.
    pub end: u64,
    /// Records beyond a gap.
    pub beyond: usize,
    /// What is to be done, by stripe.
    pub stripes: BTreeMap<u64, Stripe>,
    /// The head of the life that begins; none if there can be none.
    pub next_head: Option<JournalHead>,
}

/// What a start of an array of so many stripes makes of these rings.
pub fn recover(rings: &[&[u8]], head: &JournalHead, uuid: Uuid, stripes: u64) -> Recovered {
    let mut found = BTreeMap::new();
    for ring in rings {
        for (record, ..) in records_in(ring, head, uuid) {
            found.entry(record.sequence).or_insert(record);
        }
    }
    let end = end_of(&found, head.tail);
    let beyond = found.split_off(&end).len();
    let records: Vec<Record> = found.into_values().collect();
    let stripes = replay::interpret(&records, stripes);
    let stripes = stripes.into_iter().map(|(stripe, replay)| {
        let mut known = Stripe { later: writes(&replay.later), ..Stripe::default() };
        match replay.newest {
            Newest::Untouched => {}
            Newest::Group { writes: covered, parity } => {
                known.covered = writes(&covered);
                known.parity = parity.iter().map(|(_, column, payload)| (*column, place(payload))).collect();
            }
            Newest::Intent { checksums } => known.intent = Some(place(&checksums)),
            Newest::Zeros => known.zeroed = true,
        }
        (stripe, known)
    });
    let stripes = stripes.collect();
    let next_head = Some(next_epoch(Some(head), head.tail, end, head.ring_bytes, 1));
    Recovered { records, end, beyond, stripes, next_head }
}

fn place(payload: &Payload) -> Bytes {
    (payload.record, payload.offset, payload.length)
}

fn writes(writes: &[Write]) -> Vec<(u64, u32, Bytes)> {
    writes.iter().map(|write| (write.sequence, write.start, place(&write.payload))).collect()
}
