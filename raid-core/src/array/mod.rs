//! A running array: members behind one [`BlockDevice`], its roles, its spares, its volumes.
//!
//! `ARCHITECTURE.md` tells the life of a write and of a read; here is who does what:
//! - `read`, `write`: the two paths. `parity_write`, `mirror`, `stripe_io` carry them out, under the unit
//!   locks of `locks`.
//! - `journal`: nothing acknowledged is lost at RAID 5 and 6, whatever crashes. `settle`, `lost`: what cannot be known.
//! - `dirty`, `bitmap_io`: which regions may be out of sync, in memory and on the members.
//! - `written`, `written_io`: which regions were ever written, in memory and on the members.
//! - `table`, `metadata`, `failure`: who plays which role, and how a change of roles is made durable.
//! - `space`: how much more can be mapped where members are thin.
//! - `keeper`, `rebuild`: what goes on in the background.
//! - `create`, `assemble`, `examine`, `control`, `volumes`, `status`: what the daemon asks for.

mod assemble;
mod bitmap_io;
mod control;
mod core;
mod create;
mod dirty;
mod examine;
mod failure;
mod in_flight;
mod journal;
mod keeper;
mod locks;
mod lost;
mod member;
mod metadata;
mod mirror;
mod parity_write;
mod read;
mod rebuild;
mod settle;
mod space;
mod status;
mod stripe_io;
mod table;
mod tracked;
mod unit_set;
mod volumes;
mod write;
mod written;
mod written_io;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use block_io::{BlockDevice, Buffer, DeviceInfo, Durability, IoError, IoFuture, ReadResult, SpaceRun};
use bytes::Bytes;
use uuid::Uuid;

pub use assemble::{AssembleError, AssembleOptions, assemble};
pub use control::{MemberError, StopError};
pub use create::{CreateError, CreateSpec, create};
pub use examine::{Examination, ExaminedMember, examine};
pub use journal::{ChunkTooLarge, JournalError};
pub use metadata::DocumentError;
pub use space::{ArraySpace, ThinMember};
pub use status::{Activity, ActivityKind, ArrayEvent, ArrayState, ArrayStatus, MemberState, MemberStatus};
pub use volumes::VolumeError;

pub use crate::format::labsan::Policy;
use crate::volume::Volume;
use core::Core;
pub(crate) use core::lock;

/// A device offered to an array, and the path by which people know it.
#[derive(Clone, Debug)]
pub struct MemberDevice {
    /// The path it was opened by.
    pub path: PathBuf,
    /// The open device.
    pub device: Arc<dyn BlockDevice>,
}

/// What the host contributes to an array.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The host's name, which md puts before the array's.
    pub hostname: String,
}

/// A handle to a running array; clones are the same array.
#[derive(Clone)]
pub struct Array {
    core: Arc<Core>,
    volumes: Arc<Mutex<Vec<Arc<Volume>>>>,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Array").field("name", &self.core.name).finish_non_exhaustive()
    }
}

impl Array {
    /// The name without its host.
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// md's `set_uuid`.
    pub fn uuid(&self) -> Uuid {
        self.core.uuid
    }

    /// What is left of an array whose machine died in a simulation: nothing runs any more, so it cannot be stopped. This
    /// ends the cycle of references between it and its volumes.
    #[cfg(feature = "sabotage")]
    pub fn abandon(&self) {
        lock(&self.volumes).clear();
    }

    /// Memory for parity and old data that is in use now; 0 when nothing is under way.
    pub fn scratch_used_bytes(&self) -> usize {
        self.core.scratch.used_bytes()
    }

    /// Memory for journalled data, and for records on their way, that is in use now; 0 after a stop that went well.
    pub fn journal_used_bytes(&self) -> u64 {
        self.core.has_journal().map_or(0, |journal| journal.used_bytes() + journal.records_used_bytes())
    }

    /// Things that happen from now on. A receiver that lags behind loses the oldest.
    pub fn events(&self) -> tokio::sync::broadcast::Receiver<ArrayEvent> {
        self.core.events.subscribe()
    }

    /// Take the array into service on this thread: open its volumes, start its keeper.
    fn start(core: Arc<Core>, document: &crate::format::labsan::ConfigDocument) -> Self {
        let array = Self { core: Arc::clone(&core), volumes: Arc::default() };
        let volumes: Vec<_> =
            document.volumes.iter().map(|record| Volume::new(array.clone(), record.clone())).collect();
        *lock(&array.volumes) = volumes;
        if core.journal.is_some() {
            let (destager, committer) = (Arc::clone(&core), Arc::clone(&core));
            tokio::task::spawn_local(async move { destager.destage().await });
            tokio::task::spawn_local(async move { committer.commit_cached_writes().await });
        }
        tokio::task::spawn_local(keeper::run(core));
        array
    }
}

impl BlockDevice for Array {
    fn info(&self) -> DeviceInfo {
        self.core.info.clone()
    }

    fn name(&self) -> &str {
        &self.core.name
    }

    fn read(&self, offset: u64, buffer: Buffer) -> IoFuture<'_, ReadResult> {
        Box::pin(self.core.read(offset, buffer))
    }

    fn write(&self, offset: u64, data: Bytes, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.core.write(offset, data, durability))
    }

    fn flush(&self) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.core.flush())
    }

    fn zero(&self, offset: u64, length: u64, durability: Durability) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.core.zero(offset, length, durability, false))
    }

    fn discard(&self, offset: u64, length: u64) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.core.zero(offset, length, Durability::Durable, true))
    }

    fn space_run(&self, offset: u64, length: u64) -> SpaceRun {
        self.core.space_run(offset, length)
    }

    fn atomic_limit_bytes(&self) -> u32 {
        self.core.atomic_limit_bytes()
    }

    fn write_atomic(&self, offset: u64, data: Bytes) -> IoFuture<'_, Result<(), IoError>> {
        Box::pin(self.core.write_atomic(vec![(offset, data)]))
    }
}

impl Array {
    /// See [`Volume::mapped_bytes`].
    pub(crate) fn mapped_bytes(&self, offset: u64, length: u64) -> u64 {
        self.core.mapped_bytes(offset, length)
    }

    /// The same for data that lies in several places: all of it or none.
    pub(crate) async fn write_atomic_parts(&self, parts: Vec<(u64, Bytes)>) -> Result<(), IoError> {
        self.core.write_atomic(parts).await
    }
}

#[cfg(test)]
mod tests;
