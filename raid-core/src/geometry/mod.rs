//! Where does a byte of the array lie? Pure arithmetic of md's layouts; no I/O, no state.
//!
//! The array's data space is cut into *units*, the grain at which the engine locks, repairs and rebuilds:
//!
//! | level | a unit is | data in a unit | on each member it touches |
//! |---|---|---|---|
//! | 0 | a chunk | chunk | one chunk of one member |
//! | 1 | 64 KiB of the mirror | 64 KiB | the same 64 KiB of every member |
//! | 5, 6 | a stripe | chunk x data members | one chunk of every member |
//! | 10 | a chunk | chunk | one chunk of two members |
//!
//! Layouts are md's: RAID 5 and 6 left-symmetric (`ALGORITHM_LEFT_SYMMETRIC`), RAID 10 near-2.
//! Offsets on members are relative to their data area.

mod level;
mod member_set;

use std::ops::Range;

use smallvec::SmallVec;

pub use level::{Level, UnknownLevel};
pub use member_set::MemberSet;

use crate::limits;

/// A member's role, 0 to members - 1 (md's `raid_disk`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberIndex(pub u16);

/// What a member holds in a stripe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// The data chunk with this index, 0 to data members - 1.
    Data(u16),
    /// XOR of the data.
    P,
    /// The Reed-Solomon syndrome of RAID 6.
    Q,
}

/// One place of one piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which member.
    pub member: MemberIndex,
    /// Byte offset in its data area.
    pub offset: u64,
}

/// A part of a request that lies in one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitPiece {
    /// Which unit.
    pub unit: u64,
    /// Bytes into the unit's data.
    pub start: u32,
    /// Bytes.
    pub length: u32,
}

/// Why an array cannot have this shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Fewer members than the level needs.
    #[error("{level} needs at least {minimum} members, {given} given")]
    TooFewMembers {
        /// The level asked for.
        level: Level,
        /// What it needs.
        minimum: u16,
        /// What was given.
        given: usize,
    },
    /// More members than md's superblock has room for.
    #[error("an array has at most {maximum} members, {given} given")]
    TooManyMembers {
        /// The most there can be.
        maximum: u16,
        /// What was given.
        given: usize,
    },
    /// The chunk size is no power of two in range.
    #[error("a chunk is a power of two from 4 KiB to 1 MiB, not {given_bytes} bytes")]
    BadChunk {
        /// What was given.
        given_bytes: u64,
    },
    /// The members are too small to hold a single unit.
    #[error("members of {member_bytes} bytes are too small: {needed_bytes} bytes are needed at least")]
    MembersTooSmall {
        /// Data bytes of the smallest member.
        member_bytes: u64,
        /// What one unit needs.
        needed_bytes: u64,
    },
    /// The size does not fit in 64 bits of sectors.
    #[error("members of {member_bytes} bytes are larger than an array can address")]
    MembersTooLarge {
        /// Data bytes of the smallest member.
        member_bytes: u64,
    },
}

/// The shape of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    level: Level,
    members: u16,
    chunk_bytes: u32,
    member_bytes: u64,
    units: u64,
}

impl Geometry {
    /// The array that `members` members with `member_data_bytes` of data area each make.
    /// RAID 1 has no chunk: whatever is given is ignored there.
    pub fn new(
        level: Level,
        members: usize,
        chunk_bytes: u64,
        member_data_bytes: u64,
    ) -> Result<Self, GeometryError> {
        let minimum = level.minimum_members();
        if members < usize::from(minimum) {
            return Err(GeometryError::TooFewMembers { level, minimum, given: members });
        }
        let members = u16::try_from(members)
            .ok()
            .filter(|&count| count <= limits::MAX_MEMBERS)
            .ok_or(GeometryError::TooManyMembers { maximum: limits::MAX_MEMBERS, given: members })?;
        let chunk_bytes = match level {
            Level::Raid1 => limits::MIRROR_UNIT_BYTES,
            _ => u32::try_from(chunk_bytes)
                .ok()
                .filter(|bytes| bytes.is_power_of_two())
                .filter(|bytes| (limits::MIN_CHUNK_BYTES..=limits::MAX_CHUNK_BYTES).contains(bytes))
                .ok_or(GeometryError::BadChunk { given_bytes: chunk_bytes })?,
        };
        if member_data_bytes > limits::MAX_MEMBER_BYTES {
            return Err(GeometryError::MembersTooLarge { member_bytes: member_data_bytes });
        }
        let rows = member_data_bytes / u64::from(chunk_bytes);
        let units = match level {
            Level::Raid0 => rows * u64::from(members),
            Level::Raid1 | Level::Raid5 | Level::Raid6 => rows,
            // md's raid10_size(): the copies of all members together, halved.
            Level::Raid10 => rows * u64::from(members) / 2,
        };
        if units == 0 {
            return Err(GeometryError::MembersTooSmall {
                member_bytes: member_data_bytes,
                needed_bytes: u64::from(chunk_bytes),
            });
        }
        Ok(Self { level, members, chunk_bytes, member_bytes: rows * u64::from(chunk_bytes), units })
    }

