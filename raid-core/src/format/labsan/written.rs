//! Which regions of a member's data were ever written? Rebuild and scrub skip the rest: it is zeros.
//!
//! The map is pages of 4 KiB, each with its own envelope (its number, the map's generation, a CRC32) and
//! 32,256 bits. A page that does not verify, or carries another generation, means "all of it may have been
//! written": losing the map costs time, never data. A bit is durable before the first write in its region, and
//! is cleared only after the region's zeros are flushed.

use std::ops::Range;

use uuid::Uuid;

use super::{ENVELOPE_BYTES, Kind, LabsanError};
use crate::format::{PAGE_BYTES, Page};

const KIND: Kind = Kind { magic: *b"LABSANWM", version: 1 };
/// Bytes of bits in a page.
const BODY_BYTES: usize = PAGE_BYTES - ENVELOPE_BYTES;
/// Bits in a page.
pub const BITS_PER_PAGE: u64 = BODY_BYTES as u64 * 8;
/// The finest region; no chunk is larger.
pub const MIN_REGION_BYTES: u64 = 1 << 20;

/// The finest region (a power of two, at least 1 MiB) at which the map of so much data fits.
#[must_use]
pub fn region_bytes_for(data_bytes: u64, map_bytes: u64) -> u64 {
    let bits = (map_bytes / PAGE_BYTES as u64).saturating_mul(BITS_PER_PAGE).max(1);
    data_bytes.div_ceil(bits).max(MIN_REGION_BYTES).checked_next_power_of_two().unwrap_or(1 << 63)
}

/// Bytes that the map of so much data takes.
#[must_use]
pub fn map_bytes(data_bytes: u64, region_bytes: u64) -> u64 {
    data_bytes.div_ceil(region_bytes.max(1)).div_ceil(BITS_PER_PAGE).saturating_mul(PAGE_BYTES as u64)
}

/// A member's copy of the map, unverified.
#[derive(Clone, Debug)]
pub struct MapCopy {
    /// The bytes of its region.
    pub image: Vec<u8>,
    /// The generation that its pages must carry: its header's.
    pub generation: u64,
    /// What its bits stand for: its header's.
    pub region_bytes: u64,
}

/// The written map in memory: a bit per region of the component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenMap {
    array_uuid: Uuid,
    generation: u64,
    region_bytes: u64,
    regions: u64,
    /// `BODY_BYTES` for each page.
    bits: Vec<u8>,
}

impl WrittenMap {
    /// A map for so much data. `written`: all bits set ("may have been written"), else none.
    /// `region_bytes` is the header's, a power of two.
    #[must_use]
    pub fn new(array_uuid: Uuid, generation: u64, region_bytes: u64, data_bytes: u64, written: bool) -> Self {
        let regions = data_bytes.div_ceil(region_bytes.max(1));
        let pages = regions.div_ceil(BITS_PER_PAGE) as usize;
        let fill = if written { 0xff } else { 0 };
        Self { array_uuid, generation, region_bytes, regions, bits: vec![fill; pages * BODY_BYTES] }
    }

    /// Read a map from its region's bytes. Pages that do not verify read as written; their numbers are given,
    /// with the reason, so that they can be reported and written anew.
    #[must_use]
    pub fn parse(
        image: &[u8],
        array_uuid: Uuid,
        generation: u64,
        region_bytes: u64,
        data_bytes: u64,
    ) -> (Self, Vec<(usize, LabsanError)>) {
        let mut map = Self::new(array_uuid, generation, region_bytes, data_bytes, true);
        let mut damaged = Vec::new();
        for (number, body) in map.bits.chunks_exact_mut(BODY_BYTES).enumerate() {
            let start = number * PAGE_BYTES;
            match page_body(image.get(start..start + PAGE_BYTES), array_uuid, generation, number) {
                Ok(found) => body.copy_from_slice(found),
                Err(error) => damaged.push((number, error)),
            }
        }
        (map, damaged)
    }

