//! Bitmaps: mdadm's own, every refusal, and bits against a plain model.

use proptest::prelude::*;

use super::*;
use crate::format::superblock::Superblock;

const ARRAY: Uuid = Uuid::from_u128(0xb1);

fn sample() -> BitmapHeader {
    BitmapHeader::new(ARRAY, 9, 100 << 11, 64 << 10).unwrap()
}

#[test]
fn mdadms_own_bitmaps_come_back() {
    for (name, events, sync, dirty) in [("raid1-clean", 17, 129_024, 0), ("raid6-unclean", 18, 129_024, 0)] {
        let head = fixtures::md::image(name);
        let superblock = Superblock::parse(&head[4096..]).unwrap();
        let image = &head[8192..12288];
        let header = BitmapHeader::parse(image, superblock.array_uuid).unwrap();
        assert_eq!((header.events, header.sync_size_sectors), (events, sync), "{name}");
        assert_eq!((header.chunk_bytes, header.daemon_sleep_s, header.bits()), (64 << 20, 5, 1));
        assert_eq!(header.encode()[..], image[..256]);
        assert_eq!(superblock.events, header.events);
        // mdadm fills what lies beyond the range with ones.
        let bits = Bits::of_image(image);
        assert_eq!(bits.set_in(0..header.bits()).count(), dirty, "{name}");
        assert!(bits.get(1) && bits.any(0..2));
    }
}

#[test]
fn every_refusal_has_its_name() {
    let good = sample().encode();
    let with = |offset: usize, bytes: &[u8]| {
        let mut page = good;
        page[offset..offset + bytes.len()].copy_from_slice(bytes);
        BitmapHeader::parse(&page, ARRAY)
    };
    assert_eq!(BitmapHeader::parse(&good, ARRAY), Ok(sample()));
    assert_eq!(
        BitmapHeader::parse(&good[..255], ARRAY),
        Err(BitmapError::Truncated { have: 255, need: 256 })
    );
    assert_eq!(with(0, b"x"), Err(BitmapError::NoMagic));
    assert_eq!(with(4, &[3]), Err(BitmapError::BadVersion { version: 3 }));
    assert_eq!(with(68, &[2]), Err(BitmapError::BadVersion { version: 4 }));
    assert!(matches!(with(8, &[1]), Err(BitmapError::OtherArray { .. })));
    for chunk in [0u32, 256, 3 << 20] {
        assert!(matches!(
            with(52, &chunk.to_le_bytes()),
            Err(BitmapError::Nonsense { field: "chunksize", .. })
        ));
    }
    for size in [0u64, u64::MAX, i64::MAX as u64 / 512 + 1] {
        assert!(matches!(
            with(40, &size.to_le_bytes()),
            Err(BitmapError::Nonsense { field: "sync_size", .. })
        ));
    }
    let stale = |state: u32| with(48, &state.to_le_bytes()).unwrap().is_stale();
    assert_eq!([0, 1, 2, 4, 1 << 15].map(stale), [false, false, true, true, false]);
}

#[test]
fn the_chunk_is_the_finest_that_fits() {
    let bits = (65_536 - 256) * 8;
    assert_eq!(chunk_bytes_for(1, 64 << 10), Some(4 << 20));
    assert_eq!(chunk_bytes_for(bits * 8192, 64 << 10), Some(4 << 20));
    assert_eq!(chunk_bytes_for(bits * 8192 + 1, 64 << 10), Some(8 << 20));
    assert_eq!(chunk_bytes_for(0, 64 << 10), None);
    assert_eq!(chunk_bytes_for(1, 255), None);
    assert_eq!(chunk_bytes_for(u64::MAX, 64 << 10), None);
    // 20 TB.
    let header = BitmapHeader::new(ARRAY, 1, 20_000_000_000_000 / 512, 64 << 10).unwrap();
    assert_eq!(header.chunk_bytes, 64 << 20);
    assert!(header.image_bytes() <= 64 << 10);
}