    /// The level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// Members when none is missing (md's `raid_disks`).
    pub fn members(&self) -> u16 {
        self.members
    }

    /// Every member index.
    pub fn member_indices(&self) -> impl Iterator<Item = MemberIndex> + use<> {
        (0..self.members).map(MemberIndex)
    }

    /// Chunk size; for RAID 1 the size of its units.
    pub fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// Bytes of each member's data area in use: whole chunks (md's `size`).
    pub fn member_bytes(&self) -> u64 {
        self.member_bytes
    }

    /// Members that hold user data in a stripe; 1 for mirrors.
    pub fn data_rows(&self) -> u16 {
        match self.level {
            Level::Raid0 => self.members,
            Level::Raid1 | Level::Raid10 => 1,
            Level::Raid5 => self.members - 1,
            Level::Raid6 => self.members - 2,
        }
    }

    /// User data in a unit, bytes.
    pub fn unit_data_bytes(&self) -> u32 {
        match self.level {
            // At most 384 members of 1 MiB: far inside 32 bits.
            Level::Raid5 | Level::Raid6 => self.chunk_bytes * u32::from(self.data_rows()),
            Level::Raid0 | Level::Raid1 | Level::Raid10 => self.chunk_bytes,
        }
    }

    /// Units in the array.
    pub fn units(&self) -> u64 {
        self.units
    }

    /// User data the array holds, bytes: exactly what md computes.
    pub fn size_bytes(&self) -> u64 {
        self.units * u64::from(self.unit_data_bytes())
    }

    /// User data of a whole stripe across all members, bytes: the write that costs least, and the grain
    /// of volumes.
    pub fn stripe_data_bytes(&self) -> u32 {
        match self.level {
            Level::Raid0 => self.chunk_bytes * u32::from(self.members),
            Level::Raid1 => self.chunk_bytes,
            // An even number of chunks, so that a stripe starts a row where rows are even.
            Level::Raid10 => self.chunk_bytes * u32::from((self.members / 2).max(1)),
            Level::Raid5 | Level::Raid6 => self.unit_data_bytes(),
        }
    }

    /// User data of the stripes that lie wholly in so many bytes of each member, a multiple of the chunk; twice as much where
    /// that is no whole number of stripes.
    pub fn data_bytes_of_members(&self, member_bytes: u64) -> u64 {
        let members = u64::from(self.members);
        match self.level {
            Level::Raid0 => member_bytes * members,
            Level::Raid1 => member_bytes,
            Level::Raid10 if members.is_multiple_of(2) => member_bytes * members / 2,
            Level::Raid10 => member_bytes * members,
            Level::Raid5 | Level::Raid6 => member_bytes * u64::from(self.data_rows()),
        }
    }

    /// The unit that holds this byte of the array.
    pub fn unit_of(&self, offset: u64) -> u64 {
        offset / u64::from(self.unit_data_bytes())
    }

