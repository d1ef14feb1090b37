//! Which records of a ring's bytes count, and how far do they follow each other?

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::format::PAGE_BYTES;
use crate::format::labsan::journal_head::JournalHead;
use crate::format::labsan::journal_record::{self, Record, claimed_bytes};
use crate::sabotage::{self, Sabotage};

/// A record, where it begins in its ring, and its length in bytes.
pub(crate) type Found = (Record, u64, u64);

/// Every record of a ring that counts, in order. All of the ring is looked through.
pub(crate) fn records_in(image: &[u8], head: &JournalHead, uuid: Uuid) -> Vec<Found> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < image.len() {
        let rest = &image[at..];
        let parsed = claimed_bytes(rest)
            .and_then(|length| Some((journal_record::parse(rest.get(..length)?, uuid).ok()?, length)));
        let Some((record, length)) = parsed else {
            at += PAGE_BYTES;
            continue;
        };
        let ours =
            head.owns(record.sequence, record.stamp) || sabotage::planted(Sabotage::StaleEpochReplayed);
        if ours && record.sequence >= head.tail {
            records.push((record, at as u64, length as u64));
        }
        at += length;
    }
    records.sort_by_key(|(record, ..)| record.sequence);
    records
}

/// The number after the last of those that follow the tail, none missing.
pub(crate) fn end_of<T>(found: &BTreeMap<u64, T>, tail: u64) -> u64 {
    let mut end = tail;
    while found.contains_key(&end) {
        end += 1;
    }
    end
}
