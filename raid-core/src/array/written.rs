//! Which regions of the members' data were ever written? In memory, and what of it is durable.
//!
//! A region that is not written is zeros on every member in sync, so parity and copies agree there. Its bit is durable on every
//! active member before the first write in place that may leave anything else than zeros; it is cleared only by who holds every
//! unit of the region, after zeros were written there and flushed.
//!
//! | bit | in memory | on the members | leaves by |
//! |---|---|---|---|
//! | clear | not set, not wanted | 0 | `want`: wanted |
//! | wanted | not set, a writer waits | 0 or 1 | a commit: set |
//! | set | set | 1 | `forget`: clear in memory first, then on the members |
//!
//! Whoever writes looks at `set` only: one load, no lock. What writes the map to the members is `written_io`.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::core::lock;
use crate::format::Page;
use crate::format::labsan::written::WrittenMap;

/// The map of a running array.
#[derive(Debug)]
pub(crate) struct WrittenRegions {
    generation: u64,
    region_bytes: u64,
    regions: u64,
    /// A bit for each region: durably set.
    set: Box<[AtomicU64]>,
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    /// What the members' pages say, or are about to.
    map: WrittenMap,
    /// Regions that writers wait for.
    wanted: BTreeSet<u64>,
}

/// A page of the map: its number and its bytes.
pub(crate) type MapPage = (usize, Page);

