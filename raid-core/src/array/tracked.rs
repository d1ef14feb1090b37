//! A member's device, with what is under way on it.
//!
//! A disk that hangs may be taken out while requests are under way, and its place be taken by another, or by the same
//! disk, added again and filled anew. A write of the old life that lands then would undo what was filled, and a read would bring what
//! was never the array's. So what ends after the member was taken out does not count, and nobody uses the disk again
//! before all of it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use block_io::{BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoErrorKind, IoOperation, ReadResult};
use bytes::Bytes;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug)]
pub(crate) struct Tracked {
    device: Arc<dyn BlockDevice>,
    under_way: AtomicU64,
    taken_out: AtomicBool,
    ended: Notify,
}

/// One request under way.
struct UnderWay<'a>(&'a Tracked);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

impl Tracked {
    pub(crate) fn new(device: Arc<dyn BlockDevice>) -> Self {
        let (under_way, taken_out, ended) = Default::default();
        Self { device, under_way, taken_out, ended }
    }

    /// It has no role any more: what is read from it from now on may be anything.
    pub(crate) fn take_out(&self) {
        self.taken_out.store(true, Ordering::Release);
    }

    /// Wait until nothing is under way on it. False if that takes longer than `limit`.
    pub(crate) async fn wait_idle(&self, limit: Duration) -> bool {
        let idle = async {
            loop {
                let ended = self.ended.notified();
                if self.under_way.load(Ordering::Acquire) == 0 {
                    return;
                }
                ended.await;
            }
        };
        tokio::time::timeout(limit, idle).await.is_ok()
    }

    fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        UnderWay(self)
    }

    /// The device itself, for those who look at it before it has a role.
    pub(crate) fn device(&self) -> &Arc<dyn BlockDevice> {
        &self.device
    }

    pub(crate) fn info(&self) -> DeviceInfo {
        self.device.info()
    }

    pub(crate) fn name(&self) -> &str {
        self.device.name()
    }

    pub(crate) async fn read(&self, offset: u64, buffer: Buffer) -> ReadResult {
        let _under_way = self.begin();
        let length = buffer.len() as u64;
        let (buffer, result) = self.device.read(offset, buffer).await;
        if result.is_ok() && self.taken_out.load(Ordering::Acquire) {
            let name = self.device.name().into();
            return (buffer, Err(IoError::new(IoErrorKind::Gone, IoOperation::Read, &name, offset, length)));
        }
        (buffer, result)
    }

    pub(crate) async fn write(
        &self,
        offset: u64,
        data: Bytes,
        durability: Durability,
    ) -> Result<(), IoError> {
        let _under_way = self.begin();
        self.device.write(offset, data, durability).await
    }

    pub(crate) async fn zero(&self, offset: u64, length: u64, durability: Durability) -> Result<(), IoError> {
        let _under_way = self.begin();
        self.device.zero(offset, length, durability).await
    }

    pub(crate) async fn discard(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let _under_way = self.begin();
        self.device.discard(offset, length).await
    }

    pub(crate) async fn provision(&self, offset: u64, length: u64) -> Result<(), IoError> {
        let _under_way = self.begin();
        self.device.provision(offset, length).await
    }

    pub(crate) async fn flush(&self) -> Result<(), IoError> {
        let _under_way = self.begin();
        self.device.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::MemoryDevice;

    /// As a spare is, which is removed while its superblock is being written.
    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_last_request_is_told_also_where_nothing_was_taken_out() {
        let tracked = Tracked::new(Arc::new(MemoryDevice::new("/disks/0", 1 << 20)));
        let request = tracked.begin();
        let ending = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(request);
        };
        let (idle, ()) = tokio::join!(tracked.wait_idle(Duration::from_secs(5)), ending);
        assert!(idle);
    }
}
