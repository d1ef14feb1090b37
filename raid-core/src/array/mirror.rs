//! Levels 0, 1 and 10: every usable copy is written; unreadable or unequal copies are mended from a good one.

use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use bytes::Bytes;
use futures_util::future::join_all;

use super::core::Core;
use super::locks::Fragment;
use super::member::{Counters, Member};
use super::status::ArrayEvent;
use crate::geometry::Place;

impl Core {
    /// Write disjoint fragments of one unit to all its copies. The unit is held.
    pub(crate) async fn write_copies(&self, unit: u64, fragments: &[Fragment]) -> Result<(), IoError> {
        let table = self.table();
        self.missing_for_write(&table, unit)?;
        let targets: Vec<(Place, Arc<Member>)> = self
            .geometry
            .copies(unit)
            .into_iter()
            .filter_map(|place| Some((place, Arc::clone(table.usable(place.member, unit)?))))
            .collect();
        for (place, member) in &targets {
            self.provision(member, place.offset).await?;
        }
        let marked = self.mark_written(unit..unit + 1);
        let (dirty, marked) = futures_util::join!(self.mark_dirty(unit..unit + 1), marked);
        let _dirty = dirty?;
        marked?;
        let writes = targets.iter().flat_map(|(place, member)| {
            fragments.iter().map(move |fragment| async move {
                let at = place.offset + u64::from(fragment.start);
                let result = member.write(at, fragment.data.clone(), fragment.durability).await;
                (Arc::clone(member), result)
            })
        });
        let results = join_all(writes).await;
        self.settle_unit_writes(unit..unit + 1, results).await
    }

    /// Make sure that the chunk at `offset` of a member cannot run out of space half-way. A member that is full now
    /// may have become thin by a discard, so it is always asked; one that cannot tell is taken at its word.
    pub(crate) async fn provision(&self, member: &Member, offset: u64) -> Result<(), IoError> {
        match member.provision(offset, u64::from(self.geometry.chunk_bytes())).await {
            Err(error) if error.kind == IoErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    /// Copies that could not be read get what a good one gave.
    pub(crate) async fn repair_copies(
        &self,
        unit: u64,
        start: u32,
        good: &Buffer,
        failed: smallvec::SmallVec<[(Place, IoError); 2]>,
    ) {
        if failed.is_empty() {
            return;
        }
        let length = good.len();
        let _held = self.locks.exclusive(unit).await;
        let table = self.table();
        let places: Vec<Place> = failed
            .into_iter()
            .filter(|(_, error)| error.kind != IoErrorKind::Gone)
            .map(|(place, _)| place)
            .collect();
        // A write may have come before the unit was ours: copy what is there now, not what was read then.
        let Ok(data) = self.read_good_copy(unit, start, length, &places).await else { return };
        for place in places {
            let Some(member) = table.usable(place.member, unit) else { continue };
            let at = place.offset + u64::from(start);
            match member.write(at, data.clone(), Durability::Durable).await {
                Ok(()) => {
                    Counters::count(&member.counters.corrected);
                    self.emit(ArrayEvent::ReadErrorCorrected { path: member.path.clone() });
                }
                // Refused only if the array cannot do without it; the read itself was answered.
                Err(error) => {
                    let _ = self.write_failed(member, &error).await;
                }
            }
        }
    }

    /// Part of a unit from the first copy that can be read, `except` these. The unit is held.
    pub(crate) async fn read_good_copy(
        &self,
        unit: u64,
        start: u32,
        length: usize,
        except: &[Place],
    ) -> Result<Bytes, IoError> {
        self.check_whole(unit, start..start + length as u32)?;
        let table = self.table();
        let at = unit * u64::from(self.geometry.unit_data_bytes()) + u64::from(start);
        let mut outcome = self.error(IoErrorKind::Medium, IoOperation::Read, at, length as u64);
        let mut buffer = self.take_scratch(length).await;
        for place in self.geometry.copies(unit) {
            let Some(member) = table.usable(place.member, unit) else { continue };
            if except.contains(&place) {
                continue;
            }
            let (back, result) = member.read(place.offset + u64::from(start), buffer).await;
            buffer = back;
            match result {
                Ok(()) => return Ok(buffer.freeze()),
                Err(error) => {
                    self.read_failed(member, &error).await;
                    outcome = error;
                }
            }
        }
        Err(outcome)
    }

    /// Make all copies of a unit equal, durably, whatever they held.
    pub(crate) async fn equalize_unit(&self, unit: u64) -> Result<(), IoError> {
        let _held = self.locks.exclusive(unit).await;
        self.equalize_held_unit(unit).await
    }

    /// The same, for a unit that is held.
    pub(crate) async fn equalize_held_unit(&self, unit: u64) -> Result<(), IoError> {
        let table = self.table();
        let data = self.read_good_copy(unit, 0, self.geometry.unit_data_bytes() as usize, &[]).await?;
        let writes = self.geometry.copies(unit).into_iter().filter_map(|place| {
            let member = Arc::clone(table.usable(place.member, unit)?);
            let data = data.clone();
            Some(async move {
                let result = copy_if_different(&member, place.offset, data).await;
                (member, result)
            })
        });
        let results = join_all(writes).await;
        self.settle_writes(results).await
    }
}

/// Most copies are equal already, and reading is cheaper than writing durably.
async fn copy_if_different(member: &Member, offset: u64, data: Bytes) -> Result<(), IoError> {
    let (current, result) = member.read(offset, Buffer::zeroed(data.len())).await;
    if result.is_ok() && current[..] == data[..] {
        return Ok(());
    }
    member.write(offset, data, Durability::Durable).await
}
