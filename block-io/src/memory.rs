//! A block device in memory: for tests, and for measuring everything above the disks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult,
    Zeroing,
};

/// As a journalled array has it.
const ATOMIC_LIMIT_BYTES: u32 = 256 << 10;

/// A device whose blocks are a vector. Clones share the same blocks.
#[derive(Clone)]
pub struct MemoryDevice {
    name: Arc<str>,
    blocks: Arc<Mutex<Vec<u8>>>,
    logical_block_bytes: u32,
}

impl std::fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryDevice").field("name", &self.name).finish_non_exhaustive()
    }
}

impl MemoryDevice {
    /// `size_bytes` of zeros with logical blocks of 512 bytes.
    pub fn new(name: &str, size_bytes: usize) -> Self {
        Self::with_block_size(name, size_bytes, 512)
    }

    /// The same with another logical block size.
    pub fn with_block_size(name: &str, size_bytes: usize, logical_block_bytes: u32) -> Self {
        Self { name: name.into(), blocks: Arc::new(Mutex::new(vec![0; size_bytes])), logical_block_bytes }
    }

    /// A copy of everything on it.
    pub fn contents(&self) -> Vec<u8> {
        self.blocks().clone()
    }

    /// Change bytes behind the device's back, as decay or a stranger would.
    pub fn tamper(&self, change: impl FnOnce(&mut [u8])) {
        change(&mut self.blocks());
    }

    fn blocks(&self) -> MutexGuard<'_, Vec<u8>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, operation: IoOperation, offset: u64, length: u64) -> Result<usize, IoError> {
        let error = |kind| IoError::new(kind, operation, &self.name, offset, length);
        let block = u64::from(self.logical_block_bytes);
        if !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
            return Err(error(IoErrorKind::Misaligned));
        }
        let size = self.blocks().len() as u64;
        match offset.checked_add(length) {
            Some(end) if end <= size => usize::try_from(offset).map_err(|_| error(IoErrorKind::OutOfRange)),
            _ => Err(error(IoErrorKind::OutOfRange)),
        }
    }

    fn fill_with_zeros(&self, operation: IoOperation, offset: u64, length: u64) -> Result<(), IoError> {
        let start = self.check(operation, offset, length)?;
        self.blocks()[start..][..length as usize].fill(0);
        Ok(())
    }
}

impl BlockDevice for MemoryDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size_bytes: self.blocks().len() as u64,
            logical_block_bytes: self.logical_block_bytes,
            physical_block_bytes: 4096,
            optimal_write_bytes: 0,
            volatile_write_cache: false,
            discard: true,
            discard_grain_bytes: 0,
            zeroing: Zeroing::Cheap,
            thin: false,
            read_only: false,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64, mut buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            let result = self.check(IoOperation::Read, offset, buffer.len() as u64).map(|start| {
                let len = buffer.len();
                buffer.copy_from_slice(&self.blocks()[start..][..len]);
            });
            (buffer, result)
        })
    }

    fn write(&self, offset: u64, data: Bytes, _durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let start = self.check(IoOperation::Write, offset, data.len() as u64)?;
            self.blocks()[start..][..data.len()].copy_from_slice(&data);
            Ok(())
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn zero(&self, offset: u64, length: u64, _durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.fill_with_zeros(IoOperation::Zero, offset, length) })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move { self.fill_with_zeros(IoOperation::Discard, offset, length) })
    }

    /// A crash takes all of memory; what one lock covers is never seen in part.
    fn atomic_limit_bytes(&self) -> u32 {
        ATOMIC_LIMIT_BYTES
    }

    fn write_atomic(&self, offset: u64, data: Bytes) -> IoFuture<'_, Result<(), IoError>> {
        self.write(offset, data, Durability::Durable)
    }
}
