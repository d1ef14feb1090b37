//! What does a Linux md v1.2 superblock say? (`struct mdp_superblock_1` of `linux/raid/md_p.h`.)
//!
//! Invariants:
//! - The 256 fixed bytes and the role table are exactly the kernel's; offsets are asserted below.
//! - [`Superblock::parse`] accepts what the kernel's `super_1_load` accepts at minor version 2, and private
//!   bit 31 besides. Features of md that labsan does not run are refused by name.
//! - `parse` then `encode` gives the same bytes: fields labsan does not use are carried along. Only an offset whose feature
//!   bit is clear becomes 0.

use thiserror::Error;
use uuid::Uuid;
use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{PAGE_BYTES, Page};

mod fields;
mod new_array;
pub use fields::{BadBlockLog, Features, MdTime, Role, SetName, SetNameError};
pub use new_array::NewArray;

/// `MD_SB_MAGIC`.
const MAGIC: u32 = 0xa92b_4efc;
/// Where a v1.2 superblock lies on its device, in bytes.
pub const SUPER_OFFSET_BYTES: u64 = 4096;
/// The same in sectors, as `super_offset` says it.
pub const SUPER_OFFSET_SECTORS: u64 = 8;
/// Sectors of the page that the superblock and its role table may use.
const SUPER_SECTORS: u64 = 8;
/// Bytes before the role table.
const FIXED_BYTES: usize = 256;
/// What `super_1_load` allows for `max_dev`: the role table ends with the 4 KiB page.
pub const MAX_DEVICES: usize = (PAGE_BYTES - FIXED_BYTES) / 2;
/// `raid_disks` and slots stay below the special roles (`MD_DISK_ROLE_MAX`).
const ROLE_MAX: u32 = 0xff00;
/// `resync_offset` of an array that is in sync, and `MaxSector` elsewhere.
pub const MAX_SECTOR: u64 = u64::MAX;

/// The bytes, unverified.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSuperblock {
    magic: U32,
    major_version: U32,
    feature_map: U32,
    pad0: U32,
    set_uuid: [u8; 16],
    set_name: [u8; 32],
    ctime: U64,
    level: I32,
    layout: U32,
    size: U64,
    chunksize: U32,
    raid_disks: U32,
    bitmap_offset: I32,
    /// new_level, reshape_position, delta_disks, new_layout, new_chunk, new_offset: of a reshape, now or once.
    reshape: [u8; 28],
    data_offset: U64,
    data_size: U64,
    super_offset: U64,
    recovery_offset: U64,
    dev_number: U32,
    cnt_corrected_read: U32,
    device_uuid: [u8; 16],
    devflags: u8,
    bblog_shift: u8,
    bblog_size: U16,
    bblog_offset: I32,
    utime: U64,
    events: U64,
    resync_offset: U64,
    sb_csum: U32,
    max_dev: U32,
    pad3: [u8; 32],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RawSuperblock>() == FIXED_BYTES);
    assert!(offset_of!(RawSuperblock, set_name) == 32);
    assert!(offset_of!(RawSuperblock, size) == 80);
    assert!(offset_of!(RawSuperblock, bitmap_offset) == 96);
    assert!(offset_of!(RawSuperblock, data_offset) == 128);
    assert!(offset_of!(RawSuperblock, recovery_offset) == 152);
    assert!(offset_of!(RawSuperblock, device_uuid) == 168);
    assert!(offset_of!(RawSuperblock, bblog_offset) == 188);
    assert!(offset_of!(RawSuperblock, utime) == 192);
    assert!(offset_of!(RawSuperblock, sb_csum) == 216);
    assert!(offset_of!(RawSuperblock, pad3) == 224);
};

