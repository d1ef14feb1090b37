//! How are regular files and block devices reached? With direct I/O, through the polling thread's engine.
//!
//! - Memory that does not suit direct I/O (a slice at an odd address) is copied through an aligned piece;
//!   what comes from a [`BufferPool`](crate::BufferPool) at block boundaries is not.
//! - Transfers and flushes go to the engine; whatever may block for long (allocating, punching, zeroing)
//!   runs on the threads for that.
//! - A file that ends before its recorded size, or a block device that became smaller, is `Gone`.

mod open;
mod probe;
mod space;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

pub use open::{Allocation, OpenOptions};
pub use probe::DeviceIdentity;

use crate::reactor::{Failure, Operation, Request, transfer};
use crate::{
    BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoFuture, IoOperation, ReadResult,
    ThinSpace, Zeroing, threads,
};
use space::{Space, SpaceError};

/// Piece in which memory unfit for direct I/O is copied, and in which zeros are written out.
const PIECE_BYTES: usize = 1 << 20;
/// Range given to one fallocate: long enough to be cheap, short enough not to hold others up.
const SPACE_PIECE_BYTES: u64 = 1 << 30;

/// What direct I/O demands. 1 where there are no demands.
#[derive(Clone, Copy, Debug)]
struct Alignment {
    /// Of the address in memory.
    memory_bytes: usize,
    /// Of offset and length.
    granule_bytes: usize,
}

/// A regular file or block device, locked against other users as long as it is open.
#[derive(Debug)]
pub struct FileDevice {
    name: Arc<str>,
    file: Arc<File>,
    /// As it was when opened.
    info: DeviceInfo,
    identity: DeviceIdentity,
    alignment: Alignment,
    space: Arc<Space>,
}

impl FileDevice {
    /// What tells this disk from all others on this machine, whatever path it was opened by.
    pub fn identity(&self) -> DeviceIdentity {
        self.identity
    }

    /// Whether I/O bypasses the page cache.
    pub fn is_direct(&self) -> bool {
        self.alignment.granule_bytes > 1
    }

    fn error(&self, kind: IoErrorKind, operation: IoOperation, offset: u64, length: u64) -> IoError {
        IoError::new(kind, operation, &self.name, offset, length)
    }

    /// What the system's number means here: a disk that lost its blocks is gone, whatever it says.
    fn errno(&self, errno: i32, operation: IoOperation, offset: u64, length: u64) -> IoError {
        let mut error = IoError::from_errno(errno, operation, &self.name, offset, length);
        let doubtful = matches!(error.kind, IoErrorKind::Medium | IoErrorKind::NoSpace | IoErrorKind::Other);
        if doubtful && self.has_shrunk() {
            error.kind = IoErrorKind::Gone;
        }
        error
    }

    fn has_shrunk(&self) -> bool {
        probe::current_size(&self.file, self.identity).is_ok_and(|size| size < self.info.size_bytes)
    }

    fn check(&self, operation: IoOperation, offset: u64, length: u64) -> Result<(), IoError> {
        let block = u64::from(self.info.logical_block_bytes);
        let in_range = offset.checked_add(length).is_some_and(|end| end <= self.info.size_bytes);
        let kind = if !offset.is_multiple_of(block) || !length.is_multiple_of(block) {
            IoErrorKind::Misaligned
        } else if !in_range {
            IoErrorKind::OutOfRange
        } else if self.info.read_only && operation != IoOperation::Read {
            IoErrorKind::ReadOnly
        } else {
            return Ok(());
        };
        Err(self.error(kind, operation, offset, length))
    }

    fn fits(&self, memory: &[u8]) -> bool {
        memory.as_ptr().addr().is_multiple_of(self.alignment.memory_bytes)
    }

    async fn transfer(&self, offset: u64, request: Request) -> (Request, Result<(), Failure>) {
        let operation = Operation::new(&self.file, offset, request);
        let (operation, result) = transfer(operation, self.alignment.granule_bytes).await;
        (operation.request, result)
    }

    fn failure(&self, failure: Failure, operation: IoOperation, offset: u64, length: u64) -> IoError {
        match failure {
            Failure::Errno(errno) => self.errno(errno, operation, offset, length),
            Failure::EndOfFile => self.error(IoErrorKind::Gone, operation, offset, length),
        }
    }

    async fn fill(&self, offset: u64, buffer: Buffer) -> (Buffer, Result<(), Failure>) {
        match self.transfer(offset, Request::Read(buffer)).await {
            (Request::Read(buffer), result) => (buffer, result),
            _ => unreachable!("an engine returns the request it was given"),
        }
    }

    async fn fill_by_copy(&self, offset: u64, target: &mut Buffer) -> Result<(), Failure> {
        let mut position = offset;
        for part in target.chunks_mut(PIECE_BYTES) {
            let (piece, result) = self.fill(position, Buffer::zeroed(part.len())).await;
            result?;
            part.copy_from_slice(&piece);
            position += part.len() as u64;
        }
        Ok(())
    }

