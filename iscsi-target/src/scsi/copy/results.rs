//! What became of copies, for RECEIVE COPY RESULTS (SPC-4), and what copies there can be.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::parameters::{BLOCK_TO_BLOCK, IDENTIFICATION, MAX_LIST_BYTES, MAX_SEGMENTS, MAX_TARGETS};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::scsi::command_table::{self, Operation};
use crate::scsi::{Nexus, Sense};

/// MAXIMUM SEGMENT LENGTH: what 65,535 blocks of 512 bytes come to, nearly.
pub(super) const MAX_SEGMENT_BYTES: u64 = 32 << 20;

/// HELD DATA LIMIT: no data is held, only outcomes.
const HELD_DATA_BYTES: u32 = 0;

/// MAXIMUM CONCURRENT COPIES of a target: each has memory for a piece.
const MAX_CONCURRENT: u8 = 16;

/// Log2 of DATA SEGMENT GRANULARITY: single blocks of 512 bytes.
const GRANULARITY_LOG2: u8 = 9;

/// A copy: running, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) segments_done: u16,
    pub(super) bytes_done: u64,
    pub(super) ended: Option<Ended>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    /// The command's status.
    pub(super) status: u8,
    /// Its sense data, where it has some.
    pub(super) sense: Vec<u8>,
}

/// A target's copies.
#[derive(Debug)]
pub(crate) struct CopyResults {
    /// Those whose outcome can still be asked for: of each nexus, one for each list identifier (256 at most).
    kept: Mutex<HashMap<(Nexus, u8), Progress>>,
    places: Semaphore,
}

impl Default for CopyResults {
    fn default() -> Self {
        Self { kept: Mutex::default(), places: Semaphore::new(MAX_CONCURRENT.into()) }
    }
}