/// Why bytes are not a superblock that labsan can use.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SuperblockError {
    /// Fewer bytes than the superblock needs.
    #[error("the superblock is cut short: {have} bytes, {need} needed")]
    Truncated {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Not md's at all.
    #[error("no md superblock here")]
    NoMagic,
    /// md's, but another major version.
    #[error("md metadata version {major} (labsan reads version 1.2)")]
    BadVersion {
        /// `major_version` as read.
        major: u32,
    },
    /// The sum does not match: torn, decayed or tampered with.
    #[error("the superblock's checksum is {found:08x}, its bytes sum to {computed:08x}")]
    BadChecksum {
        /// `sb_csum` as read.
        found: u32,
        /// What md computes.
        computed: u32,
    },
    /// `super_offset` names another place: minor version 0 or 1, or a copy of another disk's bytes.
    #[error(
        "the superblock says it belongs at sector {found}, not at 8 (md 1.0 or 1.1, or a misplaced copy)"
    )]
    WrongPlace {
        /// `super_offset` as read, in sectors.
        found: u64,
    },
    /// A field that no sane writer leaves.
    #[error("the superblock makes no sense: {field} is {value}")]
    Nonsense {
        /// md_p.h's name of the field.
        field: &'static str,
        /// The value as read.
        value: i128,
    },
    /// Well-formed, but md is in the middle of something, or uses something, that labsan does not run.
    #[error("the array {feature}; labsan cannot run it: {remedy}")]
    Unsupported {
        /// Whose: older members of that array must not be started as if this one were not there.
        array_uuid: Uuid,
        /// What the array does or has.
        feature: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// An md v1.2 superblock, checked. Units as in the names: sectors are 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// `set_uuid`: which array this is.
    pub array_uuid: Uuid,
    /// `set_name`: "host:name" as mdadm writes it.
    pub name: SetName,
    /// When the array was made.
    pub ctime: MdTime,
    /// md's level number: 0, 1, 4, 5, 6, 10 (or another that geometry will refuse).
    pub level: i32,
    /// md's layout number (RAID 5/6: 2 is left-symmetric; RAID 10: 0x102 is near-2).
    pub layout: u32,
    /// Sectors of each member that the array uses; 0 at RAID 0 (each member then gives all of `data_size`).
    pub size_sectors: u64,
    /// Chunk in sectors; 0 at RAID 1.
    pub chunk_sectors: u32,
    /// Slots of the array.
    pub raid_disks: u32,
    /// Sectors from the superblock to the internal bitmap (negative: before it), if there is one (feature bit 0).
    pub bitmap_offset: Option<i32>,
    /// First data sector on this device.
    pub data_offset: u64,
    /// Sectors of this device that can hold data, from `data_offset`.
    pub data_size: u64,
    /// This member is being rebuilt; data sectors below this are good (feature bit 1).
    pub recovery_offset: Option<u64>,
    /// This device's index into `roles`: a name for life, not a slot.
    pub dev_number: u32,
    /// `cnt_corrected_read`.
    pub corrected_reads: u32,
    /// Which device this is.
    pub device_uuid: Uuid,
    /// `devflags`: bit 0 write-mostly, bit 1 failfast.
    pub device_flags: u8,
    /// Where md's bad-block log is, if there is room for one.
    pub bad_block_log: BadBlockLog,
    /// Last update.
    pub utime: MdTime,
    /// Counts updates; the freshest wins.
    pub events: u64,
    /// Data sectors below this are in sync; [`MAX_SECTOR`] when clean.
    pub resync_offset: u64,
    /// `feature_map` without bits 0 and 1, which `bitmap_offset` and `recovery_offset` stand for.
    pub features: Features,
    /// The role of each device number; its length is `max_dev`.
    pub roles: Vec<Role>,
    /// Leftovers of a finished reshape, carried along.
    pub reshape_fields: [u8; 28],
}

