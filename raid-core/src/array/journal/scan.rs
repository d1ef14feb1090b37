//! What is in the rings at a start? All of every ring is looked through: a damaged page hides one record, never those behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use block_io::{Buffer, IoError};
use futures_util::future::join_all;
use uuid::Uuid;

use super::recovery::JournalError;
use crate::array::member::Member;
use crate::format::PAGE_BYTES;
use crate::format::labsan::LabsanError;
use crate::format::labsan::journal_head::JournalHead;
use crate::format::labsan::journal_record::Record;
use crate::journal::found::{Found, end_of, records_in};
use crate::limits;

/// Rings read at once; each is in memory as a whole.
const RINGS_AT_ONCE: usize = 4;
/// Bytes of a ring read at once.
const READ_BYTES: usize = 1 << 20;

/// Where a copy of a record lies.
#[derive(Clone, Debug)]
pub(in crate::array) struct Copy {
    pub(super) member: Arc<Member>,
    /// From the beginning of the ring.
    pub(super) at: u64,
    pub(super) bytes: u64,
}

/// The journal as a start finds it.
#[derive(Debug)]
pub(in crate::array) struct FoundJournal {
    /// The newest head, with the highest tail that any member has.
    pub(super) head: JournalHead,
    /// Records that count: in order, none missing.
    pub(super) records: Vec<Record>,
    /// Their copies.
    pub(super) copies: Vec<Vec<Copy>>,
    /// The number after the last of them.
    pub(super) end: u64,
    /// There were records beyond the end that are given up.
    pub(super) cut_short: bool,
}

/// Read heads and rings of the members in sync. `force` takes damage in the middle for the end.
pub(in crate::array) async fn find_journal(
    members: &[Arc<Member>],
    uuid: Uuid,
    array: &str,
    force: bool,
) -> Result<Option<FoundJournal>, JournalError> {
    let Some(head) = newest_head(members, uuid).await? else { return Ok(None) };
    let mut found: BTreeMap<u64, (Record, Vec<Copy>)> = BTreeMap::new();
    for group in members.chunks(RINGS_AT_ONCE) {
        let scans = join_all(group.iter().map(|member| scan_ring(member, &head, uuid))).await;
        for (member, records) in group.iter().zip(scans) {
            for (record, at, bytes) in records? {
                let copy = Copy { member: Arc::clone(member), at, bytes };
                found.entry(record.sequence).or_insert_with(|| (record, Vec::new())).1.push(copy);
            }
        }
    }
    let end = end_of(&found, head.tail);
    let beyond = found.split_off(&end);
    if let Some((&later, _)) = beyond.first_key_value()
        && !force
    {
        return Err(JournalError::Damaged { array: array.to_owned(), missing: end, later });
    }
    let (records, copies) = found.into_values().unzip();
    Ok(Some(FoundJournal { head, records, copies, end, cut_short: !beyond.is_empty() }))
}

/// The newest head there is; the highest tail counts. `None` if no member has one.
async fn newest_head(members: &[Arc<Member>], uuid: Uuid) -> Result<Option<JournalHead>, JournalError> {
    let mut newest: Option<JournalHead> = None;
    let regions = members.iter().map(|member| member.layout.journal.len);
    let longest_bytes = regions.min().unwrap_or(0).min(limits::MAX_RING_BYTES);
    for member in members {
        let region = read_range(member, member.layout.journal_head.offset, 2 * PAGE_BYTES).await?;
        let head = match JournalHead::find(&region, uuid) {
            // What lies behind the ring is no place for records, whatever a head says.
            Ok(head) if head.ring_bytes > longest_bytes => {
                let ring_bytes = head.ring_bytes;
                tracing::warn!(member = %member.label(), ring_bytes, "a journal head of a longer ring");
                continue;
            }
            Ok(head) => head,
            Err(error @ LabsanError::NewerVersion { .. }) => {
                return Err(JournalError::Newer { member: member.label(), error });
            }
            Err(error) => {
                tracing::warn!(member = %member.label(), %error, "no journal head");
                continue;
            }
        };
        newest = Some(match newest.take() {
            None => head,
            Some(best) => {
                let tail = best.tail.max(head.tail);
                let newer = if age(&head) > age(&best) { head } else { best };
                JournalHead { tail, ..newer }
            }
        });
    }
    Ok(newest)
}

fn age(head: &JournalHead) -> (u64, u64) {
    (head.epochs.last().map_or(0, |epoch| epoch.stamp.epoch), head.generation)
}

/// Every record of a ring that counts, with its place and length.
async fn scan_ring(member: &Member, head: &JournalHead, uuid: Uuid) -> Result<Vec<Found>, IoError> {
    let ring_bytes = head.ring_bytes.min(member.layout.journal.len) as usize;
    let image = read_range(member, member.layout.journal.offset, ring_bytes).await?;
    Ok(records_in(&image, head, uuid))
}

/// A range of a member's metadata; pages that cannot be read are zeros, and so verify as nothing.
async fn read_range(member: &Member, offset: u64, length: usize) -> Result<Buffer, IoError> {
    let mut whole = Buffer::zeroed(length);
    let reads = (0..length).step_by(READ_BYTES).map(|from| async move {
        let part = READ_BYTES.min(length - from);
        (from, read_pages(member, offset + from as u64, part).await)
    });
    for (from, part) in join_all(reads).await {
        let part = part?;
        whole[from..from + part.len()].copy_from_slice(&part);
    }
    Ok(whole)
}

async fn read_pages(member: &Member, offset: u64, length: usize) -> Result<Buffer, IoError> {
    let (mut buffer, result) = member.device.read(offset, Buffer::zeroed(length)).await;
    let Err(error) = result else { return Ok(buffer) };
    if error.kind == block_io::IoErrorKind::Gone {
        return Err(error);
    }
    for page in (0..length).step_by(PAGE_BYTES) {
        let (read, result) = member.device.read(offset + page as u64, Buffer::zeroed(PAGE_BYTES)).await;
        let target = &mut buffer[page..page + PAGE_BYTES];
        match result {
            Ok(()) => target.copy_from_slice(&read),
            Err(_) => target.fill(0),
        }
    }
    Ok(buffer)
}
