//! Where does everything lie on a member?
//!
//! ```text
//!   4 KiB  superblock                     md's
//!   8 KiB  bitmap (64 KiB)                md's
//!  72 KiB  bad-block log (4 KiB)          md's
//! 128 KiB  labsan header A, header B      one of ANCHORS; recorded in the header itself
//!          config A, config B             256 KiB each
//!          lost-block list A, B           32 KiB each
//!          journal head                   64 KiB
//!          written map                    192 KiB
//!   1 MiB  journal ring                   member / 16 up to 64 MiB, then member / 64 up to 1 GiB; at least 2 MiB
//!          checksums                      a CRC32C for every 4 KiB of data
//!          data                           from the next MiB to the last whole MiB
//! ```
//!
//! Invariants: all regions are 4 KiB aligned, disjoint, after md's own structures and before the data
//! ([`MemberLayout::check`]); the layout of a new member follows from its size alone; the layout in force is
//! the one the labsan header records, so that a later labsan may choose otherwise.

use std::ops::Range;

use thiserror::Error;

use super::superblock::{BadBlockLog, SUPER_OFFSET_BYTES, Superblock};
use super::{PAGE_BYTES, SECTOR_BYTES};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PAGE: u64 = PAGE_BYTES as u64;

/// The smallest member: 1 MiB of structures, the smallest ring that holds a few hundred 4 KiB writes with
/// their parity (2 MiB), and still more data than overhead.
pub const MIN_MEMBER_BYTES: u64 = 16 * MIB;
/// Where labsan's header may lie. More than one place, because mdadm's own bitmap may cover the first.
pub const ANCHORS: [u64; 4] = [128 * KIB, 256 * KIB, 384 * KIB, 512 * KIB];
/// Two header copies of a page each.
pub const HEADERS_BYTES: u64 = 2 * PAGE;
/// Bytes of a config slot.
pub const CONFIG_BYTES: u64 = 256 * KIB;
/// Bytes of a copy of the lost-block list.
pub const LOST_BYTES: u64 = 32 * KIB;
/// Bytes kept for the journal's own superblock and tails.
pub const JOURNAL_HEAD_BYTES: u64 = 64 * KIB;
/// Bytes of the written map.
pub const WRITTEN_MAP_BYTES: u64 = 192 * KIB;
/// The smallest journal ring.
pub const MIN_JOURNAL_BYTES: u64 = 2 * MIB;
/// The largest journal ring.
pub const MAX_JOURNAL_BYTES: u64 = GIB;
/// Where md's bitmap lies on members that labsan makes.
pub const BITMAP_OFFSET_BYTES: u64 = 8 * KIB;
/// Room for md's bitmap on members that labsan makes.
pub const BITMAP_BYTES: u64 = 64 * KIB;
/// Where md's bad-block log lies on members that labsan makes.
pub const BAD_BLOCK_LOG_OFFSET_BYTES: u64 = BITMAP_OFFSET_BYTES + BITMAP_BYTES;
/// Bytes of md's bad-block log (512 entries, the most the kernel reads).
pub const BAD_BLOCK_LOG_BYTES: u64 = PAGE;
/// Data starts and ends on this boundary; no chunk is larger.
pub const DATA_ALIGN_BYTES: u64 = MIB;
/// Checksums of 4 KiB blocks in a checksum page: 64 bytes of it are its header.
pub const CHECKSUMS_PER_PAGE: u64 = (PAGE - 64) / 4;

/// What a region of the labsan area is for. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum RegionKind {
    /// Config slot A.
    ConfigA = 1,
    /// Config slot B.
    ConfigB = 2,
    /// Lost-block list, copy A.
    LostA = 3,
    /// Lost-block list, copy B.
    LostB = 4,
    /// The journal's superblock and tails.
    JournalHead = 5,
    /// Which regions of the data were ever written.
    WrittenMap = 6,
    /// The journal ring.
    Journal = 7,
    /// CRC32C of every 4 KiB of data.
    Checksums = 8,
}

impl RegionKind {
    /// All kinds, in the order in which they lie on a new member.
    pub const ALL: [Self; 8] = [
        Self::ConfigA,
        Self::ConfigB,
        Self::LostA,
        Self::LostB,
        Self::JournalHead,
        Self::WrittenMap,
        Self::Journal,
        Self::Checksums,
    ];

    /// The kind of this number; `None` if a newer labsan made it.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == raw)
    }
}

/// A run of bytes on the device, kept for one purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte, from the start of the device.
    pub offset: u64,
    /// Length in bytes; 0 if the region is not there.
    pub len: u64,
}

