//! The levels, with md's numbers.

use std::fmt;
use std::str::FromStr;

/// A RAID level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Striping; no redundancy.
    Raid0,
    /// Mirrors.
    Raid1,
    /// Striping with one rotating parity.
    Raid5,
    /// Striping with two rotating parities.
    Raid6,
    /// Striped pairs of mirrors (near-2).
    Raid10,
}

/// Not a level we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no RAID level: use 0, 1, 5, 6 or 10")]
pub struct UnknownLevel(pub String);

impl Level {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raid0, Self::Raid1, Self::Raid5, Self::Raid6, Self::Raid10];

    /// md's number (`mdp_superblock_1.level`).
    pub fn number(self) -> u32 {
        match self {
            Self::Raid0 => 0,
            Self::Raid1 => 1,
            Self::Raid5 => 5,
            Self::Raid6 => 6,
            Self::Raid10 => 10,
        }
    }

    /// The level with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }

    /// md's number of the one layout we use (`mdp_superblock_1.layout`): `ALGORITHM_LEFT_SYMMETRIC` for
    /// RAID 5 and 6, one far and two near copies for RAID 10.
    pub fn layout_number(self) -> u32 {
        match self {
            Self::Raid0 | Self::Raid1 => 0,
            Self::Raid5 | Self::Raid6 => 2,
            Self::Raid10 => 0x102,
        }
    }

    /// The least members that make sense.
    pub fn minimum_members(self) -> u16 {
        match self {
            Self::Raid0 | Self::Raid1 | Self::Raid10 => 2,
            Self::Raid5 => 3,
            Self::Raid6 => 4,
        }
    }

    /// True for the levels that compute parity.
    pub fn has_parity(self) -> bool {
        matches!(self, Self::Raid5 | Self::Raid6)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RAID {}", self.number())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;
    fn from_str(text: &str) -> Result<Self, UnknownLevel> {
        let digits = text.trim().trim_start_matches(['r', 'R', 'a', 'A', 'i', 'I', 'd', 'D', ' ', '-']);
        digits.parse().ok().and_then(Self::from_number).ok_or_else(|| UnknownLevel(text.to_owned()))
    }
}
