//! Whose data is on a disk that somebody offers us?
//!
//! Before a disk is made a member, its first [`HEAD_BYTES`] and last [`TAIL_BYTES`] are searched for the marks of
//! everything else that may live there. A mark is refused by its name; nothing is judged valid or not beyond
//! what tells it from chance. The table of marks is one list ([`MARKS`]); formats that need a look at more
//! than a magic have a function each.

use std::fmt;

/// How much of the start of a device to read (less if the device is smaller).
pub const HEAD_BYTES: usize = (1 << 20) + 4096;
/// How much of the end of a device to read (less if the device is smaller).
pub const TAIL_BYTES: usize = 512 << 10;

/// What a signature belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignatureKind {
    /// Linux md, version 0.90.
    Md090,
    /// Linux md, version 1.0 (superblock at the end).
    Md10,
    /// Linux md, version 1.1 (superblock at the start).
    Md11,
    /// Linux md, version 1.2 (superblock at 4 KiB): labsan's own, or another array's.
    Md12,
    /// A labsan header without a superblock.
    Labsan,
    /// LVM2 physical volume.
    Lvm2,
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// Linux swap space.
    Swap,
    /// GUID partition table, primary.
    GptPrimary,
    /// GUID partition table, backup at the end.
    GptBackup,
    /// MBR partition table.
    Mbr,
    /// LUKS, version 1 or 2.
    Luks,
    /// A ZFS pool member.
    Zfs,
    /// bcache.
    Bcache,
    /// NTFS.
    Ntfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    ExFat,
    /// ISO 9660.
    Iso9660,
    /// Ceph BlueStore.
    BlueStore,
    /// VMware VMFS.
    Vmfs,
}

impl SignatureKind {
    /// What a person calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Md090 => "Linux md array member (metadata 0.90)",
            Self::Md10 => "Linux md array member (metadata 1.0)",
            Self::Md11 => "Linux md array member (metadata 1.1)",
            Self::Md12 => "Linux md array member (metadata 1.2)",
            Self::Labsan => "labsan member whose superblock is gone",
            Self::Lvm2 => "LVM2 physical volume",
            Self::Ext => "ext2/ext3/ext4 file system",
            Self::Xfs => "XFS file system",
            Self::Btrfs => "btrfs file system",
            Self::Swap => "Linux swap space",
            Self::GptPrimary => "GPT partition table",
            Self::GptBackup => "GPT partition table (backup copy)",
            Self::Mbr => "MBR partition table",
            Self::Luks => "LUKS encrypted volume",
            Self::Zfs => "ZFS pool member",
            Self::Bcache => "bcache device",
            Self::Ntfs => "NTFS file system",
            Self::Fat => "FAT file system",
            Self::ExFat => "exFAT file system",
            Self::Iso9660 => "ISO 9660 image",
            Self::BlueStore => "Ceph BlueStore device",
            Self::Vmfs => "VMware VMFS volume",
        }
    }
}

/// A mark that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature {
    /// Whose.
    pub kind: SignatureKind,
    /// Byte of the device at which it is.
    pub offset: u64,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.kind.name(), self.offset)
    }
}

/// What was read of a device.
#[derive(Clone, Copy, Debug)]
pub struct Probe<'a> {
    /// The first [`HEAD_BYTES`], or the whole device if it is smaller.
    pub head: &'a [u8],
    /// The last [`TAIL_BYTES`], or the whole device if it is smaller.
    pub tail: &'a [u8],
    /// Size of the device.
    pub size_bytes: u64,
}

impl<'a> Probe<'a> {
    /// `len` bytes of the device from `offset`, if they were read.
    fn at(&self, offset: u64, len: usize) -> Option<&'a [u8]> {
        slice(self.head, offset, len).or_else(|| {
            let tail_start = self.size_bytes.checked_sub(self.tail.len() as u64)?;
            slice(self.tail, offset.checked_sub(tail_start)?, len)
        })
    }

    fn is(&self, offset: u64, magic: &[u8]) -> bool {
        self.at(offset, magic.len()) == Some(magic)
    }

    fn u32_le(&self, offset: u64) -> Option<u32> {
        Some(u32::from_le_bytes(self.at(offset, 4)?.try_into().ok()?))
    }

    fn u64_le(&self, offset: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.at(offset, 8)?.try_into().ok()?))
    }

    fn byte(&self, offset: u64) -> Option<u8> {
        self.at(offset, 1).map(|bytes| bytes[0])
    }
}

fn slice(bytes: &[u8], offset: u64, len: usize) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    bytes.get(start..start.checked_add(len)?)
}

/// Marks at a fixed place from the start that nothing else has by chance.
const MARKS: &[(SignatureKind, u64, &[u8])] = &[
    (SignatureKind::Labsan, 128 << 10, b"LABSANHD"),
    (SignatureKind::Labsan, 132 << 10, b"LABSANHD"),
    (SignatureKind::Xfs, 0, b"XFSB"),
    (SignatureKind::Btrfs, 0x1_0040, b"_BHRfS_M"),
    (SignatureKind::Luks, 0, b"LUKS\xba\xbe"),
    (SignatureKind::Luks, 0x4000, b"SKUL\xba\xbe"),
    (SignatureKind::Ntfs, 3, b"NTFS    "),
    (SignatureKind::ExFat, 3, b"EXFAT   "),
    (SignatureKind::Fat, 54, b"FAT12   "),
    (SignatureKind::Fat, 54, b"FAT16   "),
    (SignatureKind::Fat, 82, b"FAT32   "),
    (SignatureKind::Iso9660, 0x8001, b"CD001"),
    (
        SignatureKind::Bcache,
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81],
    ),
    (SignatureKind::BlueStore, 0, b"bluestore block device\n"),
    (SignatureKind::Vmfs, 1 << 20, &[0x0d, 0xd0, 0x01, 0xc0]),
];

