//! Which blocks of a member does md know to be unreadable? (The bad-block log, `super_1_load`.)
//!
//! On disk: little-endian 64-bit entries, `sector << 10 | length`, in units of `1 << shift` sectors; an entry
//! of all ones ends the list and fills the rest. Sectors count from the start of the *device*, not of its data
//! (`rdev_set_badblocks` adds `data_offset`). A length is at most 512 (`BB_MAX_LEN`).
//!
//! The log has no checksum. It is trusted only because the superblock that points to it is checked.

use std::ops::Range;

use thiserror::Error;

/// Bytes of an entry.
const ENTRY_BYTES: usize = 8;
/// `BB_MAX_LEN`.
const MAX_LENGTH: u64 = 512;
/// Sectors fit 54 bits.
const MAX_BAD_SECTOR: u64 = (1 << 54) - 1;
/// What ends the list.
const END: u64 = u64::MAX;

/// Why a list cannot be read or written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BadBlocksError {
    /// More ranges than the log has entries: the member has to be failed, as md does.
    #[error("{needed} bad-block entries do not fit the log's {room}")]
    Full {
        /// Entries needed.
        needed: usize,
        /// Entries there are.
        room: usize,
    },
    /// An entry of no length, or beyond what can be addressed.
    #[error("entry {index} of the bad-block log makes no sense: {raw:#018x}")]
    Nonsense {
        /// Which entry.
        index: usize,
        /// As read, or the sector that cannot be written down.
        raw: u64,
    },
}

/// Read a log: device sectors, sorted, overlaps joined. `shift` is the superblock's `bblog_shift`.
pub fn parse(log: &[u8], shift: u8) -> Result<Vec<Range<u64>>, BadBlocksError> {
    let mut ranges = Vec::new();
    for (index, entry) in log.chunks_exact(ENTRY_BYTES).enumerate() {
        let mut raw = [0; ENTRY_BYTES];
        raw.copy_from_slice(entry);
        let raw = u64::from_le_bytes(raw);
        if raw == END {
            break;
        }
        let bad = BadBlocksError::Nonsense { index, raw };
        let (unit, length) = (raw >> 10, raw & 0x3ff);
        if length == 0 || length > MAX_LENGTH || shift > 16 {
            return Err(bad);
        }
        // 54 and 16 bits: cannot overflow a shift that is checked both ways.
        let scaled = |value: u64| value.checked_shl(shift.into()).filter(|scaled| scaled >> shift == value);
        let start = scaled(unit).ok_or(bad.clone())?;
        let end = scaled(length).and_then(|length| start.checked_add(length)).ok_or(bad)?;
        ranges.push(start..end);
    }
    Ok(join(ranges))
}

/// The log's bytes for these device sectors (shift 0), filled up to `log_bytes`.
pub fn encode(ranges: &[Range<u64>], log_bytes: usize) -> Result<Vec<u8>, BadBlocksError> {
    let room = log_bytes / ENTRY_BYTES;
    let mut bytes = vec![0xff; log_bytes];
    let mut needed = 0;
    for range in join(ranges.to_vec()) {
        if range.end > MAX_BAD_SECTOR {
            return Err(BadBlocksError::Nonsense { index: needed, raw: range.end });
        }
        let mut start = range.start;
        while start < range.end {
            let length = (range.end - start).min(MAX_LENGTH);
            if let Some(entry) = bytes.get_mut(needed * ENTRY_BYTES..(needed + 1) * ENTRY_BYTES) {
                entry.copy_from_slice(&(start << 10 | length).to_le_bytes());
            } else if needed > room.saturating_mul(2) {
                // Far beyond the room: the exact number no longer matters, the time to count it would.
                return Err(BadBlocksError::Full { needed, room });
            }
            needed += 1;
            start += length;
        }
    }
    if needed > room { Err(BadBlocksError::Full { needed, room }) } else { Ok(bytes) }
}

/// Sorted, empty ranges dropped, overlapping and touching ones joined.
fn join(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(range: Range<u64>) -> Vec<Range<u64>> {
        std::iter::once(range).collect()
    }

    #[test]
    fn an_entry_has_the_kernels_bits() {
        let log = encode(&one(2048..2056), 4096).unwrap();
        assert_eq!(log[..8], (2048u64 << 10 | 8).to_le_bytes());
        assert!(log[8..].iter().all(|byte| *byte == 0xff));
        assert_eq!(parse(&log, 0).unwrap(), one(2048..2056));
    }

    #[test]
    fn long_ranges_are_split_and_joined_again() {
        let log = encode(&[5000..6500, 100..104, 102..110], 4096).unwrap();
        assert_eq!(log.chunks(8).take_while(|entry| *entry != [0xff; 8]).count(), 4);
        assert_eq!(parse(&log, 0).unwrap(), vec![100..110, 5000..6500]);
    }

    #[test]
    fn a_shifted_log_counts_in_its_own_unit() {
        let log = encode(&one(4..6), 512).unwrap();
        assert_eq!(parse(&log, 3).unwrap(), one(32..48));
    }

    #[test]
    fn a_full_log_is_said_not_cut() {
        let ranges: Vec<_> = (0..513u64).map(|n| n * 10..n * 10 + 1).collect();
        assert_eq!(encode(&ranges, 4096), Err(BadBlocksError::Full { needed: 513, room: 512 }));
        assert!(encode(&ranges[..512], 4096).is_ok());
        let endless = [0..MAX_BAD_SECTOR, 0..1];
        assert!(matches!(encode(&endless, 4096), Err(BadBlocksError::Full { .. })));
    }

    #[test]
    fn nonsense_is_named() {
        let bytes = |raw: u64| raw.to_le_bytes();
        assert!(matches!(parse(&bytes(7 << 10), 0), Err(BadBlocksError::Nonsense { index: 0, .. })));
        assert!(matches!(parse(&bytes(7 << 10 | 513), 0), Err(BadBlocksError::Nonsense { .. })));
        assert!(matches!(parse(&bytes(MAX_BAD_SECTOR << 10 | 1), 16), Err(BadBlocksError::Nonsense { .. })));
        assert!(matches!(encode(&[0..1, u64::MAX - 1..u64::MAX], 64), Err(BadBlocksError::Nonsense { .. })));
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(raw in prop::collection::vec((0u64..1 << 50, 1u64..2000), 0..40)) {
            let ranges: Vec<_> = raw.into_iter().map(|(start, length)| start..start + length).collect();
            let log = encode(&ranges, 4096).unwrap();
            prop_assert_eq!(parse(&log, 0).unwrap(), join(ranges));
        }

        #[test]
        fn hostile_bytes_never_panic(log in prop::collection::vec(any::<u8>(), 0..200), shift in any::<u8>()) {
            let _ = parse(&log, shift);
        }
    }
}
