//! Which blocks can nobody know any more? (`docs/crash-consistency.md`, recovery.)
//!
//! The same list is on every member. An entry names a run of the array's data space; it reads as an error until
//! it is rewritten. The list is durable before the journal record that it replaces is freed, and an entry goes
//! only after the new block and its parity are flushed. Two copies, written in turn.

use std::ops::Range;

use uuid::Uuid;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ENVELOPE_BYTES, Kind, LabsanError, Side, newest};
use crate::format::layout::LOST_BYTES;

const KIND: Kind = Kind { magic: *b"LABSANLB", version: 1 };
/// The most ranges a list can hold. Beyond it nothing may be dropped: the array must not be served.
pub const MAX_RANGES: usize = (LOST_BYTES as usize - ENVELOPE_BYTES) / size_of::<RawRange>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRange {
    start: U64,
    len: U64,
}

const _: () = assert!(size_of::<RawRange>() == 16);

/// A list of lost bytes of the array's data space: sorted, disjoint, not touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LostBlocks {
    /// Counts the updates.
    pub generation: u64,
    ranges: Vec<Range<u64>>,
}

impl LostBlocks {
    /// The ranges, sorted and disjoint.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Whether any byte of `bytes` is lost.
    #[must_use]
    pub fn touches(&self, bytes: &Range<u64>) -> bool {
        let first = self.ranges.partition_point(|range| range.end <= bytes.start);
        !bytes.is_empty() && self.ranges.get(first).is_some_and(|range| range.start < bytes.end)
    }

    /// Take everything out.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Add a run.
    pub fn insert(&mut self, bytes: Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        // Everything from the first that ends at or after our start to the last that starts at or before our end.
        let from = self.ranges.partition_point(|range| range.end < bytes.start);
        let to = self.ranges.partition_point(|range| range.start <= bytes.end).max(from);
        let start = self.ranges[from..to].first().map_or(bytes.start, |range| range.start.min(bytes.start));
        let end = self.ranges[from..to].last().map_or(bytes.end, |range| range.end.max(bytes.end));
        self.ranges.splice(from..to, std::iter::once(start..end));
    }

    /// Take a run out: it was rewritten.
    pub fn remove(&mut self, bytes: &Range<u64>) {
        if bytes.is_empty() {
            return;
        }
        let from = self.ranges.partition_point(|range| range.end <= bytes.start);
        let to = self.ranges.partition_point(|range| range.start < bytes.end).max(from);
        let left = self.ranges[from..to].first().map(|range| range.start..bytes.start);
        let right = self.ranges[from..to].last().map(|range| bytes.end..range.end);
        let kept: Vec<_> = left.into_iter().chain(right).filter(|range| !range.is_empty()).collect();
        self.ranges.splice(from..to, kept);
    }

    /// The bytes of a copy, in whole pages. Refuses a list that does not fit.
    pub fn encode(&self, array_uuid: Uuid) -> Result<Vec<u8>, LabsanError> {
        let body: Vec<u8> = self
            .ranges
            .iter()
            .flat_map(|range| {
                let raw = RawRange { start: U64::new(range.start), len: U64::new(range.end - range.start) };
                <[u8; 16]>::try_from(raw.as_bytes()).unwrap_or_default()
            })
            .collect();
        KIND.seal(array_uuid, self.generation, 0, &body, LOST_BYTES as usize)
    }

    /// A copy as a newer labsan may write it.
    #[cfg(test)]
    pub(crate) fn newer_copy(array_uuid: Uuid, generation: u64) -> Result<Vec<u8>, LabsanError> {
        Kind { version: KIND.version + 1, ..KIND }.seal(array_uuid, generation, 0, &[], LOST_BYTES as usize)
    }

    /// Check and read one copy.
    pub fn parse(bytes: &[u8], array_uuid: Uuid) -> Result<Self, LabsanError> {
        let sealed = KIND.open(bytes, array_uuid)?;
        let Ok(raw) = <[RawRange]>::ref_from_bytes(sealed.body) else {
            return Err(LabsanError::Nonsense { field: "length", value: sealed.body.len() as u64 });
        };
        let mut list = Self { generation: sealed.generation, ranges: Vec::new() };
        for range in raw {
            let (start, len) = (range.start.get(), range.len.get());
            let end = start.checked_add(len).filter(|_| len != 0);
            list.insert(start..end.ok_or(LabsanError::Nonsense { field: "len", value: len })?);
        }
        Ok(list)
    }

    /// Of the two copies the newest valid one, and which it is; the next update goes to the other.
    pub fn choose(a: &[u8], b: &[u8], array_uuid: Uuid) -> Result<(Side, Self), LabsanError> {
        newest(Self::parse(a, array_uuid), Self::parse(b, array_uuid), |list| list.generation)
    }
}
