//! A named part of an array's data space that is exported as one disk.
//!
//! A volume is a list of stripe-aligned extents; reading and writing it is reading and writing the array
//! at another place. Its size may change while it is open. An operation holds the record that it found its place
//! by to its end, so that space is given away only when nobody writes there any more.

pub(crate) mod extents;

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use block_io::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult,
    SpaceRun,
};
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

pub use extents::NoRoom;

use crate::array::{Array, lock};
use crate::format::labsan::VolumeRecord;

/// What a new volume is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Unique in its array.
    pub name: String,
    /// Size in bytes; a multiple of 4 KiB, at least that.
    pub size_bytes: u64,
    /// Acknowledge from memory; SYNCHRONIZE CACHE and FUA are the commit.
    pub write_cache: bool,
    /// The physical block to tell; none: what the members have.
    pub physical_block_bytes: Option<u32>,
}

/// An open volume. Handles stay valid when it grows.
#[derive(Debug)]
pub struct Volume {
    array: Array,
    name: Arc<str>,
    in_force: ArcSwap<InForce>,
    /// One for the record in force, last, and for each earlier one that operations may still hold.
    ends: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// A record, and what tells that the last operation which holds it has ended: its sender goes.
#[derive(Debug)]
struct InForce {
    record: VolumeRecord,
    _end: oneshot::Sender<()>,
}

impl InForce {
    /// The volume's last bytes from `offset`, and what the extents hold behind them: that was always zeros, shares a region of
    /// the written map with them, and goes back when they do.
    fn to_the_end_of_extents(&self, offset: u64) -> Vec<(u64, u64)> {
        let extents = &self.record.extents;
        let held: u64 = extents.iter().map(|extent| extent.len).sum();
        extents::locate(extents, offset, held - offset)
    }
}

/// The pieces of the array that a range lies in, under this record.
type Located = (Arc<InForce>, Vec<(u64, u64)>);

impl Volume {
    pub(crate) fn new(array: Array, record: VolumeRecord) -> Arc<Self> {
        let name = format!("{}/{}", array.name(), record.name).into();
        let (end, ended) = oneshot::channel();
        let in_force = ArcSwap::from_pointee(InForce { record, _end: end });
        Arc::new(Self { array, name, in_force, ends: Mutex::new(vec![ended]) })
    }

    /// The identity that LUNs are made of: it survives rename, resize and restart.
    pub fn uuid(&self) -> Uuid {
        self.in_force.load().record.uuid
    }

    /// True if writes are acknowledged from memory.
    pub fn write_cache(&self) -> bool {
        self.in_force.load().record.write_cache
    }

    /// Its record in the config document.
    pub fn record(&self) -> VolumeRecord {
        self.in_force.load().record.clone()
    }

    /// Its bytes that take space, as far as that is known: what is only in the journal yet is not counted.
    pub fn mapped_bytes(&self) -> u64 {
        let in_force = self.in_force.load();
        let pieces = extents::locate(&in_force.record.extents, 0, in_force.record.size_bytes);
        pieces.into_iter().map(|(at, length)| self.array.mapped_bytes(at, length)).sum()
    }

    /// Put another record in force. Operations that began under earlier ones may still be under way.
    pub(crate) fn set_record(&self, record: VolumeRecord) {
        let (end, ended) = oneshot::channel();
        self.in_force.store(Arc::new(InForce { record, _end: end }));
        let mut ends = lock(&self.ends);
        ends.retain_mut(|end| end.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        ends.push(ended);
    }

    /// Wait for every operation that began under an earlier record.
    pub(crate) async fn earlier_operations_ended(&self) {
        let earlier = {
            let mut ends = lock(&self.ends);
            let in_force = ends.len().saturating_sub(1);
            ends.drain(..in_force).collect::<Vec<_>>()
        };
        for end in earlier {
            // Nothing is ever sent: that the sender went is the news.
            let _ = end.await;
        }
    }

    /// Where on the array the range lies, and what to hold until the operation there has ended.
    fn locate(&self, operation: IoOperation, offset: u64, length: u64) -> Result<Located, IoError> {
        let in_force = self.in_force.load_full();
        let record = &in_force.record;
        let error = |kind| IoError::new(kind, operation, &self.name, offset, length);
        let block = u64::from(self.array.info().logical_block_bytes);
        if !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
            return Err(error(IoErrorKind::Misaligned));
        }
        if offset.checked_add(length).is_none_or(|end| end > record.size_bytes) {
            return Err(error(IoErrorKind::OutOfRange));
        }
        let pieces = extents::locate(&record.extents, offset, length);
        if pieces.is_empty() && length > 0 {
            return Err(error(IoErrorKind::OutOfRange));
        }
        Ok((in_force, pieces))
    }
}

impl BlockDevice for Volume {
    fn info(&self) -> DeviceInfo {
        let (in_force, info) = (self.in_force.load(), self.array.info());
        let physical = in_force.record.physical_block_bytes.unwrap_or(info.physical_block_bytes);
        DeviceInfo {
            size_bytes: in_force.record.size_bytes,
            physical_block_bytes: physical.max(info.logical_block_bytes),
            volatile_write_cache: in_force.record.write_cache,
            ..info
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64, mut buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            let (_in_force, pieces) = match self.locate(IoOperation::Read, offset, buffer.len() as u64) {
                Ok(located) => located,
                Err(error) => return (buffer, Err(error)),
            };
            if let [(at, _)] = pieces[..] {
                return self.array.read(at, buffer).await;
            }
            let mut whole = buffer.split_to(0);
            let mut outcome = Ok(());
            for (at, length) in pieces {
                let (part, result) = self.array.read(at, buffer.split_to(length as usize)).await;
                outcome = outcome.and(result);
                rejoin(&mut whole, part);
            }
            (whole, outcome)
        })
    }

    fn write(
        &self,
        offset: u64,
        mut data: Bytes,
        durability: Durability,
    ) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let (_in_force, pieces) = self.locate(IoOperation::Write, offset, data.len() as u64)?;
            for (at, length) in pieces {
                self.array.write(at, data.split_to(length as usize), durability).await?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        self.array.flush()
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let (_in_force, pieces) = self.locate(IoOperation::Zero, offset, length)?;
            for (at, length) in pieces {
                self.array.zero(at, length, durability).await?;
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let (in_force, mut pieces) = self.locate(IoOperation::Discard, offset, length)?;
            if offset + length == in_force.record.size_bytes {
                pieces = in_force.to_the_end_of_extents(offset);
            }
            for (at, length) in pieces {
                self.array.discard(at, length).await?;
            }
            Ok(())
        })
    }

    fn space_run(&self, offset: u64, length: u64) -> SpaceRun {
        let in_force = self.in_force.load();
        match extents::locate(&in_force.record.extents, offset, length).first() {
            Some((at, length)) => self.array.space_run(*at, *length),
            None => SpaceRun { length, mapped: true },
        }
    }

    fn atomic_limit_bytes(&self) -> u32 {
        self.array.atomic_limit_bytes()
    }

    fn write_atomic(&self, offset: u64, mut data: Bytes) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let (_in_force, pieces) = self.locate(IoOperation::Write, offset, data.len() as u64)?;
            let parts = pieces.into_iter().map(|(at, length)| (at, data.split_to(length as usize))).collect();
            self.array.write_atomic_parts(parts).await
        })
    }
}

/// Put the next part of a split buffer back behind the ones before it.
pub(crate) fn rejoin(whole: &mut Buffer, part: Buffer) {
    let joined = whole.unsplit(part);
    debug_assert!(joined.is_ok(), "parts come back in the order they were split off");
}
