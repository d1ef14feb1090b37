//! Which small types make up a superblock? Names, times, feature bits, roles: each knows its bytes.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

use super::{ROLE_MAX, SuperblockError};

/// `set_name`: up to 32 bytes, zero-filled, "host:name" by mdadm's habit.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SetName([u8; 32]);

/// Why a text cannot be an array's name on disk.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SetNameError {
    /// More than 32 bytes.
    #[error("the name \"{0}\" is longer than the 32 bytes that md has for it")]
    TooLong(String),
    /// A zero byte would end it early.
    #[error("a name cannot contain a zero byte")]
    ZeroByte,
}

impl SetName {
    /// "host:name", shortened to the bare name where both do not fit, as mdadm does.
    pub fn with_host(host: &str, name: &str) -> Result<Self, SetNameError> {
        let long = format!("{host}:{name}");
        if host.is_empty() || long.len() > 32 { name.parse() } else { long.parse() }
    }

    /// The part after the host, by which people call the array.
    #[must_use]
    pub fn bare(&self) -> String {
        let text = self.to_string();
        text.split_once(':').map_or(text.clone(), |(_, name)| name.to_owned())
    }

    /// The host the array was made on, if the name says it.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        self.to_string().split_once(':').map(|(host, _)| host.to_owned())
    }

    pub(super) fn from_raw(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    pub(super) fn to_raw(self) -> [u8; 32] {
        self.0
    }
}

impl FromStr for SetName {
    type Err = SetNameError;

    fn from_str(text: &str) -> Result<Self, SetNameError> {
        if text.contains('\0') {
            return Err(SetNameError::ZeroByte);
        }
        let mut raw = [0; 32];
        raw.get_mut(..text.len())
            .ok_or_else(|| SetNameError::TooLong(text.to_owned()))?
            .copy_from_slice(text.as_bytes());
        Ok(Self(raw))
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        f.write_str(&String::from_utf8_lossy(&self.0[..end]))
    }
}

impl fmt::Debug for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// md's time stamp: 40 bits of seconds since 1970, 24 bits of microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MdTime {
    /// Seconds since 1970; the upper 24 bits are not kept.
    pub seconds: u64,
    /// Microseconds; the upper 8 bits are not kept.
    pub micros: u32,
}

impl MdTime {
    /// `MD_SUPERBLOCK_1_TIME_SEC_MASK`.
    const SECONDS: u64 = (1 << 40) - 1;

    /// A time stamp as labsan writes it: never with 0 microseconds, as md's are. That tells whose update a
    /// superblock holds.
    #[must_use]
    pub fn of_labsan(seconds: u64, micros: u32) -> Self {
        Self { seconds: seconds & Self::SECONDS, micros: micros.clamp(1, 999_999) }
    }

    pub(in crate::format) fn from_raw(raw: u64) -> Self {
        Self { seconds: raw & Self::SECONDS, micros: (raw >> 40) as u32 }
    }

    pub(in crate::format) fn to_raw(self) -> u64 {
        self.seconds & Self::SECONDS | u64::from(self.micros & 0xff_ffff) << 40
    }
}

/// `feature_map`: bits of `MD_FEATURE_*`, and labsan's own.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Features(pub u32);

