//! The journal: single records, and what a start makes of rings full of them.

use raid_core::format::PAGE_BYTES;
use raid_core::format::labsan::MAX_GENERATION;
use raid_core::format::labsan::journal_head::{Epoch, JournalHead};
use raid_core::format::labsan::journal_record::{
    Item, Record, Stamp, claimed_bytes, encode, padded, parse, record_bytes,
};
use raid_core::fuzzing::{Bytes, Recovered, recover};
use raid_core::geometry::Row;

use crate::area::{ARRAY, mend, seal};
use crate::input::Input;

const STAMPS: [Stamp; 2] = [Stamp { epoch: 3, nonce: 0x5eed }, Stamp { epoch: 4, nonce: 0xfeed }];
/// Stripes of the array.
const STRIPES: u64 = 64;
/// Bytes of a stripe's user data, for records that are made.
const STRIPE_BYTES: u32 = 64 << 10;

/// One record of any bytes.
pub(crate) fn record(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let mut bytes = input.rest().to_vec();
    if how & 1 != 0 {
        bytes.resize(bytes.len().next_multiple_of(PAGE_BYTES).max(PAGE_BYTES), 0);
        mend(&mut bytes, b"LABSANJR");
    }
    if let Some(length) = claimed_bytes(&bytes) {
        assert!(length > 0 && length.is_multiple_of(PAGE_BYTES) && length <= u32::MAX as usize);
    }
    let Ok(found) = parse(&bytes, ARRAY) else { return };
    assert!(found.items.len() <= bytes.len() / 48);
    for (item, at) in &found.items {
        assert!(at + item.payload_bytes() <= bytes.len(), "{item:?} at {at}");
    }
    let again = encoded(&found, &bytes);
    let second = parse(&again, ARRAY).unwrap();
    assert_eq!(
        (second.sequence, second.stamp, second.items.len()),
        (found.sequence, found.stamp, found.items.len())
    );
    for ((ours, our_at), (theirs, their_at)) in second.items.iter().zip(&found.items) {
        assert_eq!(ours, theirs);
        let length = ours.payload_bytes();
        assert_eq!(again[*our_at..our_at + length], bytes[*their_at..their_at + length]);
    }
    // A record as the journal writes it is canonical: it comes back byte for byte.
    assert_eq!(encoded(&second, &again), again);
}

/// The record written down once more, with its payloads in order.
fn encoded(record: &Record, bytes: &[u8]) -> Vec<u8> {
    let payload = |item: &Item, at: usize| bytes[at..at + item.payload_bytes()].to_vec();
    let payloads: Vec<Vec<u8>> = record.items.iter().map(|(item, at)| payload(item, *at)).collect();
    let items: Vec<_> = record.items.iter().map(|(item, _)| *item).zip(payloads).collect();
    made(record.sequence, record.stamp, &items)
}

fn made(sequence: u64, stamp: Stamp, items: &[(Item, Vec<u8>)]) -> Vec<u8> {
    let room = items.iter().map(|(_, payload)| padded(payload.len())).sum();
    let mut bytes = vec![0xee; record_bytes(items.len(), room)];
    encode(&mut bytes, ARRAY, sequence, stamp, items.iter().map(|(item, payload)| (*item, &payload[..])));
    bytes
}

/// Up to three rings: records that are made and then damaged, or bytes as they come.
pub(crate) fn ring(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut rings: [Vec<u8>; 3] = Default::default();
    let head = head(&mut input);
    let mut sequence = head.tail.wrapping_sub(u64::from(input.u8() & 3));
    for _ in 0..24 {
        if input.is_empty() {
            break;
        }
        let how = input.u8();
        if how & 0x0f == 0x0f {
            let mut raw = input.part().to_vec();
            raw.resize(raw.len().next_multiple_of(PAGE_BYTES), 0);
            if how & 0x10 != 0 && !raw.is_empty() {
                mend(&mut raw, b"LABSANJR");
            }
            rings[usize::from(how >> 5) % 3].extend_from_slice(&raw);
            continue;
        }
        let stamp = STAMPS[usize::from(how & 1)];
        let count = how >> 1 & 3;
        let items: Vec<_> = (0..count).map(|_| item(&mut input, sequence)).collect();
        let record = made(sequence, stamp, &items);
        let copies = how >> 3 & 1;
        for copy in 0..=copies {
            rings[usize::from((how >> 4) + copy) % 3].extend_from_slice(&record);
        }
        sequence = sequence.wrapping_add(u64::from(how >> 6 != 3));
    }
    damage(&mut input, &mut rings);
    let images = [&rings[0][..], &rings[1][..], &rings[2][..]];
    let recovered = recover(&images, &head, ARRAY, STRIPES);
    check(&recovered, &head, images.iter().map(|ring| ring.len()).sum());
}

fn head(input: &mut Input<'_>) -> JournalHead {
    let how = input.u8();
    let tail = match how & 3 {
        0 => u64::from(input.u8()),
        1 => input.u64(),
        _ => 100,
    };
    let first = tail.saturating_sub(u64::from(how >> 4));
    let mut epochs = vec![Epoch { stamp: STAMPS[0], first }];
    if how & 4 != 0 {
        epochs.push(Epoch { stamp: STAMPS[1], first: first.saturating_add(u64::from(input.u8() & 15)) });
    }
    let head = JournalHead { generation: 9, tail, ring_bytes: 1 << 20, epochs };
    // As it would be read: what no head can say is not looked at here.
    let mut region = head.encode(ARRAY).to_vec();
    region.resize(2 * PAGE_BYTES, 0);
    JournalHead::find(&region, ARRAY).unwrap_or(JournalHead { tail: 100, ..head })
}

