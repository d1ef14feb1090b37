//! Foreign marks: what the real tools leave, what each format's definition says, and what must not be taken
//! for one.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::format::labsan::{Header, Policy};
use crate::format::layout::MemberLayout;
use crate::format::superblock::Superblock;

const SIZE: usize = 64 << 20;

/// A device in memory, of which only what matters is kept.
#[derive(Default)]
struct Device {
    bytes: HashMap<usize, Vec<u8>>,
}

impl Device {
    fn with(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.bytes.insert(offset, bytes.to_vec());
        self
    }

    fn detect(&self) -> Vec<Signature> {
        let mut head = vec![0; HEAD_BYTES];
        let mut tail = vec![0; TAIL_BYTES];
        for (offset, bytes) in &self.bytes {
            let tail_start = SIZE - TAIL_BYTES;
            let (area, at) =
                if *offset < HEAD_BYTES { (&mut head, *offset) } else { (&mut tail, offset - tail_start) };
            area[at..at + bytes.len()].copy_from_slice(bytes);
        }
        detect(&Probe { head: &head, tail: &tail, size_bytes: SIZE as u64 })
    }

    fn kinds(&self) -> Vec<SignatureKind> {
        self.detect().into_iter().map(|signature| signature.kind).collect()
    }
}

fn blank() -> Device {
    Device::default()
}

/// What `detect` says of a real file.
fn detect_file(path: &Path) -> Vec<SignatureKind> {
    let bytes = std::fs::read(path).unwrap();
    let head = &bytes[..HEAD_BYTES.min(bytes.len())];
    let tail = &bytes[bytes.len() - TAIL_BYTES.min(bytes.len())..];
    let found = detect(&Probe { head, tail, size_bytes: bytes.len() as u64 });
    found.into_iter().map(|signature| signature.kind).collect()
}

