//! The labsan area: what is written comes back, what is torn is not there, the older copy stays.

use proptest::prelude::*;

use super::config::{self, MAX_DOCUMENT_BYTES, SCHEMA};
use super::header::SEARCH_BYTES;
use super::lost::{LostBlocks, MAX_RANGES};
use super::written::{BITS_PER_PAGE, MIN_REGION_BYTES, MapCopy, WrittenMap, map_bytes, region_bytes_for};
use super::*;
use crate::format::PAGE_BYTES;
use crate::format::layout::{ANCHORS, MemberLayout};
use crate::format::superblock::{MdTime, NewArray, Superblock};

const ARRAY: Uuid = Uuid::from_u128(0x1ab5a);
const OTHER: Uuid = Uuid::from_u128(0x07ea);
const SIZE: u64 = 64 << 20;

fn member() -> (Superblock, MemberLayout) {
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
    (new.superblock(&layout, 0, Uuid::from_u128(0xd), &[]), layout)
}

/// The start of a member with these header copies.
fn head(copies: [Option<&Header>; 2]) -> Vec<u8> {
    let mut head = vec![0; SEARCH_BYTES];
    for (side, header) in [Side::A, Side::B].into_iter().zip(copies) {
        if let Some(header) = header {
            let offset = header.offset(side) as usize;
            head[offset..offset + PAGE_BYTES].copy_from_slice(&header.encode());
        }
    }
    head
}

#[test]
fn a_header_comes_back_and_the_newer_copy_counts() {
    let (superblock, layout) = member();
    let one = Header::new(&superblock, layout, SIZE, Policy::Journal);
    let two = Header { generation: 2, policy: Policy::Bitmap, ..one.clone() };
    let find = |head: &[u8]| Header::find(head, &superblock, SIZE);
    assert_eq!((one.md_events, one.md_utime.micros), (3, 9));
    assert_eq!(find(&head([Some(&one), None])), Ok((Side::A, one.clone())));
    assert_eq!(find(&head([Some(&one), Some(&two)])), Ok((Side::B, two.clone())));
    assert_eq!(find(&head([Some(&two), Some(&one)])), Ok((Side::A, two.clone())));
    assert_eq!(find(&head([None, None])), Err(LabsanError::NoMagic));
    assert_eq!(find(&[]), Err(LabsanError::NoMagic));
    // A torn update costs the update.
    let mut torn = head([Some(&one), Some(&two)]);
    torn[two.offset(Side::B) as usize + 300] ^= 1;
    assert_eq!(find(&torn), Ok((Side::A, one.clone())));
    torn[one.offset(Side::A) as usize + 300] ^= 1;
    assert!(matches!(find(&torn), Err(LabsanError::BadChecksum { .. })));
}

#[test]
fn every_flipped_bit_of_a_header_is_noticed() {
    let (superblock, layout) = member();
    let header = Header::new(&superblock, layout, SIZE, Policy::Journal);
    let good = head([Some(&header), None]);
    let start = ANCHORS[0] as usize;
    let length = u32::from_le_bytes(good[start + 40..start + 44].try_into().unwrap()) as usize;
    let mut head = good;
    for bit in 0..length * 8 {
        head[start + bit / 8] ^= 1 << (bit % 8);
        assert!(Header::find(&head, &superblock, SIZE).is_err(), "bit {bit}");
        head[start + bit / 8] ^= 1 << (bit % 8);
    }
}

