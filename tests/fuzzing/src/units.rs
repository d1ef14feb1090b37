//! Logical units in memory, and what is asked of them one after the other.

use std::sync::Arc;

use block_io::{BufferPool, MemoryDevice};
use iscsi_target::scsi::{LogicalUnit, LuIdentity, LuOptions, Nexus, ScsiResponse, Status};
use tokio::runtime::Runtime;
use uuid::Uuid;

/// Bytes of every unit.
pub(crate) const UNIT_BYTES: usize = 64 << 10;

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    /// Kept from input to input: what one leaves behind in it, the next would find missing.
    pub(crate) static POOL: BufferPool = BufferPool::new(4 << 20);
}

pub(crate) fn run<R>(work: impl Future<Output = R>) -> R {
    RUNTIME.with(|runtime| tokio::task::LocalSet::new().block_on(runtime, work))
}

pub(crate) fn nexus(number: u8, target: &str, port: u16) -> Nexus {
    Nexus {
        initiator_name: format!("iqn.2026-11.com.example:node{number}"),
        isid: [0x80, 0, 0, 0, 0, number],
        target_name: target.to_owned(),
        target_portal_group: 1,
        relative_target_port: port,
    }
}

pub(crate) fn identity(number: u8) -> LuIdentity {
    LuIdentity {
        uuid: Uuid::from_u128(0x1ab5_a000 + u128::from(number)),
        serial: format!("SERIAL{number}"),
        product: "VOLUME".to_owned(),
    }
}

/// A unit whose bytes tell where they lie.
pub(crate) fn unit(number: u8, block_bytes: u32, options: LuOptions) -> (MemoryDevice, Arc<LogicalUnit>) {
    let device = MemoryDevice::with_block_size("memory", UNIT_BYTES, block_bytes);
    device.tamper(|bytes| {
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = (at / 512) as u8 ^ number << 6;
        }
    });
    let unit = LogicalUnit::new(Arc::new(device.clone()), identity(number), options);
    (device, unit)
}

/// An answer as every answer is: its sense data fits its status and itself.
pub(crate) fn well_formed(response: &ScsiResponse) {
    let sense = &response.sense;
    assert_eq!(response.status == Status::CheckCondition, !sense.is_empty(), "{response:?}");
    if !sense.is_empty() {
        assert!(matches!(sense[0] & 0x7f, 0x70 | 0x72), "{sense:02x?}");
        assert_eq!(usize::from(sense[7]) + 8, sense.len(), "{sense:02x?}");
        assert!(sense.len() <= 252);
    }
    assert!(response.data_in.len() as u64 <= response.data_in_wanted || response.data_in_wanted == 0);
    assert!(response.status == Status::Good || response.data_in.is_empty());
}