    /// Cut `offset..offset + length` at unit boundaries.
    pub fn pieces(&self, offset: u64, length: u64) -> impl Iterator<Item = UnitPiece> + use<> {
        let unit_bytes = u64::from(self.unit_data_bytes());
        let end = offset + length;
        let mut at = offset;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (unit, start) = (at / unit_bytes, at % unit_bytes);
            let length = (unit_bytes - start).min(end - at);
            at += length;
            Some(UnitPiece { unit, start: start as u32, length: length as u32 })
        })
    }

    /// Every copy of a unit of a mirrored or striped level, first the one md calls the first.
    pub fn copies(&self, unit: u64) -> SmallVec<[Place; 4]> {
        let chunk = u64::from(self.chunk_bytes);
        let members = u64::from(self.members);
        let at_position = |position: u64| Place {
            member: MemberIndex((position % members) as u16),
            offset: position / members * chunk,
        };
        match self.level {
            Level::Raid0 => [at_position(unit)].into_iter().collect(),
            Level::Raid10 => [at_position(2 * unit), at_position(2 * unit + 1)].into_iter().collect(),
            Level::Raid1 => {
                self.member_indices().map(|member| Place { member, offset: unit * chunk }).collect()
            }
            Level::Raid5 | Level::Raid6 => SmallVec::new(),
        }
    }

    /// Which member holds this row of a parity stripe.
    pub fn row_member(&self, stripe: u64, row: Row) -> MemberIndex {
        let members = u64::from(self.members);
        let p = members - 1 - stripe % members;
        let parities = u64::from(self.members - self.data_rows());
        let member = match row {
            Row::P => p,
            Row::Q => (p + 1) % members,
            Row::Data(index) => (p + parities + u64::from(index)) % members,
        };
        MemberIndex(member as u16)
    }

    /// What this member holds in a parity stripe.
    pub fn member_row(&self, stripe: u64, member: MemberIndex) -> Row {
        let members = u64::from(self.members);
        let p = members - 1 - stripe % members;
        let parities = u64::from(self.members - self.data_rows());
        match (u64::from(member.0) + members - p) % members {
            0 => Row::P,
            1 if parities == 2 => Row::Q,
            distance => Row::Data((distance - parities) as u16),
        }
    }

    /// Every row of a parity stripe: the data in order, P, and Q where there is one.
    pub fn rows(&self) -> impl Iterator<Item = Row> + use<> {
        let parity = match self.level {
            Level::Raid5 => &[Row::P][..],
            Level::Raid6 => &[Row::P, Row::Q],
            Level::Raid0 | Level::Raid1 | Level::Raid10 => &[],
        };
        (0..self.data_rows()).map(Row::Data).chain(parity.iter().copied())
    }

    /// Where a parity stripe's chunks begin, on every member.
    pub fn stripe_offset(&self, stripe: u64) -> u64 {
        stripe * u64::from(self.chunk_bytes)
    }

    /// The byte of the array that a member's byte holds; `None` for parity and unused tails.
    /// Copies give the byte they copy.
    pub fn logical(&self, place: Place) -> Option<u64> {
        let chunk = u64::from(self.chunk_bytes);
        let (row, within) = (place.offset / chunk, place.offset % chunk);
        let position = row * u64::from(self.members) + u64::from(place.member.0);
        let unit = match self.level {
            Level::Raid0 => position,
            Level::Raid1 => row,
            Level::Raid10 => position / 2,
            Level::Raid5 | Level::Raid6 => {
                let Row::Data(index) = self.member_row(row, place.member) else { return None };
                let in_unit = u64::from(index) * chunk + within;
                return (row < self.units).then(|| row * u64::from(self.unit_data_bytes()) + in_unit);
            }
        };
        (unit < self.units).then_some(unit * chunk + within)
    }

    /// The first unit that lies at or above this offset of a member: where a rebuild that has come so far
    /// goes on.
    pub fn first_unit_at(&self, member: MemberIndex, member_offset: u64) -> u64 {
        let row = member_offset / u64::from(self.chunk_bytes);
        let position = row * u64::from(self.members) + u64::from(member.0);
        match self.level {
            Level::Raid0 => position.min(self.units),
            Level::Raid1 | Level::Raid5 | Level::Raid6 => row.min(self.units),
            Level::Raid10 => (position / 2).min(self.units),
        }
    }

    /// The offset on a member below which everything belongs to units before this one: what may be
    /// recorded as rebuilt (`recovery_offset`) when all units below `unit` are.
    pub fn member_offset_before(&self, member: MemberIndex, unit: u64) -> u64 {
        if unit >= self.units {
            return self.member_bytes;
        }
        let chunk = u64::from(self.chunk_bytes);
        let members = u64::from(self.members);
        match self.level {
            Level::Raid1 | Level::Raid5 | Level::Raid6 => unit * chunk,
            // The member's first position that belongs to `unit` or a later one.
            Level::Raid0 => unit.saturating_sub(u64::from(member.0)).div_ceil(members) * chunk,
            Level::Raid10 => (2 * unit).saturating_sub(u64::from(member.0)).div_ceil(members) * chunk,
        }
    }

    /// Positions that one unit takes, and how many there are in a row of the members. At the other levels every member has a
    /// place of its own in each unit.
    fn positions(&self) -> (u64, u64) {
        match self.level {
            Level::Raid0 => (1, self.members.into()),
            Level::Raid10 => (2, self.members.into()),
            Level::Raid1 | Level::Raid5 | Level::Raid6 => (1, 1),
        }
    }

    /// The bytes of the members' data areas that these units touch, on any member.
    pub fn touched_by(&self, units: &Range<u64>) -> Range<u64> {
        let (each, row) = self.positions();
        let chunk = u64::from(self.chunk_bytes);
        units.start * each / row * chunk..(units.end * each).div_ceil(row) * chunk
    }

    /// The bytes of the members' data areas that belong to these units and to no others, on every member.
    pub fn owned_by(&self, units: &Range<u64>) -> Range<u64> {
        let (each, row) = self.positions();
        let chunk = u64::from(self.chunk_bytes);
        let start = (units.start * each).div_ceil(row) * chunk;
        // Behind the last unit there may be a chunk that is never used.
        let end = if units.end >= self.units { self.member_bytes } else { units.end * each / row * chunk };
        start..end.max(start)
    }

    /// The units that touch these bytes of the members' data areas.
    pub fn units_touching(&self, bytes: &Range<u64>) -> Range<u64> {
        let (each, row) = self.positions();
        let chunk = u64::from(self.chunk_bytes);
        let first = bytes.start / chunk * row / each;
        let end = (bytes.end.div_ceil(chunk) * row).div_ceil(each);
        first.min(self.units)..end.min(self.units)
    }

    /// True if the array still holds all its data without these members.
    pub fn tolerates(&self, missing: &MemberSet) -> bool {
        match self.level {
            Level::Raid0 => missing.is_empty(),
            Level::Raid1 => missing.len() < usize::from(self.members),
            Level::Raid5 => missing.len() <= 1,
            Level::Raid6 => missing.len() <= 2,
            Level::Raid10 => !self.loses_a_pair(missing),
        }
    }

    /// How many members may be missing whichever they are.
    pub fn tolerated_losses(&self) -> u16 {
        match self.level {
            Level::Raid0 => 0,
            Level::Raid5 | Level::Raid10 => 1,
            Level::Raid6 => 2,
            Level::Raid1 => self.members - 1,
        }
    }

    /// True if both copies of some chunk are among the missing: neighbours around the ring where the
    /// member count is odd, the pairs (0,1), (2,3), ... where it is even.
    fn loses_a_pair(&self, missing: &MemberSet) -> bool {
        let step = if self.members.is_multiple_of(2) { 2 } else { 1 };
        (0..self.members).step_by(step).any(|first| {
            let second = (first + 1) % self.members;
            missing.contains(MemberIndex(first)) && missing.contains(MemberIndex(second))
        })
    }

    /// The space that md's bitmap covers, bytes: a member's data area, or for RAID 10 the array
    /// (md's `resync_max_sectors`).
    pub fn bitmap_space_bytes(&self) -> u64 {
        match self.level {
            Level::Raid0 | Level::Raid10 => self.size_bytes(),
            Level::Raid1 | Level::Raid5 | Level::Raid6 => self.member_bytes,
        }
    }

    /// The part of that space a unit lies in.
    pub fn unit_bitmap_range(&self, unit: u64) -> Range<u64> {
        let chunk = u64::from(self.chunk_bytes);
        unit * chunk..(unit + 1) * chunk
    }
}

#[cfg(test)]
mod tests;
