//! Where do the bytes live? In aligned buffers from a bounded pool.
//!
//! A [`Buffer`] owns its range alone: it can be split into disjoint parts that travel to different
//! disks and be joined again, and frozen into shared, read-only [`Bytes`] without a copy. The memory
//! goes back to its pool when the last part is gone. A full pool makes its callers wait; it never grows.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Alignment of every buffer, enough for O_DIRECT on any device: 4 KiB.
pub const ALIGNMENT: usize = 4096;

/// Why the pool cannot give a buffer, now or ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Longer than the pool's whole capacity.
    #[error("a buffer of {asked} bytes is larger than the whole pool of {capacity} bytes")]
    TooLarge {
        /// Bytes asked for.
        asked: usize,
        /// The pool's cap in bytes.
        capacity: usize,
    },
}

/// A bounded source of aligned buffers. Cloning gives another handle to the same pool.
#[derive(Clone, Debug)]
pub struct BufferPool {
    pages: Arc<Semaphore>,
    capacity_pages: usize,
}

impl BufferPool {
    /// A pool that never has more than `capacity_bytes` handed out.
    pub fn new(capacity_bytes: usize) -> Self {
        let capacity_pages = capacity_bytes.div_ceil(ALIGNMENT).min(Semaphore::MAX_PERMITS);
        Self { pages: Arc::new(Semaphore::new(capacity_pages)), capacity_pages }
    }

    /// A buffer of exactly `len` bytes, as soon as the pool has room. Callers are served in order.
    /// Its contents are initialised but arbitrary: whoever shows them to anyone overwrites all of them.
    pub async fn take(&self, len: usize) -> Result<Buffer, PoolError> {
        let pages = self.pages_for(len)?;
        let permit = Arc::clone(&self.pages).acquire_many_owned(pages).await;
        Ok(Buffer::allocate(len, permit.ok()))
    }

    /// A buffer if there is room right now.
    pub fn try_take(&self, len: usize) -> Option<Buffer> {
        let pages = self.pages_for(len).ok()?;
        let permit = Arc::clone(&self.pages).try_acquire_many_owned(pages).ok()?;
        Some(Buffer::allocate(len, Some(permit)))
    }

    /// The cap in bytes.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_pages * ALIGNMENT
    }

    /// Bytes handed out now.
    pub fn used_bytes(&self) -> usize {
        (self.capacity_pages - self.pages.available_permits()) * ALIGNMENT
    }

    fn pages_for(&self, len: usize) -> Result<u32, PoolError> {
        let too_large = PoolError::TooLarge { asked: len, capacity: self.capacity_bytes() };
        let pages = len.div_ceil(ALIGNMENT).max(1);
        if pages > self.capacity_pages {
            return Err(too_large);
        }
        u32::try_from(pages).map_err(|_| too_large)
    }
}

/// One aligned allocation; freed when its last part is dropped.
struct Block {
    base: NonNull<u8>,
    layout: Layout,
    _permit: Option<OwnedSemaphorePermit>,
}

// SAFETY: a Block is only memory; who may touch which part is decided by the Buffers over it,
// which are disjoint and each owned by one thread at a time.
unsafe impl Send for Block {}
// SAFETY: as above; nothing is reachable through `&Block` but its address.
unsafe impl Sync for Block {}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this very layout in `Buffer::allocate`, and freed once, here.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// A range of aligned memory that belongs to its holder alone.
pub struct Buffer {
    block: Arc<Block>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A zeroed buffer outside any pool: for metadata, tools and tests.
    pub fn zeroed(len: usize) -> Self {
        Self::allocate(len, None)
    }

    /// A buffer outside any pool holding a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    fn allocate(len: usize, permit: Option<OwnedSemaphorePermit>) -> Self {
        let size = len.div_ceil(ALIGNMENT).max(1) * ALIGNMENT;
        let layout = Layout::from_size_align(size, ALIGNMENT).unwrap_or_else(|_| {
            // `size` is a rounded-up slice length that the pool's cap bounds, far below isize::MAX.
            unreachable!("buffer of {len} bytes")
        });
        // SAFETY: the layout's size is never zero.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        Self { block: Arc::new(Block { base, layout, _permit: permit }), start: 0, len }
    }

    /// Keep the first `at` bytes; the rest becomes a buffer of its own. Panics if `at` is past the end.
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        assert!(at <= self.len, "split at {at} of {}", self.len);
        let tail = Self { block: Arc::clone(&self.block), start: self.start + at, len: self.len - at };
        self.len = at;
        tail
    }

    /// Take the first `at` bytes out as a buffer of their own and keep the rest.
    #[must_use]
    pub fn split_to(&mut self, at: usize) -> Self {
        let tail = self.split_off(at);
        std::mem::replace(self, tail)
    }

    /// Join `next` to the end of this buffer. Only a part that directly follows it in the same memory
    /// can be joined; anything else comes back untouched.
    pub fn unsplit(&mut self, next: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.block, &next.block) || self.start + self.len != next.start {
            return Err(next);
        }
        self.len += next.len;
        Ok(())
    }

    /// Forget the bytes past `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Share the bytes read-only, without a copy.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// The address, for an engine to hand to the kernel while it owns the buffer.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        // SAFETY: `start` lies inside (or one past the end of) the block's allocation.
        unsafe { self.block.base.as_ptr().add(self.start) }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start+len lies in the allocation, was initialised by `alloc_zeroed`, and no
        // other Buffer covers any of it.
        unsafe { std::slice::from_raw_parts(self.block.base.as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.block.base.as_ptr().add(self.start), self.len) }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}
