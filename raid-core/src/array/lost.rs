//! Blocks that nobody can know any more: a list, the same on every member. They read as errors until they are rewritten.
//!
//! Order that crashes depend on: an entry is durable before parity is written with zeros standing for the block, so
//! those zeros are never returned as data; and it goes only after the new block and its parity are flushed, and before the
//! record that put them there is freed, so that what was acknowledged never reads as an error.
//!
//! md does not know this list. Where a lost block lies on a member, that member's bad-block log names it too.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use futures_util::future::join_all;
use uuid::Uuid;

use super::assemble::AssembleError;
use super::core::{Core, lock};
use super::examine::read_at;
use super::member::Member;
use super::status::ArrayEvent;
use crate::format::SECTOR_BYTES;
use crate::format::badblocks;
use crate::format::labsan::lost::LostBlocks;
use crate::geometry::Place;

impl Core {
    /// True if any byte of this range of the array's data is lost.
    pub(crate) fn is_lost(&self, bytes: Range<u64>) -> bool {
        let lost = lock(&self.lost);
        !lost.ranges().is_empty() && lost.touches(&bytes)
    }

    /// A read during which this moved may have met what stands in for a lost block.
    pub(crate) fn lost_changes(&self) -> u64 {
        self.lost_changes.load(Ordering::Acquire)
    }

    /// What a read of lost bytes gets.
    pub(crate) fn lost_error(&self, bytes: Range<u64>) -> IoError {
        self.error(IoErrorKind::Medium, IoOperation::Read, bytes.start, bytes.end - bytes.start)
    }

    /// For `status`.
    pub(crate) fn lost_bytes(&self) -> u64 {
        lock(&self.lost).ranges().iter().map(|range| range.end - range.start).sum()
    }

