//! Whose labsan area is this, and where do its regions lie?
//!
//! Two copies, a page each, at an anchor of [`ANCHORS`]. The header also remembers `events` and `utime` of the
//! superblock that labsan wrote last: if bit 31 is clear and either is another now, md ran the array, and
//! journal, written map and checksums are stale ([`crate::format::assembly`] decides that). `events` alone
//! would not do: md takes an update back (`can_decrease_events`), so that a run may end at the count it began
//! with. md's `utime` never has microseconds, labsan's always has ([`MdTime::of_labsan`]).

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ENVELOPE_BYTES, Kind, LabsanError, Side, newest};
use crate::format::layout::{ANCHORS, MemberLayout, Region, RegionKind};
use crate::format::superblock::{MdTime, Superblock};
use crate::format::{PAGE_BYTES, Page};

const KIND: Kind = Kind { magic: *b"LABSANHD", version: 1 };
/// Places for regions in a header; kinds so far use half.
const REGION_SLOTS: usize = 16;
/// Incompatible feature: the ring of a mirror may hold the record of an atomic write, which a start completes. A labsan that
/// did not know of it would run the array beside the record, and the next one that does would undo what was written meanwhile.
pub const REDO_RECORDS: u32 = 1;
/// Incompatible features that this labsan knows.
const KNOWN_INCOMPATIBLE: u32 = REDO_RECORDS;
/// The most of the device that has to be read to find the header: through the last anchor's copies.
pub const SEARCH_BYTES: usize = ANCHORS[ANCHORS.len() - 1] as usize + 2 * PAGE_BYTES;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawRegion {
    kind: U32,
    flags: U32,
    offset: U64,
    len: U64,
}

/// The header's body, unverified.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    device_uuid: [u8; 16],
    md_events: U64,
    md_utime: U64,
    area_offset: U64,
    member_bytes: U64,
    data_offset: U64,
    data_size: U64,
    map_generation: U64,
    map_region_bytes: U64,
    bitmap_offset: U64,
    bitmap_len: U64,
    compatible: U32,
    incompatible: U32,
    policy: U32,
    region_count: U32,
    reserved: [u8; 88],
    regions: [RawRegion; REGION_SLOTS],
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(offset_of!(RawHeader, md_events) == 16);
    assert!(offset_of!(RawHeader, policy) == 104);
    assert!(offset_of!(RawHeader, regions) == 200);
    assert!(size_of::<RawHeader>() == 200 + 24 * REGION_SLOTS);
    assert!(size_of::<RawHeader>() + ENVELOPE_BYTES <= PAGE_BYTES);
};

/// How the array keeps redundancy consistent across crashes. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u32)]
pub enum Policy {
    /// Nothing: after a crash, everything is resynced.
    None = 0,
    /// md's write-intent bitmap: after a crash, what was being written is resynced.
    Bitmap = 1,
    /// labsan's journal: nothing to resync, no write hole.
    Journal = 2,
}

impl Policy {
    fn from_raw(raw: u32) -> Option<Self> {
        [Self::None, Self::Bitmap, Self::Journal].into_iter().find(|policy| *policy as u32 == raw)
    }
}

/// A member's labsan header, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The array's UUID, as in the superblock.
    pub array_uuid: Uuid,
    /// The member's UUID, as in the superblock.
    pub device_uuid: Uuid,
    /// Counts the header's own updates; the newer copy wins.
    pub generation: u64,
    /// `events` of the superblock that labsan wrote last, or is about to write, when it stops.
    pub md_events: u64,
    /// `utime` of the same.
    pub md_utime: MdTime,
    /// Size of the device when it was laid out.
    pub member_bytes: u64,
    /// How the array is kept consistent.
    pub policy: Policy,
    /// Pages of the written map count only if they carry this generation; raise it to forget the map.
    pub map_generation: u64,
    /// Bytes of data per bit of the written map: a power of two.
    pub map_region_bytes: u64,
    /// Feature bits that an older labsan may ignore; carried along.
    pub compatible: u32,
    /// Feature bits that a labsan which does not know them refuses: [`REDO_RECORDS`].
    pub incompatible: u32,
    /// Where everything lies.
    pub layout: MemberLayout,
}

impl Header {
    /// A first header for a member that is laid out so.
    #[must_use]
    pub fn new(superblock: &Superblock, layout: MemberLayout, member_bytes: u64, policy: Policy) -> Self {
        Self {
            array_uuid: superblock.array_uuid,
            device_uuid: superblock.device_uuid,
            generation: 1,
            md_events: superblock.events,
            md_utime: superblock.utime,
            member_bytes,
            policy,
            map_generation: 1,
            map_region_bytes: super::written::region_bytes_for(layout.data_size, layout.written_map.len),
            compatible: 0,
            incompatible: 0,
            layout,
        }
    }

    /// Find the header in the first [`SEARCH_BYTES`] of a device (fewer are searched as far as they go).
    /// Gives the newer copy and which one it is; [`Header::offset`] of the other is where the next goes.
    /// `superblock` is the member's, `size_bytes` the device's size: the layout recorded must fit both.
    pub fn find(head: &[u8], superblock: &Superblock, size_bytes: u64) -> Result<(Side, Self), LabsanError> {
        let mut telling = LabsanError::NoMagic;
        for anchor in ANCHORS {
            let copy = |index: usize| {
                let start = anchor as usize + index * PAGE_BYTES;
                let bytes = head.get(start..start + PAGE_BYTES).ok_or(LabsanError::NoMagic)?;
                Self::parse(bytes, anchor, superblock, size_bytes)
            };
            match newest(copy(0), copy(1), |header| header.generation) {
                Ok(found) => return Ok(found),
                Err(LabsanError::NoMagic) => {}
                Err(error) => telling = error,
            }
        }
        Err(telling)
    }

