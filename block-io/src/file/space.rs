//! Which ranges have blocks behind them? Zeroing, punching and allocating, all blocking system calls.
//!
//! - A fully allocated file is zeroed in place, never left with holes. Discarding makes holes, and from
//!   then on the file is thin.
//! - A sparse file is zeroed by punching.
//! - Punched regions count as not provisioned, whatever they were before.
//! - On a block device the kernel's fallocate zeroes with WRITE ZEROES and never falls back to TRIM, whose
//!   blocks may read as anything; PUNCH_HOLE there is refused rather than done slowly (`block/fops.c`).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::open::available_bytes;

/// Unit of provisioning: one allocation serves this many bytes of first writes.
const MIN_REGION_BYTES: u64 = 1 << 20;
/// Larger files get larger regions, so that the map stays below 128 KiB.
const MAX_REGIONS: u64 = 1 << 20;

const ALLOCATE: FallocateFlags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
const PUNCH: FallocateFlags = FallocateFlags::FALLOC_FL_PUNCH_HOLE.union(FallocateFlags::FALLOC_FL_KEEP_SIZE);

/// Why the space could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpaceError {
    /// The file system or device has no such operation.
    Unsupported,
    Errno(i32),
}

/// How space lies behind what was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backing {
    /// A block device: always all there.
    Device,
    /// A file with all its blocks.
    Full,
    /// A file with holes.
    Sparse,
}

#[derive(Debug)]
pub(super) struct Space {
    file: Arc<File>,
    size_bytes: u64,
    /// As it was when opened: decides how zeroing is done.
    backing: Backing,
    /// Whether the file has, or may have, holes.
    thin: AtomicBool,
    /// None for block devices.
    provisioned: Option<Provisioned>,
    /// Held while a file's blocks come or go, so that the map never claims what is not there.
    changing: Mutex<()>,
    /// Cleared when the file system turns out not to have FALLOC_FL_ZERO_RANGE.
    zero_range: AtomicBool,
}

impl Space {
    pub(super) fn new(file: Arc<File>, size_bytes: u64, backing: Backing) -> Self {
        let provisioned = (backing != Backing::Device).then(|| Provisioned::new(size_bytes));
        if let (Backing::Full, Some(map)) = (backing, &provisioned) {
            map.set(0, size_bytes);
        }
        Self {
            file,
            size_bytes,
            backing,
            thin: AtomicBool::new(backing == Backing::Sparse),
            provisioned,
            changing: Mutex::new(()),
            zero_range: AtomicBool::new(true),
        }
    }

    /// Whether a write may meet a hole for which there is no space.
    pub(super) fn is_thin(&self) -> bool {
        self.thin.load(Ordering::Acquire)
    }

    /// The hot path of provisioning: a few atomic loads.
    pub(super) fn is_provisioned(&self, offset: u64, length: u64) -> bool {
        self.provisioned.as_ref().is_none_or(|map| map.contains(offset, length))
    }

    /// How many bytes of the file have no block behind them, and how many the file system has left. Blocks that the file system
    /// keeps for itself (a sparse file's map of extents) make it a little less than there are.
    pub(super) fn room(&self) -> std::io::Result<(u64, u64)> {
        let allocated = self.file.metadata()?.blocks().saturating_mul(512);
        Ok((self.size_bytes.saturating_sub(allocated), available_bytes(&self.file)?))
    }

    /// Make a range read as zeros.
    pub(super) fn zero(&self, offset: u64, length: u64) -> Result<(), SpaceError> {
        if self.backing == Backing::Sparse {
            return self.punch(offset, length);
        }
        if self.zero_range.load(Ordering::Relaxed) {
            let mode = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match self.call(mode, offset, length) {
                Err(SpaceError::Unsupported) => self.zero_range.store(false, Ordering::Relaxed),
                result => return result,
            }
        }
        self.punch_and_refill(offset, length)
    }

    /// Give the range's blocks back.
    pub(super) fn punch(&self, offset: u64, length: u64) -> Result<(), SpaceError> {
        let _changing = self.lock();
        self.note_holes(offset, length);
        self.call(PUNCH, offset, length)
    }

