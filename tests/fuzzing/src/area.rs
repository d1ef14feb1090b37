//! The labsan area: header, config slots and the document in them, list of lost blocks, written map, journal head.

use std::ops::Range;

use raid_core::format::PAGE_BYTES;
use raid_core::format::labsan::config::{self, ConfigDocument, MAX_DOCUMENT_BYTES};
use raid_core::format::labsan::header::SEARCH_BYTES;
use raid_core::format::labsan::journal_head::{JournalHead, MAX_EPOCHS};
use raid_core::format::labsan::lost::{LostBlocks, MAX_RANGES};
use raid_core::format::labsan::written::{MapCopy, WrittenMap};
use raid_core::format::labsan::{ENVELOPE_BYTES, Header, Policy, Side};
use raid_core::format::layout::{ANCHORS, MemberLayout};
use raid_core::format::superblock::{MdTime, NewArray, Superblock};
use uuid::Uuid;

use crate::input::Input;

pub(crate) const ARRAY: Uuid = Uuid::from_u128(0x1ab5a);
const SIZE: u64 = 64 << 20;
/// A small map: two pages.
const MAP_REGION_BYTES: u64 = 1 << 20;
const MAP_DATA_BYTES: u64 = 40_000 << 20;

/// A member whose header is looked for.
pub(crate) fn member() -> (Superblock, Header) {
    let layout = MemberLayout::for_member(SIZE).unwrap();
    let new = NewArray {
        uuid: ARRAY,
        name: "box:vault".parse().unwrap(),
        created: MdTime::of_labsan(1_795_000_000, 9),
        level: 5,
        layout: 2,
        chunk_sectors: 128,
        raid_disks: 3,
        component_bytes: 32 << 20,
        bitmap: true,
        in_sync: true,
        events: 3,
    };
    let superblock = new.superblock(&layout, 0, Uuid::from_u128(0xd), &[]);
    let header = Header::new(&superblock, layout, SIZE, Policy::Journal);
    (superblock, header)
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    let mut page = input.rest().to_vec();
    let magic = match how & 7 {
        0 => b"LABSANHD",
        1 => b"LABSANCF",
        2 => return document(&page),
        3 => b"LABSANLB",
        4 => b"LABSANWM",
        _ => b"LABSANJH",
    };
    if how & 8 != 0 {
        mend(&mut page, magic);
    }
    match how & 7 {
        0 => header(&page, how >> 4),
        1 => slot(&page),
        3 => lost(&page),
        4 => map(&page),
        _ => journal_head(&page),
    }
}

/// What a stranger would put right first: magic, version, owner, length, checksum.
pub(crate) fn mend(bytes: &mut Vec<u8>, magic: &[u8; 8]) {
    bytes.resize(bytes.len().max(ENVELOPE_BYTES), 0);
    bytes[..8].copy_from_slice(magic);
    bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
    bytes[16..32].copy_from_slice(ARRAY.as_bytes());
    let claimed = u32::from_le_bytes(bytes[40..44].try_into().unwrap()) as usize;
    let length = if (ENVELOPE_BYTES..=bytes.len()).contains(&claimed) { claimed } else { bytes.len() };
    bytes[40..44].copy_from_slice(&(length as u32).to_le_bytes());
    seal(&mut bytes[..length]);
}

/// Put the CRC right.
pub(crate) fn seal(bytes: &mut [u8]) {
    bytes[12..16].fill(0);
    let sum = crc32fast::hash(bytes);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
}

/// What was read is written back as it was: all that is summed, but for what is reserved and must not be looked at.
fn same_bytes(ours: &[u8], theirs: &[u8], reserved: Range<usize>) {
    let length = u32::from_le_bytes(theirs[40..44].try_into().unwrap()) as usize;
    let mut theirs = theirs[..length].to_vec();
    // The envelope's, and an index that means nothing here.
    theirs[44..64].fill(0);
    theirs[reserved].fill(0);
    seal(&mut theirs);
    let mut ours = ours[..length].to_vec();
    ours[44..64].fill(0);
    seal(&mut ours);
    assert_eq!(ours, theirs);
}

fn header(page: &[u8], place: u8) {
    let (superblock, first) = member();
    let mut head = vec![0; SEARCH_BYTES];
    let anchor = ANCHORS[usize::from(place & 1) % ANCHORS.len()] as usize;
    let at = anchor + if place & 2 != 0 { PAGE_BYTES } else { 0 };
    let length = page.len().min(PAGE_BYTES);
    head[at..at + length].copy_from_slice(&page[..length]);
    if place & 4 != 0 {
        let other = first.offset(if place & 2 != 0 { Side::A } else { Side::B }) as usize;
        head[other..other + PAGE_BYTES].copy_from_slice(&first.encode());
    }
    let Ok((side, found)) = Header::find(&head, &superblock, SIZE) else { return };
    assert_eq!(found.layout.check(SIZE), Ok(()));
    assert_eq!(found.offset(side) % PAGE_BYTES as u64, 0);
    let encoded = found.encode();
    let mut again = vec![0; SEARCH_BYTES];
    let offset = found.offset(Side::A) as usize;
    again[offset..offset + PAGE_BYTES].copy_from_slice(&encoded);
    assert_eq!(Header::find(&again, &superblock, SIZE), Ok((Side::A, found)));
}

