//! When is an initiator told that space runs short? Logical block provisioning thresholds (SBC-3 clause 4.7.3.8) and their mode
//! page (1Ch/02h).
//!
//! Two resources are counted in threshold sets: what can still be mapped, by whomever (01h), and what is mapped in this unit
//! (02h). Each has one soft threshold; its count is the centre of a range of one set:
//!
//! | resource | is told once, when the resource comes to | can be told again once it has come |
//! |---|---|---|
//! | available, decreasing | the count or below | above the upper end of the range |
//! | used, increasing | the count or above | below the lower end of the range |
//!
//! Without any MODE SELECT the first one is enabled where `LuOptions::thin_warning_percent` says so, and looks only while the
//! space is really overcommitted: a unit that will be given all it can ask for has nothing to warn of. Where whoever set a
//! threshold asked for it, it is taken at its word.

use super::logical_unit::State;
use super::mode::Control;
use super::{LogicalUnit, Nexus, Sense};

/// LBA mapping resources of a unit whose blocks are given space as they are written, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingResources {
    /// What can be mapped beside all that is, here or in other units that share the space.
    pub available_bytes: u64,
    /// What is mapped in this unit.
    pub used_bytes: u64,
    /// Less is left than may be asked for.
    pub overcommitted: bool,
}

/// The grain of thresholds where a unit is not too large for it: small beside any unit that has one.
const THRESHOLD_SET_BYTES: u64 = 1 << 20;

/// Where the descriptors of the available and of the used resource stand in the mode page.
const DESCRIPTORS: [usize; 2] = [16, 24];
const PAGE_BYTES: usize = 32;
const SINGLE_NEXUS: u8 = 0x01;
const ENABLED: u8 = 0x80;
/// THRESHOLD ARMING and THRESHOLD RESOURCE: for each resource there is one arming that means anything. THRESHOLD TYPE is soft, 0.
const KINDS: [[u8; 2]; 2] = [[0x00, 0x01], [0x01, 0x02]];

/// THRESHOLD EXPONENT of VPD page B2h for a unit of so many blocks: the log2 of a set's blocks. The sets of a unit can be counted
/// in 32 bits (SBC-3).
pub(crate) fn threshold_exponent(blocks: u64, block_bytes: u32) -> u8 {
    let smallest = (THRESHOLD_SET_BYTES / u64::from(block_bytes.max(1))).max(2).ilog2();
    let counted = u64::BITS - blocks.leading_zeros();
    smallest.max(counted.saturating_sub(u32::BITS)) as u8
}

/// A descriptor's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Threshold {
    enabled: bool,
    count: u32,
}

/// What the mode page says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thresholds {
    /// SITUA: one nexus is told, and not all.
    single: bool,
    /// Of the available and of the used resource.
    each: [Threshold; 2],
}

impl Thresholds {
    /// What holds without any MODE SELECT: a warning when no more than so much of a unit of this size can still be mapped. 0 per
    /// cent: none.
    pub(crate) fn by_default(percent: u8, size_bytes: u64, set_bytes: u64) -> Self {
        let warned_at = u128::from(size_bytes) * u128::from(percent) / 100 / u128::from(set_bytes.max(1));
        let count = if percent == 0 { 0 } else { u32::try_from(warned_at).unwrap_or(u32::MAX).max(1) };
        Self { single: false, each: [Threshold { enabled: percent > 0, count }, Threshold::default()] }
    }

    /// The mode page with its header.
    pub(crate) fn page(self, control: Control) -> Vec<u8> {
        let changeable = control == Control::Changeable;
        let mut bytes = vec![0; PAGE_BYTES];
        bytes[..4].copy_from_slice(&[0x5c, 0x02, 0, PAGE_BYTES as u8 - 4]);
        bytes[4] = if changeable || self.single { SINGLE_NEXUS } else { 0 };
        for ((at, kind), threshold) in DESCRIPTORS.into_iter().zip(KINDS).zip(self.each) {
            if !changeable {
                bytes[at..at + 2].copy_from_slice(&kind);
            }
            bytes[at] |= if changeable || threshold.enabled { ENABLED } else { 0 };
            let count = if changeable { u32::MAX } else { threshold.count };
            bytes[at + 4..at + 8].copy_from_slice(&count.to_be_bytes());
        }
        bytes
    }

    /// What a page says in which nothing is changed that cannot be.
    pub(crate) fn of_page(page: &[u8]) -> Option<Self> {
        let threshold = |at: usize| {
            let count = page.get(at + 4..at + 8)?.try_into().ok()?;
            Some(Threshold { enabled: page[at] & ENABLED != 0, count: u32::from_be_bytes(count) })
        };
        let each = [threshold(DESCRIPTORS[0])?, threshold(DESCRIPTORS[1])?];
        Some(Self { single: page[4] & SINGLE_NEXUS != 0, each })
    }
}

