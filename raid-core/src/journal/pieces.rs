//! Journalled data of one stripe, by place. Later pieces lie over earlier ones, which are cut back: what is kept is
//! disjoint. Each piece carries a mark: the commit it came with, or the number of its write.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// Parts of a range: few.
pub(crate) type Ranges = SmallVec<[Range<u32>; 2]>;

#[derive(Clone, Debug)]
struct Piece {
    data: Bytes,
    mark: u64,
}

/// Disjoint pieces by their first byte in the stripe's user data.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pieces {
    map: BTreeMap<u32, Piece>,
}

impl Pieces {
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The pieces, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Bytes)> {
        self.map.iter().map(|(&start, piece)| (start, &piece.data))
    }

    /// Bytes there are.
    pub(crate) fn bytes(&self) -> u64 {
        self.map.values().map(|piece| piece.data.len() as u64).sum()
    }

    /// Put a piece over whatever is there.
    pub(crate) fn insert(&mut self, start: u32, data: Bytes, mark: u64) {
        let range = start..start + data.len() as u32;
        if range.is_empty() {
            return;
        }
        for (at, piece) in self.take_touched(&range) {
            let end = at + piece.data.len() as u32;
            if at < range.start {
                let data = piece.data.slice(..(range.start - at) as usize);
                self.map.insert(at, Piece { data, mark: piece.mark });
            }
            if end > range.end {
                let data = piece.data.slice((range.end - at) as usize..);
                self.map.insert(range.end, Piece { data, mark: piece.mark });
            }
        }
        self.map.insert(start, Piece { data, mark });
    }

    fn take_touched(&mut self, range: &Range<u32>) -> SmallVec<[(u32, Piece); 4]> {
        let touched: SmallVec<[u32; 4]> = self.touching(range).map(|(start, _)| start).collect();
        touched.into_iter().filter_map(|start| Some((start, self.map.remove(&start)?))).collect()
    }

    fn touching<'a>(&'a self, range: &Range<u32>) -> impl Iterator<Item = (u32, &'a Piece)> + use<'a> {
        // The one that begins before the range may reach into it.
        let first = self.map.range(..range.start).next_back();
        let first = first.filter(|(start, piece)| *start + piece.data.len() as u32 > range.start);
        first.into_iter().chain(self.map.range(range.clone())).map(|(&start, piece)| (start, piece))
    }

    /// Forget what carries this mark.
    pub(crate) fn forget(&mut self, mark: u64) {
        self.map.retain(|_, piece| piece.mark != mark);
    }

    /// Collect what is there of `wanted`; gives the parts that are not.
    pub(crate) fn find(&self, wanted: &[Range<u32>], found: &mut SmallVec<[(u32, Bytes); 2]>) -> Ranges {
        let mut gaps = Ranges::new();
        for range in wanted {
            let mut at = range.start;
            for (start, piece) in self.touching(range) {
                let (from, to) = (start.max(range.start), (start + piece.data.len() as u32).min(range.end));
                if at < from {
                    gaps.push(at..from);
                }
                found.push((from, piece.data.slice((from - start) as usize..(to - start) as usize)));
                at = to;
            }
            if at < range.end {
                gaps.push(at..range.end);
            }
        }
        gaps
    }
}