fn slot(bytes: &[u8]) {
    let result = config::parse(bytes, ARRAY);
    let Ok(found) = result.clone() else { return };
    assert!(found.payload.len() + ENVELOPE_BYTES <= bytes.len());
    document(&found.payload);
    assert!(found.payload.len() <= MAX_DOCUMENT_BYTES);
    let encoded = config::encode(ARRAY, found.generation, &found.payload).unwrap();
    assert_eq!(config::parse(&encoded, ARRAY).as_ref(), Ok(&found));
    same_bytes(&encoded, bytes, 0..0);
    let older = config::encode(ARRAY, found.generation / 2, b"{}").unwrap();
    let (side, newest) = config::choose(&older, bytes, ARRAY).unwrap();
    assert_eq!(side, if found.generation > found.generation / 2 { Side::B } else { Side::A });
    assert!(newest.generation >= found.generation);
}

fn document(json: &[u8]) {
    let Ok(found) = ConfigDocument::parse(json) else { return };
    assert_eq!(found.check(), Ok(()));
    let encoded = found.to_json().unwrap();
    assert_eq!(ConfigDocument::parse(&encoded).as_ref(), Ok(&found));
    let mut used: Vec<(u64, u64)> = Vec::new();
    for volume in &found.volumes {
        assert!(volume.extents.iter().map(|extent| extent.len).sum::<u64>() >= volume.size_bytes);
        used.extend(volume.extents.iter().map(|extent| (extent.start, extent.start + extent.len)));
    }
    used.sort_unstable();
    assert!(used.windows(2).all(|pair| pair[0].1 <= pair[1].0), "volumes share bytes");
}

fn lost(bytes: &[u8]) {
    let Ok(found) = LostBlocks::parse(bytes, ARRAY) else { return };
    assert!(
        found.ranges().len() <= (bytes.len() - ENVELOPE_BYTES) / 16 && found.ranges().len() <= MAX_RANGES
    );
    assert!(found.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
    let encoded = found.encode(ARRAY).unwrap();
    assert_eq!(LostBlocks::parse(&encoded, ARRAY).as_ref(), Ok(&found));
    let mut empty = found.clone();
    for range in found.ranges() {
        assert!(found.touches(range) && range.start < range.end);
        empty.remove(range);
    }
    assert!(empty.ranges().is_empty());
}

fn map(image: &[u8]) {
    let generation = image.get(32..40).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    let (found, damaged) = WrittenMap::parse(image, ARRAY, generation, MAP_REGION_BYTES, MAP_DATA_BYTES);
    assert!(damaged.len() <= found.pages() && found.pages() == 2);
    for number in 0..found.pages() {
        let page = found.encode_page(number).unwrap();
        if damaged.iter().all(|(page, _)| *page != number) {
            same_bytes(&page, &image[number * PAGE_BYTES..], 0..0);
        } else {
            assert!(page[ENVELOPE_BYTES..].iter().all(|byte| *byte == 0xff), "damaged reads as written");
        }
    }
    let copy = MapCopy { image: image.to_vec(), generation, region_bytes: MAP_REGION_BYTES };
    let union = WrittenMap::new(ARRAY, generation, MAP_REGION_BYTES, MAP_DATA_BYTES, true).union([&copy]);
    assert_eq!(union, found);
}

fn journal_head(page: &[u8]) {
    let mut region = page[..page.len().min(PAGE_BYTES)].to_vec();
    region.resize(2 * PAGE_BYTES, 0);
    let Ok(found) = JournalHead::find(&region, ARRAY) else { return };
    assert!((1..=MAX_EPOCHS).contains(&found.epochs.len()));
    let encoded = found.encode(ARRAY);
    let mut again = encoded.to_vec();
    again.resize(2 * PAGE_BYTES, 0);
    assert_eq!(JournalHead::find(&again, ARRAY).as_ref(), Ok(&found));
    same_bytes(&encoded, page, 80..96);
    for epoch in &found.epochs {
        let owner = found.epochs.iter().rev().find(|later| later.first <= epoch.first).unwrap();
        assert!(found.owns(epoch.first, owner.stamp));
    }
}
