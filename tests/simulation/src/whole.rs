//! Writes that a power cut leaves as a whole or not at all.
//!
//! | state | how it is entered | leaves by |
//! |---|---|---|
//! | under way | it begins | its acknowledgement, or another write to its sectors: nothing is asked of it |
//! | cut | a power cut, if no other write to its sectors was at the same time | a read of one of its sectors: decided; another write: forgotten |
//! | decided | that read gave this write, or something else | a read that gives the contrary: a violation; another write: forgotten |

use crate::model::Place;
use crate::sector::{Sector, Write};

#[derive(Debug)]
struct Whole {
    write: u32,
    value: u64,
    place: Place,
    cut: bool,
    /// It is there.
    decided: Option<bool>,
}

/// Those that something may still be asked of.
#[derive(Debug, Default)]
pub(crate) struct Wholes(Vec<Whole>);

impl Wholes {
    pub(crate) fn begin(&mut self, write: u32, place: Place) {
        self.0.push(Whole { write, value: u64::from(write) + 1, place, cut: false, decided: None });
    }

    /// Another write goes there.
    pub(crate) fn overwritten(&mut self, place: Place) {
        let apart = |a: Place, b: Place| {
            a.volume != b.volume || a.sector >= b.sector + b.sectors || b.sector >= a.sector + a.sectors
        };
        self.0.retain(|whole| apart(whole.place, place));
    }

    /// Each of its sectors has to be there from now on, which is asked of every acknowledged write.
    pub(crate) fn acknowledged(&mut self, write: u32) {
        self.0.retain(|whole| whole.write != write);
    }

    /// The power went; `sectors` gives the state of a range.
    pub(crate) fn power_cut<'a>(&mut self, writes: &[Write], sectors: impl Fn(Place) -> &'a [Sector]) {
        self.0.retain_mut(|whole| {
            if whole.cut {
                return true;
            }
            let began = writes[whole.write as usize].began;
            let beside = sectors(whole.place).iter().flat_map(|sector| &sector.writes).any(|candidate| {
                candidate.write != whole.write && writes[candidate.write as usize].ended >= began
            });
            whole.cut = true;
            !beside
        });
    }

    /// A read gave this value. What it should have been, if one of them is there in part.
    pub(crate) fn contradicts(&mut self, volume: usize, sector: u64, value: u64) -> Option<String> {
        let here = |place: Place| {
            place.volume == volume && (place.sector..place.sector + place.sectors).contains(&sector)
        };
        let whole = self.0.iter_mut().find(|whole| whole.cut && here(whole.place))?;
        let there = value == whole.value;
        let decided = *whole.decided.get_or_insert(there);
        let name = format!("write {}", whole.value);
        (decided != there)
            .then(|| if decided { format!("{name}, all of it") } else { format!("none of {name}") })
    }
}