#[test]
fn what_the_real_tools_make_is_recognised() {
    let tools: [(&[&str], u64, &[SignatureKind]); 12] = [
        (&["mke2fs", "-q", "-F", "-t", "ext2"], 8, &[SignatureKind::Ext]),
        (&["mke2fs", "-q", "-F", "-t", "ext3"], 16, &[SignatureKind::Ext]),
        (&["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096"], 16, &[SignatureKind::Ext]),
        (&["mkswap", "-q"], 8, &[SignatureKind::Swap]),
        (&["mkfs.xfs", "-q", "-f"], 320, &[SignatureKind::Xfs]),
        (&["mkfs.btrfs", "-q", "-f"], 128, &[SignatureKind::Btrfs]),
        (&["mkfs.vfat"], 16, &[SignatureKind::Fat]),
        (&["mkfs.vfat", "-F", "32"], 64, &[SignatureKind::Fat]),
        (&["mkfs.exfat"], 16, &[SignatureKind::ExFat]),
        (&["mkfs.ntfs", "-q", "-F", "-f"], 16, &[SignatureKind::Ntfs]),
        (
            &[
                "cryptsetup",
                "-q",
                "luksFormat",
                "--pbkdf",
                "pbkdf2",
                "--pbkdf-force-iterations",
                "1000",
                "--key-file",
                "/proc/version",
            ],
            32,
            &[SignatureKind::Luks, SignatureKind::Luks],
        ),
        (
            &["sgdisk", "--new=1:0:0"],
            16,
            &[SignatureKind::GptPrimary, SignatureKind::GptBackup, SignatureKind::Mbr],
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (tool, mib, expected) in tools {
        let path = dir.path().join("image");
        std::fs::write(&path, []).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(mib << 20).unwrap();
        match Command::new(tool[0]).args(&tool[1..]).arg(&path).output() {
            Err(error) => println!("not run: {}: {error}", tool[0]),
            Ok(output) if !output.status.success() => {
                println!("not run: {tool:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(_) => assert_eq!(detect_file(&path), expected, "{tool:?}"),
        }
    }
}

#[test]
fn every_fixed_mark_is_found_at_its_place() {
    for (kind, offset, magic) in MARKS {
        let device = blank().with(*offset as usize, magic);
        assert_eq!(device.detect(), [Signature { kind: *kind, offset: *offset }]);
        let cut = blank().with(*offset as usize, &magic[..magic.len() - 1]);
        assert_eq!(cut.detect(), [], "{kind:?} by less than its magic");
    }
}

/// The start of an md 1.x superblock that says it belongs at this sector.
fn md1(sector: u64) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[..4].copy_from_slice(&MD_MAGIC);
    bytes[4] = 1;
    bytes[144..152].copy_from_slice(&sector.to_le_bytes());
    bytes
}

#[test]
fn all_four_places_of_md_are_searched() {
    let end = SIZE - 16 * 512;
    assert_eq!(blank().with(end, &md1(end as u64 / 512)).kinds(), [SignatureKind::Md10]);
    assert_eq!(blank().with(0, &md1(0)).kinds(), [SignatureKind::Md11]);
    assert_eq!(blank().with(4096, &md1(8)).kinds(), [SignatureKind::Md12]);
    // A superblock of somebody else's, inside their data, is not this device's.
    assert_eq!(blank().with(0, &md1(8)).kinds(), []);
    let old = SIZE - 65536;
    let mut superblock = [0; 64];
    superblock[..4].copy_from_slice(&MD_MAGIC);
    assert_eq!(blank().with(old, &superblock).kinds(), [SignatureKind::Md090]);
    superblock[..4].reverse();
    assert_eq!(blank().with(old, &superblock).kinds(), [SignatureKind::Md090]);
    for image in fixtures::md::IMAGES {
        assert_eq!(blank().with(0, image.head).kinds(), [SignatureKind::Md12], "{}", image.name);
    }
}

#[test]
fn an_lvm_label_names_its_own_sector() {
    let label = |sector: u64| {
        let mut bytes = b"LABELONE".to_vec();
        bytes.extend(sector.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(b"LVM2 001");
        bytes
    };
    for sector in 0..4 {
        assert_eq!(blank().with(sector * 512, &label(sector as u64)).kinds(), [SignatureKind::Lvm2]);
    }
    assert_eq!(blank().with(512, &label(2)).kinds(), []);
}

#[test]
fn partition_tables_are_told_from_boot_sectors() {
    let gpt = blank().with(512, b"EFI PART").with(SIZE - 512, b"EFI PART");
    assert_eq!(gpt.kinds(), [SignatureKind::GptPrimary, SignatureKind::GptBackup]);
    let gpt4k = blank().with(4096, b"EFI PART").with(SIZE - 4096, b"EFI PART");
    assert_eq!(gpt4k.kinds(), [SignatureKind::GptPrimary, SignatureKind::GptBackup]);
    let mut entry = [0u8; 16];
    (entry[0], entry[4], entry[12]) = (0x80, 0x83, 1);
    assert_eq!(blank().with(510, &[0x55, 0xaa]).with(446, &entry).kinds(), [SignatureKind::Mbr]);
    // The mark alone is a boot sector's, and code there is no table.
    assert_eq!(blank().with(510, &[0x55, 0xaa]).kinds(), []);
    entry[0] = 0x33;
    assert_eq!(blank().with(510, &[0x55, 0xaa]).with(446, &entry).kinds(), []);
}

#[test]
fn any_of_the_four_zfs_labels_is_enough() {
    let label = 256 << 10;
    for place in [0, label, SIZE - 2 * label, SIZE - label] {
        let offset = place + (128 << 10) + 4 * 1024;
        assert_eq!(blank().with(offset, &0x00ba_b10cu64.to_le_bytes()).kinds(), [SignatureKind::Zfs]);
        assert_eq!(blank().with(offset, &0x00ba_b10cu64.to_be_bytes()).kinds(), [SignatureKind::Zfs]);
    }
}

#[test]
fn swap_of_every_page_size_is_found() {
    for page in [4096, 8192, 16384, 32768, 65536] {
        assert_eq!(blank().with(page - 10, b"SWAPSPACE2").kinds(), [SignatureKind::Swap]);
    }
}

#[test]
fn our_own_member_is_called_ours_and_nothing_else() {
    let layout = MemberLayout::for_member(SIZE as u64).unwrap();
    let mut superblock = Superblock::parse(&fixtures::md::image("raid5-member0")[4096..]).unwrap();
    superblock.array_uuid = Uuid::from_u128(1);
    let header = Header::new(&superblock, layout, SIZE as u64, Policy::Journal);
    let member = blank().with(4096, &superblock.encode()).with(128 << 10, &header.encode());
    assert_eq!(member.kinds(), [SignatureKind::Md12, SignatureKind::Labsan]);
    let text = member.detect()[0].to_string();
    assert_eq!(text, "Linux md array member (metadata 1.2) (at byte 4096)");
}

#[test]
fn tiny_devices_are_no_trouble() {
    for len in [0usize, 1, 511, 512, 4096, 70_000] {
        let bytes = vec![0xff; len];
        assert_eq!(detect(&Probe { head: &bytes, tail: &bytes, size_bytes: len as u64 }), []);
    }
}

proptest! {
    #[test]
    fn noise_is_blank(seed in any::<u64>(), size in any::<u64>()) {
        // A cheap generator: the contents matter little, that nothing panics or matches by chance does.
        let mut state = seed | 1;
        let noise: Vec<u8> = (0..1 << 17).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }).collect();
        prop_assert_eq!(detect(&Probe { head: &noise, tail: &noise, size_bytes: size }), []);
    }
}
