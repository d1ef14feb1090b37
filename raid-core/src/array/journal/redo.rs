//! Atomic writes of RAID 1 and 10: one record on every member in sync says what is to be in place.
//!
//! Mirrors have no journal. The beginning of each ring holds the record of the atomic write that is under way, of no other, and
//! is erased otherwise. Order that crashes depend on:
//! 1. The units are held, and have their space; their regions are marked as written and dirty.
//! 2. The record is durable on every member in sync. A member that does not take it is durably out before anything is in place.
//! 3. All copies are in place, durably.
//! 4. The record is erased, durably, on every member in sync. Only then are the units let go and the client is told: a record
//!    that outlived that would undo what is written there next.
//!
//! A cut before 2 leaves nothing in place; from then on whichever member in sync is left has all of it. So a start puts the record
//! in place that it finds on any of them, and erases it, before anybody is served (`recover_redo`).
//!
//! | the write ends | leaves |
//! |---|---|
//! | before 2 begins | nothing; the array goes on |
//! | well | no record |
//! | otherwise, from 2 on | perhaps a record, so the array takes no more writes, and nobody reads what was written: the next start completes it |
//!
//! A member that comes in sync has its place erased first, and no atomic write is under way meanwhile. Where no record can count,
//! because md or an older labsan ran the array, a start erases the places before the headers say that there may be one.
//!
//! Where a place cannot be erased no atomic write is taken until the next start, and before anybody is served both copies of
//! the headers say that no record counts: with one of them the other might be all that the next start can read.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use block_io::{Buffer, Durability, IoError, IoErrorKind, ReadResult};
use bytes::Bytes;
use futures_util::future::join_all;
use uuid::Uuid;

use super::atomic::Piece;
use super::half_done::HalfDone;
use super::recovery::JournalError;
use crate::array::bitmap_io::DirtyGuard;
use crate::array::core::Core;
use crate::array::examine::read_at;
use crate::array::locks::UnitGuard;
use crate::array::member::Member;
use crate::format::PAGE_BYTES;
use crate::format::assembly::AssemblyPlan;
use crate::format::labsan::Side;
use crate::format::labsan::journal_record::{self, Item, Record, Stamp, claimed_bytes, padded, record_bytes};
use crate::format::layout::MIN_JOURNAL_BYTES;
use crate::geometry::{Geometry, Level, MemberIndex};
use crate::limits;
use crate::sabotage::{Sabotage, planted};

/// Where in its ring a record begins: there is only one.
const RECORD_AT: u64 = 0;
/// So it needs no number to be told from others, nor the stamp of a life.
const SEQUENCE: u64 = 1;
const STAMP: Stamp = Stamp { epoch: 0, nonce: 0 };

// Every member has room for it, however small, and whoever made it.
const _: () = assert!(limits::REDO_RING_BYTES <= MIN_JOURNAL_BYTES);

/// What a mirror needs for atomic writes.
#[derive(Debug, Default)]
pub(crate) struct Redo {
    /// Held from before a record is written until it is erased, and while a member comes in sync. Taken before any unit.
    turn: tokio::sync::Mutex<()>,
    pub(super) half_done: HalfDone,
    /// Until the next start there are none, and the headers say so: what lies in the rings could not be erased.
    is_off: AtomicBool,
}

/// A record that may be on members and is not erased. Units must not be let go over it: where one is dropped the array takes
/// no more writes, and what it names is not read.
struct Live<'a> {
    core: &'a Core,
    redo: &'a Redo,
    pieces: &'a [Piece],
    is_erased: bool,
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        if !self.is_erased {
            self.redo.half_done.add(self.pieces.iter().map(|piece| self.core.range_of(piece)));
            self.core.give_up(
                "an atomic write is half-way in place; its blocks cannot be read until the next start completes it",
            );
        }
    }
}

/// A record that a start found.
#[derive(Debug)]
pub(in crate::array) struct FoundRecord {
    record: Record,
    image: Bytes,
    /// Device numbers of the members that have it.
    holders: Vec<u16>,
}

impl Redo {
    /// For an array of this shape; `None` without copies.
    pub(in crate::array) fn new(geometry: &Geometry) -> Option<Self> {
        matches!(geometry.level(), Level::Raid1 | Level::Raid10).then(Self::default)
    }

    /// Does this life write records?
    pub(in crate::array) fn is_on(&self) -> bool {
        !self.is_off.load(Ordering::Acquire)
    }

