//! The live iSCSI targets: carries out the steps of [`crate::san::plan`] on them.
//!
//! Every step is idempotent (what is so already is no error), so that a plan can be run again, or backwards, after it
//! failed in the middle. A volume that is mapped in several places is one logical unit there, with one state.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use block_io::runtime::WorkerPool;
use iscsi_target::chap::{Account, ChapPolicy, Secret};
use iscsi_target::registry::{RegistryError, SessionInfo, TargetRegistry};
use iscsi_target::scsi::{AccessState, LogicalUnit, LuIdentity, LuOptions};
use iscsi_target::server::{Portal, ServerConfig, ServerError, TargetServer};
use labsan_api::ErrorCode;
use labsan_api::target::{PathState, Session};
use raid_core::volume::Volume;
use uuid::Uuid;

use crate::config::redirect::canonical;
use crate::reservations::Backing;
use crate::san::plan::Step;
use crate::san::{self, Chap, LunRecord};

/// What disks say they are (INQUIRY product identification); a rename must not change it.
const PRODUCT: &str = "labsan volume";

/// Why the targets could not follow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetsError {
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A portal cannot be served.
    #[error(transparent)]
    Server(#[from] ServerError),
}

impl TargetsError {
    /// What kind of no it is.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Registry(RegistryError::NoTarget(_) | RegistryError::NoLun { .. }) => ErrorCode::NotFound,
            Self::Registry(RegistryError::InUse { .. }) => ErrorCode::InUse,
            Self::Registry(RegistryError::BadName(_) | RegistryError::SameSecret(_)) => ErrorCode::Invalid,
            Self::Registry(_) => ErrorCode::Taken,
            Self::Server(_) => ErrorCode::Io,
        }
    }
}