impl Region {
    /// The bytes. Only for regions of a checked layout: those cannot overflow.
    #[must_use]
    pub fn bytes(self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.len)
    }

    /// Sectors from the superblock, as md says where its own structures are. They lie in the head of the device.
    #[must_use]
    pub fn from_super(self) -> i32 {
        let sectors = (self.offset as i64 - SUPER_OFFSET_BYTES as i64) / SECTOR_BYTES as i64;
        i32::try_from(sectors).unwrap_or(i32::MAX)
    }
}

/// Why a member cannot be laid out, or a recorded layout is not believed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Below [`MIN_MEMBER_BYTES`].
    #[error(
        "a member of {size_bytes} bytes is too small: at least 16 MiB are needed for metadata, journal and data"
    )]
    TooSmall {
        /// The device's size.
        size_bytes: u64,
    },
    /// Beyond what a file offset can address.
    #[error("a member of {size_bytes} bytes is too large")]
    TooLarge {
        /// The device's size.
        size_bytes: u64,
    },
    /// The gap that mdadm left is too small for labsan's area.
    #[error("mdadm left {gap_bytes} bytes before the data, labsan's area needs {needed_bytes}")]
    GapTooSmall {
        /// Bytes between md's structures and the data.
        gap_bytes: u64,
        /// What the smallest area needs.
        needed_bytes: u64,
    },
    /// A region is misaligned, of a wrong size, or missing.
    #[error("the {what} region ({offset}+{len}) is misaligned or of a wrong size")]
    BadRegion {
        /// Which.
        what: &'static str,
        /// Its first byte.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// Two regions share bytes, or one leaves its bounds.
    #[error("the {first} region overlaps the {second} region")]
    Overlap {
        /// The one that starts first.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// The data leaves the device.
    #[error("the data ends at byte {end}, the device at {size_bytes}")]
    BeyondDevice {
        /// First byte after the data.
        end: u64,
        /// The device's size.
        size_bytes: u64,
    },
}

/// All places on one member, in bytes from the start of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberLayout {
    /// md's bitmap; `len` 0 if the array has none.
    pub bitmap: Region,
    /// md's bad-block log; `len` 0 if there is none.
    pub bad_block_log: Region,
    /// The two header copies, a page each.
    pub headers: Region,
    /// Config slots A and B.
    pub config: [Region; 2],
    /// Lost-block list, copies A and B.
    pub lost: [Region; 2],
    /// The journal's superblock and tails.
    pub journal_head: Region,
    /// The written map.
    pub written_map: Region,
    /// The journal ring.
    pub journal: Region,
    /// CRC32C of every 4 KiB of data; `len` 0 where an adopted array left no room.
    pub checksums: Region,
    /// First byte of data.
    pub data_offset: u64,
    /// Bytes of data.
    pub data_size: u64,
}

impl MemberLayout {
    /// The layout of a new member. Follows from the size alone.
    pub fn for_member(size_bytes: u64) -> Result<Self, LayoutError> {
        if size_bytes < MIN_MEMBER_BYTES {
            return Err(LayoutError::TooSmall { size_bytes });
        }
        if i64::try_from(size_bytes).is_err() {
            return Err(LayoutError::TooLarge { size_bytes });
        }
        // Room for the checksums of everything behind the journal: a little too much, never too little.
        let journal = journal_bytes(size_bytes);
        let fixed_end = ANCHORS[0] + fixed_bytes();
        let checksums = checksum_bytes(size_bytes - fixed_end - journal);
        let data_offset = (fixed_end + journal + checksums).next_multiple_of(DATA_ALIGN_BYTES);
        let data_end = size_bytes - size_bytes % DATA_ALIGN_BYTES;
        let layout = Self::place(
            Region { offset: BITMAP_OFFSET_BYTES, len: BITMAP_BYTES },
            Region { offset: BAD_BLOCK_LOG_OFFSET_BYTES, len: BAD_BLOCK_LOG_BYTES },
            ANCHORS[0],
            [journal, checksums],
            data_offset,
            data_end.saturating_sub(data_offset),
        );
        layout.check(size_bytes)?;
        Ok(layout)
    }

