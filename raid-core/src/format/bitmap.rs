//! What does md's internal write-intent bitmap say? (`bitmap_super_t` of the kernel's `md-bitmap.h`, version 4.)
//!
//! On disk: 256 bytes of header, then one bit per chunk, little-endian, to the end of the region; together
//! they are the *image*. A set bit means "a write may be under way, or a member may lack one, here".
//!
//! Invariants:
//! - Bit n covers sectors `[n, n + 1) * chunk` of the *sync range*: the component at RAID 1, 4, 5, 6, the array
//!   at RAID 10 ([`sync_size_sectors`]).
//! - md takes a bitmap whose `events` lag behind the superblock's for stale and resyncs everything, so whoever
//!   raises the superblock's `events` writes the bitmap's first.

use std::ops::Range;

use thiserror::Error;
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::SECTOR_BYTES;
use super::superblock::Superblock;

/// "bitm".
const MAGIC: u32 = 0x6d74_6962;
/// `BITMAP_MAJOR_HI`: bits are little-endian.
const VERSION: u32 = 4;
/// Bytes before the first bit.
pub const HEADER_BYTES: usize = 256;
/// The finest chunk labsan chooses: below it, setting bits costs more than resyncing less saves.
const MIN_CHUNK_BYTES: u32 = 4 << 20;
/// md's `BITMAP_STALE`: the bits mean nothing, everything must be resynced.
const STATE_STALE: u32 = 1 << 1;
/// md's `BITMAP_WRITE_ERROR`.
const STATE_WRITE_ERROR: u32 = 1 << 2;

/// The header's bytes, unverified.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    version: U32,
    uuid: [u8; 16],
    events: U64,
    events_cleared: U64,
    sync_size: U64,
    state: U32,
    chunksize: U32,
    daemon_sleep: U32,
    write_behind: U32,
    sectors_reserved: U32,
    nodes: U32,
    cluster_name: [u8; 64],
    pad: [u8; 120],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<RawHeader>() == HEADER_BYTES);
    assert!(offset_of!(RawHeader, events) == 24);
    assert!(offset_of!(RawHeader, state) == 48);
    assert!(offset_of!(RawHeader, sectors_reserved) == 64);
    assert!(offset_of!(RawHeader, cluster_name) == 72);
};

/// Why bytes are not a bitmap that can be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BitmapError {
    /// Fewer bytes than the header, or than the bits it promises.
    #[error("the bitmap is cut short: {have} bytes, {need} needed")]
    Truncated {
        /// Bytes given.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// No bitmap here.
    #[error("no md bitmap here")]
    NoMagic,
    /// Host-endian, clustered or unknown.
    #[error("md bitmap version {version} (labsan reads version 4)")]
    BadVersion {
        /// As read.
        version: u32,
    },
    /// Of another array.
    #[error("the bitmap belongs to array {found}")]
    OtherArray {
        /// Whose it is.
        found: Uuid,
    },
    /// A field that no sane writer leaves.
    #[error("the bitmap makes no sense: {field} is {value}")]
    Nonsense {
        /// The kernel's name of the field.
        field: &'static str,
        /// As read.
        value: u64,
    },
}

/// The header of a bitmap, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapHeader {
    /// The array's UUID.
    pub array_uuid: Uuid,
    /// The superblock's `events` when this was written.
    pub events: u64,
    /// `events` when a bit was last cleared: a member at least this fresh may be re-added by the bitmap.
    pub events_cleared: u64,
    /// Sectors the bitmap covers.
    pub sync_size_sectors: u64,
    /// md's state bits; see [`BitmapHeader::is_stale`].
    pub state: u32,
    /// Bytes per bit: a power of two, at least 512.
    pub chunk_bytes: u32,
    /// Seconds between md's sweeps.
    pub daemon_sleep_s: u32,
    /// md's write-behind limit.
    pub write_behind: u32,
    /// Sectors reserved for header and bits; 0 if not said.
    pub sectors_reserved: u32,
}

impl BitmapHeader {
    /// A header for a fresh array: everything clean as of `events`, the finest chunk that fits the space.
    /// `None` if the range is empty or no chunk fits.
    #[must_use]
    pub fn new(array_uuid: Uuid, events: u64, sync_size_sectors: u64, space_bytes: u64) -> Option<Self> {
        Some(Self {
            array_uuid,
            events,
            events_cleared: events,
            sync_size_sectors,
            state: 0,
            chunk_bytes: chunk_bytes_for(sync_size_sectors, space_bytes)?,
            daemon_sleep_s: 5,
            write_behind: 0,
            sectors_reserved: u32::try_from(space_bytes / SECTOR_BYTES).ok()?,
        })
    }

