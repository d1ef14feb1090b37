//! Which bytes of a sequence are here, when they may come in any order (DataPDUInOrder=No, RFC 7143 section 13.18)?
//!
//! Invariant: the pieces are sorted, none is empty, and no two overlap or touch.

use smallvec::SmallVec;

/// Pieces with gaps between them that one sequence may have at a time: each costs memory, and initiators that scatter data so
/// have no reason to.
const MAX_PIECES: usize = 256;

/// A piece that was here already, or one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit;

/// Ranges of bytes.
#[derive(Clone, Debug, Default)]
pub struct Pieces(SmallVec<[(u32, u32); 4]>);

impl Pieces {
    /// Take in the bytes from `start` to `end`.
    pub fn insert(&mut self, start: u32, end: u32) -> Result<(), Unfit> {
        if start >= end {
            return Ok(());
        }
        let at = self.0.partition_point(|(_, before)| *before <= start);
        // The one before ends at `start` or earlier.
        let touches_before = at > 0 && self.0[at - 1].1 == start;
        let touches_after = match self.0.get(at) {
            Some((after, _)) if *after < end => return Err(Unfit),
            Some((after, _)) => *after == end,
            None => false,
        };
        match (touches_before, touches_after) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = end,
            (false, true) => self.0[at].0 = start,
            (false, false) if self.0.len() == MAX_PIECES => return Err(Unfit),
            (false, false) => self.0.insert(at, (start, end)),
        }
        Ok(())
    }

    /// Where the bytes from `start` on end, if there are no others and no gap.
    pub fn whole_from(&self, start: u32) -> Option<u32> {
        match self.0.as_slice() {
            [] => Some(start),
            [(first, end)] if *first == start => Some(*end),
            _ => None,
        }
    }

    /// Forget all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_are_seen_and_closed() {
        let mut pieces = Pieces::default();
        assert_eq!(pieces.whole_from(10), Some(10));
        pieces.insert(30, 40).unwrap();
        assert_eq!(pieces.whole_from(10), None);
        pieces.insert(10, 20).unwrap();
        assert_eq!(pieces.whole_from(10), None);
        pieces.insert(20, 30).unwrap();
        assert_eq!((pieces.whole_from(10), pieces.whole_from(0)), (Some(40), None));
    }

    #[test]
    fn what_is_here_does_not_come_again() {
        let mut pieces = Pieces::default();
        pieces.insert(10, 20).unwrap();
        for (start, end) in [(10, 20), (12, 13), (5, 11), (19, 30), (0, 40)] {
            assert_eq!(pieces.insert(start, end), Err(Unfit), "{start}..{end}");
        }
        assert_eq!(pieces.insert(15, 15), Ok(()), "nothing overlaps nothing");
        assert_eq!(pieces.whole_from(10), Some(20));
    }

    #[test]
    fn scattered_pieces_have_a_limit() {
        let mut pieces = Pieces::default();
        let taken = (0..1000).take_while(|at| pieces.insert(at * 4, at * 4 + 1).is_ok()).count();
        assert_eq!(taken, MAX_PIECES);
    }

    proptest! {
        /// Against a set of bytes.
        #[test]
        fn as_a_set_of_bytes_would_have_it(ranges in prop::collection::vec((0u32..64, 0u32..16), 0..40)) {
            let (mut pieces, mut model) = (Pieces::default(), std::collections::BTreeSet::new());
            for (start, length) in ranges {
                let range = start..start + length;
                let free = range.clone().all(|byte| !model.contains(&byte));
                prop_assert_eq!(pieces.insert(range.start, range.end).is_ok(), free);
                if free {
                    model.extend(range);
                }
            }
            let first = model.first().copied().unwrap_or(0);
            let end = first + model.len() as u32;
            let whole = model.iter().copied().eq(first..end);
            prop_assert_eq!(pieces.whole_from(first), whole.then_some(end));
        }
    }
}