/// Targets, and the server once it was started.
#[derive(Debug)]
pub(crate) struct Targets {
    /// Of every unit.
    sanitize_rate: Option<NonZeroU64>,
    thin_warning_percent: u8,
    registry: Arc<TargetRegistry>,
    server: Mutex<Option<TargetServer>>,
    units: Mutex<Vec<Weak<LogicalUnit>>>,
    /// Units that are to outlast their mappings: somebody is registered with them, or they are closed by SANITIZE.
    kept: Mutex<Vec<Arc<LogicalUnit>>>,
    /// PRGENERATION of volumes that were taken out of a target: it goes on until the power does (SPC-4 clause 5.12.5).
    generations: Mutex<BTreeMap<Uuid, u32>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Targets {
    /// `sanitize_rate`: bytes a second. `thin_warning_percent`: of a unit's size.
    pub(crate) fn new(sanitize_rate: Option<NonZeroU64>, thin_warning_percent: u8) -> Self {
        Self {
            sanitize_rate,
            thin_warning_percent,
            registry: TargetRegistry::new(),
            server: Mutex::default(),
            units: Mutex::default(),
            kept: Mutex::default(),
            generations: Mutex::default(),
        }
    }

    /// Carry out one step. `backing` is what a LUN to be mapped stands for; without one it waits for its array.
    pub(crate) async fn apply(&self, step: &Step, backing: Option<Backing>) -> Result<(), TargetsError> {
        match step {
            Step::CreateTarget { iqn, alias, port } => {
                let alias = Some(alias.clone()).filter(|alias| !alias.is_empty());
                match self.registry.create_target_behind(iqn, alias, Some(*port)) {
                    Err(RegistryError::TargetExists(_)) => Ok(()),
                    result => Ok(result?),
                }
            }
            Step::RemoveTarget { iqn } => self.remove_target(iqn).await,
            Step::SetAccess { iqn, access } => {
                tolerate_missing(self.registry.set_access(iqn, access.policy(iqn)))
            }
            Step::SetState { iqn, state } => tolerate_missing(self.set_state_in_registry(iqn, *state)),
            Step::SetChap { iqn, chap } => Ok(self.registry.set_chap(iqn, chap_policy(chap))?),
            Step::UnmapLun { iqn, initiator, lun } => {
                let unmapped = self.registry.unmap_lun_for(iqn, initiator.as_deref(), *lun);
                tolerate_missing(unmapped.map(|unit| self.keep(unit)))
            }
            Step::Mask { iqn, initiator } => tolerate_missing(self.registry.mask_luns(iqn, initiator)),
            Step::Unmask { iqn, initiator } => tolerate_missing(
                self.registry
                    .unmask_luns(iqn, initiator)
                    .map(|units| units.into_iter().for_each(|unit| self.keep(unit))),
            ),
            Step::MapLun { iqn, initiator, lun } => match backing {
                Some(backing) => self.map(iqn, initiator.as_deref(), lun, backing),
                None => Ok(()),
            },
        }
    }

    fn set_state_in_registry(&self, iqn: &str, state: PathState) -> Result<(), RegistryError> {
        self.registry.set_access_state(iqn, access_state(state))
    }

    /// Change what initiators may do through a target.
    pub(crate) fn set_state(&self, iqn: &str, state: PathState) -> Result<(), TargetsError> {
        tolerate_missing(self.set_state_in_registry(iqn, state))
    }

    /// What initiators may do through a target now; they may have changed it themselves.
    pub(crate) fn state(&self, iqn: &str) -> Option<PathState> {
        let now = self.registry.target(iqn).ok()?.luns.port().access();
        PathState::ALL.into_iter().map(|(state, _)| state).find(|state| access_state(*state) == now)
    }

    /// Nobody gets in any more when this runs; whoever is in is sent away before the target is gone.
    async fn remove_target(&self, iqn: &str) -> Result<(), TargetsError> {
        for session in
            self.registry.sessions().iter().filter(|session| session.target.as_deref() == Some(iqn))
        {
            self.registry.drop_session(session.id).await;
        }
        if let Ok(target) = self.registry.target(iqn) {
            target.luns.all_units().into_iter().for_each(|unit| self.keep(unit));
        }
        tolerate_missing(self.registry.remove_target(iqn, true))
    }

    fn map(
        &self,
        iqn: &str,
        whose: Option<&str>,
        lun: &LunRecord,
        backing: Backing,
    ) -> Result<(), TargetsError> {
        let unit = match self.unit(backing, lun.read_only) {
            Ok(unit) => unit,
            Err(why) => {
                tracing::error!("LUN {} of {iqn} is not served: {why}", lun.lun);
                return Ok(());
            }
        };
        let target = self.registry.target(iqn)?;
        let luns = &target.luns;
        let there = whose.map_or_else(|| luns.units(), |initiator| luns.units_of(initiator));
        let same =
            |(number, other): &(u16, Arc<LogicalUnit>)| *number == lun.lun && Arc::ptr_eq(other, &unit);
        if there.iter().any(same) {
            Ok(())
        } else {
            Ok(self.registry.map_lun_for(iqn, whose, lun.lun, unit)?)
        }
    }

    /// The logical unit of a volume, the same wherever it is mapped; with other rights it is seen in another way.
    /// The error is for a person.
    fn unit(&self, backing: Backing, read_only: bool) -> Result<Arc<LogicalUnit>, String> {
        let Backing { volume, keeper, restore, resources } = backing;
        let mut units = lock(&self.units);
        units.retain(|unit| unit.strong_count() > 0);
        let known: Vec<_> =
            units.iter().filter_map(Weak::upgrade).filter(|unit| is_over(unit, &volume)).collect();
        if let Some(unit) = known.iter().find(|unit| unit.options().read_only == read_only) {
            return Ok(Arc::clone(unit));
        }
        let options = LuOptions {
            read_only,
            write_cache: volume.write_cache(),
            sanitize_rate: self.sanitize_rate,
            thin_warning_percent: self.thin_warning_percent,
        };
        let unit = match known.first() {
            Some(other) => other.view(options),
            None => {
                let uuid = volume.uuid();
                let (serial, product) = (uuid.simple().to_string(), PRODUCT.to_owned());
                let identity = LuIdentity { uuid, serial, product };
                // Not before: a former unit of this volume, that a last order kept alive, is gone only now.
                let mut restored = restore()?;
                let generation = lock(&self.generations).get(&uuid).copied().unwrap_or_default();
                restored.reservations.generation = generation;
                let unit = LogicalUnit::restored(volume, identity, options, keeper, restored);
                // Before anybody knows it, so that nobody is told that it has become so.
                unit.resources_measured(resources);
                unit.go_on_sanitizing();
                unit
            }
        };
        units.push(Arc::downgrade(&unit));
        Ok(unit)
    }

    /// A unit that was taken out of a target may be in none any more. Whom its registrants keep out stays out when it is
    /// mapped again, also where they did not ask that it survive a power loss. What SANITIZE has closed stays closed: a unit made
    /// anew would be as open as what is kept of it says, and that may not be so on the disks.
    fn keep(&self, unit: Arc<LogicalUnit>) {
        lock(&self.generations).insert(unit.identity().uuid, unit.reservations().generation);
        let mut kept = lock(&self.kept);
        let outlasts = !unit.reservations().registrations.is_empty() || unit.is_sanitizing();
        if outlasts && !kept.iter().any(|other| other.is_view_of(&unit)) {
            kept.push(unit);
        }
    }

    /// These volumes are no more, or their array stops, which is the end of what need not survive that.
    pub(crate) fn forget(&self, volumes: &[Uuid]) {
        lock(&self.kept).retain(|unit| !volumes.contains(&unit.identity().uuid));
    }

    /// The logical units that are served, each once.
    pub(crate) fn units(&self) -> Vec<Arc<LogicalUnit>> {
        let mut units: Vec<Arc<LogicalUnit>> = Vec::new();
        for unit in lock(&self.units).iter().filter_map(Weak::upgrade) {
            if !units.iter().any(|other| other.is_view_of(&unit)) {
                units.push(unit);
            }
        }
        units
    }

    /// The unit of a volume, if it is served.
    pub(crate) fn unit_of(&self, volume: &Arc<Volume>) -> Option<Arc<LogicalUnit>> {
        lock(&self.units).iter().filter_map(Weak::upgrade).find(|unit| is_over(unit, volume))
    }

    /// Tell everybody who uses a volume that its size has changed.
    pub(crate) fn resized(&self, volume: Uuid) {
        for unit in self.units().iter().filter(|unit| unit.identity().uuid == volume) {
            self.registry.capacity_changed(unit);
        }
    }

    /// Begin to serve.
    pub(crate) fn start(&self, config: ServerConfig, workers: &WorkerPool) -> Result<(), TargetsError> {
        let server = TargetServer::start(config, Arc::clone(&self.registry), workers)?;
        *lock(&self.server) = Some(server);
        Ok(())
    }

    /// Where it serves.
    pub(crate) fn portals(&self) -> Vec<Portal> {
        lock(&self.server).as_ref().map(|server| server.portals().to_vec()).unwrap_or_default()
    }

    /// Ask everybody to log out, and serve nobody any more.
    pub(crate) async fn stop(&self) {
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.shut_down().await;
        }
    }

