//! The journal on disk: what was sealed comes back, what was not is not there.

use proptest::prelude::*;

use super::journal_head::{Epoch, JournalHead, MAX_EPOCHS};
use super::journal_record::{Item, Record, Stamp, claimed_bytes, encode, padded, parse, record_bytes};
use super::*;
use crate::format::PAGE_BYTES;
use crate::geometry::Row;

const ARRAY: Uuid = Uuid::from_u128(0x1ab5a);
const STAMP: Stamp = Stamp { epoch: 7, nonce: 0x5eed };

/// A sealed record of these items, each with a payload of one byte repeated.
fn sealed(sequence: u64, items: &[(Item, u8)]) -> Vec<u8> {
    let payloads: Vec<Vec<u8>> = items.iter().map(|(item, fill)| vec![*fill; item.payload_bytes()]).collect();
    let padded_bytes = payloads.iter().map(|payload| padded(payload.len())).sum();
    // Not zeros: what is left between payloads must be written too.
    let mut record = vec![0xee; record_bytes(items.len(), padded_bytes)];
    let with_payload = items.iter().zip(&payloads).map(|((item, _), payload)| (*item, &payload[..]));
    encode(&mut record, ARRAY, sequence, STAMP, with_payload);
    record
}

fn check(sequence: u64, items: &[(Item, u8)]) {
    let bytes = sealed(sequence, items);
    assert_eq!(claimed_bytes(&bytes), Some(bytes.len()));
    let Record { sequence: found, stamp, items: parsed } = parse(&bytes, ARRAY).unwrap();
    assert_eq!((found, stamp), (sequence, STAMP));
    assert_eq!(parsed.len(), items.len());
    let mut end = (96 + items.len() * 48).next_multiple_of(PAGE_BYTES);
    for ((item, at), (expected, fill)) in parsed.into_iter().zip(items) {
        assert_eq!(item, *expected);
        assert!(at.is_multiple_of(512) && at >= end, "payloads overlap");
        end = at + item.payload_bytes();
        assert!(bytes[at..end].iter().all(|byte| byte == fill), "{item:?} has another's payload");
        assert!(bytes[end..at + padded(item.payload_bytes())].iter().all(|byte| *byte == 0));
    }
    assert!(bytes[end.next_multiple_of(512)..].iter().all(|byte| *byte == 0));
}

fn one_of_each() -> Vec<(Item, u8)> {
    vec![
        (Item::Parity { stripe: 9, row: Row::P, column: 1024, length: 512, from: 3, to: 5 }, 1),
        (Item::Parity { stripe: 9, row: Row::Q, column: 1024, length: 512, from: 3, to: 5 }, 2),
        (Item::Parity { stripe: 4, row: Row::P, column: 0, length: 0, from: 6, to: 6 }, 3),
        (Item::Parity { stripe: 5, row: Row::P, column: 0, length: 0, from: 8, to: 7 }, 3),
        (Item::Data { stripe: u64::MAX, start: 512, length: 1536 }, 4),
        (Item::Intent { stripe: 8, blocks: 3 }, 5),
        (Item::Zeros { stripe: 1, count: 1 << 16 }, 6),
    ]
}

#[test]
fn a_commit_comes_back_with_every_kind_of_item() {
    check(12, &one_of_each());
    check(MAX_GENERATION, &[]);
    // As many items as do and do not fit the first page.
    for count in [83, 84, 200] {
        check(1, &vec![(Item::Zeros { stripe: 1, count: 1 }, 0); count]);
    }
}

#[test]
fn every_flipped_bit_of_a_commit_is_noticed() {
    let mut bytes = sealed(12, &one_of_each());
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&bytes, ARRAY).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(parse(&bytes, ARRAY).is_ok());
    assert_eq!(parse(&bytes, Uuid::from_u128(1)), Err(LabsanError::OtherArray { found: ARRAY }));
}

