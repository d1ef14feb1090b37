//! What has labsan itself written on a member? The structures of the labsan area.
//!
//! - [`header`]: whose area this is and where its regions lie. Two copies, the newer valid one counts.
//! - [`config`]: the SAN's configuration, in two slots that are written in turn.
//! - [`journal_head`], [`journal_record`]: the journal's tail and epochs, and its commits.
//! - [`lost`]: blocks whose content nobody can know (they read as errors until rewritten). Two copies in turn.
//! - [`written`]: which regions of the data were ever written.
//!
//! Every structure begins with the same [`Envelope`]: magic, version, array UUID, generation, length, CRC32.
//! A copy that does not verify is not there. Updates go to the copy that does *not* hold the newest
//! generation, so a torn write costs the update, never the state before it.

use crc32fast::Hasher;
use thiserror::Error;
use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub mod config;
pub mod header;
pub mod journal_head;
pub mod journal_record;
pub mod lost;
pub mod written;

pub use config::{ConfigDocument, Extent, VolumeRecord};
pub use header::{Header, Policy};

/// Bytes of the envelope.
pub const ENVELOPE_BYTES: usize = 64;
/// What counts updates, commits and starts never gets there; a copy that says so could not be followed by a newer one.
pub const MAX_GENERATION: u64 = 1 << 62;
/// Where the CRC lies in it.
const CRC_OFFSET: usize = 12;

/// Why bytes are not the structure that was looked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LabsanError {
    /// Fewer bytes than the structure says it has.
    #[error("cut short: {have} bytes, {need} needed")]
    Truncated {
        /// Bytes given.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
    /// Nothing of this kind was ever written here.
    #[error("nothing of labsan's here")]
    NoMagic,
    /// Made by a newer labsan.
    #[error("version {found} is newer than this labsan's {known}: use the newer labsan")]
    NewerVersion {
        /// As read.
        found: u32,
        /// The newest that is understood.
        known: u32,
    },
    /// Torn, decayed or tampered with.
    #[error("the checksum is {found:08x}, the bytes sum to {computed:08x}")]
    BadChecksum {
        /// As read.
        found: u32,
        /// As computed.
        computed: u32,
    },
    /// Of another array: left over, or copied.
    #[error("belongs to array {found}")]
    OtherArray {
        /// Whose it is.
        found: Uuid,
    },
    /// Of another member: its disk was copied, or bytes were misplaced.
    #[error("belongs to member {found}")]
    OtherMember {
        /// Whose it is.
        found: Uuid,
    },
    /// A field that no sane writer leaves.
    #[error("makes no sense: {field} is {value}")]
    Nonsense {
        /// Which.
        field: &'static str,
        /// As read.
        value: u64,
    },
    /// Uses something that this labsan would break.
    #[error("uses features {features:#x} that this labsan does not know: use the newer labsan")]
    UnknownFeatures {
        /// The unknown bits.
        features: u32,
    },
    /// The regions it records cannot be.
    #[error(transparent)]
    Layout(#[from] super::layout::LayoutError),
    /// More than its region holds.
    #[error("{needed} bytes do not fit the {room} reserved for them")]
    TooLarge {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        room: usize,
    },
    /// The document inside is not what it should be.
    #[error("the configuration document cannot be read: {0}")]
    Document(String),
}

impl LabsanError {
    /// A newer labsan wrote it: whoever goes on without it may break what that one relies on.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        matches!(self, Self::NewerVersion { .. } | Self::UnknownFeatures { .. })
    }
}

/// The first bytes of every structure, unverified.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Envelope {
    magic: [u8; 8],
    version: U32,
    /// CRC32 of all `length` bytes, itself as zero.
    crc32: U32,
    array_uuid: [u8; 16],
    generation: U64,
    /// Bytes of the whole structure, envelope included.
    length: U32,
    /// For the structure's own use.
    index: U32,
    reserved: [u8; 16],
}

const _: () = {
    assert!(size_of::<Envelope>() == ENVELOPE_BYTES);
    assert!(std::mem::offset_of!(Envelope, crc32) == CRC_OFFSET);
};

/// What tells one kind of structure from another.
struct Kind {
    magic: [u8; 8],
    version: u32,
}

/// A structure whose envelope was checked.
struct Sealed<'a> {
    generation: u64,
    index: u32,
    body: &'a [u8],
}