    /// Check and read the first 256 bytes of an image.
    pub fn parse(bytes: &[u8], array_uuid: Uuid) -> Result<Self, BitmapError> {
        let Ok((raw, _)) = RawHeader::ref_from_prefix(bytes) else {
            return Err(BitmapError::Truncated { have: bytes.len() as u64, need: HEADER_BYTES as u64 });
        };
        if raw.magic.get() != MAGIC {
            return Err(BitmapError::NoMagic);
        }
        if raw.version.get() != VERSION || raw.nodes.get() != 0 {
            return Err(BitmapError::BadVersion { version: raw.version.get() });
        }
        let found = Uuid::from_bytes(raw.uuid);
        if found != array_uuid {
            return Err(BitmapError::OtherArray { found });
        }
        let chunk = raw.chunksize.get();
        if !chunk.is_power_of_two() || u64::from(chunk) < SECTOR_BYTES {
            return Err(BitmapError::Nonsense { field: "chunksize", value: chunk.into() });
        }
        // So that sizes in bytes fit a file offset.
        if raw.sync_size.get() == 0 || raw.sync_size.get() > i64::MAX as u64 / SECTOR_BYTES {
            return Err(BitmapError::Nonsense { field: "sync_size", value: raw.sync_size.get() });
        }
        Ok(Self {
            array_uuid: found,
            events: raw.events.get(),
            events_cleared: raw.events_cleared.get(),
            sync_size_sectors: raw.sync_size.get(),
            state: raw.state.get(),
            chunk_bytes: chunk,
            daemon_sleep_s: raw.daemon_sleep.get(),
            write_behind: raw.write_behind.get(),
            sectors_reserved: raw.sectors_reserved.get(),
        })
    }

    /// Whether the bits are of this array as it is: there is no checksum that would vouch for the sizes. One that is
    /// shorter than the array says nothing of the rest, and one that does not fit before the data cannot be read.
    #[must_use]
    pub fn covers(&self, superblock: &Superblock) -> bool {
        let Superblock { level, layout, raid_disks, size_sectors, .. } = *superblock;
        let Some(covered) = sync_size_sectors(level, layout, raid_disks, size_sectors) else { return false };
        // md rounds an array of mirrors down to whole chunks.
        let rounding = u64::from(superblock.chunk_sectors) * u64::from(raid_disks);
        let first = superblock.bitmap_offset_bytes().unwrap_or(0);
        let fits = first.saturating_add(self.image_bytes()) <= superblock.data_offset_bytes();
        self.sync_size_sectors <= covered && covered - self.sync_size_sectors <= rounding && fits
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let raw = RawHeader {
            magic: U32::new(MAGIC),
            version: U32::new(VERSION),
            uuid: self.array_uuid.into_bytes(),
            events: U64::new(self.events),
            events_cleared: U64::new(self.events_cleared),
            sync_size: U64::new(self.sync_size_sectors),
            state: U32::new(self.state),
            chunksize: U32::new(self.chunk_bytes),
            daemon_sleep: U32::new(self.daemon_sleep_s),
            write_behind: U32::new(self.write_behind),
            sectors_reserved: U32::new(self.sectors_reserved),
            nodes: U32::new(0),
            cluster_name: [0; 64],
            pad: [0; 120],
        };
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// The bits mean nothing (md could not keep them, or gave up on them): treat all as set.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.state & (STATE_STALE | STATE_WRITE_ERROR) != 0
    }

    /// How many bits count.
    #[must_use]
    pub fn bits(&self) -> u64 {
        self.sync_size_sectors.div_ceil(u64::from(self.chunk_bytes) / SECTOR_BYTES)
    }

    /// Bytes of header and bits, in whole sectors.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        (HEADER_BYTES as u64 + self.bits().div_ceil(8)).next_multiple_of(SECTOR_BYTES)
    }

    /// The bits that cover `sectors` of the sync range; what lies beyond the range has none.
    #[must_use]
    pub fn bits_of(&self, sectors: Range<u64>) -> Range<u64> {
        let per_bit = u64::from(self.chunk_bytes) / SECTOR_BYTES;
        let end = sectors.end.min(self.sync_size_sectors);
        if sectors.start >= end {
            return 0..0;
        }
        sectors.start / per_bit..end.div_ceil(per_bit)
    }

    /// The sectors of the sync range that `bit` covers.
    #[must_use]
    pub fn sectors_of(&self, bit: u64) -> Range<u64> {
        let per_bit = u64::from(self.chunk_bytes) / SECTOR_BYTES;
        let start = bit.saturating_mul(per_bit).min(self.sync_size_sectors);
        start..start.saturating_add(per_bit).min(self.sync_size_sectors)
    }
}