    /// Who is logged in.
    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.registry.sessions().into_iter().map(session).collect()
    }

    /// How many sessions of targets there are whose leading connection came to this address.
    pub(crate) fn sessions_at(&self, address: SocketAddr) -> u64 {
        let is_there = |session: &&SessionInfo| {
            let leading = session.connections.first();
            session.target.is_some() && leading.is_some_and(|leading| canonical(leading.local) == address)
        };
        self.registry.sessions().iter().filter(is_there).count() as u64
    }

    /// Is this initiator logged in to the target?
    pub(crate) fn is_logged_in(&self, iqn: &str, initiator: &str) -> bool {
        let is_it = |session: &SessionInfo| {
            session.target.as_deref() == Some(iqn) && session.initiator.eq_ignore_ascii_case(initiator)
        };
        self.registry.sessions().iter().any(is_it)
    }

    /// End the sessions of a target that its access rules would not let in now; how many.
    pub(crate) async fn drop_shut_out(&self, iqn: &str) -> usize {
        let mut dropped = 0;
        for session in self.registry.shut_out(iqn) {
            dropped += usize::from(self.registry.drop_session(session.id).await);
        }
        dropped
    }

    /// Ask the initiator to log out, and end the session when it has or its time is up; false as above.
    pub(crate) async fn log_session_out(&self, id: &str) -> bool {
        match id.parse() {
            Ok(id) => self.registry.log_session_out(id).await,
            Err(_) => false,
        }
    }
}

/// A volume of an array that was started again is another object: its old unit, which a last order may keep alive, must not
/// be used.
fn is_over(unit: &LogicalUnit, volume: &Arc<Volume>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(unit.device()), Arc::as_ptr(volume))
}

/// What is gone already need not be taken away.
fn tolerate_missing(result: Result<(), RegistryError>) -> Result<(), TargetsError> {
    match result {
        Err(RegistryError::NoTarget(_) | RegistryError::NoLun { .. }) => Ok(()),
        result => Ok(result?),
    }
}

fn access_state(state: PathState) -> AccessState {
    match state {
        PathState::Optimized => AccessState::Optimized,
        PathState::NonOptimized => AccessState::NonOptimized,
        PathState::Standby => AccessState::Standby,
        PathState::Unavailable => AccessState::Unavailable,
        PathState::Offline => AccessState::Offline,
        PathState::Transitioning => AccessState::Transitioning,
    }
}

fn chap_policy(chap: &Chap) -> ChapPolicy {
    let account = |account: &san::Account| Account {
        name: account.user.clone(),
        secret: Secret::from_text(account.secret.expose()),
    };
    ChapPolicy {
        accounts: chap.accounts.iter().map(account).collect(),
        mutual: chap.mutual.as_ref().map(account),
    }
}

fn session(info: SessionInfo) -> Session {
    Session {
        id: info.id.to_string(),
        target: info.target.unwrap_or_default(),
        initiator: info.initiator,
        alias: info.initiator_alias.unwrap_or_default(),
        addresses: info.connections.iter().map(|connection| connection.peer.to_string()).collect(),
        account: info.connections.first().and_then(|leading| leading.account.clone()),
        isid: hex::encode(info.isid),
        header_digest: info.header_digest,
        data_digest: info.data_digest,
    }
}
