//! What the tests over sockets share: a server with a unit in memory, and an initiator that says anything to it.

#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used)]

pub mod breach;
pub mod cases;
mod gate;
pub mod honest;
pub mod initiator;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use block_io::runtime::{EngineChoice, WorkerPool, detect};
use block_io::{BlockDevice, BufferPool, MemoryDevice};
use iscsi_target::registry::{AccessPolicy, TargetRegistry};
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions};
use iscsi_target::server::{ServerConfig, TargetServer};

pub use gate::{gated, gated_with};
pub use honest::Honest;
pub use initiator::{BEGUN, Initiator, NODE, Pdu, TARGET, header, names, put, write_cdb};
pub use watch::{allow_many_descriptors, descriptors, resident_bytes};

pub const LUN_BYTES: usize = 16 << 20;

/// A server with one LUN in memory.
pub struct Bench {
    pub registry: Arc<TargetRegistry>,
    pub device: MemoryDevice,
    pub pool: BufferPool,
    pub server: Option<TargetServer>,
    pub workers: WorkerPool,
    pub address: SocketAddr,
}

impl Bench {
    pub fn new() -> Self {
        let device = MemoryDevice::new("memory", LUN_BYTES);
        Self::over(Arc::new(device.clone()), device, 32 << 20)
    }

    pub fn over(unit: Arc<dyn BlockDevice>, device: MemoryDevice, pool_bytes: usize) -> Self {
        Self::configured(unit, device, pool_bytes, |_| {})
    }

    /// With other settings than the defaults.
    pub fn with(adjust: impl FnOnce(&mut ServerConfig)) -> Self {
        let device = MemoryDevice::new("memory", LUN_BYTES);
        Self::configured(Arc::new(device.clone()), device, 32 << 20, adjust)
    }

    pub fn configured(
        unit: Arc<dyn BlockDevice>,
        device: MemoryDevice,
        pool_bytes: usize,
        adjust: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let workers = WorkerPool::start(detect(EngineChoice::Auto).unwrap(), 2).unwrap();
        let registry = TargetRegistry::new();
        registry.create_target(TARGET, Some("a test".into())).unwrap();
        let everyone = AccessPolicy::of_names(&["iqn.2026-11.com.example:*"], true);
        registry.set_access(TARGET, everyone).unwrap();
        let identity =
            LuIdentity { uuid: uuid::Uuid::from_u128(7), serial: "7".into(), product: "TEST".into() };
        let unit = LogicalUnit::new(unit, identity, LuOptions::default());
        registry.map_lun(TARGET, 0, unit).unwrap();
        let pool = BufferPool::new(pool_bytes);
        let portal: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig::new(vec![portal.into()], pool.clone());
        adjust(&mut config);
        let server = TargetServer::start(config, Arc::clone(&registry), &workers).unwrap();
        let address = server.portals()[0].address;
        Self { registry, device, pool, server: Some(server), workers, address }
    }

    /// Carry something out on the background worker, as the daemon does.
    pub fn in_background<F, Fut, T>(&self, make: F) -> std::thread::JoinHandle<T>
    where
        F: FnOnce(Arc<TargetRegistry>) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (workers, registry) = (self.workers.clone(), Arc::clone(&self.registry));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(workers.call_background(move || make(registry))).unwrap()
        })
    }

    pub fn login(&self, keys: &str) -> Initiator {
        let mut initiator = Initiator::connect(self.address);
        initiator.isid = [0x80, 0, 0, 0, 0, 1];
        initiator.log_in(NODE, Some(TARGET), keys).unwrap();
        initiator
    }

    /// Let others go on for a moment.
    pub fn pause(&self) {
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(Duration::from_millis(1));
    }

    /// Wait until a condition holds; the states waited for come by themselves.
    pub fn eventually(&self, what: &str, condition: impl Fn() -> bool) {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        for _ in 0..1000 {
            if condition() {
                return;
            }
            // Nobody sends: a bounded wait without a busy loop.
            let _ = receiver.recv_timeout(Duration::from_millis(10));
        }
        drop(sender);
        panic!("never: {what}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.workers.clone().shut_down();
    }
}