impl Features {
    /// An internal bitmap is there.
    pub const BITMAP_OFFSET: Self = Self(1);
    /// `recovery_offset` must be honoured.
    pub const RECOVERY_OFFSET: Self = Self(2);
    /// A reshape is under way.
    pub const RESHAPE_ACTIVE: Self = Self(4);
    /// The bad-block log is not empty.
    pub const BAD_BLOCKS: Self = Self(8);
    /// This device is the copy that will replace the active device of the same slot.
    pub const REPLACEMENT: Self = Self(16);
    /// A reshape runs backwards.
    pub const RESHAPE_BACKWARDS: Self = Self(32);
    /// `new_offset` must be honoured.
    pub const NEW_OFFSET: Self = Self(64);
    /// The recovery under way follows the bitmap: what is clean there is already good.
    pub const RECOVERY_BITMAP: Self = Self(128);
    /// Clustered md.
    pub const CLUSTERED: Self = Self(256);
    /// md's own RAID 5/6 journal device.
    pub const JOURNAL: Self = Self(512);
    /// Partial parity log.
    pub const PPL: Self = Self(1024);
    /// Several partial parity logs.
    pub const MULTIPLE_PPLS: Self = Self(2048);
    /// `layout` means something at RAID 0.
    pub const RAID0_LAYOUT: Self = Self(4096);
    /// labsan runs the array (private: md refuses feature bits it does not know, so the kernel keeps off).
    pub const LABSAN_RUNNING: Self = Self(1 << 31);

    const KNOWN: u32 = 0x1fff | 1 << 31;

    /// All bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of `other` set.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// With the bits of `other` clear.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Refuses, by name, what labsan does not run.
    pub(super) fn supported(self, array_uuid: Uuid) -> Result<(), SuperblockError> {
        const FINISH: &str = "let md finish it (mdadm --assemble), stop it, and try again";
        let refused = [
            (Self::RESHAPE_ACTIVE, "is in the middle of a reshape", FINISH),
            (Self::RESHAPE_BACKWARDS, "is in the middle of a reshape", FINISH),
            (Self::NEW_OFFSET, "is being moved to a new data offset", FINISH),
            (Self::CLUSTERED, "is a clustered md array", "run it with md"),
            (
                Self::JOURNAL,
                "has a write journal of md's own",
                "flush and remove it with mdadm first: md keeps acknowledged writes there",
            ),
            (
                Self::PPL,
                "has md's partial parity log",
                "switch it off: mdadm --grow --consistency-policy=resync",
            ),
            (Self::MULTIPLE_PPLS, "has md's partial parity log", "switch it off with mdadm"),
        ];
        if let Some((_, feature, remedy)) = refused.iter().find(|(bit, ..)| self.contains(*bit)) {
            return Err(SuperblockError::Unsupported { array_uuid, feature, remedy });
        }
        if self.0 & !Self::KNOWN != 0 {
            return Err(SuperblockError::Unsupported {
                array_uuid,
                feature: "uses features of md that are newer than this labsan",
                remedy: "run it with md, or with a newer labsan",
            });
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What a device number is to the array (`dev_roles[]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Holds this slot, in sync or (by its own superblock's `recovery_offset`) being rebuilt.
    Active(u16),
    /// 0xffff: a spare, or no device of that number.
    Spare,
    /// 0xfffe: failed.
    Faulty,
    /// 0xfffd: md's journal device.
    Journal,
    /// 0xff01 to 0xfffc: reserved; never a slot.
    Reserved(u16),
}

impl Role {
    pub(super) fn from_raw(raw: u16) -> Self {
        match raw {
            0xffff => Self::Spare,
            0xfffe => Self::Faulty,
            0xfffd => Self::Journal,
            slot if u32::from(slot) <= ROLE_MAX => Self::Active(slot),
            other => Self::Reserved(other),
        }
    }

    pub(super) fn to_raw(self) -> u16 {
        match self {
            Self::Spare => 0xffff,
            Self::Faulty => 0xfffe,
            Self::Journal => 0xfffd,
            Self::Active(raw) | Self::Reserved(raw) => raw,
        }
    }

    /// The slot, if the device holds one.
    #[must_use]
    pub fn slot(self) -> Option<u16> {
        match self {
            Self::Active(slot) => Some(slot),
            _ => None,
        }
    }
}

/// Where md's bad-block log is. `size_sectors` 0: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BadBlockLog {
    /// Entries count in units of `1 << shift` sectors.
    pub shift: u8,
    /// Length of the log in sectors.
    pub size_sectors: u16,
    /// Sectors from the superblock to the log.
    pub offset_sectors: i32,
}
