//! Keeping the written map durable, and what is asked of it.
//!
//! One writer at a time (`written_turn`); what became wanted while one commit was under way is taken by the next, so many writers
//! share one write. Order that crashes depend on:
//! 1. `mark_written`: the bit is durable on every active member before anything in its region is written in place. A member that
//!    does not take it is durably out before.
//! 2. `forget_written`: the region's zeros are flushed on every active member before its bit is cleared; the memory forgets the bit
//!    before the members do, so that a writer in between waits for a commit of its own.
//! 3. A member gets all pages before it gets a role (`give_written_map`), under the same turn: no commit passes it by.
//! 4. A start makes what any member in sync calls written durable on all of them before anything is written in place
//!    (`spread_written_map`): whichever of them is left after the next crash, its copy is enough.
//!
//! Zeros never need a bit: they leave a region that is not written as it was.

use std::ops::Range;
use std::sync::Arc;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation, SpaceRun};
use futures_util::future::join_all;
use smallvec::SmallVec;
use uuid::Uuid;

use super::core::Core;
use super::examine::read_at;
use super::member::Member;
use super::metadata::MemberFailure;
use super::written::MapPage;
use crate::format::PAGE_BYTES;
use crate::format::assembly::{AssemblyPlan, Candidate};
use crate::format::labsan::Header;
use crate::format::labsan::written::{MapCopy, WrittenMap, map_bytes, region_bytes_for};
use crate::geometry::Geometry;
use crate::sabotage::{Sabotage, planted};

type Lacking = SmallVec<[Range<u64>; 2]>;

impl Core {
    fn regions_of(&self, units: &Range<u64>) -> Range<u64> {
        self.written.touched(&self.geometry.touched_by(units))
    }

    /// Say durably that these units may hold data, before they are written in place. They are held.
    pub(crate) async fn mark_written(&self, units: Range<u64>) -> Result<(), IoError> {
        self.mark_all_written(std::iter::once(units)).await
    }

    /// The same for many units, with one commit.
    pub(crate) async fn mark_all_written(
        &self,
        units: impl Iterator<Item = Range<u64>>,
    ) -> Result<(), IoError> {
        let regions = units.map(|units| self.regions_of(&units));
        let lacking: Lacking = regions.filter(|regions| !self.written.all_set(regions.clone())).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        if planted(Sabotage::WrittenBitLate) {
            lacking.into_iter().for_each(|regions| self.written.want(regions));
            let (wanted, _unwritten) = self.written.begin_commit();
            self.written.commit(&wanted);
            return Ok(());
        }
        self.commit_written(&lacking).await
    }

    async fn commit_written(&self, lacking: &[Range<u64>]) -> Result<(), IoError> {
        loop {
            lacking.iter().for_each(|regions| self.written.want(regions.clone()));
            let failures = {
                let _turn = self.written_turn.lock().await;
                if lacking.iter().all(|regions| self.written.all_set(regions.clone())) {
                    return Ok(());
                }
                // Whoever had the turn before may have taken them from the list, and failed.
                lacking.iter().for_each(|regions| self.written.want(regions.clone()));
                let (wanted, pages) = self.written.begin_commit();
                let failures = self.write_map(&pages, &self.active_members()).await;
                if failures.is_empty() {
                    self.written.commit(&wanted);
                    return Ok(());
                }
                failures
            };
            // Not under `written_turn`: failing a member takes `control`, and who holds that may wait for the turn.
            self.settle_map_failures(failures).await?;
        }
    }

    async fn settle_map_failures(&self, failures: Vec<MemberFailure>) -> Result<(), IoError> {
        for (member, error) in failures {
            if error.kind == IoErrorKind::NoSpace {
                return Err(error);
            }
            self.fail_member(member.number, &error.to_string(), IoOperation::Write).await?;
        }
        Ok(())
    }

    /// Write pages of the map to these members.
    async fn write_map(&self, pages: &[MapPage], to: &[Arc<Member>]) -> Vec<MemberFailure> {
        let writes = to.iter().flat_map(|member| {
            pages.iter().map(move |(number, page)| async move {
                let result = write_page(member, *number, page).await;
                result.err().map(|error| (Arc::clone(member), error))
            })
        });
        join_all(writes).await.into_iter().flatten().collect()
    }

