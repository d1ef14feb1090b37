//! One member: a device, where its data begins, and what has gone wrong on it so far.
//!
//! Offsets here are relative to the member's data area, as `Geometry` gives them; the metadata before it
//! is reached through [`Member::device`].

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use block_io::{Buffer, Durability, IoError, ReadResult};
use bytes::Bytes;
use uuid::Uuid;

use super::tracked::Tracked;
use crate::format::layout::MemberLayout;

/// A device that takes part in an array.
#[derive(Debug)]
pub(crate) struct Member {
    /// `dev_number` of its superblock: its index in the role table, never reused while it is there.
    pub(crate) number: u16,
    pub(crate) device_uuid: Uuid,
    /// The path it was opened by.
    pub(crate) path: PathBuf,
    pub(crate) device: Tracked,
    pub(crate) layout: MemberLayout,
    pub(crate) counters: Counters,
}

/// Errors since the array was started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) read_errors: AtomicU64,
    pub(crate) write_errors: AtomicU64,
    /// Bad blocks that were rewritten from redundancy (md's `cnt_corrected_read`).
    pub(crate) corrected: AtomicU64,
}

impl Counters {
    /// Count one more, and say how many there are now.
    pub(crate) fn count(counter: &AtomicU64) -> u64 {
        counter.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Member {
    fn at(&self, offset: u64) -> u64 {
        self.layout.data_offset + offset
    }

    pub(crate) async fn read(&self, offset: u64, buffer: Buffer) -> ReadResult {
        self.device.read(self.at(offset), buffer).await
    }

    pub(crate) async fn write(
        &self,
        offset: u64,
        data: Bytes,
        durability: Durability,
    ) -> Result<(), IoError> {
        self.device.write(self.at(offset), data, durability).await
    }

    pub(crate) async fn zero(&self, offset: u64, length: u64, durability: Durability) -> Result<(), IoError> {
        self.device.zero(self.at(offset), length, durability).await
    }

    pub(crate) async fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.device.discard(self.at(offset), length).await
    }

    pub(crate) async fn provision(&self, offset: u64, length: u64) -> Result<(), IoError> {
        self.device.provision(self.at(offset), length).await
    }

    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        self.device.flush().await
    }

    /// What messages call it.
    pub(crate) fn label(&self) -> String {
        self.path.display().to_string()
    }
}