#[test]
fn the_sync_range_is_the_component_or_at_raid_10_the_array() {
    assert_eq!(sync_size_sectors(5, 2, 4, 1000), Some(1000));
    assert_eq!(sync_size_sectors(10, 0x102, 4, 1000), Some(2000));
    assert_eq!(sync_size_sectors(10, 0x102, 5, 1000), Some(2500));
    assert_eq!(sync_size_sectors(10, 0, 5, u64::MAX), None);
}

#[test]
fn a_bitmap_of_another_size_than_the_array_is_not_believed() {
    let mut seen = 0;
    for image in fixtures::md::IMAGES {
        let superblock = Superblock::parse(&image.head[4096..]).unwrap();
        let Some(at) = superblock.bitmap_offset_bytes() else { continue };
        let header = BitmapHeader::parse(&image.head[at as usize..], superblock.array_uuid).unwrap();
        assert!(header.covers(&superblock), "{}: md's own", image.name);
        let sized = |sync_size_sectors| BitmapHeader { sync_size_sectors, ..header.clone() };
        assert!(!sized(header.sync_size_sectors * 2).covers(&superblock));
        assert!(!sized(header.sync_size_sectors / 2).covers(&superblock), "the rest would pass for clean");
        assert!(!sized(u64::MAX >> 10).covers(&superblock), "no memory for that many bits");
        // As many sectors, but a bit for each.
        assert!(
            !BitmapHeader { chunk_bytes: 512, ..header.clone() }
                .covers(&Superblock { size_sectors: 1 << 40, ..superblock.clone() })
        );
        seen += 1;
    }
    assert!(seen >= 5, "{seen} bitmaps");
}

#[test]
fn bits_and_sectors_belong_together() {
    let header = sample();
    assert_eq!(header.bits(), 25);
    assert_eq!(header.bits_of(0..1), 0..1);
    assert_eq!(header.bits_of(8191..8193), 0..2);
    assert_eq!(header.bits_of(0..u64::MAX), 0..25);
    assert_eq!(header.bits_of(u64::MAX - 1..u64::MAX), 0..0);
    assert_eq!(header.sectors_of(24), 24 * 8192..25 * 8192);
    assert_eq!(header.sectors_of(u64::MAX), 204_800..204_800);
}

#[test]
fn a_short_image_reads_as_dirty_and_stays_so() {
    let mut bits = Bits::of_image(vec![0; 257]);
    assert!(!bits.get(7) && bits.get(8) && bits.get(u64::MAX));
    assert_eq!(bits.put(6..20, true), 256..257);
    assert_eq!(bits.put(6..20, false), 256..257);
    assert!(bits.get(8));
}

proptest! {
    #[test]
    fn bits_follow_the_model(
        steps in prop::collection::vec((0u64..300, 0u64..80, any::<bool>()), 0..30),
        from in 0u64..300, len in 0u64..300,
    ) {
        let mut image = vec![0u8; 256 + 64];
        let mut model = vec![false; 512];
        for (start, length, value) in steps {
            let before = image.clone();
            let changed = Bits::of_image(&mut image).put(start..start + length, value);
            model[start as usize..(start + length) as usize].fill(value);
            // Exactly the bytes that differ lie between the ends that are told.
            let differs: Vec<usize> = (0..image.len()).filter(|i| image[*i] != before[*i]).collect();
            prop_assert_eq!(changed, differs.first().map_or(0..0, |first| *first..differs[differs.len() - 1] + 1));
        }
        let bits = Bits::of_image(&image);
        let set: Vec<u64> = bits.set_in(from..from + len).collect();
        let expected: Vec<u64> = (from..from + len).filter(|bit| model.get(*bit as usize).copied().unwrap_or(true)).collect();
        prop_assert_eq!(bits.any(from..from + len), !expected.is_empty());
        prop_assert_eq!(set, expected);
    }

    #[test]
    fn hostile_headers_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 256)) {
        bytes[..8].copy_from_slice(b"bitm\x04\0\0\0");
        bytes[8..24].copy_from_slice(ARRAY.as_bytes());
        bytes[68..72].fill(0);
        if let Ok(header) = BitmapHeader::parse(&bytes, ARRAY) {
            let _ = (header.bits(), header.image_bytes(), header.bits_of(0..u64::MAX), header.sectors_of(7));
        }
    }
}