    /// The layout for a member that mdadm made: labsan's area goes into the gap that md left. The journal gets
    /// what the checksums leave; the checksums are left out where the journal would fall below its minimum.
    /// `bitmap_image_bytes` is what md's bitmap really uses.
    pub fn adopt(
        superblock: &Superblock,
        bitmap_image_bytes: u64,
        size_bytes: u64,
    ) -> Result<Self, LayoutError> {
        let bitmap = superblock
            .bitmap_offset_bytes()
            .map_or(Region { offset: 0, len: 0 }, |offset| Region { offset, len: bitmap_image_bytes });
        let bad_block_log = bad_block_log_region(superblock);
        let data_offset = superblock.data_offset_bytes();
        let data_size = superblock.data_size.saturating_mul(SECTOR_BYTES);
        let md_end = [SUPER_OFFSET_BYTES + PAGE, bitmap.bytes().end, bad_block_log.bytes().end]
            .into_iter()
            .filter(|end| *end <= data_offset)
            .max()
            .unwrap_or(data_offset);
        let needed_bytes = fixed_bytes() + MIN_JOURNAL_BYTES;
        let too_small = LayoutError::GapTooSmall { gap_bytes: data_offset - md_end, needed_bytes };
        let anchor = ANCHORS.into_iter().find(|anchor| *anchor >= md_end).ok_or(too_small.clone())?;
        let room = data_offset.checked_sub(anchor + fixed_bytes()).ok_or(too_small.clone())?;
        let room = room - room % PAGE;
        let wanted = checksum_bytes(data_size);
        let checksums = if room >= wanted.saturating_add(MIN_JOURNAL_BYTES) { wanted } else { 0 };
        let journal = (room - checksums).min(MAX_JOURNAL_BYTES);
        if journal < MIN_JOURNAL_BYTES {
            return Err(too_small);
        }
        let layout = Self::place(bitmap, bad_block_log, anchor, [journal, checksums], data_offset, data_size);
        layout.check(size_bytes)?;
        Ok(layout)
    }

    /// The layout that a header records, with md's own structures from the superblock. Checked like any other.
    pub(super) fn recorded(
        superblock: &Superblock,
        bitmap: Region,
        headers: Region,
        regions: impl Fn(RegionKind) -> Region,
        size_bytes: u64,
    ) -> Result<Self, LayoutError> {
        let layout = Self {
            bitmap,
            bad_block_log: bad_block_log_region(superblock),
            headers,
            config: [regions(RegionKind::ConfigA), regions(RegionKind::ConfigB)],
            lost: [regions(RegionKind::LostA), regions(RegionKind::LostB)],
            journal_head: regions(RegionKind::JournalHead),
            written_map: regions(RegionKind::WrittenMap),
            journal: regions(RegionKind::Journal),
            checksums: regions(RegionKind::Checksums),
            data_offset: superblock.data_offset_bytes(),
            data_size: superblock.data_size.saturating_mul(SECTOR_BYTES),
        };
        layout.check(size_bytes)?;
        Ok(layout)
    }

    fn place(
        bitmap: Region,
        bad_block_log: Region,
        anchor: u64,
        [journal, checksums]: [u64; 2],
        data_offset: u64,
        data_size: u64,
    ) -> Self {
        let mut next = anchor;
        let mut take = |len: u64| {
            let region = Region { offset: next, len };
            next += len;
            region
        };
        let headers = take(HEADERS_BYTES);
        // The rest of the header's 64 KiB is kept for later.
        take(64 * KIB - HEADERS_BYTES);
        Self {
            bitmap,
            bad_block_log,
            headers,
            config: [take(CONFIG_BYTES), take(CONFIG_BYTES)],
            lost: [take(LOST_BYTES), take(LOST_BYTES)],
            journal_head: take(JOURNAL_HEAD_BYTES),
            written_map: take(WRITTEN_MAP_BYTES),
            journal: take(journal),
            checksums: take(checksums),
            data_offset,
            data_size,
        }
    }

    /// What the superblock says of the bad-block log.
    #[must_use]
    pub fn bad_block_log_fields(&self) -> BadBlockLog {
        match self.bad_block_log.len {
            0 => BadBlockLog { shift: 0, size_sectors: 0, offset_sectors: 0 },
            len => BadBlockLog {
                shift: 0,
                size_sectors: (len / SECTOR_BYTES) as u16,
                offset_sectors: self.bad_block_log.from_super(),
            },
        }
    }

    /// Where a region of the labsan area lies.
    #[must_use]
    pub fn region(&self, kind: RegionKind) -> Region {
        match kind {
            RegionKind::ConfigA => self.config[0],
            RegionKind::ConfigB => self.config[1],
            RegionKind::LostA => self.lost[0],
            RegionKind::LostB => self.lost[1],
            RegionKind::JournalHead => self.journal_head,
            RegionKind::WrittenMap => self.written_map,
            RegionKind::Journal => self.journal,
            RegionKind::Checksums => self.checksums,
        }
    }

