//! Does mdadm read from our members what we meant to write?
//!
//! Members of every level are encoded into sparse files, and the real `mdadm` is asked about them. Where it is
//! not installed the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use raid_core::format::badblocks;
use raid_core::format::bitmap::{BitmapHeader, Bits, sync_size_sectors};
use raid_core::format::labsan::{Header, Policy};
use raid_core::format::layout::{BITMAP_BYTES, MemberLayout, component_bytes};
use raid_core::format::superblock::{Features, MdTime, NewArray, Role, Superblock};
use uuid::Uuid;

const MEMBER_BYTES: u64 = 200 << 20;

/// One kind of array, and what mdadm calls things of it.
struct Case {
    level: i32,
    layout: u32,
    disks: u32,
    chunk_sectors: u32,
    layout_name: Option<&'static str>,
    /// Array size in components.
    data_members: u64,
}

const CASES: [Case; 6] = [
    Case { level: 0, layout: 0, disks: 2, chunk_sectors: 128, layout_name: None, data_members: 2 },
    Case { level: 1, layout: 0, disks: 3, chunk_sectors: 0, layout_name: None, data_members: 1 },
    Case {
        level: 5,
        layout: 2,
        disks: 4,
        chunk_sectors: 128,
        layout_name: Some("left-symmetric"),
        data_members: 3,
    },
    Case {
        level: 6,
        layout: 2,
        disks: 6,
        chunk_sectors: 8,
        layout_name: Some("left-symmetric"),
        data_members: 4,
    },
    Case {
        level: 10,
        layout: 0x102,
        disks: 4,
        chunk_sectors: 2048,
        layout_name: Some("near=2"),
        data_members: 2,
    },
    Case { level: 4, layout: 0, disks: 3, chunk_sectors: 128, layout_name: None, data_members: 2 },
];

impl Case {
    fn superblock(&self, dev_number: u32) -> (Superblock, MemberLayout) {
        let layout = MemberLayout::for_member(MEMBER_BYTES).unwrap();
        let new = NewArray {
            uuid: Uuid::from_u128(0x0123_4567_89ab_cdef_0011_2233_4455_6677),
            name: "box:vault".parse().unwrap(),
            created: MdTime::of_labsan(1_795_000_000, 5),
            level: self.level,
            layout: self.layout,
            chunk_sectors: self.chunk_sectors,
            raid_disks: self.disks,
            component_bytes: component_bytes([&layout], u64::from(self.chunk_sectors) * 512),
            bitmap: self.level != 0,
            in_sync: true,
            events: 7,
        };
        let roles: Vec<Role> = (0..self.disks as u16).map(Role::Active).collect();
        let device = Uuid::from_u128(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100 + u128::from(dev_number));
        let superblock = new.superblock(&layout, dev_number, device, &roles);
        (superblock, layout)
    }
}

fn bitmap_of(s: &Superblock) -> BitmapHeader {
    let sync = sync_size_sectors(s.level, s.layout, s.raid_disks, s.size_sectors).unwrap();
    BitmapHeader::new(s.array_uuid, s.events, sync, BITMAP_BYTES).unwrap()
}

fn bitmap_image(superblock: &Superblock, dirty: Range<u64>) -> Vec<u8> {
    let mut image = vec![0; BITMAP_BYTES as usize];
    image[..256].copy_from_slice(&bitmap_of(superblock).encode());
    Bits::of_image(&mut image).put(dirty, true);
    image
}

/// Writes a member: superblock, clean bitmap, bad-block log, labsan header.
fn write_member(path: &Path, superblock: &Superblock, layout: &MemberLayout, bad: &[u8]) {
    let file = File::create(path).unwrap();
    file.set_len(MEMBER_BYTES).unwrap();
    file.write_all_at(&superblock.encode(), 4096).unwrap();
    if superblock.bitmap_offset.is_some() {
        file.write_all_at(&bitmap_image(superblock, 0..0), layout.bitmap.offset).unwrap();
    }
    file.write_all_at(bad, layout.bad_block_log.offset).unwrap();
    let header = Header::new(superblock, layout.clone(), MEMBER_BYTES, Policy::Bitmap);
    file.write_all_at(&header.encode(), layout.headers.offset).unwrap();
}