#[test]
fn what_nothing_could_follow_is_refused() {
    let number = |result: Result<Record, LabsanError>| result.map(|record| record.sequence);
    assert_eq!(number(parse(&sealed(MAX_GENERATION, &[]), ARRAY)), Ok(MAX_GENERATION));
    for sequence in [MAX_GENERATION + 1, u64::MAX] {
        let refused = Err(LabsanError::Nonsense { field: "generation", value: sequence });
        assert_eq!(number(parse(&sealed(sequence, &[]), ARRAY)), refused);
    }
    let head = |tail: u64, epoch: u64, first: u64| {
        let epochs = vec![Epoch { stamp: Stamp { epoch, nonce: 1 }, first }];
        let page = JournalHead { generation: 1, tail, ring_bytes: 4096, epochs }.encode(ARRAY);
        JournalHead::find(&[page, [0; PAGE_BYTES]].concat(), ARRAY).map(|head| head.tail)
    };
    assert_eq!(head(5, 1, 5), Ok(5));
    for (tail, epoch, first) in [(u64::MAX, 1, 5), (5, u64::MAX, 5), (5, 1, u64::MAX)] {
        assert_eq!(head(tail, epoch, first), Err(LabsanError::Nonsense { field: "epochs", value: u64::MAX }));
    }
}

#[test]
fn a_commit_torn_at_any_sector_is_not_there() {
    let new = sealed(13, &[(Item::Data { stripe: 1, start: 0, length: 8192 }, 8)]);
    let old = sealed(12, &[(Item::Data { stripe: 1, start: 0, length: 8192 }, 7)]);
    for cut in (512..new.len()).step_by(512) {
        let torn: Vec<u8> = new[..cut].iter().chain(&old[cut..]).copied().collect();
        // The head and the end of what is written; the last page of the two is equal from the end of the payload on.
        assert_eq!(parse(&torn, ARRAY).is_ok(), torn == new, "torn at {cut}");
        let torn: Vec<u8> = old[..cut].iter().chain(&new[cut..]).copied().collect();
        assert_eq!(parse(&torn, ARRAY).is_ok(), torn == old, "torn at {cut}");
    }
}

#[test]
fn claimed_lengths_are_whole_pages_of_a_commit() {
    let good = sealed(1, &one_of_each());
    assert_eq!(claimed_bytes(&good[..ENVELOPE_BYTES]), Some(good.len()));
    assert_eq!(claimed_bytes(&good[..ENVELOPE_BYTES - 1]), None);
    assert_eq!(claimed_bytes(&[]), None);
    let with_length = |length: u32| {
        let mut bytes = good.clone();
        bytes[40..44].copy_from_slice(&length.to_le_bytes());
        claimed_bytes(&bytes)
    };
    assert_eq!(with_length(0), None);
    assert_eq!(with_length(4095), None);
    assert_eq!(with_length(PAGE_BYTES as u32), Some(PAGE_BYTES));
    // More than there is: whoever reads it finds the end of the ring first.
    assert_eq!(with_length(1 << 31), Some(1 << 31));
    let mut other = good.clone();
    other[7] = b'H';
    assert_eq!(claimed_bytes(&other), None);
}

/// The record with `value` put at `offset` of its first item, summed anew.
fn patched(item: Item, offset: usize, value: &[u8]) -> Result<Record, LabsanError> {
    let mut bytes = sealed(1, &[(item, 0)]);
    bytes[96 + offset..96 + offset + value.len()].copy_from_slice(value);
    let sum = crc(&bytes);
    bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
    parse(&bytes, ARRAY)
}

