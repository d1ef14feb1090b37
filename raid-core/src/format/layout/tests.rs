//! Layouts: all sizes, mdadm's gaps, hostile records.

use proptest::prelude::*;

use super::*;

#[test]
fn a_small_and_a_large_member_are_laid_out_as_documented() {
    let small = MemberLayout::for_member(MIN_MEMBER_BYTES).unwrap();
    assert_eq!(small.headers.offset, 128 * KIB);
    assert_eq!(small.config[0].offset, 192 * KIB);
    assert_eq!(small.config[1].offset, 448 * KIB);
    assert_eq!(small.lost[0].offset, 704 * KIB);
    assert_eq!(small.lost[1].offset, 736 * KIB);
    assert_eq!(small.journal_head.offset, 768 * KIB);
    assert_eq!(small.written_map.offset, 832 * KIB);
    assert_eq!(small.journal, Region { offset: MIB, len: 2 * MIB });
    assert_eq!((small.data_offset, small.data_size), (4 * MIB, 12 * MIB));
    let large = MemberLayout::for_member(20_000_000_000_000).unwrap();
    assert_eq!(large.journal.len, GIB);
    assert!(large.checksums.len >= large.data_size / 1024 && large.checksums.len < large.data_size / 1000);
    let too_small = MemberLayout::for_member(MIN_MEMBER_BYTES - 1);
    assert_eq!(too_small, Err(LayoutError::TooSmall { size_bytes: MIN_MEMBER_BYTES - 1 }));
    assert_eq!(MemberLayout::for_member(u64::MAX), Err(LayoutError::TooLarge { size_bytes: u64::MAX }));
}

#[test]
fn md_finds_its_structures_where_the_layout_has_them() {
    let layout = MemberLayout::for_member(64 * MIB).unwrap();
    let sector = |relative: i32| (8 + relative as u64) * SECTOR_BYTES;
    assert_eq!(sector(BITMAP_OFFSET_FROM_SUPER), layout.bitmap.offset);
    assert_eq!(sector(BAD_BLOCK_LOG.offset_sectors), layout.bad_block_log.offset);
    assert_eq!(u64::from(BAD_BLOCK_LOG.size_sectors) * SECTOR_BYTES, layout.bad_block_log.len);
}

#[test]
fn the_smallest_member_decides_the_component() {
    let layouts = [64 * MIB, 80 * MIB + 512].map(|size| MemberLayout::for_member(size).unwrap());
    let smallest = layouts[0].data_size;
    assert_eq!(component_bytes(&layouts, 64 * KIB), smallest);
    assert_eq!(component_bytes(&layouts[1..], 0) % MIB, 0);
    assert_eq!(component_bytes([], 4096), 0);
}

/// An mdadm member with this data offset (in sectors).
fn made_by_mdadm(data_offset: u64) -> Superblock {
    let mut superblock = Superblock::parse(&fixtures::md::image("raid5-member0")[4096..]).unwrap();
    superblock.data_offset = data_offset;
    superblock
}

#[test]
fn mdadms_gap_is_used_where_it_is_large_enough() {
    let size = 2 * GIB;
    let mut superblock = made_by_mdadm(264_192);
    superblock.data_size = (GIB / 512) - 4096;
    let adopted = MemberLayout::adopt(&superblock, 4096, size).unwrap();
    assert_eq!(adopted.headers.offset, 128 * KIB);
    assert!(adopted.checksums.len > 0 && adopted.journal.len > 100 * MIB);
    // mdadm's bitmap may run past the first anchor.
    let adopted = MemberLayout::adopt(&superblock, 128 * KIB, size);
    assert_eq!(adopted, Err(LayoutError::Overlap { first: "bitmap", second: "bad-block log" }));
    superblock.bad_block_log.offset_sectors = 8 + 256;
    assert_eq!(MemberLayout::adopt(&superblock, 128 * KIB, size).unwrap().headers.offset, 256 * KIB);
    // A tight gap goes to the journal alone.
    superblock.data_offset = (4 * MIB) / 512;
    let adopted = MemberLayout::adopt(&superblock, 4096, size).unwrap();
    assert_eq!((adopted.checksums.len, adopted.journal.len), (0, 4 * MIB - 256 * KIB - fixed_bytes()));
}