    /// No atomic write is under way while this is held.
    pub(in crate::array) async fn pause(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

/// The record of an atomic write that was cut short, on any of the members in sync. `force`: start also if none of them can be read.
///
/// Which of them can be read does not matter: where one has no record nothing is in place anywhere, or all is. After a clean stop,
/// after md, and after a labsan that knows of no records, there is none that counts.
pub(in crate::array) async fn find_record(
    plan: &AssemblyPlan,
    geometry: &Geometry,
    members: &[Arc<Member>],
    uuid: Uuid,
    array: &str,
    force: bool,
) -> Result<Option<FoundRecord>, JournalError> {
    if geometry.level().has_parity() || !plan.needs.replay_journal {
        return Ok(None);
    }
    let images = join_all(members.iter().map(|member| read_record(member))).await;
    let mut found: Option<FoundRecord> = None;
    let mut readable = false;
    for (member, image) in members.iter().zip(images) {
        let Ok(image) = image else { continue };
        readable = true;
        let image = image.freeze();
        match journal_record::parse(&image, uuid) {
            Ok(record) => {
                let found = found.get_or_insert(FoundRecord { record, image, holders: Vec::new() });
                found.holders.push(member.number);
            }
            Err(error) if error.is_newer() => {
                return Err(JournalError::Newer { member: member.label(), error });
            }
            // Erased, torn, or of another array that this device once belonged to.
            Err(_) => {}
        }
    }
    if !readable && !force {
        return Err(JournalError::Unread { array: array.to_owned() });
    }
    Ok(found)
}

/// What looks like a record; the first page, where nothing does.
async fn read_record(member: &Member) -> Result<Buffer, IoError> {
    let at = member.layout.journal.offset + RECORD_AT;
    let first = read_at(&**member.device.device(), at, PAGE_BYTES).await?;
    let longest = limits::REDO_RING_BYTES.min(member.layout.journal.len) as usize;
    match claimed_bytes(&first) {
        Some(length) if length <= longest => read_at(&**member.device.device(), at, length).await,
        _ => Ok(first),
    }
}

impl Core {
    /// Write these pieces of mirrored units: all of them or none, durably.
    pub(super) async fn write_recorded(&self, redo: &Redo, pieces: &[Piece]) -> Result<(), IoError> {
        let _turn = redo.turn.lock().await;
        let units: BTreeSet<u64> = pieces.iter().map(|(unit, ..)| *unit).collect();
        let mut held: Vec<UnitGuard> = Vec::with_capacity(units.len());
        for unit in &units {
            held.push(self.locks.exclusive(*unit).await);
        }
        let _dirty = self.prepare_units(&units).await?;
        let mut live = Live { core: self, redo, pieces, is_erased: false };
        self.write_redo_record(pieces).await?;
        if planted(Sabotage::RecordErasedEarly) {
            self.erase_records().await?;
        }
        self.put_copies_in_place(pieces).await?;
        if !planted(Sabotage::RecordErasedEarly) && !planted(Sabotage::RecordErasedLate) {
            self.erase_records().await?;
        }
        live.is_erased = true;
        Ok(())
    }

    /// Everything that may be refused comes before the record: space on all members, marks of the regions.
    async fn prepare_units(&self, units: &BTreeSet<u64>) -> Result<Vec<DirtyGuard<'_>>, IoError> {
        let table = self.table();
        for unit in units {
            self.missing_for_write(&table, *unit)?;
            for place in self.geometry.copies(*unit) {
                if let Some(member) = table.usable(place.member, *unit) {
                    self.provision(member, place.offset).await?;
                }
            }
        }
        for member in self.members_in_sync() {
            provision_ring(&member).await?;
        }
        self.mark_all_written(units.iter().map(|unit| *unit..unit + 1)).await?;
        let mut dirty = Vec::with_capacity(units.len());
        for unit in units {
            dirty.push(self.mark_dirty(*unit..unit + 1).await?);
        }
        Ok(dirty)
    }

    async fn write_redo_record(&self, pieces: &[Piece]) -> Result<(), IoError> {
        let payload = pieces.iter().map(|(.., data)| padded(data.len())).sum();
        let mut record = Buffer::zeroed(record_bytes(pieces.len(), payload));
        let items = pieces.iter().map(|(unit, start, data)| {
            (Item::Data { stripe: *unit, start: *start, length: data.len() as u32 }, &data[..])
        });
        journal_record::encode(&mut record, self.uuid, SEQUENCE, STAMP, items);
        let mut members = self.members_in_sync();
        if planted(Sabotage::RecordOnOneMember) {
            members.truncate(1);
        }
        self.write_at_rings_begin(record.freeze(), members).await
    }

    async fn write_at_rings_begin(&self, bytes: Bytes, members: Vec<Arc<Member>>) -> Result<(), IoError> {
        let places = members.into_iter().map(|member| (member, RECORD_AT));
        let results = self.ring_writes(bytes, places).await;
        self.settle_unless_full(results).await
    }

    /// Members that fail are out. A host that is full, where nothing could be provided for (snapshots below the members, pools
    /// that tell nobody), is no fault of theirs, and would soon have all of them out.
    async fn settle_unless_full(
        &self,
        results: Vec<(Arc<Member>, Result<(), IoError>)>,
    ) -> Result<(), IoError> {
        let full = results.iter().find_map(|(_, result)| {
            result.as_ref().err().filter(|error| error.kind == IoErrorKind::NoSpace).cloned()
        });
        match full {
            Some(error) => Err(error),
            None => self.settle_member_failures(results).await,
        }
    }

    /// Write every copy, durably; what was lost there is known again.
    async fn put_copies_in_place(&self, pieces: &[Piece]) -> Result<(), IoError> {
        let table = self.table();
        let writes = pieces.iter().flat_map(|(unit, start, data)| {
            self.geometry.copies(*unit).into_iter().filter_map(|place| {
                let member = Arc::clone(table.usable(place.member, *unit)?);
                let (at, data) = (place.offset + u64::from(*start), data.clone());
                Some(async move {
                    let result = member.write(at, data, Durability::Durable).await;
                    (member, result)
                })
            })
        });
        let results = join_all(writes).await;
        self.settle_unless_full(results).await?;
        self.rewritten(pieces.iter().map(|piece| self.range_of(piece))).await
    }

    /// Of the array's data.
    fn range_of(&self, (unit, start, data): &Piece) -> Range<u64> {
        self.in_array(*unit, *start..*start + data.len() as u32)
    }

    /// No record is on any member in sync, durably. The first page is enough: one CRC covers all of a record.
    async fn erase_records(&self) -> Result<(), IoError> {
        self.write_at_rings_begin(Buffer::zeroed(PAGE_BYTES).freeze(), self.members_in_sync()).await
    }

    /// The same at a start: what could not be read might be by the next one, when others have written there. Where zeros are none
    /// are written, for a thin member may have no space for them. Gives why it cannot be done with members to spare.
    async fn erase_at_start(&self) -> Result<Option<IoError>, IoError> {
        // What reads as zeros now must do so after the next power cut too.
        self.flush_members().await?;
        let members = self.members_in_sync();
        let pages = join_all(members.iter().map(|member| {
            let at = member.layout.journal.offset + RECORD_AT;
            async move { member.device.read(at, Buffer::zeroed(PAGE_BYTES)).await }
        }))
        .await;
        let is_erased = |(page, result): &ReadResult| result.is_ok() && page.iter().all(|byte| *byte == 0);
        let others = members.into_iter().zip(&pages).filter(|(_, page)| !is_erased(page));
        let places = others.map(|(member, _)| (member, RECORD_AT));
        let results = self.ring_writes(Buffer::zeroed(PAGE_BYTES).freeze(), places).await;
        if let Some(error) = self.unbearable(&results) {
            return Ok(Some(error));
        }
        self.settle_member_failures(results).await.map(|()| None)
    }

    /// Why these failures are not settled by taking members out: the host is full, or too few would be left.
    fn unbearable(&self, results: &[(Arc<Member>, Result<(), IoError>)]) -> Option<IoError> {
        let table = self.table();
        let mut missing = table.not_in_sync();
        let mut last = None;
        for (member, result) in results {
            let Err(error) = result else { continue };
            if error.kind == IoErrorKind::NoSpace {
                return Some(error.clone());
            }
            table.slot_of(member.number).into_iter().for_each(|slot| missing.insert(MemberIndex(slot)));
            last = Some(error);
        }
        last.filter(|_| !self.geometry.tolerates(&missing)).cloned()
    }

    /// At a start for which no record counts, before the headers say that one may.
    pub(in crate::array) async fn erase_leftovers(&self) -> Result<(), JournalError> {
        let Some(redo) = &self.redo else { return Ok(()) };
        match self.erase_at_start().await? {
            None => Ok(()),
            Some(error) => self.do_without_records(redo, error).await,
        }
    }

    /// Complete the atomic write that was under way when the last life ended. Nobody is served yet. `force`: where there is no
    /// space for it, leave it as it is; the resync makes its copies equal, for their regions are dirty since it began. And where
    /// its record cannot be erased, do without any.
    pub(in crate::array) async fn recover_redo(
        &self,
        found: Option<&FoundRecord>,
        force: bool,
    ) -> Result<(), JournalError> {
        let Some(redo) = self.redo.as_ref().filter(|redo| redo.is_on()) else { return Ok(()) };
        if let Some(found) = found {
            self.complete_found(found, force).await?;
        }
        match self.erase_at_start().await? {
            None => Ok(()),
            Some(error) if force => self.do_without_records(redo, error).await,
            Some(error) => Err(JournalError::NotErased { array: self.name.to_string(), error }),
        }
    }

    async fn complete_found(&self, found: &FoundRecord, force: bool) -> Result<(), JournalError> {
        match self.complete(found).await {
            Ok(()) => self.note("an atomic write had been cut short: it was completed".to_owned()),
            Err(error) if error.kind == IoErrorKind::NoSpace && force => {
                self.note(
                    "an atomic write had been cut short, and is left in part: there was no space for it"
                        .to_owned(),
                );
            }
            Err(error) if error.kind == IoErrorKind::NoSpace => {
                return Err(JournalError::NoSpace { array: self.name.to_string(), error });
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Whatever lies in the rings, it counts for no start from now on, whichever copy of which header that can read.
    async fn do_without_records(&self, redo: &Redo, erased: IoError) -> Result<(), JournalError> {
        redo.is_off.store(true, Ordering::Release);
        for _copy in [Side::A, Side::B] {
            self.renew_headers().await.map_err(|error| JournalError::NotVoid {
                array: self.name.to_string(),
                erased: Box::new(erased.clone()),
                error,
            })?;
        }
        self.note(format!(
            "atomic writes are refused until the next start: the place of their records cannot be erased ({erased})"
        ));
        Ok(())
    }

    async fn complete(&self, found: &FoundRecord) -> Result<(), IoError> {
        // What can be read now must survive the next power cut too.
        self.flush_members().await?;
        if !planted(Sabotage::NoRecopyAtRecovery) {
            self.copy_record(found).await?;
        }
        let pieces = self.pieces_of(found);
        self.mark_all_written(pieces.iter().map(|(unit, ..)| *unit..unit + 1)).await?;
        self.put_copies_in_place(&pieces).await
    }

    /// Whichever member is lost next, with the power or without: who is left has the record until all of it is in place.
    async fn copy_record(&self, found: &FoundRecord) -> Result<(), IoError> {
        let members = self.members_in_sync().into_iter();
        let lacking = members.filter(|member| !found.holders.contains(&member.number)).collect();
        self.write_at_rings_begin(found.image.clone(), lacking).await
    }

    /// What lies outside of the array was written by nobody sane.
    fn pieces_of(&self, found: &FoundRecord) -> Vec<Piece> {
        let piece = |(item, offset): &(Item, usize)| match *item {
            Item::Data { stripe, start, length }
                if stripe < self.geometry.units()
                    && start.saturating_add(length) <= self.geometry.unit_data_bytes() =>
            {
                Some((stripe, start, found.image.slice(*offset..*offset + length as usize)))
            }
            _ => None,
        };
        found.record.items.iter().filter_map(piece).collect()
    }
}

/// Make sure that a member which is about to be in sync has no record; no atomic write is under way.
pub(super) async fn erase_record(member: &Member) -> Result<(), IoError> {
    let page = Buffer::zeroed(PAGE_BYTES).freeze();
    member.device.write(member.layout.journal.offset + RECORD_AT, page, Durability::Durable).await
}

/// Space for a record, where a member may be thin; one that cannot tell is taken at its word.
async fn provision_ring(member: &Member) -> Result<(), IoError> {
    let at = member.layout.journal.offset + RECORD_AT;
    match member.device.provision(at, limits::REDO_RING_BYTES).await {
        Err(error) if error.kind == IoErrorKind::Unsupported => Ok(()),
        result => result,
    }
}