/// A header of which `change` changed the page, summed anew.
fn patched(change: impl FnOnce(&mut [u8])) -> Result<(Side, Header), LabsanError> {
    let (superblock, layout) = member();
    let mut head = head([Some(&Header::new(&superblock, layout, SIZE, Policy::Journal)), None]);
    let start = ANCHORS[0] as usize;
    let page = &mut head[start..start + PAGE_BYTES];
    change(page);
    let length = u32::from_le_bytes(page[40..44].try_into().unwrap()) as usize;
    let sum = crc(&page[..length.clamp(ENVELOPE_BYTES, PAGE_BYTES)]);
    page[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
    Header::find(&head, &superblock, SIZE)
}

#[test]
fn every_refusal_of_a_header_has_its_name() {
    // Offsets in the page: the envelope has 64 bytes, the regions begin at 264 (kind, flags, offset, len).
    assert!(patched(|_| {}).is_ok());
    assert_eq!(patched(|page| page[8] = 2), Err(LabsanError::NewerVersion { found: 2, known: 1 }));
    assert!(matches!(patched(|page| page[16] = 1), Err(LabsanError::OtherArray { .. })));
    assert!(matches!(patched(|page| page[64] = 1), Err(LabsanError::OtherMember { .. })));
    assert!(matches!(
        patched(|page| page[40..44].copy_from_slice(&63u32.to_le_bytes())),
        Err(LabsanError::Nonsense { .. })
    ));
    assert!(matches!(patched(|page| page[40..44].fill(0xff)), Err(LabsanError::Truncated { .. })));
    assert!(matches!(
        patched(|page| page[40..44].copy_from_slice(&100u32.to_le_bytes())),
        Err(LabsanError::Truncated { .. })
    ));
    let field = |offset: usize, value: u64| match patched(|page| {
        page[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }) {
        Err(LabsanError::Nonsense { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(64 + 32, 4096), "area_offset");
    assert_eq!(field(64 + 72, 3 << 20), "map_region_bytes");
    assert_eq!(field(64 + 72, 4096), "map_region_bytes");
    assert_eq!(field(64 + 104, 3), "policy");
    assert_eq!(field(64 + 104, 2 | 17 << 32), "region_count");
    assert_eq!(patched(|page| page[64 + 100] = 3), Err(LabsanError::UnknownFeatures { features: 2 }));
    // Hostile regions.
    for value in [0, 512, 4096, SIZE, u64::MAX - 4095] {
        let moved = patched(|page| page[264 + 8..264 + 16].copy_from_slice(&value.to_le_bytes()));
        assert!(matches!(moved, Err(LabsanError::Layout(_))), "{value}: {moved:?}");
        let stretched = patched(|page| page[264 + 16..264 + 24].copy_from_slice(&value.to_le_bytes()));
        assert!(value == 4096 || matches!(stretched, Err(LabsanError::Layout(_))), "{value}: {stretched:?}");
    }
    // A missing region.
    assert!(matches!(patched(|page| page[264] = 99), Err(LabsanError::Layout(_))));
}

#[test]
fn a_header_that_does_not_fit_its_device_is_refused() {
    let (superblock, layout) = member();
    let head = head([Some(&Header::new(&superblock, layout, SIZE, Policy::None)), None]);
    assert!(matches!(Header::find(&head, &superblock, SIZE / 2), Err(LabsanError::Layout(_))));
}

fn volume(name: &str, extents: &[(u64, u64)]) -> VolumeRecord {
    VolumeRecord {
        uuid: Uuid::from_u128(u128::from(name.as_bytes()[0])),
        name: name.to_owned(),
        size_bytes: extents.iter().map(|extent| extent.1).sum(),
        write_cache: false,
        physical_block_bytes: None,
        extents: extents.iter().map(|(start, len)| Extent { start: *start, len: *len }).collect(),
        created: 1,
        other: Default::default(),
    }
}

#[test]
fn a_document_comes_back_with_what_it_does_not_know() {
    let json = br#"{"schema":1,"volumes":[{"uuid":"00000000-0000-0000-0000-000000000001","name":"lun0","size_bytes":5,
        "write_cache":true,"extents":[{"start":0,"len":8}],"created":7,"colour":"blue"}],
        "san":{"targets":[1,2]},"san_generation":4,"later":[true]}"#;
    let document = ConfigDocument::parse(json).unwrap();
    assert_eq!(document.volumes[0].name, "lun0");
    assert_eq!(document.san["targets"][1], 2);
    let again: serde_json::Value = serde_json::from_slice(&document.to_json().unwrap()).unwrap();
    assert_eq!(again, serde_json::from_slice::<serde_json::Value>(json).unwrap());
    assert_eq!(
        ConfigDocument::parse(&ConfigDocument::default().to_json().unwrap()),
        Ok(ConfigDocument::default())
    );
}

#[test]
fn impossible_documents_are_refused() {
    let refused = |volumes: Vec<VolumeRecord>| {
        let document = ConfigDocument { volumes, ..Default::default() };
        ConfigDocument::parse(&document.to_json().unwrap()).unwrap_err().to_string()
    };
    let good = ConfigDocument {
        volumes: vec![volume("a", &[(0, 8), (16, 8)]), volume("b", &[(8, 8)])],
        ..Default::default()
    };
    assert_eq!(good.check(), Ok(()));
    assert!(refused(vec![volume("a", &[(0, 9)]), volume("b", &[(8, 8)])]).contains("share bytes"));
    assert!(refused(vec![volume("a", &[(0, 8)]), volume("a", &[(8, 8)])]).contains("name of its own"));
    assert!(refused(vec![volume("a", &[(u64::MAX, 8)])]).contains("impossible extent"));
    assert!(refused(vec![volume("a", &[(0, 0)])]).contains("impossible extent"));
    let mut short = volume("a", &[(0, 8)]);
    short.size_bytes = 9;
    assert!(refused(vec![short]).contains("larger than its extents"));
    let newer = ConfigDocument { schema: SCHEMA + 1, ..Default::default() };
    assert!(matches!(
        ConfigDocument::parse(&newer.to_json().unwrap()),
        Err(LabsanError::NewerVersion { .. })
    ));
    assert!(matches!(ConfigDocument::parse(b"{"), Err(LabsanError::Document(_))));
}

#[test]
fn a_torn_config_slot_leaves_the_other() {
    let old = config::encode(ARRAY, 7, b"old").unwrap();
    let new = config::encode(ARRAY, 8, &[b'n'; 9000]).unwrap();
    let choose = |a: &[u8], b: &[u8]| config::choose(a, b, ARRAY).map(|(side, slot)| (side, slot.generation));
    assert_eq!(choose(&old, &new), Ok((Side::B, 8)));
    assert_eq!(choose(&new, &old), Ok((Side::A, 8)));
    // Torn at every sector: the new head with the old tail, and the other way round.
    let mut before = config::encode(ARRAY, 6, &[b'b'; 9000]).unwrap();
    before.resize(new.len(), 0);
    for cut in (512..9064).step_by(512) {
        let torn: Vec<u8> = new[..cut].iter().chain(&before[cut..]).copied().collect();
        assert_eq!(choose(&old, &torn), Ok((Side::A, 7)), "torn at {cut}");
        let torn: Vec<u8> = before[..cut].iter().chain(&new[cut..]).copied().collect();
        assert_eq!(choose(&old, &torn), Ok((Side::A, 7)), "torn at {cut}");
    }
    let blank = vec![0; 4096];
    assert_eq!(choose(&blank, &blank), Err(LabsanError::NoMagic));
    assert_eq!(config::parse(&new, OTHER), Err(LabsanError::OtherArray { found: ARRAY }));
    assert_eq!((Side::A.other(), Side::B.other()), (Side::B, Side::A));
}

#[test]
fn a_newer_versions_copy_is_not_undone_by_the_older_one() {
    let old = config::encode(ARRAY, 7, b"old").unwrap();
    let mut newer = config::encode(ARRAY, 8, b"new").unwrap();
    newer[8] = 2;
    let sum = crc(&newer[..ENVELOPE_BYTES + 3]);
    newer[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
    let expected = Err(LabsanError::NewerVersion { found: 2, known: 1 });
    assert_eq!(config::choose(&old, &newer, ARRAY), expected);
    assert_eq!(config::choose(&newer, &old, ARRAY), expected);
}

#[test]
fn a_document_that_does_not_fit_is_refused() {
    assert!(config::encode(ARRAY, 1, &vec![0; MAX_DOCUMENT_BYTES]).is_ok());
    let error = config::encode(ARRAY, 1, &vec![0; MAX_DOCUMENT_BYTES + 1]).unwrap_err();
    assert!(matches!(error, LabsanError::TooLarge { .. }));
}

#[test]
fn a_full_list_of_lost_blocks_is_refused_not_cut() {
    let mut list = LostBlocks::default();
    (0..MAX_RANGES as u64).for_each(|n| list.insert(n * 8192..n * 8192 + 4096));
    assert_eq!(LostBlocks::parse(&list.encode(ARRAY).unwrap(), ARRAY), Ok(list.clone()));
    list.insert(u64::MAX - 4096..u64::MAX);
    assert!(matches!(list.encode(ARRAY), Err(LabsanError::TooLarge { .. })));
}

#[test]
fn a_map_page_that_is_damaged_or_of_another_generation_reads_as_written() {
    let data = (BITS_PER_PAGE + 100) * MIN_REGION_BYTES;
    let mut map = WrittenMap::new(ARRAY, 5, MIN_REGION_BYTES, data, false);
    assert_eq!(map.pages(), 2);
    assert_eq!(map.put(BITS_PER_PAGE - 2..BITS_PER_PAGE + 3, true), [0, 1]);
    assert_eq!(map.put(BITS_PER_PAGE..BITS_PER_PAGE + 3, true), Vec::<usize>::new());
    let image: Vec<u8> = (0..2).flat_map(|page| map.encode_page(page).unwrap()).collect();
    let parse =
        |image: &[u8], generation| WrittenMap::parse(image, ARRAY, generation, MIN_REGION_BYTES, data);
    assert_eq!(parse(&image, 5), (map.clone(), vec![]));
    let (stale, damaged) = parse(&image, 6);
    assert!((0..stale.regions()).all(|region| stale.is_written(region)) && damaged.len() == 2);
    let mut torn = image.clone();
    torn[700] ^= 1;
    let (half, damaged) = parse(&torn, 5);
    assert!(half.is_written(0) && !half.is_written(BITS_PER_PAGE + 50) && half.is_written(BITS_PER_PAGE));
    assert!(matches!(damaged[..], [(0, LabsanError::BadChecksum { .. })]));
    // Swapped pages are not taken for each other; missing ones read as written.
    let swapped: Vec<u8> = image[4096..].iter().chain(&image[..4096]).copied().collect();
    assert_eq!(parse(&swapped, 5).1.len(), 2);
    assert!(parse(&[], 5).0.is_written(7));
    assert!(map.is_written(u64::MAX) && map.encode_page(2).is_none());
    assert_eq!(map.regions_of(&(MIN_REGION_BYTES - 1..MIN_REGION_BYTES + 1)), 0..2);
}

#[test]
fn what_any_copy_that_verifies_calls_written_is_written() {
    let data = (BITS_PER_PAGE + 5) * MIN_REGION_BYTES;
    let copy = |regions: &[u64], generation: u64, region_bytes: u64| {
        let mut map = WrittenMap::new(ARRAY, generation, region_bytes, data, false);
        regions.iter().for_each(|region| drop(map.put(*region..region + 1, true)));
        let image = (0..map.pages()).flat_map(|page| map.encode_page(page).unwrap()).collect();
        MapCopy { image, generation, region_bytes }
    };
    let union = |copies: &[MapCopy]| {
        let map = WrittenMap::new(ARRAY, 9, MIN_REGION_BYTES, data, true).union(copies);
        assert_eq!(map.generation(), 9);
        (0..map.regions()).filter(|region| map.is_written(*region)).collect::<Vec<_>>()
    };
    let (a, b) = (copy(&[1, BITS_PER_PAGE], 3, MIN_REGION_BYTES), copy(&[2], 4, MIN_REGION_BYTES));
    assert_eq!(map_bytes(data, MIN_REGION_BYTES), a.image.len() as u64);
    assert_eq!(union(&[a.clone(), b.clone()]), [1, 2, BITS_PER_PAGE]);
    let mut torn = b.clone();
    torn.image[4000] ^= 1;
    assert_eq!(union(&[a.clone(), torn.clone()]), [1, BITS_PER_PAGE], "the other copy has that page");
    let all_of_first: Vec<u64> = (0..BITS_PER_PAGE).collect();
    assert_eq!(union(&[torn]), all_of_first, "nobody has");
    let other_meaning = copy(&[3], 3, 2 * MIN_REGION_BYTES);
    assert_eq!(union(&[a.clone(), other_meaning]), [1, BITS_PER_PAGE]);
    assert_eq!(union(&[MapCopy { generation: 4, ..a }, b]), [2]);
    assert_eq!(union(&[]).len() as u64, BITS_PER_PAGE + 5);
}

#[test]
fn regions_are_the_finest_whose_map_fits() {
    assert_eq!(region_bytes_for(1 << 30, 192 << 10), 1 << 20);
    assert_eq!(region_bytes_for((48 * BITS_PER_PAGE) << 20, 192 << 10), 1 << 20);
    assert_eq!(region_bytes_for(((48 * BITS_PER_PAGE) << 20) + 1, 192 << 10), 2 << 20);
    assert_eq!(region_bytes_for(u64::MAX, 0), 1 << 63);
}

proptest! {
    #[test]
    fn lost_blocks_follow_the_model(steps in prop::collection::vec((0u64..200, 0u64..40, any::<bool>()), 0..40)) {
        let mut list = LostBlocks::default();
        list.generation = 3;
        let mut model = [false; 256];
        for (start, len, lost) in steps {
            let range = start..start + len;
            if lost { list.insert(range.clone()) } else { list.remove(&range) }
            model[range.start as usize..range.end as usize].fill(lost);
        }
        for byte in 0..255u64 {
            prop_assert_eq!(list.touches(&(byte..byte + 1)), model[byte as usize], "byte {}", byte);
            prop_assert_eq!(list.touches(&(byte..255)), model[byte as usize..255].iter().any(|lost| *lost));
        }
        prop_assert!(list.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
        prop_assert_eq!(LostBlocks::parse(&list.encode(ARRAY).unwrap(), ARRAY).unwrap(), list);
    }

    #[test]
    fn hostile_structures_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), magic in 0usize..4) {
        if bytes.len() >= ENVELOPE_BYTES {
            let magics = [b"LABSANHD", b"LABSANCF", b"LABSANLB", b"LABSANWM"];
            bytes[..8].copy_from_slice(magics[magic]);
            bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
            bytes[16..32].copy_from_slice(ARRAY.as_bytes());
            let length = (bytes.len() as u32).to_le_bytes();
            bytes[40..44].copy_from_slice(&length);
            let sum = crc(&bytes);
            bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
        }
        let _ = config::parse(&bytes, ARRAY);
        let _ = LostBlocks::parse(&bytes, ARRAY);
        let _ = WrittenMap::parse(&bytes, ARRAY, 0, 1 << 20, 1 << 30);
        let mut head = vec![0; SEARCH_BYTES];
        head[ANCHORS[0] as usize..ANCHORS[0] as usize + bytes.len()].copy_from_slice(&bytes);
        let _ = Header::find(&head, &member().0, SIZE);
    }
}