#[test]
fn every_refusal_of_an_item_has_its_name() {
    let data = Item::Data { stripe: 1, start: 0, length: 512 };
    let parity = Item::Parity { stripe: 1, row: Row::P, column: 0, length: 512, from: 2, to: 2 };
    let zeros = Item::Zeros { stripe: u64::MAX - 1, count: 1 };
    let refused = |item, offset, value: u32| match patched(item, offset, &value.to_le_bytes()) {
        Err(LabsanError::Nonsense { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert!(patched(data, 0, &1u32.to_le_bytes()).is_ok());
    assert_eq!(refused(data, 0, 0), "kind");
    assert_eq!(refused(data, 0, 5), "kind");
    assert_eq!(refused(data, 16, 100), "length");
    assert_eq!(refused(data, 20, 100), "length");
    assert_eq!(refused(data, 16, u32::MAX - 511), "length");
    assert_eq!(refused(data, 20, 1 << 20), "payload");
    assert_eq!(refused(data, 24, 1 << 20), "payload");
    assert_eq!(refused(parity, 4, 2), "row");
    assert_eq!(refused(parity, 32, 3), "from");
    assert_eq!(refused(zeros, 20, 2), "count");
    assert_eq!(refused(Item::Intent { stripe: 1, blocks: 1 }, 20, u32::MAX), "payload");
    // More items than there are bytes.
    let mut bytes = sealed(1, &[(data, 0)]);
    bytes[44..48].fill(0xff);
    let sum = crc(&bytes);
    bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
    assert!(matches!(parse(&bytes, ARRAY), Err(LabsanError::Nonsense { field: "items", .. })));
}

fn epoch(number: u64, first: u64) -> Epoch {
    Epoch { stamp: Stamp { epoch: number, nonce: number * 1000 }, first }
}

fn journal_head(generation: u64, epochs: Vec<Epoch>) -> JournalHead {
    JournalHead { generation, tail: 40, ring_bytes: 2 << 20, epochs }
}

/// The region with this head on one side and another on the other.
fn region(a: Option<&JournalHead>, b: Option<&JournalHead>) -> Vec<u8> {
    let page = |head: Option<&JournalHead>| head.map_or([0; PAGE_BYTES], |head| head.encode(ARRAY));
    [page(a), page(b)].concat()
}

#[test]
fn a_journal_head_comes_back_and_the_newer_copy_counts() {
    let one = journal_head(3, vec![epoch(1, 1)]);
    let two = journal_head(4, vec![epoch(1, 1), epoch(2, 50)]);
    assert_eq!((one.side(), two.side()), (Side::B, Side::A));
    let find = |region: &[u8]| JournalHead::find(region, ARRAY);
    assert_eq!(find(&region(None, Some(&one))), Ok(one.clone()));
    assert_eq!(find(&region(Some(&two), Some(&one))), Ok(two.clone()));
    assert_eq!(find(&region(Some(&one), Some(&two))), Ok(two.clone()));
    assert_eq!(find(&region(None, None)), Err(LabsanError::NoMagic));
    assert_eq!(find(&[]), Err(LabsanError::NoMagic));
    // A torn update leaves the head before it.
    let mut torn = region(Some(&two), Some(&one));
    torn[100] ^= 1;
    assert_eq!(find(&torn), Ok(one));
    torn[PAGE_BYTES + 100] ^= 1;
    assert!(matches!(find(&torn), Err(LabsanError::BadChecksum { .. })));
}

#[test]
fn every_flipped_bit_of_a_journal_head_is_noticed() {
    let head = journal_head(3, vec![epoch(1, 1), epoch(2, 50)]);
    let mut region = region(Some(&head), None);
    for bit in 0..(64 + 32 + 2 * 24) * 8 {
        region[bit / 8] ^= 1 << (bit % 8);
        assert!(JournalHead::find(&region, ARRAY).is_err(), "bit {bit}");
        region[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn impossible_journal_heads_are_refused() {
    let refused = |head: &JournalHead| match JournalHead::find(&region(Some(head), None), ARRAY) {
        Err(LabsanError::Nonsense { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&journal_head(1, vec![])), "epochs");
    assert_eq!(refused(&journal_head(1, vec![epoch(2, 1), epoch(1, 5)])), "epochs");
    assert_eq!(refused(&journal_head(1, vec![epoch(1, 5), epoch(2, 1)])), "epochs");
    let odd = JournalHead { ring_bytes: 5000, ..journal_head(1, vec![epoch(1, 1)]) };
    assert_eq!(refused(&odd), "ring_bytes");
}

#[test]
fn a_journal_head_keeps_the_newest_of_too_many_epochs() {
    let epochs: Vec<Epoch> = (1..=MAX_EPOCHS as u64 + 5).map(|number| epoch(number, number)).collect();
    let head = journal_head(1, epochs.clone());
    let found = JournalHead::find(&region(Some(&head), None), ARRAY).unwrap();
    assert_eq!(found.epochs, epochs[5..]);
}

#[test]
fn a_number_belongs_to_the_last_epoch_that_begins_at_or_before_it() {
    // Three starts, of which the second wrote nothing: its records, if any were ever begun, are not ours.
    let head = journal_head(1, vec![epoch(1, 10), epoch(2, 20), epoch(3, 20)]);
    let owner = |sequence: u64| {
        let owners: Vec<u64> =
            (1..=3).filter(|&number| head.owns(sequence, epoch(number, 0).stamp)).collect();
        assert!(owners.len() <= 1);
        owners.first().copied()
    };
    assert_eq!((owner(9), owner(10), owner(19)), (None, Some(1), Some(1)));
    assert_eq!((owner(20), owner(u64::MAX)), (Some(3), Some(3)));
    // The number alone does not do.
    assert!(!head.owns(10, Stamp { epoch: 1, nonce: 0 }));
}

fn item() -> impl Strategy<Value = Item> {
    let sectors = 0u32..20;
    prop_oneof![
        (any::<u64>(), 0u32..1000, sectors.clone()).prop_map(|(stripe, start, length)| {
            Item::Data { stripe, start: start * 512, length: length * 512 }
        }),
        (any::<u64>(), any::<bool>(), 0u32..1000, sectors, 0u64..100, 0u64..100).prop_map(
            |(stripe, q, column, length, from, more)| {
                let row = if q { Row::Q } else { Row::P };
                Item::Parity {
                    stripe,
                    row,
                    column: column * 512,
                    length: length * 512,
                    from,
                    to: from + more,
                }
            }
        ),
        (any::<u64>(), 0u32..600).prop_map(|(stripe, blocks)| Item::Intent { stripe, blocks }),
        (0u64..1 << 40, 0..=1u32 << 16).prop_map(|(stripe, count)| Item::Zeros { stripe, count }),
    ]
}

proptest! {
    #[test]
    fn commits_of_any_items_come_back(
        sequence in 0..=MAX_GENERATION, items in prop::collection::vec((item(), any::<u8>()), 0..60)
    ) {
        check(sequence, &items);
    }

    #[test]
    fn hostile_commits_and_heads_never_panic(
        mut bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 64..700),
        count in prop_oneof![0u32..16, any::<u32>()],
    ) {
        let seal = |bytes: &mut Vec<u8>, magic: &[u8; 8]| {
            bytes[..8].copy_from_slice(magic);
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[16..32].copy_from_slice(ARRAY.as_bytes());
            let length = (bytes.len() as u32).to_le_bytes();
            bytes[40..44].copy_from_slice(&length);
            bytes[44..48].copy_from_slice(&count.to_le_bytes());
            let sum = crc(bytes);
            bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
        };
        seal(&mut bytes, b"LABSANJR");
        if let Ok(record) = parse(&bytes, ARRAY) {
            for (item, at) in record.items {
                prop_assert!(at + item.payload_bytes() <= bytes.len(), "a payload beyond the record");
            }
        }
        seal(&mut bytes, b"LABSANJH");
        bytes.resize(2 * PAGE_BYTES, 0);
        if let Ok(head) = JournalHead::find(&bytes, ARRAY) {
            prop_assert!(!head.epochs.is_empty());
            let _ = head.owns(0, STAMP);
        }
    }
}
