//! Reads under the journal: what is journalled lies over what is in place.
//!
//! Memory is looked at first, and laid over what the members gave afterwards: whatever is put in place meanwhile was
//! acknowledged after this read had begun.

use block_io::{Buffer, IoError, ReadResult};

use super::Journal;
use crate::array::core::Core;

impl Core {
    /// Read part of a chunk of a stripe: `start` bytes into the stripe's user data.
    pub(in crate::array) async fn read_through_journal(
        &self,
        journal: &Journal,
        stripe: u64,
        start: u32,
        buffer: Buffer,
    ) -> ReadResult {
        let mut buffer = buffer;
        loop {
            let (back, result, steady) = self.read_attempt(journal, stripe, start, buffer).await;
            if steady {
                return (back, result);
            }
            buffer = back;
            // Until it is flushed, what is in place may be undone by a crash: nobody is to have seen it.
            drop(self.locks.exclusive(stripe).await);
        }
    }

    /// One attempt; not steady if the stripe was being written in place directly.
    async fn read_attempt(
        &self,
        journal: &Journal,
        stripe: u64,
        start: u32,
        mut buffer: Buffer,
    ) -> (Buffer, Result<(), IoError>, bool) {
        let range = start..start + buffer.len() as u32;
        let found = journal.overlay.find(stripe, range.clone());
        if found.bypassing {
            return (buffer, Ok(()), false);
        }
        if !found.gaps.is_empty() {
            if found.gaps.iter().any(|gap| self.is_lost(self.in_array(stripe, gap.clone()))) {
                let error = self.lost_error(self.in_array(stripe, range));
                return (buffer, Err(error), true);
            }
            let (back, result) = self.read_in_place(stripe, start, buffer).await;
            buffer = back;
            if result.is_err() || journal.overlay.is_bypassing(stripe) {
                return (buffer, result.clone(), result.is_err());
            }
        }
        for (at, data) in found.pieces {
            let from = (at - start) as usize;
            buffer[from..from + data.len()].copy_from_slice(&data);
        }
        (buffer, Ok(()), true)
    }
}