impl WrittenRegions {
    /// What this map says counts as durable.
    pub(crate) fn new(map: WrittenMap) -> Self {
        let regions = map.regions();
        let word = |index: u64| {
            let bits = index * 64..(index * 64 + 64).min(regions);
            bits.filter(|bit| map.is_written(*bit)).fold(0, |word, bit| word | 1 << (bit % 64))
        };
        Self {
            generation: map.generation(),
            region_bytes: map.region_bytes(),
            regions,
            set: (0..regions.div_ceil(64)).map(|index| AtomicU64::new(word(index))).collect(),
            pages: Mutex::new(Pages { map, wanted: BTreeSet::new() }),
        }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn region_bytes(&self) -> u64 {
        self.region_bytes
    }

    fn is_set(&self, region: u64) -> bool {
        let word = self.set.get((region / 64) as usize);
        word.is_none_or(|word| word.load(Ordering::Acquire) & 1 << (region % 64) != 0)
    }

    /// Regions that these bytes of the members touch.
    pub(crate) fn touched(&self, bytes: &Range<u64>) -> Range<u64> {
        if bytes.is_empty() {
            return 0..0;
        }
        bytes.start / self.region_bytes..bytes.end.div_ceil(self.region_bytes).min(self.regions)
    }

    /// Regions that lie wholly in these bytes; the last one may end before its last byte.
    pub(crate) fn inside(&self, bytes: &Range<u64>, member_bytes: u64) -> Range<u64> {
        let start = bytes.start.div_ceil(self.region_bytes);
        let end = if bytes.end >= member_bytes { self.regions } else { bytes.end / self.region_bytes };
        start..end.max(start)
    }

    /// The bytes of a run of regions.
    pub(crate) fn bytes_of(&self, regions: &Range<u64>) -> Range<u64> {
        regions.start * self.region_bytes..regions.end * self.region_bytes
    }

    /// All of them may have been written, durably so.
    pub(crate) fn all_set(&self, mut regions: Range<u64>) -> bool {
        regions.all(|region| self.is_set(region))
    }

    /// The first region at or after the start of `regions` that is set (or is not); its end if there is none.
    pub(crate) fn first(&self, regions: Range<u64>, set: bool) -> u64 {
        let mut region = regions.start;
        while region < regions.end {
            let Some(word) = self.set.get((region / 64) as usize) else { break };
            let word = word.load(Ordering::Acquire);
            let wanted = if set { word } else { !word };
            let candidates = wanted & u64::MAX << (region % 64);
            if candidates != 0 {
                return (region / 64 * 64 + u64::from(candidates.trailing_zeros())).min(regions.end);
            }
            region = (region / 64 + 1) * 64;
        }
        regions.end
    }

    /// How many of them are set.
    pub(crate) fn count(&self, regions: Range<u64>) -> u64 {
        let mut count = 0;
        let mut region = regions.start;
        while region < regions.end {
            let next = ((region / 64 + 1) * 64).min(regions.end);
            let Some(word) = self.set.get((region / 64) as usize) else { break };
            let mask = u64::MAX << (region % 64) & u64::MAX >> (63 - (next - 1) % 64);
            count += u64::from((word.load(Ordering::Acquire) & mask).count_ones());
            region = next;
        }
        count
    }

    /// A writer waits for these.
    pub(crate) fn want(&self, regions: Range<u64>) {
        lock(&self.pages).wanted.extend(regions.filter(|region| !self.is_set(*region)));
    }

    /// Everything that is wanted by now, and the pages that say so.
    pub(crate) fn begin_commit(&self) -> (BTreeSet<u64>, Vec<MapPage>) {
        let mut pages = lock(&self.pages);
        let wanted = std::mem::take(&mut pages.wanted);
        for region in &wanted {
            pages.map.put(*region..region + 1, true);
        }
        // Not only pages that changed: a commit that failed may have left it to this one to write them.
        let numbers: BTreeSet<usize> = wanted.iter().map(|region| WrittenMap::page_of(*region)).collect();
        (wanted, pages.encode(numbers))
    }

    /// The pages are durable on every active member: these may be written in place.
    pub(crate) fn commit(&self, regions: &BTreeSet<u64>) {
        for region in regions {
            if let Some(word) = self.set.get((region / 64) as usize) {
                word.fetch_or(1 << (region % 64), Ordering::AcqRel);
            }
        }
    }

    /// These are zeros again. From now on a writer waits for a commit; the pages that say so are still to be written.
    pub(crate) fn forget(&self, regions: Range<u64>) -> Vec<MapPage> {
        for region in regions.clone() {
            if let Some(word) = self.set.get((region / 64) as usize) {
                word.fetch_and(!(1 << (region % 64)), Ordering::AcqRel);
            }
        }
        let mut pages = lock(&self.pages);
        let changed = pages.map.put(regions, false);
        pages.encode(changed)
    }

    /// Nothing is known: all of it may have been written.
    pub(crate) fn set_all(&self) {
        let mut pages = lock(&self.pages);
        pages.map.put(0..self.regions, true);
        self.set.iter().for_each(|word| word.store(u64::MAX, Ordering::Release));
    }

    /// All pages.
    pub(crate) fn all_pages(&self) -> Vec<MapPage> {
        let pages = lock(&self.pages);
        pages.encode(0..pages.map.pages())
    }
}

impl Pages {
    fn encode(&self, numbers: impl IntoIterator<Item = usize>) -> Vec<MapPage> {
        let page = |number| Some((number, self.map.encode_page(number)?));
        numbers.into_iter().filter_map(page).collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const REGION: u64 = 1 << 20;

    fn regions(count: u64) -> WrittenRegions {
        WrittenRegions::new(WrittenMap::new(Uuid::nil(), 1, REGION, count * REGION, false))
    }

    #[test]
    fn a_region_counts_only_once_its_commit_is_durable() {
        let map = regions(200);
        map.want(63..66);
        assert!(!map.all_set(63..64), "wanted is not durable");
        let (wanted, pages) = map.begin_commit();
        assert_eq!((wanted.iter().copied().collect::<Vec<_>>(), pages.len()), (vec![63, 64, 65], 1));
        assert!(!map.all_set(63..64), "nor is what is being written");
        assert_eq!(map.begin_commit().1.len(), 0);
        map.commit(&wanted);
        assert!(map.all_set(63..66) && !map.all_set(62..66) && !map.all_set(63..67));
        map.want(63..66);
        assert!(map.begin_commit().0.is_empty(), "who finds it set wants nothing");
        assert_eq!(map.forget(64..65).len(), 1);
        assert!(!map.all_set(63..66) && map.all_set(65..66));
    }

    #[test]
    fn a_commit_that_failed_is_written_again_by_the_next() {
        let map = regions(8);
        map.want(3..4);
        let _ = map.begin_commit();
        map.want(3..4);
        let (wanted, pages) = map.begin_commit();
        assert_eq!((wanted.len(), pages.len()), (1, 1), "though the page did not change");
    }

    #[test]
    fn runs_and_counts_are_those_of_single_bits() {
        let map = regions(300);
        let bits = [0, 1, 63, 64, 130, 131, 132, 255, 299];
        map.commit(&bits.into_iter().collect());
        for start in 0..=300 {
            let expected = bits.into_iter().find(|bit| *bit >= start).unwrap_or(300);
            assert_eq!(map.first(start..300, true), expected);
            let expected = (start..300).find(|bit| !bits.contains(bit)).unwrap_or(300);
            assert_eq!(map.first(start..300, false), expected);
            for end in start..=300 {
                let within = |bit: &&u64| (start..end).contains(*bit);
                assert_eq!(map.count(start..end), bits.iter().filter(within).count() as u64);
            }
        }
        map.set_all();
        assert_eq!(map.count(0..300), 300);
    }

    #[test]
    fn only_regions_that_lie_wholly_inside_are_forgotten() {
        let map = regions(10);
        let member = 9 * REGION + 4096;
        assert_eq!(map.inside(&(1..3 * REGION), member), 1..3);
        assert_eq!(map.inside(&(0..3 * REGION - 1), member), 0..2);
        assert_eq!(map.inside(&(5..6), member), 1..1);
        assert_eq!(map.inside(&(9 * REGION..member), member), 9..10, "the last one ends early");
        assert_eq!(map.touched(&(REGION - 1..REGION + 1)), 0..2);
        assert_eq!(map.touched(&(7..7)), 0..0);
    }
}