impl Superblock {
    /// Check and read the page at [`SUPER_OFFSET_BYTES`]. `bytes` starts with the superblock; a whole page is
    /// always enough.
    pub fn parse(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let Ok((raw, rest)) = RawSuperblock::ref_from_prefix(bytes) else {
            return Err(SuperblockError::Truncated { have: bytes.len(), need: FIXED_BYTES });
        };
        if raw.magic.get() != MAGIC {
            return Err(SuperblockError::NoMagic);
        }
        if raw.major_version.get() != 1 {
            return Err(SuperblockError::BadVersion { major: raw.major_version.get() });
        }
        let max_dev = raw.max_dev.get() as usize;
        if max_dev > MAX_DEVICES {
            return Err(nonsense("max_dev", raw.max_dev.get()));
        }
        let Some(roles) = rest.get(..max_dev * 2) else {
            return Err(SuperblockError::Truncated { have: bytes.len(), need: FIXED_BYTES + max_dev * 2 });
        };
        let computed = checksum(raw, roles);
        if computed != raw.sb_csum.get() {
            return Err(SuperblockError::BadChecksum { found: raw.sb_csum.get(), computed });
        }
        check_ranges(raw)?;
        let superblock = Self::from_raw(raw, roles);
        superblock.features.supported(superblock.array_uuid)?;
        Ok(superblock)
    }

    fn from_raw(raw: &RawSuperblock, roles: &[u8]) -> Self {
        let features = Features(raw.feature_map.get());
        Self {
            array_uuid: Uuid::from_bytes(raw.set_uuid),
            name: SetName::from_raw(raw.set_name),
            ctime: MdTime::from_raw(raw.ctime.get()),
            level: raw.level.get(),
            layout: raw.layout.get(),
            size_sectors: raw.size.get(),
            chunk_sectors: raw.chunksize.get(),
            raid_disks: raw.raid_disks.get(),
            bitmap_offset: features.contains(Features::BITMAP_OFFSET).then_some(raw.bitmap_offset.get()),
            data_offset: raw.data_offset.get(),
            data_size: raw.data_size.get(),
            recovery_offset: features
                .contains(Features::RECOVERY_OFFSET)
                .then_some(raw.recovery_offset.get()),
            dev_number: raw.dev_number.get(),
            corrected_reads: raw.cnt_corrected_read.get(),
            device_uuid: Uuid::from_bytes(raw.device_uuid),
            device_flags: raw.devflags,
            bad_block_log: BadBlockLog {
                shift: raw.bblog_shift,
                size_sectors: raw.bblog_size.get(),
                offset_sectors: raw.bblog_offset.get(),
            },
            utime: MdTime::from_raw(raw.utime.get()),
            events: raw.events.get(),
            resync_offset: raw.resync_offset.get(),
            features: features.without(Features::BITMAP_OFFSET).without(Features::RECOVERY_OFFSET),
            roles: roles
                .chunks_exact(2)
                .map(|pair| Role::from_raw(u16::from_le_bytes([pair[0], pair[1]])))
                .collect(),
            reshape_fields: raw.reshape,
        }
    }

    /// The page to write at [`SUPER_OFFSET_BYTES`], checksum included. Roles beyond [`MAX_DEVICES`], which no
    /// superblock can hold, are left out ([`Superblock::set_role`] never makes them).
    #[must_use]
    pub fn encode(&self) -> Page {
        let mut page = [0; PAGE_BYTES];
        let roles = &self.roles[..self.roles.len().min(MAX_DEVICES)];
        for (pair, role) in page[FIXED_BYTES..].chunks_exact_mut(2).zip(roles) {
            pair.copy_from_slice(&role.to_raw().to_le_bytes());
        }
        let mut raw = self.to_raw(roles.len());
        raw.sb_csum.set(checksum(&raw, &page[FIXED_BYTES..FIXED_BYTES + roles.len() * 2]));
        page[..FIXED_BYTES].copy_from_slice(raw.as_bytes());
        page
    }