impl CopyResults {
    fn copies(&self) -> MutexGuard<'_, HashMap<(Nexus, u8), Progress>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place among the copies under way, to be kept until the copy ends; none while there are enough.
    pub(super) fn try_start(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// Begin a copy. False: one of this identifier is under way.
    pub(super) fn begin(&self, nexus: &Nexus, list: u8) -> bool {
        let mut copies = self.copies();
        let key = (nexus.clone(), list);
        if copies.get(&key).is_some_and(|progress| progress.ended.is_none()) {
            return false;
        }
        copies.insert(key, Progress { segments_done: 0, bytes_done: 0, ended: None });
        true
    }

    /// Something changed.
    pub(super) fn update(&self, nexus: &Nexus, list: u8, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.copies().get_mut(&(nexus.clone(), list)) {
            change(progress);
        }
    }

    pub(super) fn get(&self, nexus: &Nexus, list: u8) -> Option<Progress> {
        self.copies().get(&(nexus.clone(), list)).cloned()
    }

    /// The nexus is lost: what it might have asked for goes.
    pub(crate) fn forget(&self, nexus: &Nexus) {
        self.copies().retain(|(owner, _), _| owner != nexus);
    }
}

/// RECEIVE COPY STATUS(LID1): the status, segments done, and bytes transferred.
pub(super) fn status(progress: &Progress) -> Vec<u8> {
    let state = match &progress.ended {
        None => 0,
        Some(ended) if ended.status == 0 => 1,
        Some(_) => 2,
    };
    let mut data = vec![0, 0, 0, 8, state];
    data.extend_from_slice(&progress.segments_done.to_be_bytes());
    // TRANSFER COUNT UNITS: bytes, or KiB where those do not fit.
    let (units, count) = u32::try_from(progress.bytes_done)
        .map_or_else(|_| (1, (progress.bytes_done >> 10).min(u32::MAX.into()) as u32), |bytes| (0, bytes));
    data.push(units);
    data.extend_from_slice(&count.to_be_bytes());
    data
}

/// RECEIVE COPY FAILURE DETAILS(LID1): nothing for a copy that did not fail.
pub(super) fn failure(progress: &Progress) -> Vec<u8> {
    let Some(ended) = progress.ended.as_ref().filter(|ended| ended.status != 0) else { return vec![0; 4] };
    let mut data = vec![0; 60];
    data[56] = ended.status;
    data[58..60].copy_from_slice(&(ended.sense.len() as u16).to_be_bytes());
    data.extend_from_slice(&ended.sense);
    let length = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

/// RECEIVE COPY OPERATING PARAMETERS.
pub(super) fn operating_parameters() -> Vec<u8> {
    let mut data = vec![0; 44];
    data[4] = 1; // SNLID: a list identifier is not needed
    data[8..10].copy_from_slice(&MAX_TARGETS.to_be_bytes());
    data[10..12].copy_from_slice(&MAX_SEGMENTS.to_be_bytes());
    data[12..16].copy_from_slice(&MAX_LIST_BYTES.to_be_bytes());
    data[16..20].copy_from_slice(&(MAX_SEGMENT_BYTES as u32).to_be_bytes());
    data[24..28].copy_from_slice(&HELD_DATA_BYTES.to_be_bytes());
    data[34..36].copy_from_slice(&u16::from(MAX_CONCURRENT).to_be_bytes());
    data[36] = MAX_CONCURRENT;
    data[37] = GRANULARITY_LOG2;
    let kinds = [BLOCK_TO_BLOCK, IDENTIFICATION];
    data[43] = kinds.len() as u8;
    data.extend_from_slice(&kinds);
    let length = (data.len() - 4) as u32;
    data[..4].copy_from_slice(&length.to_be_bytes());
    data
}

/// VPD page 8Fh (SPC-4): its body.
pub(crate) fn third_party_page() -> Vec<u8> {
    let mut parameters = Vec::from([0; 4]);
    parameters.extend_from_slice(&MAX_TARGETS.to_be_bytes());
    parameters.extend_from_slice(&MAX_SEGMENTS.to_be_bytes());
    parameters.extend_from_slice(&MAX_LIST_BYTES.to_be_bytes());
    parameters.extend_from_slice(&0u32.to_be_bytes());
    parameters.resize(28, 0);
    let mut general = u32::from(MAX_CONCURRENT).to_be_bytes().to_vec();
    general.extend_from_slice(&u32::from(MAX_CONCURRENT).to_be_bytes());
    general.extend_from_slice(&(MAX_SEGMENT_BYTES as u32).to_be_bytes());
    general.push(GRANULARITY_LOG2);
    general.resize(32, 0);
    [
        descriptor(0x0001, supported_commands()),
        descriptor(0x0004, parameters),
        descriptor(0x0008, vec![2, BLOCK_TO_BLOCK, IDENTIFICATION]),
        descriptor(0x000c, vec![0, 0]),
        descriptor(0x8001, general),
    ]
    .concat()
}

/// A third-party copy descriptor: its type, and its length a multiple of four.
fn descriptor(kind: u16, mut content: Vec<u8>) -> Vec<u8> {
    content.resize(content.len().next_multiple_of(4), 0);
    let mut bytes = kind.to_be_bytes().to_vec();
    bytes.extend_from_slice(&(content.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&content);
    bytes
}

/// Operation codes and their service actions, as the command table has them.
fn supported_commands() -> Vec<u8> {
    let mut list = Vec::new();
    for opcode in [0x83, 0x84] {
        let actions: Vec<u8> =
            command_table::of_opcode(opcode).filter_map(|command| command.service_action).collect();
        list.extend_from_slice(&[opcode, actions.len() as u8]);
        list.extend_from_slice(&actions);
    }
    list.insert(0, list.len() as u8);
    list
}

/// What a nexus asks about one of its copies.
pub(super) fn of_list(operation: Operation, progress: Option<Progress>) -> Result<Vec<u8>, Sense> {
    match (operation, progress) {
        (Operation::CopyParameters, _) => Ok(operating_parameters()),
        (Operation::CopyStatus, Some(progress)) => Ok(status(&progress)),
        (Operation::CopyFailure, Some(progress)) if progress.ended.is_some() => Ok(failure(&progress)),
        _ => Err(Sense::INVALID_FIELD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_made_of_whole_descriptors() {
        let page = third_party_page();
        let (mut at, mut kinds) = (0, Vec::new());
        while at < page.len() {
            kinds.push(u16::from_be_bytes([page[at], page[at + 1]]));
            at += 4 + usize::from(u16::from_be_bytes([page[at + 2], page[at + 3]]));
        }
        assert_eq!(at, page.len());
        assert!(at.is_multiple_of(4));
        assert_eq!(kinds, [0x0001, 0x0004, 0x0008, 0x000c, 0x8001], "in ascending order");
        assert_eq!(page[4..13], [8, 0x83, 1, 0, 0x84, 3, 0, 3, 4]);
    }

    #[test]
    fn a_copy_of_more_than_four_gib_is_counted_in_kib() {
        let progress = |bytes_done| Progress { segments_done: 3, bytes_done, ended: None };
        assert_eq!(status(&progress(0x0102_0304)), [0, 0, 0, 8, 0, 0, 3, 0, 1, 2, 3, 4]);
        assert_eq!(status(&progress(5 << 32))[7..], [1, 0x01, 0x40, 0, 0]);
    }
}
