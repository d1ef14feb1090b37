//! Where on the array does a volume lie? A pure allocator of stripe-aligned extents.
//!
//! First fit from the lowest free gap, in as few extents as possible. Nothing is kept but the volumes'
//! own extents: what no volume holds is free, so the two can never disagree.

use crate::format::labsan::Extent;

/// Why there is no place for a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked_bytes} bytes were asked for and {free_bytes} are free")]
pub struct NoRoom {
    /// Bytes asked for, rounded up to whole stripes.
    pub asked_bytes: u64,
    /// Bytes no volume holds.
    pub free_bytes: u64,
}

/// The gaps between `taken` extents in `0..size_bytes`, ascending.
pub(crate) fn free_gaps(size_bytes: u64, taken: &[Extent]) -> Vec<Extent> {
    let mut taken: Vec<Extent> = taken.to_vec();
    taken.sort_by_key(|extent| extent.start);
    let mut gaps = Vec::new();
    let mut at = 0;
    for extent in taken {
        if extent.start > at {
            gaps.push(Extent { start: at, len: extent.start - at });
        }
        at = at.max(extent.start + extent.len);
    }
    if size_bytes > at {
        gaps.push(Extent { start: at, len: size_bytes - at });
    }
    gaps
}

/// Extents for `length_bytes` more, in whole units of `alignment_bytes`; one extent if any gap holds it all.
pub(crate) fn allocate(
    size_bytes: u64,
    alignment_bytes: u64,
    taken: &[Extent],
    length_bytes: u64,
) -> Result<Vec<Extent>, NoRoom> {
    let gaps = free_gaps(size_bytes / alignment_bytes * alignment_bytes, taken);
    let free_bytes = gaps.iter().map(|gap| gap.len).sum();
    let asked_bytes = length_bytes.checked_next_multiple_of(alignment_bytes).unwrap_or(u64::MAX);
    if asked_bytes > free_bytes {
        return Err(NoRoom { asked_bytes, free_bytes });
    }
    if let Some(gap) = gaps.iter().find(|gap| gap.len >= asked_bytes) {
        return Ok(vec![Extent { start: gap.start, len: asked_bytes }]);
    }
    let mut rest = asked_bytes;
    let mut extents = Vec::new();
    for gap in gaps {
        let length_bytes = gap.len.min(rest);
        extents.push(Extent { start: gap.start, len: length_bytes });
        rest -= length_bytes;
        if rest == 0 {
            break;
        }
    }
    Ok(extents)
}

/// In whole units of `coarse_bytes` if there is room for that, else of `fine_bytes`, of which the others are multiples.
pub(crate) fn allocate_coarsely(
    size_bytes: u64,
    coarse_bytes: u64,
    fine_bytes: u64,
    taken: &[Extent],
    length_bytes: u64,
) -> Result<Vec<Extent>, NoRoom> {
    allocate(size_bytes, coarse_bytes, taken, length_bytes)
        .or_else(|_| allocate(size_bytes, fine_bytes, taken, length_bytes))
}

/// Join extents that follow each other without a gap, keeping the order of the volume's bytes.
pub(crate) fn coalesce(extents: Vec<Extent>) -> Vec<Extent> {
    let mut joined: Vec<Extent> = Vec::with_capacity(extents.len());
    for extent in extents {
        match joined.last_mut() {
            Some(last) if last.start + last.len == extent.start => {
                last.len += extent.len;
            }
            _ => joined.push(extent),
        }
    }
    joined
}

/// The first `length_bytes` of a volume's extents, for shrinking.
pub(crate) fn truncate(extents: &[Extent], length_bytes: u64) -> Vec<Extent> {
    let mut rest = length_bytes;
    let mut kept = Vec::new();
    for extent in extents {
        if rest == 0 {
            break;
        }
        let length_bytes = extent.len.min(rest);
        kept.push(Extent { start: extent.start, len: length_bytes });
        rest -= length_bytes;
    }
    kept
}

/// The pieces of the array that hold `offset..offset + length` of a volume: (array offset, length), in order.
/// Empty if the extents do not cover the range.
pub(crate) fn locate(extents: &[Extent], offset: u64, length: u64) -> Vec<(u64, u64)> {
    let (mut skip, mut rest) = (offset, length);
    let mut pieces = Vec::with_capacity(1);
    for extent in extents {
        if skip >= extent.len {
            skip -= extent.len;
            continue;
        }
        let piece = (extent.len - skip).min(rest);
        pieces.push((extent.start + skip, piece));
        rest -= piece;
        skip = 0;
        if rest == 0 {
            return pieces;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(start: u64, len: u64) -> Extent {
        Extent { start, len }
    }

    #[test]
    fn one_gap_that_holds_all_is_preferred() {
        let taken = [extent(10, 10), extent(30, 10)];
        assert_eq!(allocate(100, 10, &taken, 20).unwrap(), [extent(40, 20)]);
        assert_eq!(allocate(100, 10, &taken, 75).unwrap(), [extent(0, 10), extent(20, 10), extent(40, 60)]);
        assert_eq!(allocate(100, 10, &taken, 81), Err(NoRoom { asked_bytes: 90, free_bytes: 80 }));
        assert_eq!(allocate(105, 10, &[], u64::MAX), Err(NoRoom { asked_bytes: u64::MAX, free_bytes: 100 }));
    }

    #[test]
    fn a_coarse_unit_is_not_asked_for_where_little_is_left() {
        let taken = [extent(0, 10)];
        assert_eq!(allocate_coarsely(25, 5, 1, &taken, 6), Ok(vec![extent(10, 10)]));
        assert_eq!(allocate_coarsely(23, 5, 1, &taken, 12), Ok(vec![extent(10, 12)]));
        let none = NoRoom { asked_bytes: 14, free_bytes: 13 };
        assert_eq!(allocate_coarsely(23, 5, 1, &taken, 14), Err(none));
    }

    #[test]
    fn locate_crosses_extents_and_refuses_the_uncovered() {
        let extents = [extent(100, 10), extent(50, 20)];
        assert_eq!(locate(&extents, 5, 10), [(105, 5), (50, 5)]);
        assert_eq!(locate(&extents, 10, 20), [(50, 20)]);
        assert_eq!(locate(&extents, 25, 6), []);
    }

    proptest! {
        #[test]
        fn allocations_never_overlap_and_locate_is_their_inverse(sizes in prop::collection::vec(1u64..40, 1..12)) {
            let mut taken: Vec<Extent> = Vec::new();
            for (index, size) in sizes.iter().enumerate() {
                let Ok(new) = allocate(320, 8, &taken, *size) else { continue };
                prop_assert_eq!(new.iter().map(|e| e.len).sum::<u64>(), size.next_multiple_of(8));
                let whole = locate(&new, 0, size.next_multiple_of(8));
                prop_assert_eq!(whole, new.iter().map(|e| (e.start, e.len)).collect::<Vec<_>>());
                taken.extend(new);
                if index % 3 == 2 { taken.swap_remove(0); }
                let mut bytes = vec![false; 320];
                for e in &taken {
                    prop_assert!(e.start % 8 == 0 && e.start + e.len <= 320);
                    for b in e.start..e.start + e.len {
                        prop_assert!(!std::mem::replace(&mut bytes[b as usize], true));
                    }
                }
            }
        }
    }
}