    /// These units are held and hold zeros on every member: regions that lie wholly in them are not written any more.
    /// `flushed`: the members were flushed since.
    pub(crate) async fn forget_written(&self, units: &Range<u64>, flushed: bool) -> Result<(), IoError> {
        let owned = self.geometry.owned_by(units);
        let regions = self.written.inside(&owned, self.geometry.member_bytes());
        if self.written.count(regions.clone()) == 0 {
            return Ok(());
        }
        if !flushed {
            self.flush_members().await?;
        }
        let failures = {
            let _turn = self.written_turn.lock().await;
            let pages = self.written.forget(regions);
            self.write_map(&pages, &self.active_members()).await
        };
        // A bit that stays set costs time, nothing more; but a member that cannot be written is not well.
        self.settle_map_failures(failures).await
    }

    /// Give a member the whole map. `written_turn` is held until the member's role is published.
    pub(crate) async fn give_written_map(&self, member: &Arc<Member>) -> Result<(), IoError> {
        let failures = self.write_map(&self.written.all_pages(), std::slice::from_ref(member)).await;
        failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// What a start made of the members' copies, durable on all of them.
    pub(crate) async fn spread_written_map(&self, found: &[(u16, MapCopy)]) -> Result<(), IoError> {
        let pages = self.written.all_pages();
        let table = self.table();
        let writes = table.active().flat_map(|(_, member)| {
            let copy = found.iter().find(|(number, _)| *number == member.number).map(|(_, copy)| copy);
            let differs = move |(number, page): &&MapPage| {
                let at = number * PAGE_BYTES;
                copy.and_then(|copy| copy.image.get(at..at + PAGE_BYTES)) != Some(&page[..])
            };
            pages.iter().filter(differs).map(move |(number, page)| async move {
                let result = write_page(member, *number, page).await;
                (Arc::clone(member), result)
            })
        });
        let results = join_all(writes).await;
        self.settle_member_failures(results).await
    }

    /// The first of these units that may hold data in place; their end if there is none.
    pub(crate) fn first_written(&self, units: Range<u64>) -> u64 {
        let regions = self.regions_of(&units);
        let region = self.written.first(regions.clone(), true);
        if region == regions.end {
            return units.end;
        }
        let bytes = self.written.bytes_of(&(region..region + 1));
        self.geometry.units_touching(&bytes).start.clamp(units.start, units.end)
    }

    /// The first of these units that is known to be zeros in place; their end if there is none.
    pub(crate) fn first_unwritten(&self, units: Range<u64>) -> u64 {
        let mut unit = units.start;
        while unit < units.end {
            let regions = self.regions_of(&(unit..unit + 1));
            let set = self.written.first(regions.clone(), true);
            if set == regions.end {
                return unit;
            }
            let all = self.regions_of(&(unit..units.end));
            let clear = self.written.first(set..all.end, false);
            let bytes = self.written.bytes_of(&(clear..clear + 1));
            unit = self.geometry.units_touching(&bytes).start.max(unit + 1);
            if clear == all.end {
                break;
            }
        }
        units.end
    }

    /// The unit is zeros in place, on every member.
    pub(crate) fn is_unwritten(&self, unit: u64) -> bool {
        self.first_written(unit..unit + 1) != unit
    }

    /// The first of these units that may read as anything but zeros, in place or in the journal; their end if there is none.
    pub(crate) fn first_mapped(&self, units: Range<u64>) -> u64 {
        // The journal first: what has left it is in place, and its bit set.
        let journalled = self.first_journalled(&units).unwrap_or(units.end);
        self.first_written(units).min(journalled)
    }

    /// The first of these units that reads as zeros and takes no space; their end if there is none.
    pub(crate) fn first_unmapped(&self, units: Range<u64>) -> u64 {
        let mut unit = units.start;
        while unit < units.end {
            let journalled = self.first_journalled(&(unit..unit + 1)).is_some();
            if !journalled && self.is_unwritten(unit) {
                return unit;
            }
            unit = self.first_unwritten(unit + u64::from(journalled)..units.end);
        }
        units.end
    }

    /// What the units say of a run of the array's bytes: data that is only in the journal counts as well.
    pub(crate) fn space_run(&self, offset: u64, length: u64) -> SpaceRun {
        let unit_bytes = u64::from(self.geometry.unit_data_bytes());
        let end = (offset + length).min(self.geometry.size_bytes());
        let units = offset / unit_bytes..end.div_ceil(unit_bytes);
        if offset >= end {
            return SpaceRun { length, mapped: true };
        }
        let mapped = self.first_mapped(units.start..units.start + 1) == units.start;
        let behind = if mapped { self.first_unmapped(units) } else { self.first_mapped(units) };
        // At least one unit long, whatever was written or zeroed since it was looked at.
        let behind = behind.max(offset / unit_bytes + 1) * unit_bytes;
        SpaceRun { length: behind.min(end) - offset, mapped }
    }

    fn first_journalled(&self, units: &Range<u64>) -> Option<u64> {
        self.journal.as_ref().and_then(|journal| journal.first_journalled(units))
    }

    /// What of these bytes of the members may have been written.
    pub(crate) fn written_bytes(&self, bytes: &Range<u64>) -> u64 {
        let region = self.written.region_bytes();
        let regions = self.written.touched(bytes);
        let whole = self.written.count(regions.clone()) * region;
        let is_set = |region: u64| self.written.all_set(region..region + 1);
        let before = bytes.start % region * u64::from(!regions.is_empty() && is_set(regions.start));
        let behind = (regions.end * region).saturating_sub(bytes.end);
        let behind = behind * u64::from(!regions.is_empty() && is_set(regions.end - 1));
        whole.saturating_sub(before + behind)
    }
}

async fn write_page(member: &Member, number: usize, page: &[u8]) -> Result<(), IoError> {
    let at = member.layout.written_map.offset + (number * PAGE_BYTES) as u64;
    member.device.write(at, Buffer::copy_of(page).freeze(), Durability::Durable).await
}

/// An empty (or, if nothing is known, full) map for a new array over members with so much room for it.
pub(super) fn new_map(array: Uuid, geometry: &Geometry, room_bytes: u64, written: bool) -> WrittenMap {
    let region_bytes = region_bytes_for(geometry.member_bytes(), room_bytes);
    WrittenMap::new(array, 1, region_bytes, geometry.member_bytes(), written)
}

/// The map that this start goes on with, and the copies of members in sync, by device number.
///
/// Every member in sync was given each bit before anything was written in place that needed it, or was durably out; so any copy
/// of one that verifies will do, and the union of them is taken because a set bit is never wrong. What a member that is not in
/// sync says never counts.
pub(super) async fn find_map(
    plan: &AssemblyPlan,
    candidates: &[Candidate],
    members: &[Option<Arc<Member>>],
    geometry: &Geometry,
    array: Uuid,
) -> (WrittenMap, Vec<(u16, MapCopy)>) {
    let in_sync: Vec<(&Arc<Member>, Option<&Header>)> = plan
        .in_sync()
        .filter_map(|index| Some((members[index].as_ref()?, candidates[index].labsan.as_ref().ok())))
        .collect();
    let headers: Vec<&Header> = in_sync.iter().filter_map(|(_, header)| *header).collect();
    let room = members.iter().flatten().map(|member| member.layout.written_map.len).min().unwrap_or(0);
    let newest = headers.iter().max_by_key(|header| (header.map_generation, header.generation));
    let fits = |region_bytes: &u64| map_bytes(geometry.member_bytes(), *region_bytes) <= room;
    let region_bytes = newest
        .map(|header| header.map_region_bytes)
        .filter(fits)
        .unwrap_or_else(|| region_bytes_for(geometry.member_bytes(), room));
    let generation = newest.map_or(1, |header| header.map_generation);
    // Pages that mean something else by an older header must not verify under it.
    let changes = headers.iter().any(|header| header.map_region_bytes != region_bytes);
    let generation = generation.saturating_add(u64::from(plan.md_ran || changes));
    let map = WrittenMap::new(array, generation, region_bytes, geometry.member_bytes(), true);
    if plan.md_ran {
        // Whoever used md may have written anywhere.
        return (map, Vec::new());
    }
    let copies = in_sync.into_iter().filter_map(|(member, header)| Some((member, header?)));
    let copies = copies.map(|(member, header)| async move {
        let length = map_bytes(geometry.member_bytes(), header.map_region_bytes);
        let length = length.min(member.layout.written_map.len) as usize;
        let image =
            read_at(&**member.device.device(), member.layout.written_map.offset, length).await.ok()?.to_vec();
        let (generation, region_bytes) = (header.map_generation, header.map_region_bytes);
        Some((member.number, MapCopy { image, generation, region_bytes }))
    });
    let copies: Vec<(u16, MapCopy)> = join_all(copies).await.into_iter().flatten().collect();
    (map.union(copies.iter().map(|(_, copy)| copy)), copies)
}
