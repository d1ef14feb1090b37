//! Superblocks: golden ones of mdadm's, every error, every bit.

use proptest::prelude::*;

use super::*;

fn golden(name: &str) -> Superblock {
    Superblock::parse(&fixtures::md::image(name)[4096..]).unwrap()
}

/// A superblock as labsan makes it.
pub(crate) fn sample() -> Superblock {
    Superblock {
        array_uuid: Uuid::from_u128(0x11),
        name: SetName::with_host("box", "vault").unwrap(),
        ctime: MdTime { seconds: 1_795_000_000, micros: 0 },
        level: 5,
        layout: 2,
        size_sectors: 100 << 11,
        chunk_sectors: 128,
        raid_disks: 3,
        bitmap_offset: Some(8),
        data_offset: 8 << 11,
        data_size: 101 << 11,
        recovery_offset: None,
        dev_number: 1,
        corrected_reads: 3,
        device_uuid: Uuid::from_u128(0x22),
        device_flags: 0,
        bad_block_log: BadBlockLog { shift: 0, size_sectors: 8, offset_sectors: 136 },
        utime: MdTime::of_labsan(1_795_000_100, 77),
        events: 42,
        resync_offset: MAX_SECTOR,
        features: Features::LABSAN_RUNNING,
        roles: vec![Role::Active(0), Role::Active(1), Role::Faulty, Role::Active(2), Role::Spare],
        reshape_fields: [0; 28],
    }
}

#[test]
fn mdadms_own_superblocks_come_back_byte_for_byte() {
    for image in fixtures::md::IMAGES {
        let page = &image.head[4096..8192];
        let superblock = Superblock::parse(page).unwrap_or_else(|error| panic!("{}: {error}", image.name));
        assert_eq!(superblock.encode()[..], *page, "{}", image.name);
    }
}

#[test]
fn mdadms_fields_are_read_right() {
    let raid1 = golden("raid1-clean");
    assert_eq!(raid1.array_uuid.to_string(), "9fd40f18-a434-5f99-9390-b2a1e8483df4");
    assert_eq!(raid1.device_uuid.to_string(), "febbbabf-eb4d-53eb-49e6-4e8ae9087492");
    assert_eq!((raid1.name.host().as_deref(), raid1.name.bare().as_str()), (Some("founder"), "one"));
    assert_eq!((raid1.level, raid1.raid_disks, raid1.events), (1, 2, 17));
    assert_eq!((raid1.data_offset, raid1.data_size, raid1.size_sectors), (2048, 129_024, 129_024));
    assert_eq!(raid1.bitmap_offset_bytes(), Some(8192));
    assert_eq!(raid1.bad_block_log_offset_bytes(), Some(12288));
    assert!(raid1.is_clean() && !raid1.labsan_running());
    assert_eq!(
        (raid1.role_of(0), raid1.role_of(1), raid1.role_of(2)),
        (Role::Active(0), Role::Active(1), Role::Spare)
    );

    let spare = golden("raid5-rebuilt-spare");
    assert_eq!((spare.level, spare.layout, spare.chunk_sectors), (5, 2, 256));
    assert_eq!((spare.dev_number, spare.own_role(), spare.recovery_offset), (3, Role::Active(1), None));
    assert_eq!(spare.role_of(1), Role::Faulty);
    let failed = golden("raid5-failed-member");
    assert_eq!((failed.own_role(), failed.events < spare.events), (Role::Active(1), true));

    let raid6 = golden("raid6-unclean");
    assert_eq!((raid6.level, raid6.layout, raid6.is_clean()), (6, 2, false));
    let raid10 = golden("raid10-degraded");
    assert_eq!((raid10.level, raid10.layout, raid10.role_of(1)), (10, 0x102, Role::Faulty));
    assert_eq!((golden("raid0-clean").level, golden("raid0-clean").size_sectors), (0, 0));
}

#[test]
fn ours_comes_back_as_it_was() {
    let superblock = sample();
    let page = superblock.encode();
    assert_eq!(Superblock::parse(&page).unwrap(), superblock);
    let mut rebuilding = superblock;
    rebuilding.recovery_offset = Some(4096);
    rebuilding.bitmap_offset = None;
    let back = Superblock::parse(&rebuilding.encode()).unwrap();
    assert_eq!(back.feature_map(), Features(2 | 1 << 31));
    assert_eq!(back, rebuilding);
}

/// The sample's page with `bytes` at `offset`, summed anew.
fn patched(offset: usize, bytes: &[u8]) -> Page {
    let mut page = sample().encode();
    page[offset..offset + bytes.len()].copy_from_slice(bytes);
    let roles = u32::from_le_bytes(page[220..224].try_into().unwrap()).min(1920) as usize * 2;
    let raw = RawSuperblock::read_from_bytes(&page[..256]).unwrap();
    let sum = checksum(&raw, &page[256..256 + roles]);
    page[216..220].copy_from_slice(&sum.to_le_bytes());
    page
}