/// `mdadm ARGS PATH` as key and value; `None` if mdadm is not there.
fn mdadm(arg: &str, path: &Path) -> Option<(HashMap<String, String>, String)> {
    let output = match Command::new("mdadm").arg(arg).arg(path).output() {
        Ok(output) => output,
        Err(error) => {
            println!("not run: mdadm cannot be run: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "mdadm {arg}: {errors}{text}");
    let fields = text
        .lines()
        .filter_map(|line| line.split_once(" : "))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect();
    Some((fields, text))
}

/// md's way to print a UUID: four words.
fn md_uuid(uuid: Uuid) -> String {
    let hex = uuid.simple().to_string();
    [&hex[..8], &hex[8..16], &hex[16..24], &hex[24..]].join(":")
}

#[test]
fn mdadm_reads_every_field_of_every_level() {
    let dir = tempfile::tempdir().unwrap();
    for case in CASES {
        for number in 0..case.disks {
            let (superblock, layout) = case.superblock(number);
            let path = dir.path().join(format!("level{}-{number}", case.level));
            let log = badblocks::encode(&[], 4096).unwrap();
            write_member(&path, &superblock, &layout, &log);
            let Some((fields, text)) = mdadm("--examine", &path) else { return };
            let is = |key: &str, value: &str| {
                assert_eq!(
                    fields.get(key).map(String::as_str),
                    Some(value),
                    "level {} {key}:\n{text}",
                    case.level
                );
            };
            let starts = |key: &str, value: &str| {
                let found = fields.get(key).map_or("", String::as_str);
                assert!(found.starts_with(value), "level {} {key} is {found:?}, not {value:?}", case.level);
            };
            is("Magic", "a92b4efc");
            is("Version", "1.2");
            is("Feature Map", if case.level == 0 { "0x0" } else { "0x1" });
            is("Array UUID", &md_uuid(superblock.array_uuid));
            is("Device UUID", &md_uuid(superblock.device_uuid));
            starts("Name", "box:vault");
            is("Raid Level", &format!("raid{}", case.level));
            is("Raid Devices", &case.disks.to_string());
            starts("Avail Dev Size", &format!("{} sectors", superblock.data_size));
            let component = superblock.size_sectors;
            if case.level != 0 {
                starts("Array Size", &format!("{} KiB", component * case.data_members / 2));
                starts("Internal Bitmap", "8 sectors from superblock");
            }
            is("Data Offset", &format!("{} sectors", layout.data_offset / 512));
            is("Super Offset", "8 sectors");
            is("State", "clean");
            starts("Bad Block Log", "512 entries available at offset 136 sectors");
            assert!(fields["Checksum"].ends_with(" - correct"), "{text}");
            is("Events", "7");
            if let Some(name) = case.layout_name {
                is("Layout", name);
            }
            if case.chunk_sectors != 0 {
                is("Chunk Size", &format!("{}K", case.chunk_sectors / 2));
            }
            is("Device Role", &format!("Active device {number}"));
            starts("Array State", &"A".repeat(case.disks as usize));
            // No room is wasted behind the data, and none before it is promised to md twice.
            let unused: Vec<u64> = fields["Unused Space"]
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect();
            let after = if case.level == 0 { 0 } else { superblock.data_size - component };
            assert_eq!(unused.last(), Some(&after), "{text}");
        }
    }
}

#[test]
fn mdadm_sees_running_rebuilding_and_degraded_members() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("member");
    let log = badblocks::encode(&[], 4096).unwrap();
    let (mut superblock, layout) = CASES[2].superblock(1);

    // While labsan runs the array, mdadm still shows it, though the kernel refuses it.
    superblock.features = Features::LABSAN_RUNNING;
    superblock.resync_offset = 0;
    assert!(superblock.set_role(3, Role::Faulty));
    write_member(&path, &superblock, &layout, &log);
    let Some((fields, text)) = mdadm("--examine", &path) else { return };
    assert_eq!(fields["Feature Map"], "0x80000001", "{text}");
    assert_eq!(fields["State"], "active", "{text}");
    assert!(fields["Array State"].starts_with("AAA. "), "{text}");

    superblock.features = Features::default();
    superblock.recovery_offset = Some(81_920);
    write_member(&path, &superblock, &layout, &log);
    let Some((fields, text)) = mdadm("--examine", &path) else { return };
    assert_eq!(fields["Feature Map"], "0x3", "{text}");
    assert_eq!(fields["Recovery Offset"], "81920 sectors", "{text}");

    superblock.recovery_offset = None;
    superblock.dev_number = 4;
    write_member(&path, &superblock, &layout, &log);
    let Some((fields, text)) = mdadm("--examine", &path) else { return };
    assert_eq!(fields["Device Role"], "spare", "{text}");
}

#[test]
fn mdadm_reads_the_bitmap() {
    let dir = tempfile::tempdir().unwrap();
    for case in CASES.iter().filter(|case| case.level != 0) {
        let (superblock, _) = case.superblock(0);
        let header = bitmap_of(&superblock);
        let dirty = 3..7;
        let path = dir.path().join(format!("bitmap{}", case.level));
        // Of a regular file, mdadm takes the whole for a bitmap; of a device, it would find it by the superblock.
        std::fs::write(&path, bitmap_image(&superblock, dirty.clone())).unwrap();
        let Some((fields, text)) = mdadm("--examine-bitmap", &path) else { return };
        assert_eq!(fields["Magic"], "6d746962", "{text}");
        assert_eq!(fields["Version"], "4", "{text}");
        assert_eq!(fields["UUID"], md_uuid(superblock.array_uuid), "{text}");
        assert_eq!((fields["Events"].as_str(), fields["Events Cleared"].as_str()), ("7", "7"), "{text}");
        assert_eq!(fields["State"], "OK", "{text}");
        assert_eq!(fields["Chunksize"], "4 MB", "{text}");
        assert_eq!(fields["Daemon"], "5s flush period", "{text}");
        assert!(fields["Sync Size"].starts_with(&format!("{} (", header.sync_size_sectors / 2)), "{text}");
        let count = format!("{} bits (chunks), {} dirty", header.bits(), dirty.end - dirty.start);
        assert!(fields["Bitmap"].starts_with(&count), "{text}");
    }
}

#[test]
fn mdadm_reads_the_bad_block_log() {
    let dir = tempfile::tempdir().unwrap();
    let (mut superblock, layout) = CASES[2].superblock(0);
    superblock.features = Features::BAD_BLOCKS;
    let first = superblock.data_offset + 1000;
    let log = badblocks::encode(&[first..first + 8, first + 5000..first + 5700], 4096).unwrap();
    let path = dir.path().join("bad");
    write_member(&path, &superblock, &layout, &log);
    let Some((_, text)) = mdadm("--examine-badblocks", &path) else { return };
    let listed: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
    let expected = [(first, 8), (first + 5000, 512), (first + 5512, 188)];
    let expected: Vec<String> =
        expected.iter().map(|(sector, length)| format!("{sector} for {length} sectors")).collect();
    assert_eq!(listed, expected, "{text}");
}