    fn to_raw(&self, max_dev: usize) -> RawSuperblock {
        RawSuperblock {
            magic: U32::new(MAGIC),
            major_version: U32::new(1),
            feature_map: U32::new(self.feature_map().0),
            pad0: U32::new(0),
            set_uuid: self.array_uuid.into_bytes(),
            set_name: self.name.to_raw(),
            ctime: U64::new(self.ctime.to_raw()),
            level: I32::new(self.level),
            layout: U32::new(self.layout),
            size: U64::new(self.size_sectors),
            chunksize: U32::new(self.chunk_sectors),
            raid_disks: U32::new(self.raid_disks),
            bitmap_offset: I32::new(self.bitmap_offset.unwrap_or(0)),
            reshape: self.reshape_fields,
            data_offset: U64::new(self.data_offset),
            data_size: U64::new(self.data_size),
            super_offset: U64::new(SUPER_OFFSET_SECTORS),
            recovery_offset: U64::new(self.recovery_offset.unwrap_or(0)),
            dev_number: U32::new(self.dev_number),
            cnt_corrected_read: U32::new(self.corrected_reads),
            device_uuid: self.device_uuid.into_bytes(),
            devflags: self.device_flags,
            bblog_shift: self.bad_block_log.shift,
            bblog_size: U16::new(self.bad_block_log.size_sectors),
            bblog_offset: I32::new(self.bad_block_log.offset_sectors),
            utime: U64::new(self.utime.to_raw()),
            events: U64::new(self.events),
            resync_offset: U64::new(self.resync_offset),
            sb_csum: U32::new(0),
            max_dev: U32::new(max_dev as u32),
            pad3: [0; 32],
        }
    }

    /// `feature_map` as it goes to disk: `features` with bits 0 and 1 put back.
    #[must_use]
    pub fn feature_map(&self) -> Features {
        let mut features = self.features.without(Features::BITMAP_OFFSET).without(Features::RECOVERY_OFFSET);
        if self.bitmap_offset.is_some() {
            features = features.with(Features::BITMAP_OFFSET);
        }
        if self.recovery_offset.is_some() {
            features = features.with(Features::RECOVERY_OFFSET);
        }
        features
    }

    /// What this table says of a device number; `Spare` beyond its end, as md reads it.
    #[must_use]
    pub fn role_of(&self, dev_number: u32) -> Role {
        usize::try_from(dev_number)
            .ok()
            .and_then(|index| self.roles.get(index))
            .copied()
            .unwrap_or(Role::Spare)
    }

    /// What this superblock says of its own device.
    #[must_use]
    pub fn own_role(&self) -> Role {
        self.role_of(self.dev_number)
    }

    /// Give a device number a role, growing the table. False if no superblock can hold that number.
    #[must_use]
    pub fn set_role(&mut self, dev_number: u32, role: Role) -> bool {
        let index = dev_number as usize;
        if index >= MAX_DEVICES {
            return false;
        }
        if index >= self.roles.len() {
            self.roles.resize(index + 1, Role::Spare);
        }
        self.roles[index] = role;
        true
    }

    /// The array was stopped, or at rest, in sync.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.resync_offset == MAX_SECTOR
    }

    /// labsan was running the array when this was written (bit 31).
    #[must_use]
    pub fn labsan_running(&self) -> bool {
        self.features.contains(Features::LABSAN_RUNNING)
    }

    /// First byte of data on this device.
    #[must_use]
    pub fn data_offset_bytes(&self) -> u64 {
        self.data_offset * super::SECTOR_BYTES
    }

    /// First byte of the internal bitmap on this device, if there is one.
    #[must_use]
    pub fn bitmap_offset_bytes(&self) -> Option<u64> {
        self.bitmap_offset.and_then(|sectors| from_super(sectors).map(|sector| sector * super::SECTOR_BYTES))
    }

    /// First byte of md's bad-block log on this device, if there is one.
    #[must_use]
    pub fn bad_block_log_offset_bytes(&self) -> Option<u64> {
        let log = self.bad_block_log;
        if log.size_sectors == 0 || log.offset_sectors == 0 {
            return None;
        }
        from_super(log.offset_sectors).map(|sector| sector * super::SECTOR_BYTES)
    }
}

/// A device sector from one relative to the superblock.
fn from_super(relative: i32) -> Option<u64> {
    SUPER_OFFSET_SECTORS.checked_add_signed(i64::from(relative))
}

fn nonsense(field: &'static str, value: impl Into<i128>) -> SuperblockError {
    SuperblockError::Nonsense { field, value: value.into() }
}