    fn note_holes(&self, offset: u64, length: u64) {
        if let Some(map) = &self.provisioned {
            map.clear(offset, length);
            self.thin.store(true, Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allocate whole regions around the range; if they do not fit, just the range.
    pub(super) fn provision(&self, offset: u64, length: u64) -> Result<(), SpaceError> {
        let Some(map) = &self.provisioned else { return Ok(()) };
        let _changing = self.lock();
        if map.contains(offset, length) {
            return Ok(());
        }
        let start = offset - offset % map.region_bytes;
        let end = (offset + length).next_multiple_of(map.region_bytes).min(self.size_bytes);
        match self.call(ALLOCATE, start, end - start) {
            Ok(()) => {
                map.set(offset, length);
                Ok(())
            }
            Err(SpaceError::Errno(libc::ENOSPC | libc::EDQUOT)) => self.call(ALLOCATE, offset, length),
            Err(error) => Err(error),
        }
    }

    /// For file systems without ZERO_RANGE. That the blocks can be allocated again is tried first, on
    /// blocks that are still there.
    fn punch_and_refill(&self, offset: u64, length: u64) -> Result<(), SpaceError> {
        let _changing = self.lock();
        self.call(ALLOCATE, offset, length)?;
        self.call(PUNCH, offset, length)?;
        self.call(ALLOCATE, offset, length).inspect_err(|_| self.note_holes(offset, length))
    }

    fn call(&self, mode: FallocateFlags, offset: u64, length: u64) -> Result<(), SpaceError> {
        let offset = i64::try_from(offset).map_err(|_| SpaceError::Errno(libc::EFBIG))?;
        let length = i64::try_from(length).map_err(|_| SpaceError::Errno(libc::EFBIG))?;
        loop {
            match fallocate(&*self.file, mode, offset, length) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Err(SpaceError::Unsupported),
                Err(errno) => return Err(SpaceError::Errno(errno as i32)),
            }
        }
    }
}

/// A bit per region of a sparse file: set when all of it has blocks.
#[derive(Debug)]
struct Provisioned {
    region_bytes: u64,
    words: Box<[AtomicU64]>,
}

impl Provisioned {
    fn new(size_bytes: u64) -> Self {
        let mut region_bytes = MIN_REGION_BYTES;
        while size_bytes.div_ceil(region_bytes) > MAX_REGIONS {
            region_bytes *= 2;
        }
        let words = size_bytes.div_ceil(region_bytes).div_ceil(64);
        Self { region_bytes, words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The words that the range touches, each with a mask of its regions there.
    fn masks(&self, offset: u64, length: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let first = offset / self.region_bytes;
        let end = if length == 0 { first } else { (offset + length).div_ceil(self.region_bytes) };
        let words = first / 64..end.div_ceil(64).max(first / 64);
        words.filter_map(move |word| {
            let from = first.max(word * 64) - word * 64;
            let count = end.min(word * 64 + 64) - word * 64 - from;
            let mask = u64::MAX.checked_shr(64 - count as u32).unwrap_or(0) << from;
            Some((self.words.get(word as usize)?, mask))
        })
    }

    fn contains(&self, offset: u64, length: u64) -> bool {
        self.masks(offset, length).all(|(word, mask)| word.load(Ordering::Acquire) & mask == mask)
    }

    fn set(&self, offset: u64, length: u64) {
        for (word, mask) in self.masks(offset, length) {
            word.fetch_or(mask, Ordering::Release);
        }
    }

    fn clear(&self, offset: u64, length: u64) {
        for (word, mask) in self.masks(offset, length) {
            word.fetch_and(!mask, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_map_is_a_set_of_regions(steps in prop::collection::vec((any::<bool>(), 0u64..300, 0u64..200), 1..40)) {
            let size = 300 * MIN_REGION_BYTES;
            let map = Provisioned::new(size);
            let mut model = vec![false; 300];
            for (set, first, count) in steps {
                let end = (first + count).min(300);
                // Ranges inside regions count for the whole region.
                let (offset, length) = (first * MIN_REGION_BYTES + 512, (end - first) * MIN_REGION_BYTES);
                let length = length.saturating_sub(1024);
                let regions = if length == 0 { first..first } else { first..end };
                if set { map.set(offset, length) } else { map.clear(offset, length) }
                for region in regions { model[region as usize] = set; }
                for (region, &expected) in model.iter().enumerate() {
                    prop_assert_eq!(map.contains(region as u64 * MIN_REGION_BYTES, MIN_REGION_BYTES), expected);
                }
                let all = (first..end).all(|region| model[region as usize]);
                prop_assert_eq!(map.contains(first * MIN_REGION_BYTES, (end - first) * MIN_REGION_BYTES), all);
            }
        }
    }

    #[test]
    fn huge_files_have_bounded_maps() {
        let map = Provisioned::new(1 << 50);
        assert!(map.words.len() as u64 <= MAX_REGIONS / 64);
    }
}