/// What a unit remembers of its space.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// As it was measured last. None: all of its blocks have their space.
    pub(crate) resources: Option<MappingResources>,
    /// Thresholds that were reached and not left since.
    told: [bool; 2],
    /// Who set the thresholds: told alone, where one is.
    set_by: Option<Nexus>,
}

impl Watch {
    /// Which thresholds have just been reached. `standing`: nobody has set them.
    fn reached(&mut self, thresholds: Thresholds, standing: bool, set_bytes: u64) -> [bool; 2] {
        let Some(resources) = self.resources else {
            self.told = [false; 2];
            return [false; 2];
        };
        let plenty = standing && !resources.overcommitted;
        let available = if plenty { u64::MAX } else { resources.available_bytes };
        let centre = |threshold: Threshold| u64::from(threshold.count).saturating_mul(set_bytes);
        let (low, high) = (centre(thresholds.each[0]), centre(thresholds.each[1]));
        let half = set_bytes / 2;
        let [decreasing, increasing] = thresholds.each.map(|threshold| threshold.enabled);
        let used = resources.used_bytes;
        [
            crossing(&mut self.told[0], decreasing, available <= low, available > low.saturating_add(half)),
            crossing(&mut self.told[1], increasing, used >= high, used < high.saturating_sub(half)),
        ]
    }

    /// Somebody has set other thresholds: what changed is armed.
    fn set(&mut self, by: &Nexus, old: Thresholds, new: Thresholds) {
        for (told, (old, new)) in self.told.iter_mut().zip(old.each.into_iter().zip(new.each)) {
            *told &= old == new;
        }
        self.set_by = Some(by.clone());
    }
}

/// One step of a threshold. True if this is to be told.
fn crossing(told: &mut bool, enabled: bool, reached: bool, left: bool) -> bool {
    if enabled && reached {
        return !std::mem::replace(told, true);
    }
    *told &= enabled && !left;
    false
}

impl State {
    /// The thresholds that hold, if those by default are these.
    fn thresholds(&self, by_default: Thresholds) -> Thresholds {
        self.mode.thresholds.unwrap_or(by_default)
    }

    /// The default values hold again.
    pub(super) fn reset_thresholds(&mut self) {
        if self.mode.thresholds.take().is_some() {
            self.thin = Watch { resources: self.thin.resources, ..Watch::default() };
        }
    }

    /// A MODE SELECT has set thresholds. `old` were in force, `by_default` are where none are set.
    pub(super) fn thresholds_set(&mut self, by: &Nexus, old: Option<Thresholds>, by_default: Thresholds) {
        let new = self.thresholds(by_default);
        if self.mode.thresholds != old {
            self.thin.set(by, old.unwrap_or(by_default), new);
        }
    }

    /// Tell what has been reached. True if there is something to be told.
    pub(super) fn watch_thresholds(&mut self, by_default: Thresholds, set_bytes: u64) -> bool {
        let (thresholds, standing) = (self.thresholds(by_default), self.mode.thresholds.is_none());
        let reached = self.thin.reached(thresholds, standing, set_bytes);
        for (at, _) in DESCRIPTORS.into_iter().zip(reached).filter(|(_, reached)| *reached) {
            // INFORMATION is where the threshold's descriptor stands in the mode page.
            let sense = Sense { information: Some(at as u64), ..Sense::SOFT_THRESHOLD };
            match self.the_one().filter(|_| thresholds.single) {
                Some(nexus) => self.attentions.tell(&nexus, sense),
                None => self.attentions.raise(sense, None),
            }
        }
        reached.contains(&true)
    }

    /// The nexus that is told where one is: who set the thresholds, else the first by name.
    fn the_one(&self) -> Option<Nexus> {
        let set_by = self.attentions.nexuses().find(|nexus| Some(*nexus) == self.thin.set_by.as_ref());
        let key = |nexus: &&Nexus| (nexus.initiator_name.clone(), nexus.isid, nexus.target_name.clone());
        set_by.or_else(|| self.attentions.nexuses().min_by_key(key)).cloned()
    }
}

impl LogicalUnit {
    /// Its space was measured. None: all of its blocks have theirs, and there is nothing to watch. Whoever is logged in is told
    /// what has come to a threshold, and of pages that come or go.
    pub fn resources_measured(&self, resources: Option<MappingResources>) {
        let mut state = self.state();
        let was_thin = std::mem::replace(&mut state.thin.resources, resources).is_some();
        if was_thin != resources.is_some() {
            state.attentions.raise(Sense::INQUIRY_CHANGED, None);
            self.make_exceptional();
        }
        self.watch(&mut state);
    }

    /// Its blocks are given space as they are written.
    pub fn is_thin(&self) -> bool {
        self.state().thin.resources.is_some()
    }

    /// Look at the thresholds.
    pub(super) fn watch(&self, state: &mut State) {
        let (by_default, set_bytes) = self.default_thresholds();
        if state.watch_thresholds(by_default, set_bytes) {
            self.make_exceptional();
        }
    }

