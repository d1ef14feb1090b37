//! One commit of the journal: a header, its items, their payload, and one CRC over all of it.
//!
//! ```text
//!   0  envelope   magic LABSANJR, generation = sequence number, index = number of items
//!  64  epoch, nonce, 16 reserved bytes
//!  96  items, 48 bytes each
//!  next whole 4 KiB: payloads, each from a whole 512 bytes; the record ends on a whole 4 KiB
//! ```
//!
//! A record counts only if all of it verifies and its epoch and nonce are those that the journal head gives for its
//! sequence number: what an earlier life left behind, and what a client wrote as data, is never taken for a record.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ENVELOPE_BYTES, Kind, LabsanError};
use crate::format::PAGE_BYTES;
use crate::geometry::Row;

const KIND: Kind = Kind { magic: *b"LABSANJR", version: 1 };
/// Bytes before the first item.
const FIXED_BYTES: usize = ENVELOPE_BYTES + 32;
const ITEM_BYTES: usize = size_of::<RawItem>();
/// Payloads begin on this boundary: the smallest logical block.
const PAYLOAD_ALIGN: usize = 512;
/// Intents carry a CRC32 for each block of this size.
pub const INTENT_BLOCK_BYTES: u32 = 4096;
/// Stripes that one item of zeros may name: whoever reads it keeps something for each.
const MAX_ZEROS: u32 = 1 << 16;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFixed {
    epoch: U64,
    nonce: U64,
    reserved: [u8; 16],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawItem {
    kind: U32,
    row: U32,
    stripe: U64,
    start: U32,
    length: U32,
    payload: U32,
    reserved: U32,
    from: U64,
    to: U64,
}

const _: () = assert!(ITEM_BYTES == 48);
const _: () = assert!(size_of::<RawFixed>() + ENVELOPE_BYTES == FIXED_BYTES);

/// What an item says. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// New user data: `length` bytes from `start` of the stripe's user data. Payload: the bytes.
    Data {
        /// Which stripe.
        stripe: u64,
        /// First byte in the stripe's user data.
        start: u32,
        /// How many.
        length: u32,
    },
    /// Part of the parity that goes with the stripe's data of commits `from..=to`. Payload: the bytes; none if the
    /// stripe had no parity member left, so that the item only says what is covered. If `from` is `to + 1` it covers
    /// nothing, and says that whatever is older is dead.
    Parity {
        /// Which stripe.
        stripe: u64,
        /// `Row::P` or `Row::Q`.
        row: Row,
        /// First column (byte in the chunk).
        column: u32,
        /// How many bytes.
        length: u32,
        /// The oldest commit with data that it covers.
        from: u64,
        /// The newest.
        to: u64,
    },
    /// A whole stripe is about to be written in place. Payload: the CRC32 of each 4 KiB of its user data.
    Intent {
        /// Which stripe.
        stripe: u64,
        /// How many CRCs.
        blocks: u32,
    },
    /// Whole stripes are about to be zeroed in place. No payload: redone as it stands.
    Zeros {
        /// The first stripe.
        stripe: u64,
        /// How many.
        count: u32,
    },
}

const DATA: u32 = 1;
const PARITY: u32 = 2;
const INTENT: u32 = 3;
const ZEROS: u32 = 4;

impl Item {
    /// Bytes of its payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match *self {
            Self::Data { length, .. } | Self::Parity { length, .. } => length as usize,
            Self::Intent { blocks, .. } => blocks as usize * 4,
            Self::Zeros { .. } => 0,
        }
    }

    fn to_raw(self, payload: u32) -> RawItem {
        let (kind, row, stripe, start, length, from, to) = match self {
            Self::Data { stripe, start, length } => (DATA, 0, stripe, start, length, 0, 0),
            Self::Parity { stripe, row, column, length, from, to } => {
                (PARITY, u32::from(row == Row::Q), stripe, column, length, from, to)
            }
            Self::Intent { stripe, blocks } => (INTENT, 0, stripe, 0, blocks, 0, 0),
            Self::Zeros { stripe, count } => (ZEROS, 0, stripe, 0, count, 0, 0),
        };
        RawItem {
            kind: U32::new(kind),
            row: U32::new(row),
            stripe: U64::new(stripe),
            start: U32::new(start),
            length: U32::new(length),
            payload: U32::new(payload),
            reserved: U32::new(0),
            from: U64::new(from),
            to: U64::new(to),
        }
    }

    fn from_raw(raw: &RawItem) -> Result<Self, LabsanError> {
        let (stripe, start, length) = (raw.stripe.get(), raw.start.get(), raw.length.get());
        let whole_sectors = start.is_multiple_of(512) && length.is_multiple_of(512);
        let nonsense = |field, value: u64| LabsanError::Nonsense { field, value };
        match raw.kind.get() {
            DATA | PARITY if !whole_sectors || start.checked_add(length).is_none() => {
                Err(nonsense("length", length.into()))
            }
            DATA => Ok(Self::Data { stripe, start, length }),
            PARITY => {
                let row = match raw.row.get() {
                    0 => Row::P,
                    1 => Row::Q,
                    other => return Err(nonsense("row", other.into())),
                };
                let (from, to) = (raw.from.get(), raw.to.get());
                // Nothing covered, and so no parity: everything before `from` is dead.
                let nothing = length == 0 && to.checked_add(1) == Some(from);
                if from > to && !nothing {
                    return Err(nonsense("from", from));
                }
                Ok(Self::Parity { stripe, row, column: start, length, from, to })
            }
            INTENT => Ok(Self::Intent { stripe, blocks: length }),
            ZEROS if length > MAX_ZEROS || stripe.checked_add(length.into()).is_none() => {
                Err(nonsense("count", length.into()))
            }
            ZEROS => Ok(Self::Zeros { stripe, count: length }),
            other => Err(nonsense("kind", other.into())),
        }
    }
}