    async fn put(&self, offset: u64, data: Bytes, durable: bool) -> Result<(), Failure> {
        if self.fits(&data) {
            return self.transfer(offset, Request::Write { data, durable }).await.1;
        }
        let mut position = offset;
        for part in data.chunks(PIECE_BYTES) {
            let data = Buffer::copy_of(part).freeze();
            self.transfer(position, Request::Write { data, durable }).await.1?;
            position += part.len() as u64;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), Failure> {
        self.transfer(0, Request::Sync).await.1
    }

    async fn write_zeros(&self, offset: u64, length: u64) -> Result<(), Failure> {
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let count = (end - position).min(PIECE_BYTES as u64);
            self.put(position, zeros().slice(..count as usize), false).await?;
            position += count;
        }
        Ok(())
    }

    /// Do `change` to the range, piece by piece, on the threads that may block.
    async fn change_space(
        &self,
        change: fn(&Space, u64, u64) -> Result<(), SpaceError>,
        offset: u64,
        length: u64,
    ) -> Result<(), SpaceError> {
        let end = offset + length;
        let mut position = offset;
        while position < end {
            let count = (end - position).min(SPACE_PIECE_BYTES);
            let space = Arc::clone(&self.space);
            threads::blocking(move || change(&space, position, count)).await?;
            position += count;
        }
        Ok(())
    }

    fn space_error(&self, error: SpaceError, operation: IoOperation, offset: u64, length: u64) -> IoError {
        match error {
            SpaceError::Unsupported => self.error(IoErrorKind::Unsupported, operation, offset, length),
            SpaceError::Errno(errno) => self.errno(errno, operation, offset, length),
        }
    }

    async fn zero_range(&self, offset: u64, length: u64) -> Result<(), IoError> {
        if self.info.zeroing == Zeroing::Cheap {
            match self.change_space(Space::zero, offset, length).await {
                Err(SpaceError::Unsupported) => {}
                result => {
                    return result
                        .map_err(|error| self.space_error(error, IoOperation::Zero, offset, length));
                }
            }
        }
        let written = self.write_zeros(offset, length).await;
        written.map_err(|failure| self.failure(failure, IoOperation::Zero, offset, length))
    }
}

/// Zeros to write out, shared by all devices.
fn zeros() -> Bytes {
    static ZEROS: OnceLock<Bytes> = OnceLock::new();
    ZEROS.get_or_init(|| Buffer::zeroed(PIECE_BYTES).freeze()).clone()
}

impl BlockDevice for FileDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { thin: self.space.is_thin(), ..self.info.clone() }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read(&self, offset: u64, mut buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(async move {
            let length = buffer.len() as u64;
            if let Err(error) = self.check(IoOperation::Read, offset, length) {
                return (buffer, Err(error));
            }
            let result;
            if length == 0 {
                result = Ok(());
            } else if self.fits(&buffer) {
                (buffer, result) = self.fill(offset, buffer).await;
            } else {
                result = self.fill_by_copy(offset, &mut buffer).await;
            }
            (buffer, result.map_err(|failure| self.failure(failure, IoOperation::Read, offset, length)))
        })
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let length = data.len() as u64;
            self.check(IoOperation::Write, offset, length)?;
            if length == 0 {
                return Ok(());
            }
            let durable = durability == Durability::Durable && self.info.volatile_write_cache;
            let written = self.put(offset, data, durable).await;
            written.map_err(|failure| self.failure(failure, IoOperation::Write, offset, length))
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            if !self.info.volatile_write_cache || self.info.read_only {
                return Ok(());
            }
            let flushed = self.sync().await;
            flushed.map_err(|failure| self.failure(failure, IoOperation::Flush, 0, 0))?;
            if self.has_shrunk() {
                return Err(self.error(IoErrorKind::Gone, IoOperation::Flush, 0, 0));
            }
            Ok(())
        })
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Zero, offset, length)?;
            self.zero_range(offset, length).await?;
            if durability == Durability::Durable && self.info.volatile_write_cache && length > 0 {
                let flushed = self.sync().await;
                flushed.map_err(|failure| self.failure(failure, IoOperation::Zero, offset, length))?;
            }
            Ok(())
        })
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Discard, offset, length)?;
            if !self.info.discard {
                return Err(self.error(IoErrorKind::Unsupported, IoOperation::Discard, offset, length));
            }
            let punched = self.change_space(Space::punch, offset, length).await;
            punched.map_err(|error| self.space_error(error, IoOperation::Discard, offset, length))
        })
    }

    fn provision(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            self.check(IoOperation::Provision, offset, length)?;
            if self.space.is_provisioned(offset, length) {
                return Ok(());
            }
            let allocated = self.change_space(Space::provision, offset, length).await;
            allocated.map_err(|error| self.space_error(error, IoOperation::Provision, offset, length))
        })
    }

    fn thin_space(&self) -> IoFuture<'_, Result<Option<ThinSpace>, IoError>> {
        Box::pin(async move {
            let DeviceIdentity::File { device: pool, .. } = self.identity else { return Ok(None) };
            if !self.space.is_thin() {
                return Ok(None);
            }
            let space = Arc::clone(&self.space);
            // A file system on a network may take its time to say.
            let room = threads::blocking(move || space.room()).await;
            let (unallocated_bytes, free_bytes) = room.map_err(|error| {
                self.errno(error.raw_os_error().unwrap_or(libc::EIO), IoOperation::Provision, 0, 0)
            })?;
            Ok(Some(ThinSpace { unallocated_bytes, pool, free_bytes }))
        })
    }
}