    /// The map that several members' copies make together: what any of them calls written is. Of each page one copy that
    /// verifies is enough; where there is none, all of it is written.
    #[must_use]
    pub fn union<'a>(self, copies: impl IntoIterator<Item = &'a MapCopy>) -> Self {
        let mut map = self;
        map.bits.fill(0);
        let mut found = vec![false; map.pages()];
        for copy in copies.into_iter().filter(|copy| copy.region_bytes == map.region_bytes) {
            let pages = map.bits.chunks_exact_mut(BODY_BYTES).zip(&mut found).enumerate();
            for (number, (bits, found)) in pages {
                let start = number * PAGE_BYTES;
                let page = copy.image.get(start..start + PAGE_BYTES);
                let Ok(body) = page_body(page, map.array_uuid, copy.generation, number) else { continue };
                *found = true;
                bits.iter_mut().zip(body).for_each(|(bits, more)| *bits |= more);
            }
        }
        for (bits, _) in map.bits.chunks_exact_mut(BODY_BYTES).zip(found).filter(|(_, found)| !found) {
            bits.fill(0xff);
        }
        map
    }

    /// What its pages carry.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Pages of the map.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.bits.len() / BODY_BYTES
    }

    /// Regions that the map covers.
    #[must_use]
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// Bytes per region.
    #[must_use]
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    /// The regions that a run of data bytes touches.
    #[must_use]
    pub fn regions_of(&self, bytes: &Range<u64>) -> Range<u64> {
        if bytes.is_empty() {
            return 0..0;
        }
        bytes.start / self.region_bytes..bytes.end.div_ceil(self.region_bytes)
    }

    /// Whether a region may have been written. True beyond the end.
    #[must_use]
    pub fn is_written(&self, region: u64) -> bool {
        let byte = usize::try_from(region / 8).ok().and_then(|byte| self.bits.get(byte));
        byte.is_none_or(|byte| byte & 1 << (region % 8) != 0)
    }

    /// The number of the page that has a region's bit.
    #[must_use]
    pub fn page_of(region: u64) -> usize {
        (region / BITS_PER_PAGE) as usize
    }

    /// Set (or clear) regions. Gives the numbers of the pages that changed, to be encoded and written.
    pub fn put(&mut self, regions: Range<u64>, written: bool) -> Vec<usize> {
        let mut changed = Vec::new();
        for region in regions.start..regions.end.min(self.regions) {
            if self.is_written(region) == written {
                continue;
            }
            let byte = (region / 8) as usize;
            self.bits[byte] ^= 1 << (region % 8);
            let page = byte / BODY_BYTES;
            if changed.last() != Some(&page) {
                changed.push(page);
            }
        }
        changed
    }

    /// The page of this number, to be written at that place of the map's region. `None` beyond the end.
    #[must_use]
    pub fn encode_page(&self, number: usize) -> Option<Page> {
        let body = self.bits.chunks_exact(BODY_BYTES).nth(number)?;
        let index = u32::try_from(number).ok()?;
        let bytes = KIND.seal(self.array_uuid, self.generation, index, body, PAGE_BYTES).ok()?;
        Page::try_from(bytes).ok()
    }
}

fn page_body(
    page: Option<&[u8]>,
    array_uuid: Uuid,
    generation: u64,
    number: usize,
) -> Result<&[u8], LabsanError> {
    let page = page.ok_or(LabsanError::Truncated { have: 0, need: PAGE_BYTES })?;
    let sealed = KIND.open(page, array_uuid)?;
    if sealed.generation != generation {
        return Err(LabsanError::Nonsense { field: "generation", value: sealed.generation });
    }
    if sealed.index as usize != number {
        return Err(LabsanError::Nonsense { field: "index", value: sealed.index.into() });
    }
    if sealed.body.len() != BODY_BYTES {
        return Err(LabsanError::Truncated { have: sealed.body.len(), need: BODY_BYTES });
    }
    Ok(sealed.body)
}