/// `super_1_load`'s checks, and those without which arithmetic on the fields could overflow.
fn check_ranges(raw: &RawSuperblock) -> Result<(), SuperblockError> {
    if raw.super_offset.get() != SUPER_OFFSET_SECTORS {
        return Err(SuperblockError::WrongPlace { found: raw.super_offset.get() });
    }
    let (data_offset, data_size, size) = (raw.data_offset.get(), raw.data_size.get(), raw.size.get());
    if raw.pad0.get() != 0 {
        return Err(nonsense("pad0", raw.pad0.get()));
    }
    if let Some(byte) = raw.pad3.iter().find(|byte| **byte != 0) {
        return Err(nonsense("pad3", *byte));
    }
    if data_size < 10 {
        return Err(nonsense("data_size", data_size));
    }
    if data_offset < SUPER_OFFSET_SECTORS + SUPER_SECTORS {
        return Err(nonsense("data_offset", data_offset));
    }
    // The end in bytes fits a file offset, so that every position inside does.
    let end = data_offset.checked_add(data_size).and_then(|end| end.checked_mul(super::SECTOR_BYTES));
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(nonsense("data_size", data_size));
    }
    if size > data_size {
        return Err(nonsense("size", size));
    }
    // An update must be able to follow.
    if i64::try_from(raw.events.get()).is_err() {
        return Err(nonsense("events", raw.events.get()));
    }
    if raw.raid_disks.get() == 0 || raw.raid_disks.get() > ROLE_MAX {
        return Err(nonsense("raid_disks", raw.raid_disks.get()));
    }
    let features = Features(raw.feature_map.get());
    if features.contains(Features::RAID0_LAYOUT) && raw.level.get() != 0 {
        return Err(nonsense("feature_map", raw.feature_map.get()));
    }
    check_structures(raw, features, data_offset)
}

/// Bitmap and bad-block log keep clear of the superblock's page and of the data.
fn check_structures(
    raw: &RawSuperblock,
    features: Features,
    data_offset: u64,
) -> Result<(), SuperblockError> {
    let clear = |relative: i32, sectors: u64| {
        let first = from_super(relative)?;
        let end = first.checked_add(sectors)?;
        let page = SUPER_OFFSET_SECTORS..SUPER_OFFSET_SECTORS + SUPER_SECTORS;
        ((first >= page.end || end <= page.start) && end <= data_offset).then_some(())
    };
    if features.contains(Features::BITMAP_OFFSET) && !features.contains(Features::PPL) {
        clear(raw.bitmap_offset.get(), 1).ok_or(nonsense("bitmap_offset", raw.bitmap_offset.get()))?;
    }
    let log = u64::from(raw.bblog_size.get());
    if features.contains(Features::BAD_BLOCKS) && (log > 8 || raw.bblog_offset.get() == 0) {
        return Err(nonsense("bblog_size", raw.bblog_size.get()));
    }
    if log != 0 && raw.bblog_offset.get() != 0 {
        clear(raw.bblog_offset.get(), log).ok_or(nonsense("bblog_offset", raw.bblog_offset.get()))?;
    }
    if raw.bblog_shift > 16 {
        return Err(nonsense("bblog_shift", raw.bblog_shift));
    }
    Ok(())
}

/// `calc_sb_1_csum`: the 32-bit words of superblock and role table, `sb_csum` as zero, summed in 64 bits and
/// folded once; a last half word is added as it is.
fn checksum(raw: &RawSuperblock, roles: &[u8]) -> u32 {
    let mut raw = *raw;
    raw.sb_csum.set(0);
    let words = |bytes: &[u8]| -> u64 {
        bytes
            .chunks(4)
            .map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from(u32::from_le_bytes(word))
            })
            .sum()
    };
    let sum = words(raw.as_bytes()) + words(roles);
    ((sum & 0xffff_ffff) as u32).wrapping_add((sum >> 32) as u32)
}

#[cfg(test)]
mod tests;
