//! Does the space run short that thin members are still to be given? Measured at an interval, never in the data path.
//!
//! | array | becomes | told by |
//! |---|---|---|
//! | has enough | short, where it is overcommitted and no more than `thin_warning` of its size can be mapped | event `SpaceLow`; `status` |
//! | is short | has enough, where it is overcommitted no more, or a hundredth of its size above that | event `SpaceRestored` |
//!
//! Initiators are told by thresholds of their own unit, for which `iscsi_target` is given what was measured here. An array whose
//! members had all their space when it was started counts as thin from when it is overcommitted: holes that discards leave are
//! no matter while there is room to fill them again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block_io::BlockDevice;
use iscsi_target::scsi::MappingResources;
use labsan_api::Size;
use raid_core::array::{Array, ArraySpace, ThinMember};
use raid_core::volume::Volume;
use uuid::Uuid;

use crate::events::News;
use crate::limits::SPACE_INTERVAL;
use crate::state::Daemon;

/// How thin arrays fare, by their identity.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    known: Mutex<BTreeMap<Uuid, Known>>,
    /// Held by whoever measures, so that nothing older is told after something newer.
    measuring: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Known {
    space: ArraySpace,
    is_short: bool,
}

/// An array that space runs short for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// User data that can still be mapped.
    pub(crate) available_bytes: u64,
    /// A member in the file system that is full first.
    pub(crate) first_full: PathBuf,
}

impl Spaces {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Uuid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be told of an array, if space runs short for it.
    pub(crate) fn shortage(&self, array: Uuid) -> Option<Shortage> {
        let known = self.known().get(&array).filter(|known| known.is_short)?.clone();
        let ArraySpace { available_bytes, first_full, .. } = known.space;
        Some(Shortage { available_bytes, first_full })
    }

    /// What a unit over this volume is to know, as it was measured last. None where its array is not thin.
    pub(crate) fn resources(&self, array: Uuid, volume: &Volume) -> Option<MappingResources> {
        let ArraySpace { available_bytes, overcommitted, .. } = self.known().get(&array)?.space;
        Some(MappingResources { available_bytes, used_bytes: volume.mapped_bytes(), overcommitted })
    }

    /// Take in what was measured. Gives what is to be told.
    fn take_in(&self, array: &Array, name: &str, space: Option<ArraySpace>, percent: u8) -> Option<News> {
        let (uuid, info) = (array.uuid(), array.info());
        let mut known = self.known();
        let before = known.get(&uuid);
        let space = space.filter(|space| info.thin || space.overcommitted || before.is_some());
        let was_short = before.is_some_and(|before| before.is_short);
        let Some(space) = space else {
            known.remove(&uuid);
            return was_short.then(|| restored(name));
        };
        let is_short = is_short(was_short, &space, info.size_bytes, percent);
        let news = match (was_short, is_short) {
            (false, true) => Some(low(name, &space)),
            (true, false) => Some(restored(name)),
            _ => None,
        };
        known.insert(uuid, Known { space, is_short });
        news
    }
}

fn is_short(was_short: bool, space: &ArraySpace, size_bytes: u64, percent: u8) -> bool {
    let share = |percent: u8| u64::try_from(u128::from(size_bytes) * u128::from(percent) / 100);
    let mark = percent.saturating_add(u8::from(was_short));
    percent > 0 && space.overcommitted && space.available_bytes <= share(mark).unwrap_or(u64::MAX)
}

fn low(array: &str, space: &ArraySpace) -> News {
    let message = format!(
        "space runs short: {} more can be written to array {array} before the file system of {} is full",
        Size(space.available_bytes),
        space.first_full.display()
    );
    News { event: "SpaceLow", array: Some(array.to_owned()), disk: Some(space.first_full.clone()), message }
}

fn restored(array: &str) -> News {
    let message = format!("there is space again for array {array}");
    News { event: "SpaceRestored", array: Some(array.to_owned()), disk: None, message }
}

/// Measure all arrays, and tell whom it concerns. On the background worker.
pub(crate) async fn measure(daemon: &Daemon) {
    let _turn = daemon.spaces.measuring.lock().await;
    let mut measured: Vec<(String, Array, Vec<ThinMember>)> = Vec::new();
    for (name, array) in daemon.arrays() {
        let members = array.thin_members().await;
        measured.push((name, array, members));
    }
    let all: Vec<ThinMember> = measured.iter().flat_map(|(_, _, members)| members).cloned().collect();
    let runs = |uuid: &Uuid| measured.iter().any(|(_, array, _)| array.uuid() == *uuid);
    daemon.spaces.known().retain(|uuid, _| runs(uuid));
    for (name, array, own) in &measured {
        let space = array.space(own, &all);
        let news = daemon.spaces.take_in(array, name, space, daemon.config.thin_warning.0);
        if let Some(news) = news {
            daemon.events.note(news);
        }
        for volume in array.volumes() {
            if let Some(unit) = daemon.targets.unit_of(&volume) {
                unit.resources_measured(daemon.spaces.resources(array.uuid(), &volume));
            }
        }
    }
}

/// Measure for as long as the daemon runs.
pub(crate) async fn keep_up(daemon: Arc<Daemon>) {
    loop {
        tokio::time::sleep(SPACE_INTERVAL).await;
        measure(&daemon).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(available_bytes: u64, overcommitted: bool) -> ArraySpace {
        ArraySpace { available_bytes, overcommitted, first_full: "/m".into() }
    }

    #[test]
    fn space_is_short_from_the_mark_until_a_little_above_it() {
        let short = |was, available, overcommitted| is_short(was, &space(available, overcommitted), 1000, 20);
        assert!(!short(false, 201, true) && short(false, 200, true));
        assert!(!short(false, 200, false) && !short(true, 0, false), "there is enough for all");
        assert!(short(true, 201, true) && short(true, 210, true) && !short(true, 211, true));
        assert!(!is_short(false, &space(0, true), 1000, 0), "nobody wants to hear of it");
        assert!(is_short(false, &space(u64::MAX / 2, true), u64::MAX, 100));
    }
}
