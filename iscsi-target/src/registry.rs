//! Which targets are there, who may use them, and who does? Shared by all workers, and changed while they serve.

mod luns;
mod session;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

pub use crate::access::AccessPolicy;
use crate::access::{Admission, Caller};
use crate::chap::ChapPolicy;
use crate::login::Refusal;
use crate::names;
use crate::scsi::{AccessState, LogicalUnit, LunMap};
use session::Session;
pub use session::{Connected, SessionInfo};
pub(crate) use session::{SessionMessage, tell};

/// Why the registry refused a change. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Not an iSCSI name.
    #[error("{0:?} is no iSCSI name: use iqn.YYYY-MM.reversed.domain:name, eui.… or naa.…")]
    BadName(String),
    /// A target of that name is there.
    #[error("target {0} exists already")]
    TargetExists(String),
    /// No target of that name.
    #[error("there is no target {0}")]
    NoTarget(String),
    /// The number is in use.
    #[error("target {target} has a LUN {lun} already")]
    LunTaken {
        /// The target.
        target: String,
        /// The number.
        lun: u16,
    },
    /// The number is not in use.
    #[error("target {target} has no LUN {lun}")]
    NoLun {
        /// The target.
        target: String,
        /// The number.
        lun: u16,
    },
    /// Initiators are logged in.
    #[error("target {target} has {sessions} sessions: drop them first, or use --yes")]
    InUse {
        /// The target.
        target: String,
        /// How many.
        sessions: usize,
    },
    /// The same secret both ways would let each side answer the other's challenge.
    #[error("the secret of {0} is the target's own as well: mutual CHAP needs two different secrets")]
    SameSecret(String),
}

/// A target and its rules.
#[derive(Debug)]
pub struct Target {
    /// Its name, in lower case.
    pub name: String,
    /// Shown to initiators.
    pub alias: Option<String>,
    /// Its logical units.
    pub luns: LunMap,
    rules: Mutex<Rules>,
}

impl Target {
    /// The target of a session that has none (discovery).
    pub(crate) fn nowhere(luns: LunMap) -> Self {
        Self { name: String::new(), alias: None, luns, rules: Mutex::default() }
    }

    /// May this initiator get in by this address of ours, from wherever?
    pub(crate) fn is_open_by(&self, initiator: &str, local: SocketAddr) -> bool {
        lock(&self.rules).access.opens(initiator, local)
    }

    /// Do initiators have to be on this machine?
    pub(crate) fn is_loopback_only(&self) -> bool {
        lock(&self.rules).access.loopback_only
    }
}

#[derive(Debug, Default)]
struct Rules {
    access: AccessPolicy,
    chap: ChapPolicy,
}

impl Rules {
    /// What a caller has to prove to be let in.
    fn admit(&self, caller: Caller<'_>) -> Result<ChapPolicy, Refusal> {
        let admission = self.access.admits(caller).ok_or(Refusal::Forbidden)?;
        let mut chap = self.chap.clone();
        if let Admission::OneOf(accounts) = admission {
            chap.accounts.retain(|account| accounts.contains(&account.name));
            // Without an account nothing would have to be proved at all.
            if chap.accounts.is_empty() {
                return Err(Refusal::Forbidden);
            }
        }
        Ok(chap)
    }

    /// Would this connection be let in now?
    fn let_in(&self, initiator: &str, connection: &Connected) -> bool {
        let account = connection.account.as_deref();
        let caller = Caller { initiator, peer: connection.peer, local: connection.local };
        self.access.admits(caller).is_some_and(|admission| admission.covers(account))
    }

    /// Has it proved what is to be proved now?
    fn has_proved(&self, account: Option<&str>) -> bool {
        match account {
            None => self.chap.accounts.is_empty(),
            Some(name) => self.chap.accounts.iter().any(|account| account.name == name),
        }
    }
}

