//! What does the daemon know? The arrays that run, the ones it refused, the SAN's configuration, and the means to act.
//!
//! - `state` is a snapshot behind a std lock that is never held across an await: reads never wait for a change.
//! - `writing` is held, for one array, by whoever reads what it carries, changes that and writes it back, and by whoever
//!   takes the array away; `host_copy` by whoever writes the host's copy, until what he wrote is in force. They are taken after
//!   `turn`, one at a time, and never held while sessions are waited for: their commands may be waiting for them.
//! - `turn` is held by whoever changes which arrays run, volumes, or the SAN's configuration: one change at a time.
//! - All methods that touch arrays run on the background worker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use block_io::BufferPool;
use block_io::runtime::WorkerPool;
use labsan_api::VolumePath;
use labsan_api::array::RefusedArray;
use raid_core::array::{Array, Environment};
use raid_core::volume::Volume;
use uuid::Uuid;

use crate::config::Config;
use crate::error::Failure;
use crate::events::EventLog;
use crate::redirects::Redirects;
use crate::san::{LunRecord, SanDocument};
use crate::space::Spaces;
use crate::targets::Targets;

/// The daemon's whole state.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// What the host says.
    pub(crate) config: Config,
    /// The threads.
    pub(crate) workers: WorkerPool,
    /// All buffer memory.
    pub(crate) pool: BufferPool,
    /// What arrays need of the host.
    pub(crate) environment: Environment,
    /// What initiators see.
    pub(crate) targets: Targets,
    /// Where portals send them.
    pub(crate) redirects: Redirects,
    /// What happened.
    pub(crate) events: EventLog,
    /// How thin arrays fare with space.
    pub(crate) spaces: Spaces,
    /// When it was started.
    pub(crate) started: Instant,
    /// Held while something is changed.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Held while the host's copy is written.
    pub(crate) host_copy: tokio::sync::Mutex<()>,
    /// Reservations have changed since it was.
    pub(crate) host_is_behind: tokio::sync::Notify,
    /// Held while what an array carries is changed.
    writing: Mutex<BTreeMap<Uuid, Arc<tokio::sync::Mutex<LastWrite>>>>,
    /// For those that the logical units call.
    this: Weak<Self>,
    stopping: AtomicBool,
    state: Mutex<State>,
}

/// How the last change of what an array carries ended.
#[derive(Debug, Default)]
pub(crate) struct LastWrite {
    /// It was refused, and may be durable on a disk all the same: what is carried now has to be written over it.
    pub(crate) is_in_doubt: bool,
}

/// What is so now.
#[derive(Debug)]
pub(crate) struct State {
    /// Running arrays by the name they have here.
    pub(crate) arrays: BTreeMap<String, Array>,
    /// Found, not started.
    pub(crate) refused: Vec<RefusedArray>,
    /// The SAN's configuration in force.
    pub(crate) document: SanDocument,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

impl Daemon {
    /// A daemon that has nothing yet.
    pub(crate) fn new(config: Config, workers: WorkerPool, environment: Environment) -> Arc<Self> {
        let memory = usize::try_from(config.memory.0).unwrap_or(usize::MAX);
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            host_copy: tokio::sync::Mutex::new(()),
            host_is_behind: tokio::sync::Notify::new(),
            writing: Mutex::default(),
            workers,
            pool: BufferPool::new(memory),
            environment,
            targets: Targets::new(config.sanitize_rate.map(|rate| rate.0), config.thin_warning.0),
            redirects: Redirects::new(&config),
            events: EventLog::new(),
            spaces: Spaces::default(),
            started: Instant::now(),
            turn: tokio::sync::Mutex::new(()),
            stopping: AtomicBool::new(false),
            state: Mutex::new(State {
                arrays: BTreeMap::new(),
                refused: Vec::new(),
                document: SanDocument::empty(Uuid::new_v4()),
                notes: Vec::new(),
            }),
            config,
        })
    }

    /// The state; never held across an await.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Itself, for those that outlive a call.
    pub(crate) fn weak(&self) -> Weak<Self> {
        self.this.clone()
    }

    /// Running arrays with their names here.
    pub(crate) fn arrays(&self) -> Vec<(String, Array)> {
        self.state().arrays.iter().map(|(name, array)| (name.clone(), array.clone())).collect()
    }

    /// A running array.
    pub(crate) fn array(&self, name: &str) -> Result<Array, Failure> {
        self.state().arrays.get(name).cloned().ok_or_else(|| Failure::NoArray(name.to_owned()))
    }

    /// The running array of this identity.
    pub(crate) fn array_of(&self, uuid: Uuid) -> Option<Array> {
        self.state().arrays.values().find(|array| array.uuid() == uuid).cloned()
    }

    /// Whose turn it is to write to an array, or to take it away.
    pub(crate) fn writing(&self, array: Uuid) -> Arc<tokio::sync::Mutex<LastWrite>> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(writing.entry(array).or_default())
    }

    /// Let a configuration count. The reservations stay: nodes change them whoever has the turn.
    pub(crate) fn put_in_force(&self, next: SanDocument) {
        let mut state = self.state();
        let reservations = std::mem::take(&mut state.document.reservations);
        state.document = SanDocument { reservations, ..next };
    }

    /// The configuration in force.
    pub(crate) fn document(&self) -> SanDocument {
        self.state().document.clone()
    }

    /// The volume behind a LUN record and its name, if its array runs.
    pub(crate) fn volume_of(&self, lun: &LunRecord) -> Option<(VolumePath, Arc<Volume>)> {
        let state = self.state();
        let (name, array) = state.arrays.iter().find(|(_, array)| array.uuid() == lun.array_uuid)?;
        let volume = array.volumes().into_iter().find(|volume| volume.uuid() == lun.volume_uuid)?;
        Some((VolumePath { array: name.clone(), volume: volume.record().name }, volume))
    }

    /// Wait for one's turn to change something. Refused once the daemon is stopping.
    pub(crate) async fn take_turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, Failure> {
        let turn = self.turn.lock().await;
        if self.stopping.load(Ordering::Acquire) { Err(Failure::Stopping) } else { Ok(turn) }
    }

    /// From now on nothing is changed any more. Waits for the change under way.
    pub(crate) async fn close(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.turn.lock().await);
    }
}