    /// What holds until somebody sets others, and the bytes of a threshold set.
    pub(super) fn default_thresholds(&self) -> (Thresholds, u64) {
        let info = self.device().info();
        let blocks = info.size_bytes / u64::from(info.logical_block_bytes.max(1));
        let exponent = threshold_exponent(blocks, info.logical_block_bytes);
        let set_bytes = u64::from(info.logical_block_bytes) << exponent;
        let percent = self.options().thin_warning_percent;
        (Thresholds::by_default(percent, info.size_bytes, set_bytes), set_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SET: u64 = 1 << 20;

    #[test]
    fn the_sets_of_any_unit_can_be_counted() {
        assert_eq!(threshold_exponent(2048, 512), 11, "1 MiB");
        assert_eq!(threshold_exponent(2048, 4096), 8);
        assert_eq!(threshold_exponent((1 << 43) - 1, 512), 11);
        assert_eq!(threshold_exponent(1 << 43, 512), 12);
        assert_eq!(threshold_exponent(u64::MAX, 512), 32);
    }

    #[test]
    fn the_default_is_a_share_of_the_unit() {
        let counts = |percent, size| {
            let [available, used] = Thresholds::by_default(percent, size, SET).each;
            assert_eq!(used, Threshold::default());
            (available.enabled, available.count)
        };
        assert_eq!(counts(20, 1000 * SET), (true, 200));
        assert_eq!(counts(20, SET), (true, 1), "one set at least");
        assert_eq!(counts(0, 1000 * SET), (false, 0));
    }

    /// What is told of the available and of the used resource over time, `standing` as in [`Watch::reached`].
    fn told(thresholds: Thresholds, standing: bool, steps: &[(u64, u64, bool)]) -> Vec<[bool; 2]> {
        let mut watch = Watch::default();
        let step = |(available_bytes, used_bytes, overcommitted): &(u64, u64, bool)| {
            watch.resources = Some(MappingResources {
                available_bytes: *available_bytes,
                used_bytes: *used_bytes,
                overcommitted: *overcommitted,
            });
            watch.reached(thresholds, standing, SET)
        };
        steps.iter().map(step).collect()
    }

    const BOTH: Thresholds = Thresholds {
        single: false,
        each: [Threshold { enabled: true, count: 10 }, Threshold { enabled: true, count: 20 }],
    };

    #[test]
    fn a_default_looks_only_while_space_is_overcommitted() {
        let steps = [(5 * SET, 0, false), (5 * SET, 0, true), (5 * SET, 0, false), (4 * SET, 0, true)];
        let decreasing = |standing| -> Vec<bool> {
            told(BOTH, standing, &steps).into_iter().map(|[available, _]| available).collect()
        };
        assert_eq!(decreasing(true), [false, true, false, true]);
        assert_eq!(decreasing(false), [true, false, false, false], "who asked for it is told");
    }

    #[test]
    fn the_ends_of_the_range_are_its_own() {
        let steps = |values: [u64; 4]| values.map(|value| (value, value, true));
        let low = [10 * SET + 1, 10 * SET, 10 * SET + SET / 2, 10 * SET];
        let available: Vec<bool> = told(BOTH, false, &steps(low)).iter().map(|told| told[0]).collect();
        assert_eq!(available, [false, true, false, false], "the range was not left");
        let high = [20 * SET - 1, 20 * SET, 20 * SET - SET / 2, 20 * SET];
        let used: Vec<bool> = told(BOTH, false, &steps(high)).iter().map(|told| told[1]).collect();
        assert_eq!(used, [false, true, false, false]);
    }

    proptest! {
        /// Whatever the resources do: each time one comes to its threshold from beyond the other end of the range it is told, then
        /// and at no other time.
        #[test]
        fn every_crossing_is_told_exactly_once(
            steps in prop::collection::vec((0u64..30, 0u64..30, any::<bool>()), 1..60),
        ) {
            let steps: Vec<_> = steps.iter().map(|(a, u, o)| (a * SET / 2 + 5 * SET, u * SET / 2 + 10 * SET, *o)).collect();
            let said = told(BOTH, false, &steps);
            // Another way to say it: a crossing is a step to the threshold, such that the last step that was at the threshold or out of
            // the range on the other side was out of it, or there was none.
            for (now, said) in said.iter().enumerate() {
                let (available, used, _) = steps[now];
                let before = |decided: fn(&(u64, u64, bool)) -> Option<bool>| {
                    steps[..now].iter().rev().find_map(decided).unwrap_or(false)
                };
                let was_low = before(|(a, ..)| if *a <= 10 * SET { Some(true) } else { (*a > 10 * SET + SET / 2).then_some(false) });
                let was_high = before(|(_, u, _)| if *u >= 20 * SET { Some(true) } else { (*u < 20 * SET - SET / 2).then_some(false) });
                prop_assert_eq!(said[0], available <= 10 * SET && !was_low, "available, step {}", now);
                prop_assert_eq!(said[1], used >= 20 * SET && !was_high, "used, step {}", now);
            }
        }
    }
}