#[test]
fn mdadms_small_gap_is_refused_with_numbers() {
    let error = MemberLayout::adopt(&made_by_mdadm(2048), 4096, fixtures::md::DEVICE_BYTES).unwrap_err();
    assert!(matches!(error, LayoutError::GapTooSmall { gap_bytes, .. } if gap_bytes < MIB), "{error}");
}

#[test]
fn hostile_layouts_are_refused() {
    let size = 64 * MIB;
    let good = MemberLayout::for_member(size).unwrap();
    assert_eq!(good.check(size), Ok(()));
    let with = |change: &dyn Fn(&mut MemberLayout)| {
        let mut layout = good.clone();
        change(&mut layout);
        layout.check(size).unwrap_err()
    };
    assert!(matches!(
        with(&|l| l.journal.offset = l.data_offset - PAGE),
        LayoutError::Overlap { second: "data", .. }
    ));
    assert!(matches!(with(&|l| l.config[1].offset = l.config[0].offset), LayoutError::Overlap { .. }));
    assert!(matches!(with(&|l| l.headers.offset = 4096), LayoutError::Overlap { .. }));
    assert!(matches!(
        with(&|l| l.journal.len = u64::MAX - PAGE + 1),
        LayoutError::Overlap { first: "journal", .. }
    ));
    assert!(matches!(with(&|l| l.journal.offset += 512), LayoutError::BadRegion { what: "journal", .. }));
    assert!(matches!(with(&|l| l.journal.len = MIB), LayoutError::BadRegion { what: "journal", .. }));
    assert!(matches!(with(&|l| l.written_map.len = 0), LayoutError::BadRegion { what: "written map", .. }));
    assert!(matches!(with(&|l| l.checksums.len = PAGE), LayoutError::BadRegion { what: "checksum", .. }));
    assert!(matches!(with(&|l| l.data_size = 0), LayoutError::BeyondDevice { .. }));
    assert!(matches!(with(&|l| l.data_size += MIB), LayoutError::BeyondDevice { .. }));
    assert!(matches!(with(&|l| l.data_offset = u64::MAX), LayoutError::BeyondDevice { .. }));
    assert!(matches!(with(&|l| l.bitmap.len = 65 * KIB), LayoutError::Overlap { first: "bitmap", .. }));
}

proptest! {
    #[test]
    fn every_size_gives_a_sound_layout(size in prop_oneof![MIN_MEMBER_BYTES..GIB, MIN_MEMBER_BYTES..1u64 << 60]) {
        let layout = MemberLayout::for_member(size).unwrap();
        prop_assert_eq!(layout.check(size), Ok(()));
        prop_assert_eq!(layout.data_offset % MIB, 0);
        prop_assert!(layout.data_size >= size / 4, "more overhead than data");
        prop_assert!((MIN_JOURNAL_BYTES..=MAX_JOURNAL_BYTES).contains(&layout.journal.len));
        prop_assert!(layout.checksums.len / PAGE * CHECKSUMS_PER_PAGE >= layout.data_size / PAGE);
        prop_assert_eq!(&MemberLayout::for_member(size).unwrap(), &layout);
    }

    #[test]
    fn hostile_superblocks_never_break_adoption(
        offset in 16u64..1 << 50, data in 10u64..1 << 50, bitmap in any::<i32>(), used in any::<u64>(), size in any::<u64>(),
    ) {
        let mut superblock = made_by_mdadm(offset);
        superblock.data_size = data;
        superblock.bitmap_offset = Some(bitmap);
        if let Ok(layout) = MemberLayout::adopt(&superblock, used, size) {
            prop_assert_eq!(layout.check(size), Ok(()));
        }
    }
}
