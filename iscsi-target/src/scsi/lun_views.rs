//! Which LUN is which unit, and for whom? Pure, but for the units it holds.
//!
//! A target has one map that all initiators see, and maps of single initiators. Who has a map of its own sees that and
//! nothing else, also while it is empty: an initiator that lost its last LUN must not find other disks under old numbers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::LogicalUnit;

/// Units by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    units: BTreeMap<u16, Arc<LogicalUnit>>,
    /// Numbers that meant another unit before, to those who were logged in then.
    former: BTreeSet<u16>,
}

impl Numbers {
    pub(super) fn unit(&self, lun: u16) -> Option<&Arc<LogicalUnit>> {
        self.units.get(&lun)
    }

    pub(super) fn units(&self) -> Vec<(u16, Arc<LogicalUnit>)> {
        self.units.iter().map(|(lun, unit)| (*lun, Arc::clone(unit))).collect()
    }

    /// Is one of these units, or another view of one, here?
    pub(super) fn holds_any(&self, units: &[Arc<LogicalUnit>]) -> bool {
        self.units.values().any(|unit| units.iter().any(|other| unit.is_view_of(other)))
    }

    /// Does every number mean what it means there?
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.units.len() == other.units.len()
            && self.units.iter().all(|(lun, unit)| other.unit(*lun).is_some_and(|own| Arc::ptr_eq(own, unit)))
    }

    /// Put a unit in. True if its number meant another one before.
    pub(super) fn insert(&mut self, lun: u16, unit: Arc<LogicalUnit>) -> bool {
        self.units.insert(lun, unit);
        self.former.remove(&lun)
    }

    pub(super) fn remove(&mut self, lun: u16) -> Option<Arc<LogicalUnit>> {
        let removed = self.units.remove(&lun)?;
        self.former.insert(lun);
        Some(removed)
    }

    /// An empty map for somebody who knew these numbers.
    fn emptied(&self) -> Self {
        let former = self.units.keys().chain(&self.former).copied().collect();
        Self { units: BTreeMap::new(), former }
    }
}

/// All maps of a target.
#[derive(Debug, Default)]
pub(super) struct Views {
    common: Numbers,
    /// By the initiators' names, in lower case.
    own: HashMap<String, Numbers>,
}

fn folded(initiator: &str) -> Cow<'_, str> {
    match initiator.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(initiator.to_ascii_lowercase()),
        false => Cow::Borrowed(initiator),
    }
}

impl Views {
    /// What an initiator sees.
    pub(super) fn of(&self, initiator: &str) -> &Numbers {
        // The usual case asks for no names.
        if self.own.is_empty() {
            return &self.common;
        }
        self.own.get(&*folded(initiator)).unwrap_or(&self.common)
    }

    /// The map of an initiator, or the common one.
    pub(super) fn map(&self, whose: Option<&str>) -> Option<&Numbers> {
        match whose {
            None => Some(&self.common),
            Some(initiator) => self.own.get(&*folded(initiator)),
        }
    }

    /// The same, to be changed.
    pub(super) fn map_mut(&mut self, whose: Option<&str>) -> Option<&mut Numbers> {
        match whose {
            None => Some(&mut self.common),
            Some(initiator) => self.own.get_mut(&*folded(initiator)),
        }
    }

    /// Is this map the one that the initiator sees?
    pub(super) fn is_seen_by(&self, whose: Option<&str>, initiator: &str) -> bool {
        match whose {
            None => !self.is_masked(initiator),
            Some(name) => name.eq_ignore_ascii_case(initiator),
        }
    }

    pub(super) fn is_masked(&self, initiator: &str) -> bool {
        !self.own.is_empty() && self.own.contains_key(&*folded(initiator))
    }

    /// Give an initiator an empty map of its own.
    pub(super) fn mask(&mut self, initiator: &str) {
        let emptied = self.common.emptied();
        self.own.entry(folded(initiator).into_owned()).or_insert(emptied);
    }

    /// Let an initiator see the common map again; what it saw before.
    pub(super) fn unmask(&mut self, initiator: &str) -> Option<Numbers> {
        self.own.remove(&*folded(initiator))
    }

    /// Every number of every map, and its unit.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<LogicalUnit>> {
        self.own.values().chain([&self.common]).flat_map(|numbers| numbers.units.values())
    }
}
