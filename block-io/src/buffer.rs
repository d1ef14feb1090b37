//! Where do the bytes live? In aligned buffers from a bounded pool.
//!
//! A [`Buffer`] owns its range alone: it can be split into disjoint parts that travel to different
//! disks and be joined again, and frozen into shared, read-only [`Bytes`] without a copy. The memory
//! goes back to its pool when the last part is gone. A full pool makes its callers wait; it never grows.

#![allow(unsafe_code)]

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;

use crate::pool::Block;
pub use crate::pool::{BufferPool, PoolError};

/// Alignment of every buffer, enough for O_DIRECT on any device: 4 KiB.
pub const ALIGNMENT: usize = 4096;

/// A range of aligned memory that belongs to its holder alone.
pub struct Buffer {
    block: Arc<Block>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A zeroed buffer outside any pool: for metadata, tools and tests.
    pub fn zeroed(len: usize) -> Self {
        Self::over(Block::zeroed(len), len)
    }

    /// A buffer outside any pool holding a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }

    /// The first `len` bytes of a block that nobody else has.
    pub(crate) fn over(block: Block, len: usize) -> Self {
        debug_assert!(len <= block.capacity_bytes());
        // `Buffer`s are the only ones that look into blocks, and this is the first.
        Self { block: Arc::new(block), start: 0, len }
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
        unsafe { self.block.base().as_ptr().add(self.start) }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: start..start+len lies in the allocation, was initialised when it was allocated, and no
        // other Buffer covers any of it.
        unsafe { std::slice::from_raw_parts(self.block.base().as_ptr().add(self.start), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.block.base().as_ptr().add(self.start), self.len) }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Cut a buffer at random places, write each part, join what can be joined: the bytes stay put.
        #[test]
        fn splitting_and_joining_move_no_bytes(len in 1usize..20_000, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let pool = BufferPool::new(1 << 20);
            let mut whole = pool.try_take(len).unwrap();
            let address = whole.as_ptr();
            for (i, byte) in whole.iter_mut().enumerate() { *byte = i as u8; }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(len + 1)).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut taken = 0;
            for cut in cuts {
                parts.push(whole.split_to(cut - taken));
                taken = cut;
            }
            parts.push(whole);
            prop_assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), len);
            for part in &mut parts { for byte in part.iter_mut() { *byte ^= 0xff; } }
            let mut parts = parts.into_iter();
            let mut joined = parts.next().unwrap();
            for part in parts { joined.unsplit(part).unwrap(); }
            prop_assert_eq!(joined.as_ptr(), address);
            prop_assert!(joined.iter().enumerate().all(|(i, &byte)| byte == !(i as u8)));
            prop_assert_eq!(joined.as_mut_ptr().cast_const(), address);
            prop_assert!(pool.used_bytes() > 0);
            let frozen = joined.freeze();
            prop_assert_eq!(frozen.as_ptr(), address);
            let slice = frozen.slice(len / 2..);
            drop(frozen);
            prop_assert!(pool.used_bytes() > 0, "a slice holds the memory");
            drop(slice);
            prop_assert_eq!(pool.used_bytes(), 0);
        }
    }

    #[test]
    fn only_neighbours_are_joined() {
        let mut left = Buffer::copy_of(&[1; 300]);
        let mut middle = left.split_off(100);
        let right = middle.split_off(100);
        let right = left.unsplit(right).unwrap_err();
        let stranger = left.unsplit(Buffer::zeroed(100)).unwrap_err();
        assert_eq!((left.len(), right.len(), stranger.len()), (100, 100, 100));
        middle.truncate(50);
        left.unsplit(middle).unwrap();
        left.unsplit(right).unwrap_err();
        assert_eq!(left.len(), 150);
    }

    #[test]
    #[should_panic(expected = "split at 11 of 10")]
    fn a_split_past_the_end_panics() {
        let _ = Buffer::zeroed(10).split_off(11);
    }
}