#[test]
fn every_refusal_has_its_name() {
    use SuperblockError as E;
    let parse = |offset, bytes: &[u8]| Superblock::parse(&patched(offset, bytes)).unwrap_err();
    let page = sample().encode();
    assert_eq!(Superblock::parse(&page[..255]), Err(E::Truncated { have: 255, need: 256 }));
    assert_eq!(Superblock::parse(&page[..260]), Err(E::Truncated { have: 260, need: 266 }));
    assert_eq!(Superblock::parse(&[0; 4096]), Err(E::NoMagic));
    assert_eq!(parse(4, &[0]), E::BadVersion { major: 0 });
    assert_eq!(parse(144, &16u64.to_le_bytes()), E::WrongPlace { found: 16 });
    for (field, offset, bytes) in [
        ("pad0", 12, 1u64.to_le_bytes()[..4].to_vec()),
        ("pad3", 240, vec![1]),
        ("max_dev", 220, 1921u32.to_le_bytes().to_vec()),
        ("data_size", 136, 9u64.to_le_bytes().to_vec()),
        ("data_size", 136, u64::MAX.to_le_bytes().to_vec()),
        ("data_size", 136, (1u64 << 54).to_le_bytes().to_vec()),
        ("data_offset", 128, 15u64.to_le_bytes().to_vec()),
        ("size", 80, (102u64 << 11).to_le_bytes().to_vec()),
        ("events", 200, u64::MAX.to_le_bytes().to_vec()),
        ("raid_disks", 92, vec![0; 4]),
        ("raid_disks", 92, 0xff01u32.to_le_bytes().to_vec()),
        ("feature_map", 8, 0x1001u32.to_le_bytes().to_vec()),
        ("bitmap_offset", 96, 7i32.to_le_bytes().to_vec()),
        ("bitmap_offset", 96, (8i32 << 11).to_le_bytes().to_vec()),
        ("bitmap_offset", 96, i32::MIN.to_le_bytes().to_vec()),
        ("bblog_offset", 188, 7i32.to_le_bytes().to_vec()),
        ("bblog_shift", 185, vec![17]),
    ] {
        match parse(offset, &bytes) {
            E::Nonsense { field: found, .. } => assert_eq!(found, field),
            other => panic!("{field}: {other}"),
        }
    }
}

#[test]
fn what_md_is_in_the_middle_of_is_refused_by_name() {
    for (bits, words) in [
        (4u32, "reshape"),
        (4 | 32 | 64, "reshape"),
        (64, "new data offset"),
        (256, "clustered"),
        (512, "write journal"),
        (1024, "partial parity log"),
        (2048, "partial parity log"),
        (1 << 13, "newer than this labsan"),
        (1 << 30, "newer than this labsan"),
    ] {
        let error = Superblock::parse(&patched(8, &bits.to_le_bytes())).unwrap_err();
        assert!(error.to_string().contains(words), "{bits:#x}: {error}");
        assert!(
            matches!(error, SuperblockError::Unsupported { array_uuid, .. } if array_uuid == Uuid::from_u128(0x11))
        );
    }
    for bits in [8u32, 16, 128, 1 << 31] {
        assert!(Superblock::parse(&patched(8, &bits.to_le_bytes())).is_ok());
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let page = sample().encode();
    let used = 256 + sample().roles.len() * 2;
    for bit in 0..used * 8 {
        let mut flipped = page;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Superblock::parse(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn mds_run_of_our_array_shows_only_in_its_time() {
    let after = golden("labsan-raid5-run-by-md");
    assert_eq!((after.events, after.utime.micros, after.ctime.micros), (7, 0, 5));
    assert!(after.is_clean() && !after.labsan_running());
}

#[test]
fn names_are_md_names() {
    let long = "a-host-with-a-rather-long-name";
    assert_eq!(SetName::with_host(long, "vault").unwrap().to_string(), "vault");
    assert_eq!(SetName::with_host("", "vault").unwrap().to_string(), "vault");
    let name = SetName::with_host("box", "vault").unwrap();
    assert_eq!((name.bare().as_str(), name.host().as_deref()), ("vault", Some("box")));
    let bare: SetName = "vault".parse().unwrap();
    assert_eq!((bare.bare().as_str(), bare.host()), ("vault", None));
    let full: SetName = "x".repeat(32).parse().unwrap();
    assert_eq!(full.to_string().len(), 32);
    assert!(matches!("x".repeat(33).parse::<SetName>(), Err(SetNameError::TooLong(_))));
    assert_eq!("a\0b".parse::<SetName>(), Err(SetNameError::ZeroByte));
}

#[test]
fn roles_and_times_come_back() {
    for raw in 0..=u16::MAX {
        assert_eq!(Role::from_raw(raw).to_raw(), raw);
    }
    for raw in [0, u64::MAX, 1 << 40, (1 << 40) - 1] {
        assert_eq!(MdTime::from_raw(raw).to_raw(), raw);
    }
    assert_eq!(MdTime::of_labsan(5, 0), MdTime { seconds: 5, micros: 1 });
    let mut superblock = sample();
    assert!(superblock.set_role(1919, Role::Active(3)) && !superblock.set_role(1920, Role::Spare));
    assert_eq!(Superblock::parse(&superblock.encode()).unwrap(), superblock);
    assert_eq!(superblock.role_of(u32::MAX), Role::Spare);
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(mut page in prop::collection::vec(any::<u8>(), 4096), len in 0usize..4096) {
        let _ = Superblock::parse(&page[..len]);
        // Past the magic and the sum, every field is free.
        page[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
        page[222..224].fill(0);
        let roles = usize::from(u16::from_le_bytes([page[220], page[221]])).min(1920) * 2;
        let sum = checksum(&RawSuperblock::read_from_bytes(&page[..256]).unwrap(), &page[256..256 + roles]);
        page[216..220].copy_from_slice(&sum.to_le_bytes());
        if let Ok(superblock) = Superblock::parse(&page) {
            let _ = (superblock.own_role(), superblock.bitmap_offset_bytes(), superblock.data_offset_bytes());
            prop_assert_eq!(Superblock::parse(&superblock.encode()).unwrap(), superblock);
        }
    }
}