/// Which life of the array a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Counts the starts of the array.
    pub epoch: u64,
    /// A random number of that start.
    pub nonce: u64,
}

/// Bytes of a record with so many items and so many bytes of payload (each padded by [`padded`]).
#[must_use]
pub fn record_bytes(items: usize, padded_payload: usize) -> usize {
    let head = (FIXED_BYTES + items * ITEM_BYTES).next_multiple_of(PAGE_BYTES);
    head + padded_payload.next_multiple_of(PAGE_BYTES)
}

/// Bytes that a payload takes.
#[must_use]
pub fn padded(payload: usize) -> usize {
    payload.next_multiple_of(PAYLOAD_ALIGN)
}

/// Fill `record`, which is exactly as long as [`record_bytes`] says, with items and their payloads.
pub fn encode<'a>(
    record: &mut [u8],
    array_uuid: Uuid,
    sequence: u64,
    stamp: Stamp,
    items: impl ExactSizeIterator<Item = (Item, &'a [u8])>,
) {
    let count = items.len();
    let fixed = RawFixed { epoch: U64::new(stamp.epoch), nonce: U64::new(stamp.nonce), reserved: [0; 16] };
    record[ENVELOPE_BYTES..FIXED_BYTES].copy_from_slice(fixed.as_bytes());
    let items_end = FIXED_BYTES + count * ITEM_BYTES;
    let mut payload_at = items_end.next_multiple_of(PAGE_BYTES);
    record[items_end..payload_at].fill(0);
    for (index, (item, payload)) in items.enumerate() {
        let raw = item.to_raw(payload_at as u32);
        let at = FIXED_BYTES + index * ITEM_BYTES;
        record[at..at + ITEM_BYTES].copy_from_slice(raw.as_bytes());
        let end = payload_at + payload.len();
        record[payload_at..end].copy_from_slice(payload);
        payload_at += padded(payload.len());
        record[end..payload_at].fill(0);
    }
    record[payload_at..].fill(0);
    KIND.seal_in_place(record, array_uuid, sequence, count as u32);
}

/// The length that bytes claim if they look like the beginning of a record; the caller reads so many and parses.
#[must_use]
pub fn claimed_bytes(head: &[u8]) -> Option<usize> {
    let length = KIND.claimed_length(head)?;
    (length.is_multiple_of(PAGE_BYTES) && length > 0).then_some(length)
}

/// A record that verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its sequence number.
    pub sequence: u64,
    /// Whose life it is of.
    pub stamp: Stamp,
    /// Its items, each with the first byte of its payload in the record.
    pub items: Vec<(Item, usize)>,
}

/// Check a record of exactly `bytes`.
pub fn parse(bytes: &[u8], array_uuid: Uuid) -> Result<Record, LabsanError> {
    let sealed = KIND.open(bytes, array_uuid)?;
    let short = LabsanError::Truncated { have: bytes.len(), need: FIXED_BYTES };
    let Ok((fixed, rest)) = RawFixed::ref_from_prefix(sealed.body) else { return Err(short) };
    let Ok((raw, _)) = <[RawItem]>::ref_from_prefix_with_elems(rest, sealed.index as usize) else {
        return Err(LabsanError::Nonsense { field: "items", value: sealed.index.into() });
    };
    let mut items = Vec::with_capacity(raw.len());
    for raw in raw {
        let item = Item::from_raw(raw)?;
        let payload = raw.payload.get() as usize;
        if payload.checked_add(item.payload_bytes()).is_none_or(|end| end > bytes.len()) {
            return Err(LabsanError::Nonsense { field: "payload", value: payload as u64 });
        }
        items.push((item, payload));
    }
    let stamp = Stamp { epoch: fixed.epoch.get(), nonce: fixed.nonce.get() };
    Ok(Record { sequence: sealed.generation, stamp, items })
}