/// The registry.
#[derive(Debug, Default)]
pub struct TargetRegistry {
    targets: Mutex<BTreeMap<String, Arc<Target>>>,
    sessions: Mutex<BTreeMap<u64, Session>>,
    /// Those of the portals that lead to all targets; none before they are served.
    groups: Mutex<Vec<u16>>,
    next_session: AtomicU64,
    next_tsih: AtomicU16,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TargetRegistry {
    /// No targets yet.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Make a target that lets nobody in, behind the lowest port number that is free.
    pub fn create_target(&self, name: &str, alias: Option<String>) -> Result<(), RegistryError> {
        self.create_target_behind(name, alias, None)
    }

    /// The same behind a port of this number, which is the target's for good if the caller keeps it.
    pub fn create_target_behind(
        &self,
        name: &str,
        alias: Option<String>,
        port: Option<u16>,
    ) -> Result<(), RegistryError> {
        let name = names::normal(name).ok_or_else(|| RegistryError::BadName(name.to_owned()))?;
        let mut targets = lock(&self.targets);
        if targets.contains_key(&name) {
            return Err(RegistryError::TargetExists(name));
        }
        let taken = |number: u16| targets.values().any(|target| target.luns.port().number() == number);
        // There are fewer targets than numbers.
        let port = port.or_else(|| (1..=u16::MAX).find(|number| !taken(*number))).unwrap_or(1);
        let luns = LunMap::behind(&name, port);
        let groups = lock(&self.groups).clone();
        if !groups.is_empty() {
            luns.port().set_groups(&groups);
        }
        let target = Target { name: name.clone(), alias, luns, rules: Mutex::default() };
        targets.insert(name, Arc::new(target));
        Ok(())
    }

    /// Say which portal groups there are: each leads to every target.
    pub(crate) fn set_portal_groups(&self, groups: Vec<u16>) {
        let targets = lock(&self.targets);
        targets.values().for_each(|target| target.luns.port().set_groups(&groups));
        *lock(&self.groups) = groups;
    }

    /// Remove a target that nobody uses. `force` is for callers that drop the sessions afterwards.
    pub fn remove_target(&self, name: &str, force: bool) -> Result<(), RegistryError> {
        let target = self.target(name)?;
        let sessions = self.sessions().iter().filter(|s| s.target.as_ref() == Some(&target.name)).count();
        if sessions > 0 && !force {
            return Err(RegistryError::InUse { target: target.name.clone(), sessions });
        }
        lock(&self.targets).remove(&target.name);
        // Its units may be mapped elsewhere too, and must know that this way to them is gone.
        target.luns.clear();
        Ok(())
    }

    /// A target by its name, in any case.
    pub fn target(&self, name: &str) -> Result<Arc<Target>, RegistryError> {
        let name = name.to_ascii_lowercase();
        lock(&self.targets).get(&name).cloned().ok_or(RegistryError::NoTarget(name))
    }

    /// All targets, by name.
    pub fn targets(&self) -> Vec<Arc<Target>> {
        lock(&self.targets).values().cloned().collect()
    }

    /// Who may log in.
    pub fn set_access(&self, name: &str, access: AccessPolicy) -> Result<(), RegistryError> {
        lock(&self.target(name)?.rules).access = access;
        Ok(())
    }

    /// What must be proved to log in.
    pub fn set_chap(&self, name: &str, chap: ChapPolicy) -> Result<(), RegistryError> {
        if let Some(mutual) = &chap.mutual
            && let Some(same) = chap.accounts.iter().find(|account| account.secret.equals(&mutual.secret))
        {
            return Err(RegistryError::SameSecret(same.name.clone()));
        }
        lock(&self.target(name)?.rules).chap = chap;
        Ok(())
    }

    /// What may be done through a target; its initiators are told.
    pub fn set_access_state(&self, name: &str, state: AccessState) -> Result<(), RegistryError> {
        self.target(name)?.luns.port().set(state, None);
        Ok(())
    }

    /// The sessions of a target of which not every connection would be let in now: by its access rules, and by what it has
    /// proved.
    pub fn shut_out(&self, name: &str) -> Vec<SessionInfo> {
        let Ok(target) = self.target(name) else { return Vec::new() };
        let mut sessions = self.sessions();
        let rules = lock(&target.rules);
        sessions.retain(|session| {
            let let_in = |connection: &Connected| {
                rules.let_in(&session.initiator, connection)
                    && rules.has_proved(connection.account.as_deref())
            };
            session.target.as_ref() == Some(&target.name) && !session.connections.iter().all(let_in)
        });
        sessions
    }

    /// May this caller log in, and what must it prove?
    pub(crate) fn admit(&self, caller: Caller<'_>, target: &str) -> Result<ChapPolicy, Refusal> {
        let target = self.target(target).map_err(|_| Refusal::NotFound)?;
        let rules = lock(&target.rules);
        rules.admit(caller)
    }

    /// Is a connection that was entered just now still one that may be there? A login takes a while, and what was changed since
    /// it was admitted has dropped only the sessions that were there.
    pub(crate) fn still_admits(&self, initiator: &str, connection: &Connected, target: &Arc<Target>) -> bool {
        let there = self.target(&target.name).is_ok_and(|there| Arc::ptr_eq(&there, target));
        let rules = lock(&target.rules);
        there && rules.let_in(initiator, connection) && rules.has_proved(connection.account.as_deref())
    }

    /// The targets this caller is to hear of: those that may let it in here.
    pub(crate) fn visible(&self, caller: Caller<'_>) -> Vec<Arc<Target>> {
        let admits = |target: &Arc<Target>| lock(&target.rules).access.admits(caller).is_some();
        self.targets().into_iter().filter(admits).collect()
    }

    /// The mailboxes of a target's sessions but one that see one of these units there.
    pub(crate) fn others_behind(
        &self,
        target: &Target,
        units: &[Arc<LogicalUnit>],
        but: u64,
    ) -> Vec<mpsc::Sender<SessionMessage>> {
        self.mailboxes(but, |session| {
            session.target.as_ref() == Some(&target.name) && target.luns.shows_any(&session.initiator, units)
        })
    }

    /// The mailboxes of all sessions but one that see one of these units, by whatever target and number.
    pub(crate) fn others_at(
        &self,
        units: &[Arc<LogicalUnit>],
        but: u64,
    ) -> Vec<mpsc::Sender<SessionMessage>> {
        let targets = self.targets();
        self.mailboxes(but, |session| {
            let target = targets.iter().find(|target| session.target.as_ref() == Some(&target.name));
            target.is_some_and(|target| target.luns.shows_any(&session.initiator, units))
        })
    }

    /// Every logical unit that is a view of one of these.
    pub(crate) fn views_of(&self, units: &[Arc<LogicalUnit>]) -> Vec<Arc<LogicalUnit>> {
        let mut views: Vec<Arc<LogicalUnit>> = Vec::new();
        for unit in self.targets().iter().flat_map(|target| target.luns.all_units()) {
            let wanted = units.iter().any(|other| unit.is_view_of(other));
            if wanted && !views.iter().any(|other| Arc::ptr_eq(other, &unit)) {
                views.push(unit);
            }
        }
        views
    }
}

#[cfg(test)]
mod tests;
