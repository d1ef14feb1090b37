//! What is a block device? Anything that answers this trait: a file, a disk, an array, a volume.
//!
//! Rules that every implementation keeps and every caller relies on:
//! - Offsets and lengths are bytes and multiples of `logical_block_bytes`; anything else is refused
//!   with `Misaligned` or `OutOfRange`, before any part of it is done.
//! - An operation starts when its future is first polled and completes on the thread that polled it.
//!   Futures are not `Send`: a worker's I/O stays on that worker.
//! - Operations are run to completion: a caller never drops the future of any of them half-way, reads and
//!   flushes included. In an array a read may be making the failure of a member durable, and a flush carries what
//!   others wrote.
//! - Overlapping operations in flight at the same time have no order among themselves.
//! - What `Durability::Durable` acknowledged, or a later `flush` covered, survives a power cut.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::{Buffer, IoError, IoErrorKind, IoOperation};

/// A boxed future that completes on the worker that polls it.
pub type IoFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A read gives its buffer back whether it succeeded or not; after an error its bytes mean nothing.
pub type ReadResult = (Buffer, Result<(), IoError>);

/// When a write may be called done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once the device has it, perhaps in a volatile cache; a later flush makes it durable.
    Cached,
    /// Once it survives a power cut (FUA, RWF_DSYNC, or write and flush).
    Durable,
}

/// Whether whole ranges can be zeroed without writing zeros through the data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// Hole punching or WRITE ZEROES: time does not follow the length.
    Cheap,
    /// Zeros must be written out one by one.
    Slow,
}

/// What a device is and can do. Sizes in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Size; a volume's may grow while it is open.
    pub size_bytes: u64,
    /// The unit of addressing (512 or 4096).
    pub logical_block_bytes: u32,
    /// The unit the medium writes without read-modify-write; at least the logical block.
    pub physical_block_bytes: u32,
    /// The length (and alignment) at which writes are cheapest: an array's full stripe. 0 if unknown.
    pub optimal_write_bytes: u32,
    /// A volatile write cache stands before the medium: `Cached` writes need a flush to be durable.
    pub volatile_write_cache: bool,
    /// `discard` frees space.
    pub discard: bool,
    /// Space comes free only in whole runs of this length (and alignment). 0 if that is the physical block.
    pub discard_grain_bytes: u64,
    /// How ranges are zeroed.
    pub zeroing: Zeroing,
    /// Blocks are allocated on first write, so a write may end in `NoSpace` (a sparse file).
    pub thin: bool,
    /// Writes are refused.
    pub read_only: bool,
}

/// A run of bytes that all take space, or all take none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceRun {
    /// How long it is, in bytes. What follows may be of the same kind.
    pub length: u64,
    /// It may hold data. If not, it reads as zeros and takes no space.
    pub mapped: bool,
}

/// The space that a device is still to be given as it is written, and the pool that this comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinSpace {
    /// Bytes of the device that have no space behind them yet.
    pub unallocated_bytes: u64,
    /// Tells the pool from all others of this machine (a file system's st_dev). Devices of one pool compete for what is free.
    pub pool: u64,
    /// Bytes that the pool has left.
    pub free_bytes: u64,
}

/// Random access to blocks. See the module's rules.
pub trait BlockDevice: Send + Sync + fmt::Debug + 'static {
    /// What the device is now.
    fn info(&self) -> DeviceInfo;

    /// The name by which messages call it: a path, or `array/volume`.
    fn name(&self) -> &str;

    /// Fill `buffer` from `offset`. The buffer's length is the length of the read.
    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult>;

    /// Write `data` at `offset`.
    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>>;

    /// Make every write that completed before this call durable.
    fn flush(&self) -> IoFuture<'_, Result<(), IoError>>;

    /// Make a range read as zeros, and keep it allocated unless `discard` does the same here.
    /// Slow devices write zeros in bounded pieces.
    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>>;

    /// Give the range's space back. Afterwards it reads as zeros. Refused with `Unsupported` where
    /// `info().discard` is false.
    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>>;

    /// The run that begins at `offset`, and ends `length` bytes later at the latest. A device that does not know
    /// takes everything for data.
    fn space_run(&self, _offset: u64, length: u64) -> SpaceRun {
        SpaceRun { length, mapped: true }
    }

    /// Make sure that a later write of the range cannot end in `NoSpace`. Contents stay as they are.
    /// Devices that are not `thin` have nothing to do.
    fn provision(&self, _offset: u64, _length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// What is yet to be allocated, and how much is left for that; none where all of it is there already (`info().thin` is
    /// false). An estimate, old as soon as it is told: others take from the pool too. Never asked in the data path.
    fn thin_space(&self) -> IoFuture<'_, Result<Option<ThinSpace>, IoError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The longest write that [`BlockDevice::write_atomic`] takes, in bytes; a multiple of 4 KiB. 0: it takes none.
    fn atomic_limit_bytes(&self) -> u32 {
        0
    }

    /// Write `data` durably, and so that a power cut or a failed disk leaves either all of it or none. Who reads
    /// meanwhile may see a part: keeping readers out is the caller's.
    fn write_atomic(&self, offset: u64, data: Bytes) -> IoFuture<'_, Result<(), IoError>> {
        let (operation, length) = (IoOperation::Write, data.len() as u64);
        let refused = IoError::new(IoErrorKind::Unsupported, operation, &self.name().into(), offset, length);
        Box::pin(std::future::ready(Err(refused)))
    }
}