impl Kind {
    /// Check a structure and give its body.
    fn open<'a>(&self, bytes: &'a [u8], array_uuid: Uuid) -> Result<Sealed<'a>, LabsanError> {
        let Ok((envelope, _)) = Envelope::ref_from_prefix(bytes) else {
            return Err(LabsanError::Truncated { have: bytes.len(), need: ENVELOPE_BYTES });
        };
        if envelope.magic != self.magic {
            return Err(LabsanError::NoMagic);
        }
        let length = envelope.length.get() as usize;
        if length < ENVELOPE_BYTES {
            return Err(LabsanError::Nonsense { field: "length", value: length as u64 });
        }
        let Some(whole) = bytes.get(..length) else {
            return Err(LabsanError::Truncated { have: bytes.len(), need: length });
        };
        let (found, computed) = (envelope.crc32.get(), crc(whole));
        if found != computed {
            return Err(LabsanError::BadChecksum { found, computed });
        }
        // Only now, so that a torn version or owner is called torn.
        if envelope.version.get() > self.version || envelope.version.get() == 0 {
            return Err(LabsanError::NewerVersion { found: envelope.version.get(), known: self.version });
        }
        let owner = Uuid::from_bytes(envelope.array_uuid);
        if owner != array_uuid {
            return Err(LabsanError::OtherArray { found: owner });
        }
        let generation = envelope.generation.get();
        if generation > MAX_GENERATION {
            return Err(LabsanError::Nonsense { field: "generation", value: generation });
        }
        Ok(Sealed { generation, index: envelope.index.get(), body: &whole[ENVELOPE_BYTES..] })
    }

    /// A structure around `body`, zero-filled to a multiple of a page (the filling is not summed).
    fn seal(
        &self,
        array_uuid: Uuid,
        generation: u64,
        index: u32,
        body: &[u8],
        room: usize,
    ) -> Result<Vec<u8>, LabsanError> {
        let length = ENVELOPE_BYTES + body.len();
        let padded = length.next_multiple_of(super::PAGE_BYTES);
        let too_large = LabsanError::TooLarge { needed: length, room };
        if padded > room {
            return Err(too_large);
        }
        let envelope = Envelope {
            magic: self.magic,
            version: U32::new(self.version),
            crc32: U32::new(0),
            array_uuid: array_uuid.into_bytes(),
            generation: U64::new(generation),
            length: U32::new(u32::try_from(length).map_err(|_| too_large)?),
            index: U32::new(index),
            reserved: [0; 16],
        };
        let mut bytes = Vec::with_capacity(padded);
        bytes.extend_from_slice(envelope.as_bytes());
        bytes.extend_from_slice(body);
        let sum = crc(&bytes);
        bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
        bytes.resize(padded, 0);
        Ok(bytes)
    }
}

impl Kind {
    /// Put the envelope around a structure that already lies behind it; all of `bytes` is summed.
    fn seal_in_place(&self, bytes: &mut [u8], array_uuid: Uuid, generation: u64, index: u32) {
        let envelope = Envelope {
            magic: self.magic,
            version: U32::new(self.version),
            crc32: U32::new(0),
            array_uuid: array_uuid.into_bytes(),
            generation: U64::new(generation),
            length: U32::new(bytes.len() as u32),
            index: U32::new(index),
            reserved: [0; 16],
        };
        bytes[..ENVELOPE_BYTES].copy_from_slice(envelope.as_bytes());
        let sum = crc(bytes);
        bytes[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&sum.to_le_bytes());
    }

    /// The length that bytes of this magic claim, unverified.
    fn claimed_length(&self, head: &[u8]) -> Option<usize> {
        let (envelope, _) = Envelope::ref_from_prefix(head).ok()?;
        (envelope.magic == self.magic).then_some(envelope.length.get() as usize)
    }
}

/// CRC32 with the CRC's own field as zero.
fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&bytes[..CRC_OFFSET.min(bytes.len())]);
    hasher.update(&[0; 4]);
    hasher.update(bytes.get(CRC_OFFSET + 4..).unwrap_or_default());
    hasher.finalize()
}

/// One of the two copies of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    A,
    /// The second.
    B,
}

impl Side {
    /// The other one: where the next update goes.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1, to index a pair of regions.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

/// The valid copy of the higher generation (A where they are equal: then they hold the same).
/// Where neither is valid, the error that says more: a damaged copy before an absent one.
fn newest<T>(
    a: Result<T, LabsanError>,
    b: Result<T, LabsanError>,
    generation: impl Fn(&T) -> u64,
) -> Result<(Side, T), LabsanError> {
    match (a, b) {
        // Falling back to the older copy would undo what the newer labsan wrote.
        (Err(error), _) | (_, Err(error)) if error.is_newer() => Err(error),
        (Ok(a), Ok(b)) if generation(&b) > generation(&a) => Ok((Side::B, b)),
        (Ok(a), _) => Ok((Side::A, a)),
        (_, Ok(b)) => Ok((Side::B, b)),
        (Err(LabsanError::NoMagic), Err(error)) | (Err(error), Err(_)) => Err(error),
    }
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod tests;