fn item(input: &mut Input<'_>, sequence: u64) -> (Item, Vec<u8>) {
    let (kind, stripe) = (input.u8(), u64::from(input.u8() & 0x47));
    let start = u32::from(input.u8()) * 512;
    let length = u32::from(input.u8() & 7) * 512;
    let fill = input.u8();
    let item = match kind & 7 {
        0..=3 => Item::Data { stripe, start, length },
        4 | 5 => {
            let from = sequence.saturating_sub(u64::from(kind >> 3 & 7));
            let to = from.saturating_add(u64::from(kind >> 6));
            let row = if kind & 1 == 0 { Row::P } else { Row::Q };
            Item::Parity { stripe, row, column: start, length, from, to }
        }
        6 => Item::Intent { stripe, blocks: STRIPE_BYTES / 4096 },
        _ => Item::Zeros { stripe, count: u32::from(fill) << (kind >> 3 & 7) },
    };
    (item, vec![fill; item.payload_bytes()])
}

/// A few bytes that decay, sealed again or not.
fn damage(input: &mut Input<'_>, rings: &mut [Vec<u8>; 3]) {
    while !input.is_empty() {
        let (which, at, to) = (input.u8(), usize::from(input.u16()), input.u8());
        let ring = &mut rings[usize::from(which) % 3];
        if at >= ring.len() {
            continue;
        }
        ring[at] = to;
        let page = at / PAGE_BYTES * PAGE_BYTES;
        let length = claimed_bytes(&ring[page..]).unwrap_or(0);
        if which & 0x80 != 0 && length > 0 && page + length <= ring.len() {
            seal(&mut ring[page..page + length]);
        }
    }
}

fn check(recovered: &Recovered, head: &JournalHead, ring_bytes: usize) {
    let records = &recovered.records;
    assert!(records.len() + recovered.beyond <= ring_bytes / PAGE_BYTES);
    for (record, number) in records.iter().zip(head.tail..) {
        assert_eq!(record.sequence, number, "one is missing");
        assert!(head.owns(number, record.stamp), "of another life");
    }
    assert_eq!(recovered.end, head.tail + records.len() as u64);
    assert!(recovered.stripes.len() as u64 <= STRIPES);
    for (stripe, replay) in &recovered.stripes {
        assert!(*stripe < STRIPES);
        let of_stripe = |sequence: u64, start: u32, (index, offset, length): Bytes| {
            let record = &records[index];
            assert_eq!(record.sequence, sequence);
            let data = Item::Data { stripe: *stripe, start, length: length as u32 };
            assert!(record.items.contains(&(data, offset)), "{data:?} is not in commit {sequence}");
        };
        let both = replay.covered.iter().chain(&replay.later);
        both.for_each(|(sequence, start, payload)| of_stripe(*sequence, *start, *payload));
        assert!(replay.covered.windows(2).all(|pair| pair[0].0 <= pair[1].0), "out of order");
        assert!(replay.later.windows(2).all(|pair| pair[0].0 <= pair[1].0), "out of order");
        let newest_covered = replay.covered.last().map(|(sequence, ..)| *sequence);
        let first_later = replay.later.first().map(|(sequence, ..)| *sequence);
        assert!(newest_covered.is_none() || first_later.is_none() || newest_covered < first_later);
        expected(*stripe, replay, records);
    }
    if let Some(next) = recovered.next_head.as_ref().filter(|_| recovered.end <= MAX_GENERATION) {
        // The life that begins owns what is numbered from now on, and none that was found.
        let newest = next.epochs.last().unwrap();
        assert!(newest.first == recovered.end && next.owns(recovered.end, newest.stamp));
        for record in records {
            assert!(next.owns(record.sequence, record.stamp), "a start that is cut short forgets commits");
        }
        let mut region = next.encode(ARRAY).to_vec();
        region.resize(2 * PAGE_BYTES, 0);
        assert_eq!(JournalHead::find(&region, ARRAY).as_ref(), Ok(next));
    }
}

/// The rules once more, the slow way: of each stripe the last group, intent or zeros counts, and what is later.
fn expected(stripe: u64, replay: &raid_core::fuzzing::Stripe, records: &[Record]) {
    let all = || {
        records.iter().flat_map(|record| record.items.iter().map(move |(item, _)| (record.sequence, item)))
    };
    let last = all().rfind(|(_, item)| match **item {
        Item::Data { .. } => false,
        Item::Parity { stripe: of, .. } | Item::Intent { stripe: of, .. } => of == stripe,
        Item::Zeros { stripe: first, count } => (first..first.saturating_add(count.into())).contains(&stripe),
    });
    let data: Vec<u64> = all()
        .filter(|(_, item)| matches!(item, Item::Data { stripe: of, .. } if *of == stripe))
        .map(|(sequence, _)| sequence)
        .collect();
    let from = |first: u64| data.iter().copied().filter(|sequence| *sequence >= first).collect::<Vec<_>>();
    let later: Vec<u64> = replay.later.iter().map(|(sequence, ..)| *sequence).collect();
    match last {
        None => assert_eq!(later, data),
        Some((sequence, Item::Intent { .. })) => {
            assert!(replay.intent.is_some());
            assert_eq!(later, from(sequence));
        }
        Some((sequence, Item::Zeros { .. })) => {
            assert!(replay.zeroed);
            assert_eq!(later, from(sequence));
        }
        Some(_) => assert!(replay.intent.is_none() && !replay.zeroed),
    }
}