/// `MD_SB_MAGIC`, little-endian.
const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// All foreign marks on the device, in order of their kind and place. An empty list means blank, as far as
/// can be seen.
#[must_use]
pub fn detect(probe: &Probe) -> Vec<Signature> {
    let mut found: Vec<Signature> = MARKS
        .iter()
        .filter(|(_, offset, magic)| probe.is(*offset, magic))
        .map(|(kind, offset, _)| Signature { kind: *kind, offset: *offset })
        .collect();
    for look in [md, lvm2, ext, swap, partitions, zfs] {
        look(probe, &mut |kind, offset| found.push(Signature { kind, offset }));
    }
    found.sort_unstable();
    found.dedup();
    found
}

type Report<'r> = &'r mut dyn FnMut(SignatureKind, u64);

/// md's four places. 1.x superblocks name their own place, so that a superblock inside somebody else's data
/// is not taken for one of this device.
fn md(probe: &Probe, report: Report) {
    let sectors = probe.size_bytes / 512;
    let at_end = sectors.checked_sub(16).map(|sector| (sector & !7) * 512);
    let places =
        [(SignatureKind::Md10, at_end), (SignatureKind::Md11, Some(0)), (SignatureKind::Md12, Some(4096))];
    for (kind, offset) in places {
        let Some(offset) = offset else { continue };
        let named = probe.u64_le(offset.saturating_add(144)).and_then(|sector| sector.checked_mul(512));
        if probe.is(offset, &MD_MAGIC) && probe.u32_le(offset + 4) == Some(1) && named == Some(offset) {
            report(kind, offset);
        }
    }
    // MD_NEW_SIZE_SECTORS: the last whole 64 KiB but one. In the byte order of the host that made it.
    let Some(old) = (probe.size_bytes & !0xffff).checked_sub(0x1_0000) else { return };
    let swapped = [MD_MAGIC[3], MD_MAGIC[2], MD_MAGIC[1], MD_MAGIC[0]];
    let major = |value: Option<u32>| value == Some(0);
    if (probe.is(old, &MD_MAGIC) || probe.is(old, &swapped)) && major(probe.u32_le(old + 4)) {
        report(SignatureKind::Md090, old);
    }
}

/// The label is in one of the first four sectors and names its own.
fn lvm2(probe: &Probe, report: Report) {
    for sector in 0..4u64 {
        let offset = sector * 512;
        if probe.is(offset, b"LABELONE")
            && probe.is(offset + 24, b"LVM2 001")
            && probe.u64_le(offset + 8) == Some(sector)
        {
            report(SignatureKind::Lvm2, offset);
        }
    }
}

/// Two bytes of magic are few: block size and inode size must make sense as well.
fn ext(probe: &Probe, report: Report) {
    let sane = probe.u32_le(1024 + 24).is_some_and(|log| log <= 6)
        && probe.u32_le(1024).is_some_and(|inodes| inodes != 0)
        && probe.u32_le(1024 + 32).is_some_and(|per_group| per_group != 0);
    if probe.is(1024 + 56, &[0x53, 0xef]) && sane {
        report(SignatureKind::Ext, 1024 + 56);
    }
}

/// The mark is at the end of the first page, whatever the page size was.
fn swap(probe: &Probe, report: Report) {
    for page in [4096u64, 8192, 16384, 32768, 65536] {
        let offset = page - 10;
        if probe.is(offset, b"SWAPSPACE2")
            || probe.is(offset, b"SWAP-SPACE")
            || probe.is(offset, b"S1SUSPEND")
        {
            report(SignatureKind::Swap, offset);
        }
    }
}

fn partitions(probe: &Probe, report: Report) {
    for block in [512u64, 4096] {
        if probe.is(block, b"EFI PART") {
            report(SignatureKind::GptPrimary, block);
        }
        if let Some(last) = probe.size_bytes.checked_sub(block)
            && probe.is(last, b"EFI PART")
        {
            report(SignatureKind::GptBackup, last);
        }
    }
    // A boot sector of FAT or NTFS ends in the same two bytes: a table needs a partition too.
    let partition = |entry: u64| {
        let start = 446 + entry * 16;
        let flag = probe.byte(start).is_some_and(|flag| flag == 0 || flag == 0x80);
        flag && probe.byte(start + 4).is_some_and(|kind| kind != 0)
            && probe.u32_le(start + 12).is_some_and(|sectors| sectors != 0)
    };
    let flags =
        (0..4).all(|entry| probe.byte(446 + entry * 16).is_some_and(|flag| flag == 0 || flag == 0x80));
    if probe.is(510, &[0x55, 0xaa]) && flags && (0..4).any(partition) {
        report(SignatureKind::Mbr, 510);
    }
}

/// Uberblocks fill the second half of each 256 KiB label: two labels at the start, two at the end. One found
/// is enough.
fn zfs(probe: &Probe, report: Report) {
    const LABEL: u64 = 256 << 10;
    const MAGIC: u64 = 0x00ba_b10c;
    let aligned = probe.size_bytes & !(LABEL - 1);
    let labels = [Some(0), Some(LABEL), aligned.checked_sub(2 * LABEL), aligned.checked_sub(LABEL)];
    for label in labels.into_iter().flatten() {
        let uberblocks = (LABEL / 2..LABEL).step_by(1024).map(|within| label + within);
        let is_uberblock = |offset: &u64| {
            probe.u64_le(*offset).is_some_and(|magic| magic == MAGIC || magic.swap_bytes() == MAGIC)
        };
        if let Some(offset) = uberblocks.into_iter().find(is_uberblock) {
            report(SignatureKind::Zfs, offset);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
