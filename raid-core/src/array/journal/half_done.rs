//! What an atomic write that was given up may have left in part: nobody reads it until the next start has completed it.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use block_io::{IoError, IoErrorKind, IoOperation};

use crate::array::core::{Core, lock};

/// Ranges of the array's data. There are some only where the array takes no more writes, so none ever leaves.
#[derive(Debug, Default)]
pub(super) struct HalfDone {
    /// What every read looks at.
    is_any: AtomicBool,
    ranges: Mutex<Vec<Range<u64>>>,
}

impl HalfDone {
    pub(super) fn add(&self, ranges: impl Iterator<Item = Range<u64>>) {
        lock(&self.ranges).extend(ranges);
        self.is_any.store(true, Ordering::Release);
    }

    fn touches(&self, bytes: &Range<u64>) -> bool {
        self.is_any.load(Ordering::Acquire)
            && lock(&self.ranges).iter().any(|range| range.start < bytes.end && bytes.start < range.end)
    }
}

impl Core {
    /// Is a part of a unit as a whole what was once written there? Who holds the unit asks before he reads; who does not, afterwards:
    /// the write may have been given up meanwhile.
    pub(in crate::array) fn check_whole(&self, unit: u64, part: Range<u32>) -> Result<(), IoError> {
        let Some(redo) = &self.redo else { return Ok(()) };
        let bytes = self.in_array(unit, part);
        if !redo.half_done.touches(&bytes) {
            return Ok(());
        }
        let length = bytes.end - bytes.start;
        Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Read, bytes.start, length))
    }
}
