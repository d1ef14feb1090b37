//! Who plays which role? An immutable snapshot of the member table; every change makes a new one.
//!
//! A change is first made durable in the superblocks (`metadata`), then published here. So nobody acts on
//! a role that a crash could take back.
//!
//! | slot | is read | is written | becomes |
//! |---|---|---|---|
//! | `InSync` | yes | yes | `Missing` when failed |
//! | `Rebuilding` | below its position | below its position | `InSync` at the end; `Missing` when failed |
//! | `Missing` | no | no | `Rebuilding` when a spare takes it |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::member::Member;
use crate::geometry::{MemberIndex, MemberSet};

/// How far a rebuild has come.
#[derive(Debug)]
pub(crate) struct RebuildPosition {
    /// Units below it are in sync on the rebuilt member.
    reached: AtomicU64,
    /// Units below it are durably so: what a superblock may say.
    flushed: AtomicU64,
}

impl RebuildPosition {
    pub(crate) fn new(unit: u64) -> Arc<Self> {
        Arc::new(Self { reached: AtomicU64::new(unit), flushed: AtomicU64::new(unit) })
    }

    pub(crate) fn get(&self) -> u64 {
        self.reached.load(Ordering::Acquire)
    }

    /// Called while holding every unit that is passed.
    pub(crate) fn advance(&self, unit: u64) {
        self.reached.store(unit, Ordering::Release);
    }

    pub(crate) fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// The member was flushed after `unit` had been reached.
    pub(crate) fn set_flushed(&self, unit: u64) {
        self.flushed.store(unit, Ordering::Release);
    }
}

/// One role of the array.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    InSync(Arc<Member>),
    Rebuilding(Arc<Member>, Arc<RebuildPosition>),
    Missing,
}

impl Slot {
    pub(crate) fn member(&self) -> Option<&Arc<Member>> {
        match self {
            Self::InSync(member) | Self::Rebuilding(member, _) => Some(member),
            Self::Missing => None,
        }
    }

    /// The member, if it holds (or is to be given) the truth about this unit.
    pub(crate) fn usable(&self, unit: u64) -> Option<&Arc<Member>> {
        match self {
            Self::InSync(member) => Some(member),
            Self::Rebuilding(member, position) if unit < position.get() => Some(member),
            Self::Rebuilding(..) | Self::Missing => None,
        }
    }
}

/// A device that was taken out, kept for `status` until it is removed.
#[derive(Clone, Debug)]
pub(crate) struct FailedMember {
    pub(crate) slot: Option<u16>,
    pub(crate) member: Arc<Member>,
    pub(crate) reason: String,
}

/// The snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemberTable {
    pub(crate) slots: Vec<Slot>,
    pub(crate) spares: Vec<Arc<Member>>,
    pub(crate) failed: Vec<FailedMember>,
    /// Why slots that were never filled since the start are missing (a stale member that was found).
    pub(crate) stale: Vec<(Option<u16>, PathBuf, String)>,
}

impl MemberTable {
    /// Slots that cannot be used for this unit.
    pub(crate) fn missing(&self, unit: u64) -> MemberSet {
        self.set_where(|slot| slot.usable(unit).is_none())
    }

    /// Slots that are not wholly in sync.
    pub(crate) fn not_in_sync(&self) -> MemberSet {
        self.set_where(|slot| !matches!(slot, Slot::InSync(_)))
    }

    fn set_where(&self, wanted: impl Fn(&Slot) -> bool) -> MemberSet {
        let mut set = MemberSet::new();
        for (index, slot) in self.slots.iter().enumerate() {
            if wanted(slot) {
                set.insert(MemberIndex(index as u16));
            }
        }
        set
    }

    pub(crate) fn usable(&self, index: MemberIndex, unit: u64) -> Option<&Arc<Member>> {
        self.slots.get(usize::from(index.0)).and_then(|slot| slot.usable(unit))
    }

    /// Members that hold roles: in sync or rebuilding.
    pub(crate) fn active(&self) -> impl Iterator<Item = (u16, &Arc<Member>)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index as u16, slot.member()?)))
    }

    /// Members whose metadata is kept current: active ones and spares.
    pub(crate) fn current(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.active().map(|(_, member)| member).chain(&self.spares)
    }

    pub(crate) fn slot_of(&self, number: u16) -> Option<u16> {
        self.active().find(|(_, member)| member.number == number).map(|(slot, _)| slot)
    }

    /// The slot being rebuilt, if any.
    pub(crate) fn rebuilding(&self) -> Option<(u16, Arc<Member>, Arc<RebuildPosition>)> {
        self.slots.iter().enumerate().find_map(|(index, slot)| match slot {
            Slot::Rebuilding(member, position) => {
                Some((index as u16, Arc::clone(member), Arc::clone(position)))
            }
            _ => None,
        })
    }

    pub(crate) fn first_missing(&self) -> Option<u16> {
        self.slots.iter().position(|slot| matches!(slot, Slot::Missing)).map(|index| index as u16)
    }

    /// The table without this member in its role; `None` if it has none.
    pub(crate) fn with_failed(&self, number: u16, reason: &str) -> Option<Self> {
        let mut table = self.clone();
        let (slot, member) = match self.slot_of(number) {
            Some(slot) => {
                let member = table.slots[usize::from(slot)].member().cloned()?;
                table.slots[usize::from(slot)] = Slot::Missing;
                (Some(slot), member)
            }
            None => {
                let at = table.spares.iter().position(|spare| spare.number == number)?;
                (None, table.spares.remove(at))
            }
        };
        table.failed.push(FailedMember { slot, member, reason: reason.to_owned() });
        Some(table)
    }

    /// Find a device by the path it was opened by.
    pub(crate) fn find(&self, path: &Path) -> Option<&Arc<Member>> {
        self.current()
            .chain(self.failed.iter().map(|failed| &failed.member))
            .find(|member| member.path == path)
    }
}
