//! A named part of an array's data space that is exported as one disk.
//!
//! A volume is a list of stripe-aligned extents; reading and writing it is reading and writing the array
//! at another place. Its size may grow while it is open.

pub(crate) mod extents;

use std::sync::Arc;

use arc_swap::ArcSwap;
use block_io::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult,
};
use bytes::Bytes;
use uuid::Uuid;

pub use extents::NoRoom;

use crate::array::Array;
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
}

/// An open volume. Handles stay valid when it grows.
#[derive(Debug)]
pub struct Volume {
    array: Array,
    name: Arc<str>,
    record: ArcSwap<VolumeRecord>,
}

impl Volume {
    pub(crate) fn new(array: Array, record: VolumeRecord) -> Arc<Self> {
        let name = format!("{}/{}", array.name(), record.name).into();
        Arc::new(Self { array, name, record: ArcSwap::from_pointee(record) })
    }

    /// The identity that LUNs are made of: it survives rename, resize and restart.
    pub fn uuid(&self) -> Uuid {
        self.record.load().uuid
    }

    /// True if writes are acknowledged from memory.
    pub fn write_cache(&self) -> bool {
        self.record.load().write_cache
    }

    /// Its record in the config document.
    pub fn record(&self) -> VolumeRecord {
        VolumeRecord::clone(&self.record.load())
    }

    pub(crate) fn set_record(&self, record: VolumeRecord) {
        self.record.store(Arc::new(record));
    }

    /// Where on the array the range lies.
    fn locate(&self, operation: IoOperation, offset: u64, length: u64) -> Result<Vec<(u64, u64)>, IoError> {
        let record = self.record.load();
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
        Ok(pieces)
    }
}

impl BlockDevice for Volume {
    fn info(&self) -> DeviceInfo {
        let record = self.record.load();
        DeviceInfo {
            size_bytes: record.size_bytes,
            volatile_write_cache: record.write_cache,
            ..self.array.info()
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64, mut buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            let pieces = match self.locate(IoOperation::Read, offset, buffer.len() as u64) {
                Ok(pieces) => pieces,
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
            for (at, length) in self.locate(IoOperation::Write, offset, data.len() as u64)? {
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
            for (at, length) in self.locate(IoOperation::Zero, offset, length)? {
                self.array.zero(at, length, durability).await?;
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            for (at, length) in self.locate(IoOperation::Discard, offset, length)? {
                self.array.discard(at, length).await?;
            }
            Ok(())
        })
    }
}

/// Put the next part of a split buffer back behind the ones before it.
pub(crate) fn rejoin(whole: &mut Buffer, part: Buffer) {
    let joined = whole.unsplit(part);
    debug_assert!(joined.is_ok(), "parts come back in the order they were split off");
}