    /// List these as lost, durably, before anything stands in for them.
    pub(crate) async fn declare_lost(&self, ranges: &[Range<u64>]) -> Result<(), IoError> {
        if ranges.is_empty() {
            return Ok(());
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        self.change_lost(|list| ranges.iter().for_each(|range| list.insert(range.clone()))).await?;
        self.note(format!(
            "{bytes} bytes cannot be known any more: they read as errors until they are rewritten"
        ));
        self.emit(ArrayEvent::DataLost { bytes });
        Ok(())
    }

    /// These were rewritten, in place and flushed.
    pub(crate) async fn rewritten(&self, ranges: impl Iterator<Item = Range<u64>>) -> Result<(), IoError> {
        let struck: Vec<Range<u64>> = ranges.filter(|range| self.is_lost(range.clone())).collect();
        if struck.is_empty() {
            return Ok(());
        }
        self.change_lost(|list| struck.iter().for_each(|range| list.remove(range))).await
    }

    /// The same for what was written in place but need not be flushed.
    pub(crate) async fn written_in_place(
        &self,
        ranges: impl Iterator<Item = Range<u64>> + Clone,
    ) -> Result<(), IoError> {
        if !ranges.clone().any(|range| self.is_lost(range)) {
            return Ok(());
        }
        self.flush_members().await?;
        self.rewritten(ranges).await
    }

    /// Nothing is lost any more.
    pub(crate) async fn forget_lost(&self) -> Result<(), IoError> {
        if lock(&self.lost).ranges().is_empty() {
            return Ok(());
        }
        self.change_lost(LostBlocks::clear).await
    }

    /// md's bad-block log of this member names something.
    pub(crate) fn has_md_log(&self, member: &Member) -> bool {
        let list = lock(&self.lost).clone();
        let slot = self.table().slot_of(member.number);
        list.ranges()
            .iter()
            .flat_map(|range| self.places_of(range.clone()))
            .any(|(place, _)| slot == Some(place.member.0))
    }

    async fn change_lost(&self, change: impl FnOnce(&mut LostBlocks)) -> Result<(), IoError> {
        let _turn = self.lost_turn.lock().await;
        let mut list = lock(&self.lost).clone();
        change(&mut list);
        list.generation += 1;
        self.write_lost_everywhere(&list).await?;
        *lock(&self.lost) = list;
        self.lost_changes.fetch_add(1, Ordering::Release);
        Ok(())
    }

    async fn write_lost_everywhere(&self, list: &LostBlocks) -> Result<(), IoError> {
        let Ok(page) = list.encode(self.uuid) else {
            self.give_up("more blocks are lost than their list can name");
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, 0));
        };
        loop {
            let table = self.table();
            let results = join_all(table.current().map(|member| {
                let page = &page;
                async move { (Arc::clone(member), self.write_lost(member, list, page).await) }
            }))
            .await;
            let mut failed = false;
            for (member, result) in results {
                if let Err(error) = result {
                    failed = true;
                    self.fail_member(member.number, &error.to_string(), IoOperation::Write).await?;
                }
            }
            if !failed {
                return Ok(());
            }
        }
    }

    /// Write a list into the copy that its generation chooses, and what of it lies on this member into md's log.
    pub(crate) async fn write_lost(
        &self,
        member: &Member,
        list: &LostBlocks,
        page: &[u8],
    ) -> Result<(), IoError> {
        let region = member.layout.lost[(list.generation % 2) as usize];
        let data = Buffer::copy_of(page).freeze();
        member.device.write(region.offset, data, Durability::Durable).await?;
        let log = member.layout.bad_block_log;
        if log.len == 0 {
            return Ok(());
        }
        // A list too long for md's log keeps md off instead (`md_must_stay_off`).
        let Some(bytes) = self.md_log(member, list) else { return Ok(()) };
        member.device.write(log.offset, Buffer::copy_of(&bytes).freeze(), Durability::Durable).await
    }

    /// What a start found on one member is made durable on all of them: whichever of them are there at the next start, a block
    /// that was rewritten is not lost again. The list goes where it lies on the member that has it, so no copy is at risk.
    pub(crate) async fn spread_lost(&self) -> Result<(), IoError> {
        let _turn = self.lost_turn.lock().await;
        let list = lock(&self.lost).clone();
        if list.generation == 0 {
            return Ok(());
        }
        self.write_lost_everywhere(&list).await
    }

    /// A member in its new role: md's log of it names what of the lost blocks it holds now.
    pub(crate) async fn tell_lost(&self, member: &Member) -> Result<(), IoError> {
        let _turn = self.lost_turn.lock().await;
        self.write_lost_to(member).await
    }

    /// Give a new member the list in force, if there is anything in it.
    pub(crate) async fn write_lost_to(&self, member: &Member) -> Result<(), IoError> {
        let list = lock(&self.lost).clone();
        match list.encode(self.uuid) {
            Ok(page) if !list.ranges().is_empty() => self.write_lost(member, &list, &page).await,
            _ => Ok(()),
        }
    }

    /// md's bad-block log for a member; `None` if the list does not fit.
    fn md_log(&self, member: &Member, list: &LostBlocks) -> Option<Vec<u8>> {
        let slot = self.table().slot_of(member.number);
        let mut sectors: Vec<Range<u64>> = Vec::new();
        for (place, length) in list.ranges().iter().flat_map(|range| self.places_of(range.clone())) {
            if slot == Some(place.member.0) {
                let start = (member.layout.data_offset + place.offset) / SECTOR_BYTES;
                sectors.push(start..start + length.div_ceil(SECTOR_BYTES));
            }
        }
        badblocks::encode(&sectors, member.layout.bad_block_log.len as usize).ok()
    }

    /// Where the data of a range lies, piece by piece.
    fn places_of(&self, range: Range<u64>) -> Vec<(Place, u64)> {
        let chunk = u64::from(self.geometry.chunk_bytes());
        let unit = u64::from(self.geometry.unit_data_bytes());
        let mut places = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let length = (chunk - at % chunk).min(range.end - at);
            let (index, inside) = (at / unit, at % unit);
            if self.geometry.level().has_parity() {
                let row = crate::geometry::Row::Data((inside / chunk) as u16);
                let member = self.geometry.row_member(index, row);
                let offset = self.geometry.stripe_offset(index) + inside % chunk;
                places.push((Place { member, offset }, length));
            } else {
                let copies = self.geometry.copies(index);
                places.extend(copies.into_iter().map(|place| {
                    (Place { member: place.member, offset: place.offset + inside % chunk }, length)
                }));
            }
            at += length;
        }
        places
    }

    /// True if md would make up a lost block: from parity, where its member is not there, or because its log cannot hold
    /// the list.
    pub(crate) fn md_must_stay_off(&self) -> bool {
        let list = lock(&self.lost).clone();
        let missing = self.table().not_in_sync();
        let on_missing = |range: &Range<u64>| {
            self.places_of(range.clone()).iter().any(|(place, _)| missing.contains(place.member))
        };
        list.ranges().iter().any(on_missing)
            || self.active_members().iter().any(|member| self.md_log(member, &list).is_none())
    }
}

/// The newest list of lost blocks that any of them has. What counts is on all of them: one whose copies can both be read
/// says it all, and only where there is none may something be missing.
///
/// One that a newer labsan wrote is refused: without it, what stands in for its blocks would be taken for data.
pub(super) async fn newest_lost(
    current: &[Arc<Member>],
    uuid: Uuid,
    array: &str,
) -> Result<LostBlocks, AssembleError> {
    let mut newest = LostBlocks::default();
    let (mut whole, mut unreadable) = (false, None);
    for member in current {
        let mut copies = [Buffer::zeroed(0), Buffer::zeroed(0)];
        let mut all = true;
        for (copy, region) in copies.iter_mut().zip(member.layout.lost) {
            match read_at(&**member.device.device(), region.offset, region.len as usize).await {
                Ok(bytes) => *copy = bytes,
                Err(error) => (all, unreadable) = (false, Some(error)),
            }
        }
        whole |= all;
        let [a, b] = copies;
        match LostBlocks::choose(&a, &b, uuid) {
            Ok((_, list)) if list.generation > newest.generation => newest = list,
            Err(error) if error.is_newer() => {
                return Err(AssembleError::Lost { array: array.to_owned(), member: member.label(), error });
            }
            Ok(_) | Err(_) => {}
        }
    }
    match unreadable {
        Some(error) if !whole => Err(error.into()),
        _ => Ok(newest),
    }
}

#[cfg(test)]
mod tests;