    /// First byte of a header copy on the device.
    #[must_use]
    pub fn offset(&self, side: Side) -> u64 {
        self.layout.headers.offset + (side.index() * PAGE_BYTES) as u64
    }

    fn parse(
        bytes: &[u8],
        anchor: u64,
        superblock: &Superblock,
        size_bytes: u64,
    ) -> Result<Self, LabsanError> {
        let sealed = KIND.open(bytes, superblock.array_uuid)?;
        let Ok((raw, _)) = RawHeader::ref_from_prefix(sealed.body) else {
            return Err(LabsanError::Truncated { have: sealed.body.len(), need: size_of::<RawHeader>() });
        };
        let found = Uuid::from_bytes(raw.device_uuid);
        if found != superblock.device_uuid {
            return Err(LabsanError::OtherMember { found });
        }
        let unknown = raw.incompatible.get() & !KNOWN_INCOMPATIBLE;
        if unknown != 0 {
            return Err(LabsanError::UnknownFeatures { features: unknown });
        }
        let policy = Policy::from_raw(raw.policy.get())
            .ok_or(LabsanError::Nonsense { field: "policy", value: raw.policy.get().into() })?;
        let map_region_bytes = raw.map_region_bytes.get();
        if !map_region_bytes.is_power_of_two() || map_region_bytes < super::written::MIN_REGION_BYTES {
            return Err(LabsanError::Nonsense { field: "map_region_bytes", value: map_region_bytes });
        }
        Ok(Self {
            array_uuid: superblock.array_uuid,
            device_uuid: found,
            generation: sealed.generation,
            md_events: raw.md_events.get(),
            md_utime: MdTime::from_raw(raw.md_utime.get()),
            member_bytes: raw.member_bytes.get(),
            policy,
            map_generation: raw.map_generation.get(),
            map_region_bytes,
            compatible: raw.compatible.get(),
            incompatible: raw.incompatible.get(),
            layout: recorded_layout(raw, anchor, superblock, size_bytes)?,
        })
    }

    /// The page to write at [`Header::offset`] of the copy that is not the newest.
    #[must_use]
    pub fn encode(&self) -> Page {
        let mut regions =
            [RawRegion { kind: U32::new(0), flags: U32::new(0), offset: U64::new(0), len: U64::new(0) };
                REGION_SLOTS];
        for (slot, kind) in regions.iter_mut().zip(RegionKind::ALL) {
            let region = self.layout.region(kind);
            slot.kind.set(kind as u32);
            slot.offset.set(region.offset);
            slot.len.set(region.len);
        }
        let raw = RawHeader {
            device_uuid: self.device_uuid.into_bytes(),
            md_events: U64::new(self.md_events),
            md_utime: U64::new(self.md_utime.to_raw()),
            area_offset: U64::new(self.layout.headers.offset),
            member_bytes: U64::new(self.member_bytes),
            data_offset: U64::new(self.layout.data_offset),
            data_size: U64::new(self.layout.data_size),
            map_generation: U64::new(self.map_generation),
            map_region_bytes: U64::new(self.map_region_bytes),
            bitmap_offset: U64::new(self.layout.bitmap.offset),
            bitmap_len: U64::new(self.layout.bitmap.len),
            compatible: U32::new(self.compatible),
            incompatible: U32::new(self.incompatible),
            policy: U32::new(self.policy as u32),
            region_count: U32::new(RegionKind::ALL.len() as u32),
            reserved: [0; 88],
            regions,
        };
        let mut page = [0; PAGE_BYTES];
        // Fits by the size assert above, so the seal cannot fail.
        if let Ok(bytes) = KIND.seal(self.array_uuid, self.generation, 0, raw.as_bytes(), PAGE_BYTES) {
            page.copy_from_slice(&bytes);
        }
        page
    }
}

fn recorded_layout(
    raw: &RawHeader,
    anchor: u64,
    superblock: &Superblock,
    size_bytes: u64,
) -> Result<MemberLayout, LabsanError> {
    // Copied bytes at another anchor are not this area's header.
    if raw.area_offset.get() != anchor {
        return Err(LabsanError::Nonsense { field: "area_offset", value: raw.area_offset.get() });
    }
    let count = raw.region_count.get() as usize;
    let recorded = raw
        .regions
        .get(..count)
        .ok_or(LabsanError::Nonsense { field: "region_count", value: raw.region_count.get().into() })?;
    // Kinds of a newer labsan are left alone: its incompatible bit would have stopped us.
    let region = |kind: RegionKind| {
        recorded.iter().find(|region| region.kind.get() == kind as u32).map_or(
            Region { offset: 0, len: 0 },
            |region| Region { offset: region.offset.get(), len: region.len.get() },
        )
    };
    let headers = Region { offset: anchor, len: crate::format::layout::HEADERS_BYTES };
    let bitmap = Region { offset: raw.bitmap_offset.get(), len: raw.bitmap_len.get() };
    Ok(MemberLayout::recorded(superblock, bitmap, headers, region, size_bytes)?)
}
