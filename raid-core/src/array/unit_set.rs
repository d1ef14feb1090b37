//! A sparse set of units: of those that are in it most have neighbours in it.

use std::collections::BTreeMap;
use std::ops::Range;

const WORDS: usize = 8;
const PER_BLOCK: u64 = 64 * WORDS as u64;

type Block = [u64; WORDS];

/// A bit per unit, in blocks of 512 that are there only while they are not empty.
#[derive(Debug, Default)]
pub(crate) struct UnitSet {
    blocks: BTreeMap<u64, Block>,
}

impl UnitSet {
    pub(crate) fn contains(&self, unit: u64) -> bool {
        let bit = unit % PER_BLOCK;
        let block = self.blocks.get(&(unit / PER_BLOCK));
        block.is_some_and(|block| block[(bit / 64) as usize] & 1 << (bit % 64) != 0)
    }

    pub(crate) fn insert(&mut self, units: Range<u64>) {
        for number in blocks_of(&units) {
            let block = self.blocks.entry(number).or_default();
            for (word, mask) in block.iter_mut().zip(mask(number, &units)) {
                *word |= mask;
            }
        }
    }

    pub(crate) fn remove(&mut self, units: Range<u64>) {
        let mut empty = Vec::new();
        for (&number, block) in self.blocks.range_mut(blocks_of(&units)) {
            for (word, mask) in block.iter_mut().zip(mask(number, &units)) {
                *word &= !mask;
            }
            if *block == Block::default() {
                empty.push(number);
            }
        }
        for number in empty {
            self.blocks.remove(&number);
        }
    }
}

fn blocks_of(units: &Range<u64>) -> Range<u64> {
    let first = units.start / PER_BLOCK;
    first..units.end.div_ceil(PER_BLOCK).max(first)
}

/// The bits of a block that stand for these units.
fn mask(number: u64, units: &Range<u64>) -> Block {
    std::array::from_fn(|word| {
        let first = number * PER_BLOCK + word as u64 * 64;
        let start = units.start.clamp(first, first + 64) - first;
        let end = units.end.clamp(first, first + 64) - first;
        let below = |bit: u64| if bit == 64 { u64::MAX } else { (1 << bit) - 1 };
        below(end) & !below(start)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_and_not_taken_out(
            steps in prop::collection::vec((any::<bool>(), 0..2000_u64, 0..1100_u64), 1..20)
        ) {
            let (mut set, mut model) = (UnitSet::default(), BTreeSet::new());
            for (put, start, length) in steps {
                let units = start..start + length;
                if put {
                    set.insert(units.clone());
                    model.extend(units);
                } else {
                    set.remove(units.clone());
                    model.retain(|unit| !units.contains(unit));
                }
                for unit in 0..3200 {
                    prop_assert_eq!(set.contains(unit), model.contains(&unit), "{}", unit);
                }
            }
            set.remove(0..u64::MAX);
            prop_assert!(set.blocks.is_empty());
        }
    }
}