    /// Refuses a layout whose parts overlap, are misaligned, too short for their job, or leave the device.
    pub fn check(&self, size_bytes: u64) -> Result<(), LayoutError> {
        let end = self.data_offset.checked_add(self.data_size).filter(|end| *end <= size_bytes);
        if end.is_none() || self.data_size == 0 {
            let end = self.data_offset.saturating_add(self.data_size);
            return Err(LayoutError::BeyondDevice { end, size_bytes });
        }
        let own = [
            ("header", self.headers, HEADERS_BYTES),
            ("config A", self.config[0], PAGE),
            ("config B", self.config[1], PAGE),
            ("lost-block A", self.lost[0], PAGE),
            ("lost-block B", self.lost[1], PAGE),
            ("journal head", self.journal_head, PAGE),
            ("written map", self.written_map, PAGE),
            ("journal", self.journal, MIN_JOURNAL_BYTES),
            ("checksum", self.checksums, 0),
        ];
        for (what, region, least) in own {
            if region.offset % PAGE != 0 || region.len % PAGE != 0 || region.len < least {
                return Err(LayoutError::BadRegion { what, offset: region.offset, len: region.len });
            }
            let end = region.offset.checked_add(region.len);
            if region.len != 0 && end.is_none_or(|end| end > self.data_offset) {
                return Err(LayoutError::Overlap { first: what, second: "data" });
            }
        }
        if self.checksums.len != 0 && self.checksums.len < checksum_bytes(self.data_size) {
            let Region { offset, len } = self.checksums;
            return Err(LayoutError::BadRegion { what: "checksum", offset, len });
        }
        let mut all = own.map(|(what, region, _)| (what, region)).to_vec();
        all.push(("superblock", Region { offset: SUPER_OFFSET_BYTES, len: PAGE }));
        all.push(("bitmap", self.bitmap));
        all.push(("bad-block log", self.bad_block_log));
        all.push(("data", Region { offset: self.data_offset, len: self.data_size }));
        disjoint(all)
    }
}

fn disjoint(mut regions: Vec<(&'static str, Region)>) -> Result<(), LayoutError> {
    regions.retain(|(_, region)| region.len != 0);
    regions.sort_by_key(|(_, region)| region.offset);
    for pair in regions.windows(2) {
        let [(first, before), (second, after)] = pair else { continue };
        if before.offset.checked_add(before.len).is_none_or(|end| end > after.offset) {
            return Err(LayoutError::Overlap { first, second });
        }
    }
    Ok(())
}

/// Bytes from the anchor to the journal.
const fn fixed_bytes() -> u64 {
    64 * KIB + 2 * CONFIG_BYTES + 2 * LOST_BYTES + JOURNAL_HEAD_BYTES + WRITTEN_MAP_BYTES
}

/// A 16th of the member up to 64 MiB, from there on a 64th up to 1 GiB; at least 2 MiB, in whole MiB.
fn journal_bytes(size_bytes: u64) -> u64 {
    let wanted = (size_bytes / 16).min(64 * MIB).max(size_bytes / 64);
    let wanted = wanted.clamp(MIN_JOURNAL_BYTES, MAX_JOURNAL_BYTES);
    wanted - wanted % MIB
}

/// Bytes for the checksums of so much data, in whole pages.
fn checksum_bytes(data_bytes: u64) -> u64 {
    data_bytes.div_ceil(PAGE).div_ceil(CHECKSUMS_PER_PAGE) * PAGE
}

fn bad_block_log_region(superblock: &Superblock) -> Region {
    superblock.bad_block_log_offset_bytes().map_or(Region { offset: 0, len: 0 }, |offset| Region {
        offset,
        len: u64::from(superblock.bad_block_log.size_sectors) * SECTOR_BYTES,
    })
}

/// The superblock's `bitmap_offset` for members that labsan makes, in sectors from the superblock.
pub const BITMAP_OFFSET_FROM_SUPER: i32 = ((BITMAP_OFFSET_BYTES - SUPER_OFFSET_BYTES) / SECTOR_BYTES) as i32;

/// The superblock's bad-block log fields for members that labsan makes.
pub const BAD_BLOCK_LOG: BadBlockLog = BadBlockLog {
    shift: 0,
    size_sectors: (BAD_BLOCK_LOG_BYTES / SECTOR_BYTES) as u16,
    offset_sectors: ((BAD_BLOCK_LOG_OFFSET_BYTES - SUPER_OFFSET_BYTES) / SECTOR_BYTES) as i32,
};

/// The component size of an array over these members: what the smallest can give, in whole chunks and whole
/// MiB (so that a replacement disk a few sectors smaller still fits). 0 if there are no members.
#[must_use]
pub fn component_bytes<'a>(members: impl IntoIterator<Item = &'a MemberLayout>, chunk_bytes: u64) -> u64 {
    let smallest = members.into_iter().map(|member| member.data_size).min().unwrap_or(0);
    smallest - smallest % chunk_bytes.max(DATA_ALIGN_BYTES)
}

#[cfg(test)]
mod tests;
