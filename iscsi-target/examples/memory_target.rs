//! A target whose one LUN lives in memory: for trying initiators against the protocol alone.
//!
//! `cargo run -p iscsi-target --example memory_target -- [ADDRESS:PORT [MIB]]`

use std::net::SocketAddr;
use std::sync::Arc;

use block_io::runtime::{EngineChoice, WorkerPool, detect};
use block_io::{BufferPool, MemoryDevice};
use iscsi_target::registry::{AccessPolicy, TargetRegistry};
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions};
use iscsi_target::server::{ServerConfig, TargetServer};

const TARGET: &str = "iqn.2026-11.org.labsan:memory";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let portal = arguments.next().unwrap_or_else(|| "127.0.0.1:3260".to_owned());
    let portal: SocketAddr = portal.parse()?;
    let mib: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let workers = WorkerPool::start(detect(EngineChoice::Auto)?, 2)?;
    let registry = TargetRegistry::new();
    registry.create_target(TARGET, None)?;
    registry.set_access(TARGET, AccessPolicy::of_names(&["*"], true))?;
    let identity = LuIdentity {
        uuid: uuid::Uuid::from_u128(0x6c61_6273_616e),
        serial: "memory".to_owned(),
        product: "MEMORY".to_owned(),
    };
    let device = Arc::new(MemoryDevice::new("memory", mib << 20));
    registry.map_lun(TARGET, 0, LogicalUnit::new(device, identity, LuOptions::default()))?;
    let config = ServerConfig::new(vec![portal.into()], BufferPool::new(256 << 20));
    let server = TargetServer::start(config, registry, &workers)?;
    println!("iscsi://{}/{TARGET}/0", server.portals()[0].address);
    std::thread::park();
    Ok(())
}
