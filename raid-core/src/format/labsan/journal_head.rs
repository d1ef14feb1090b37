//! Where does the journal begin, and which starts of the array wrote it? One page on every member, two copies in turn.
//!
//! The tail is the oldest commit that still counts; everything before it is dead. An [`Epoch`] is one start of the array:
//! the commits from its first one up to the next epoch's first belong to it, and a record that says otherwise is
//! stale. The newest epoch's entry is durable before its first record is written.

use uuid::Uuid;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::journal_record::Stamp;
use super::{ENVELOPE_BYTES, Kind, LabsanError, MAX_GENERATION, Side, newest};
use crate::format::{PAGE_BYTES, Page};

const KIND: Kind = Kind { magic: *b"LABSANJH", version: 1 };
/// The most epochs a head remembers: starts in a row that each committed something and were cut short before the tail
/// had moved. The oldest would be forgotten first, with what they committed.
pub const MAX_EPOCHS: usize = 128;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFixed {
    tail: U64,
    ring_bytes: U64,
    reserved: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEpoch {
    number: U64,
    nonce: U64,
    first: U64,
}

const _: () =
    assert!(ENVELOPE_BYTES + size_of::<RawFixed>() + MAX_EPOCHS * size_of::<RawEpoch>() <= PAGE_BYTES);

/// One start of the array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// What its records carry.
    pub stamp: Stamp,
    /// Its first commit.
    pub first: u64,
}

/// The head of the journal, the same on all members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalHead {
    /// Counts the updates.
    pub generation: u64,
    /// The oldest commit that counts.
    pub tail: u64,
    /// Bytes of every member's ring that are used.
    pub ring_bytes: u64,
    /// Oldest first; never empty.
    pub epochs: Vec<Epoch>,
}

impl JournalHead {
    /// The page to write on [`JournalHead::side`].
    #[must_use]
    pub fn encode(&self, array_uuid: Uuid) -> Page {
        let fixed =
            RawFixed { tail: U64::new(self.tail), ring_bytes: U64::new(self.ring_bytes), reserved: [0; 16] };
        let mut body = fixed.as_bytes().to_vec();
        let skip = self.epochs.len().saturating_sub(MAX_EPOCHS);
        for epoch in &self.epochs[skip..] {
            let raw = RawEpoch {
                number: U64::new(epoch.stamp.epoch),
                nonce: U64::new(epoch.stamp.nonce),
                first: U64::new(epoch.first),
            };
            body.extend_from_slice(raw.as_bytes());
        }
        let mut page = [0; PAGE_BYTES];
        // Fits by the size assert above, so the seal cannot fail.
        if let Ok(bytes) = KIND.seal(array_uuid, self.generation, 0, &body, PAGE_BYTES) {
            page.copy_from_slice(&bytes);
        }
        page
    }

    /// Which copy this generation is written to.
    #[must_use]
    pub fn side(&self) -> Side {
        if self.generation.is_multiple_of(2) { Side::A } else { Side::B }
    }

    fn parse(bytes: &[u8], array_uuid: Uuid) -> Result<Self, LabsanError> {
        let sealed = KIND.open(bytes, array_uuid)?;
        let short = LabsanError::Truncated { have: sealed.body.len(), need: size_of::<RawFixed>() };
        let Ok((fixed, rest)) = RawFixed::ref_from_prefix(sealed.body) else { return Err(short) };
        let Ok(raw) = <[RawEpoch]>::ref_from_bytes(rest) else {
            return Err(LabsanError::Nonsense { field: "epochs", value: rest.len() as u64 });
        };
        let epochs: Vec<Epoch> = raw
            .iter()
            .map(|raw| Epoch {
                stamp: Stamp { epoch: raw.number.get(), nonce: raw.nonce.get() },
                first: raw.first.get(),
            })
            .collect();
        let ordered = epochs
            .windows(2)
            .all(|pair| pair[0].stamp.epoch < pair[1].stamp.epoch && pair[0].first <= pair[1].first);
        if epochs.is_empty() || !ordered {
            return Err(LabsanError::Nonsense { field: "epochs", value: epochs.len() as u64 });
        }
        let tail = fixed.tail.get();
        let numbers = epochs.iter().flat_map(|epoch| [epoch.stamp.epoch, epoch.first]);
        if let Some(value) = numbers.chain([tail]).find(|number| *number > MAX_GENERATION) {
            return Err(LabsanError::Nonsense { field: "epochs", value });
        }
        let ring_bytes = fixed.ring_bytes.get();
        if !ring_bytes.is_multiple_of(PAGE_BYTES as u64) {
            return Err(LabsanError::Nonsense { field: "ring_bytes", value: ring_bytes });
        }
        Ok(Self { generation: sealed.generation, tail, ring_bytes, epochs })
    }

    /// The newer valid copy of the two pages at the beginning of the journal-head region.
    pub fn find(region: &[u8], array_uuid: Uuid) -> Result<Self, LabsanError> {
        let copy = |index: usize| {
            let page =
                region.get(index * PAGE_BYTES..(index + 1) * PAGE_BYTES).ok_or(LabsanError::NoMagic)?;
            Self::parse(page, array_uuid)
        };
        newest(copy(0), copy(1), |head| head.generation).map(|(_, head)| head)
    }

    /// Whether a record of this stamp and sequence number is of the life that owns the number.
    #[must_use]
    pub fn owns(&self, sequence: u64, stamp: Stamp) -> bool {
        let next = self.epochs.partition_point(|epoch| epoch.first <= sequence);
        next > 0 && self.epochs[next - 1].stamp == stamp
    }
}
