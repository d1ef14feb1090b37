//! How storage is reached: the [`BlockDevice`] trait that disks, arrays and volumes all implement,
//! the pooled aligned [`Buffer`]s that travel through it, and the engines that carry them to files
//! and block devices.
//!
//! The rules every implementation keeps are in [`device`]; who completes what on which thread is in
//! `ARCHITECTURE.md`.

pub mod buffer;
pub mod device;
pub mod error;
pub mod file;
pub mod memory;
pub mod runtime;
pub mod scan;

mod pool;
mod reactor;
mod threads;
mod uring;

pub use buffer::{Buffer, BufferPool, PoolError};
pub use device::{BlockDevice, DeviceInfo, Durability, IoFuture, ReadResult, SpaceRun, ThinSpace, Zeroing};
pub use error::{IoError, IoErrorKind, IoOperation};
pub use file::FileDevice;
pub use memory::MemoryDevice;
