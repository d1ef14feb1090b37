//! A device that can be held up.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use block_io::{BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoFuture, MemoryDevice, ReadResult};
use bytes::Bytes;
use iscsi_target::server::ServerConfig;

use super::{Bench, LUN_BYTES};

/// A device whose writes wait until they are let go.
#[derive(Clone, Debug)]
pub struct Gate {
    pub inner: MemoryDevice,
    pub open: Arc<AtomicBool>,
    pub waiting: Arc<AtomicBool>,
    /// How many writes have come.
    pub come: Arc<AtomicUsize>,
    /// Those that are let go while it is shut, by the order in which they came.
    pub let_go: Arc<Mutex<BTreeSet<usize>>>,
}

impl Gate {
    fn lets_go(&self, number: usize) -> bool {
        self.open.load(Ordering::SeqCst) || self.let_go.lock().unwrap().contains(&number)
    }
}

impl BlockDevice for Gate {
    fn info(&self) -> DeviceInfo {
        self.inner.info()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(async move {
            let number = self.come.fetch_add(1, Ordering::SeqCst);
            self.waiting.store(true, Ordering::SeqCst);
            while !self.lets_go(number) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            self.inner.write(offset, data, durability).await
        })
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.flush()
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.zero(offset, length, durability)
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        self.inner.discard(offset, length)
    }
}

/// A server over one.
pub fn gated() -> (Bench, Gate) {
    gated_with(|_| {})
}

/// The same with other settings than the defaults.
pub fn gated_with(adjust: impl FnOnce(&mut ServerConfig)) -> (Bench, Gate) {
    let inner = MemoryDevice::new("gated", LUN_BYTES);
    let gate = Gate {
        inner: inner.clone(),
        open: Arc::default(),
        waiting: Arc::default(),
        come: Arc::default(),
        let_go: Arc::default(),
    };
    (Bench::configured(Arc::new(gate.clone()), inner, 32 << 20, adjust), gate)
}