/// The sync range of an array in sectors: what md's bitmap covers. `None` if it overflows.
#[must_use]
pub fn sync_size_sectors(level: i32, layout: u32, raid_disks: u32, size_sectors: u64) -> Option<u64> {
    if level != 10 {
        return Some(size_sectors);
    }
    let copies = u64::from(layout & 0xff).max(1) * u64::from(layout >> 8 & 0xff).max(1);
    Some(size_sectors.checked_mul(raid_disks.into())? / copies)
}

/// The finest chunk (a power of two, at least 4 MiB) whose bits fit `space_bytes` with the header.
#[must_use]
pub fn chunk_bytes_for(sync_size_sectors: u64, space_bytes: u64) -> Option<u32> {
    let bits = space_bytes.checked_sub(HEADER_BYTES as u64)?.checked_mul(8)?;
    if sync_size_sectors == 0 {
        return None;
    }
    (MIN_CHUNK_BYTES.trailing_zeros()..u32::BITS)
        .map(|shift| 1u32 << shift)
        .find(|chunk| sync_size_sectors.div_ceil(u64::from(*chunk) / SECTOR_BYTES) <= bits)
}

/// The bits of an image, after its header. Bits that the image has no byte for read as set and cannot be
/// changed: a bitmap that is too short says "dirty".
#[derive(Debug)]
pub struct Bits<B>(B);

impl<B: AsRef<[u8]>> Bits<B> {
    /// The bits of a whole image (header included).
    pub fn of_image(image: B) -> Self {
        Self(image)
    }

    /// Whether a bit is set.
    #[must_use]
    pub fn get(&self, bit: u64) -> bool {
        let Some((byte, mask)) = place(bit) else { return true };
        self.0.as_ref().get(byte).is_none_or(|byte| byte & mask != 0)
    }

    /// Whether any bit of the range is set.
    #[must_use]
    pub fn any(&self, bits: Range<u64>) -> bool {
        self.set_in(bits).next().is_some()
    }

    /// The set bits of the range, in order. Costs a byte, not a bit, where none are set.
    pub fn set_in(&self, bits: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let mut next = bits.start;
        std::iter::from_fn(move || {
            while next < bits.end {
                let bit = next;
                if bit.is_multiple_of(8) && self.byte_is_zero(bit) {
                    next = bit.saturating_add(8);
                    continue;
                }
                next += 1;
                if self.get(bit) {
                    return Some(bit);
                }
            }
            None
        })
    }

    fn byte_is_zero(&self, bit: u64) -> bool {
        place(bit).and_then(|(byte, _)| self.0.as_ref().get(byte)).is_some_and(|byte| *byte == 0)
    }
}

impl<B: AsMut<[u8]> + AsRef<[u8]>> Bits<B> {
    /// Set (or clear) the bits of the range. Gives the bytes of the image that changed, to be written;
    /// empty if none did.
    pub fn put(&mut self, bits: Range<u64>, value: bool) -> Range<usize> {
        let mut changed: Option<Range<usize>> = None;
        let mut bit = bits.start;
        while bit < bits.end {
            let last = bits.end.min((bit - bit % 8).saturating_add(8));
            let mask = (bit..last).fold(0u8, |mask, bit| mask | 1 << (bit % 8));
            let Some((index, _)) = place(bit) else { break };
            let Some(byte) = self.0.as_mut().get_mut(index) else { break };
            let new = if value { *byte | mask } else { *byte & !mask };
            if new != *byte {
                *byte = new;
                changed = Some(changed.map_or(index, |range| range.start)..index + 1);
            }
            bit = last;
        }
        changed.unwrap_or(0..0)
    }
}

/// Byte of the image, and mask in it, of a bit.
fn place(bit: u64) -> Option<(usize, u8)> {
    let byte = usize::try_from(bit / 8).ok()?.checked_add(HEADER_BYTES)?;
    Some((byte, 1 << (bit % 8)))
}

#[cfg(test)]
mod tests;
