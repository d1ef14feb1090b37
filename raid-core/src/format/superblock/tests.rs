//! Superblocks: golden ones of mdadm's, every error, every bit.

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
