//! What is on a device? Reads what the pure parsers of `format` need; changes nothing.

use block_io::{BlockDevice, Buffer, IoError, IoErrorKind};

use super::MemberDevice;
use crate::format::PAGE_BYTES;
use crate::format::assembly::Candidate;
use crate::format::bitmap::BitmapHeader;
use crate::format::foreign::{self, HEAD_BYTES, Probe, Signature, TAIL_BYTES};
use crate::format::labsan::{Header, LabsanError};
use crate::format::superblock::{SUPER_OFFSET_BYTES, Superblock, SuperblockError};

/// A member of an array, labsan's or md's.
#[derive(Clone, Debug)]
pub struct ExaminedMember {
    /// md's superblock.
    pub superblock: Superblock,
    /// labsan's header, or why there is none to be used.
    pub header: Result<Header, LabsanError>,
    /// md's bitmap, where there is a valid one.
    pub bitmap: Option<BitmapHeader>,
}

/// What a device turns out to be.
#[derive(Clone, Debug)]
pub enum Examination {
    /// Nothing that anyone would miss was recognised.
    Blank,
    /// Somebody's data: what was recognised, the superblock of an array that cannot be read among it.
    Foreign(Vec<Signature>),
    /// A member of an array.
    Member(Box<ExaminedMember>),
}

/// Look at a device.
pub async fn examine(device: &dyn BlockDevice) -> Result<Examination, IoError> {
    let (head, unreadable) = read_head(device).await;
    let size_bytes = device.info().size_bytes;
    if let Ok(superblock) = parse_superblock(&head) {
        let header = Header::find(&head, &superblock, size_bytes).map(|(_, header)| header);
        let bitmap = read_bitmap_header(&head, &superblock);
        return Ok(Examination::Member(Box::new(ExaminedMember { superblock, header, bitmap })));
    }
    // Whose it is lies perhaps where it cannot be read: that is not blank.
    unreadable.map_or(Ok(()), Err)?;
    let tail_bytes = (size_bytes as usize).min(TAIL_BYTES) / PAGE_BYTES * PAGE_BYTES;
    let tail = read_at(device, size_bytes - tail_bytes as u64, tail_bytes).await?;
    let signatures = foreign::detect(&Probe { head: &head, tail: &tail, size_bytes });
    Ok(if signatures.is_empty() { Examination::Blank } else { Examination::Foreign(signatures) })
}

/// What the chooser needs to know of a device.
pub(super) async fn candidate(member: &MemberDevice) -> Result<Candidate, IoError> {
    let device = &*member.device;
    let (head, unreadable) = read_head(device).await;
    let size_bytes = device.info().size_bytes;
    let superblock = parse_superblock(&head);
    if let (Err(_), Some(error)) = (&superblock, unreadable) {
        return Err(error);
    }
    let labsan = match &superblock {
        Ok(superblock) => Header::find(&head, superblock, size_bytes).map(|(_, header)| header),
        Err(_) => Err(LabsanError::NoMagic),
    };
    let bitmap = superblock.as_ref().ok().and_then(|superblock| read_bitmap_header(&head, superblock));
    Ok(Candidate { id: member.path.display().to_string(), size_bytes, superblock, labsan, bitmap })
}

fn parse_superblock(head: &[u8]) -> Result<Superblock, SuperblockError> {
    let at = SUPER_OFFSET_BYTES as usize;
    Superblock::parse(head.get(at..).unwrap_or_default())
}

fn read_bitmap_header(head: &[u8], superblock: &Superblock) -> Option<BitmapHeader> {
    let at = usize::try_from(superblock.bitmap_offset_bytes()?).ok()?;
    BitmapHeader::parse(head.get(at..)?, superblock.array_uuid)
        .ok()
        .filter(|header| header.covers(superblock))
}

/// The head of a device. Where a part of it cannot be read that part is zeros, and why is told: the structures
/// there have copies, on this member or on others.
async fn read_head(device: &dyn BlockDevice) -> (Buffer, Option<IoError>) {
    let length = (device.info().size_bytes as usize).min(HEAD_BYTES) / PAGE_BYTES * PAGE_BYTES;
    match read_at(device, 0, length).await {
        Ok(head) => return (head, None),
        Err(error) if error.kind != IoErrorKind::Medium => return (Buffer::zeroed(0), Some(error)),
        Err(_) => {}
    }
    let mut head = Buffer::zeroed(length);
    let mut unreadable = None;
    for (number, page) in head.chunks_mut(PAGE_BYTES).enumerate() {
        match read_at(device, (number * PAGE_BYTES) as u64, page.len()).await {
            Ok(read) => page.copy_from_slice(&read),
            Err(error) => unreadable = Some(error),
        }
    }
    (head, unreadable)
}

/// Read a range into a buffer of its own.
pub(super) async fn read_at(device: &dyn BlockDevice, offset: u64, length: usize) -> Result<Buffer, IoError> {
    if length == 0 {
        return Ok(Buffer::zeroed(0));
    }
    let block = u64::from(device.info().logical_block_bytes).max(512);
    let start = offset / block * block;
    let end = (offset + length as u64).next_multiple_of(block);
    let (mut buffer, result) = device.read(start, Buffer::zeroed((end - start) as usize)).await;
    result?;
    let mut wanted = buffer.split_off((offset - start) as usize);
    wanted.truncate(length);
    Ok(wanted)
}
