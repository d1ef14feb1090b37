//! Which targets are there, who may use them, and who does? Shared by all workers, and changed while they serve.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::chap::ChapPolicy;
use crate::limits;
use crate::login::Refusal;
use crate::names;
use crate::scsi::reservations::ItNexus;
use crate::scsi::{AccessState, LogicalUnit, LunMap, Preempted, Sense};
use crate::server::Joining;

pub use crate::access::AccessPolicy;

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

/// What the rest of the target asks of a session, or has to tell it.
#[derive(Debug)]
pub(crate) enum SessionMessage {
    /// A connection that has logged in is to be one of the session's.
    Join(Box<Joining>),
    /// End the tasks of these units without a response; tell when none can change data any more.
    Abort {
        /// Whose.
        units: Vec<Arc<LogicalUnit>>,
        /// Tell the initiator of those that were ended: COMMANDS CLEARED BY ANOTHER INITIATOR.
        cleared: bool,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
    /// Close the connection, let every task end, then tell.
    Drop {
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
    /// Ask the initiator to log out, and close when it has or its time is up.
    LogOut {
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
    /// Something has happened to a LUN.
    Changed {
        /// The eight bytes of the LUN.
        lun: u64,
        /// What the unit attention says.
        sense: Sense,
    },
}

/// What is known of a session.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// Its number here; unique while the server runs.
    pub id: u64,
    /// TSIH.
    pub tsih: u16,
    /// InitiatorName.
    pub initiator: String,
    /// InitiatorAlias.
    pub initiator_alias: Option<String>,
    /// ISID.
    pub isid: [u8; 6],
    /// TargetPortalGroupTag of the portal that was come to.
    pub portal_group: u16,
    /// The target; none for discovery.
    pub target: Option<String>,
    /// The initiator's addresses, one for each connection.
    pub peers: Vec<std::net::SocketAddr>,
    /// Ours.
    pub local: std::net::SocketAddr,
    /// HeaderDigest.
    pub header_digest: bool,
    /// DataDigest.
    pub data_digest: bool,
}

impl SessionInfo {
    /// The same initiator port at the same target port (RFC 7143 section 4.4.3).
    fn is_same_nexus(&self, other: &Self) -> bool {
        self.target.is_some()
            && self.target == other.target
            && self.portal_group == other.portal_group
            && self.isid == other.isid
            && self.initiator == other.initiator
    }
}

/// A session that is in the registry as long as this lives.
#[derive(Debug)]
pub(crate) struct Entered {
    registry: Arc<TargetRegistry>,
    pub(crate) id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        lock(&self.registry.sessions).remove(&self.id);
    }
}

#[derive(Debug)]
struct Session {
    info: SessionInfo,
    mailbox: mpsc::Sender<SessionMessage>,
}

/// The registry.
#[derive(Debug, Default)]
pub struct TargetRegistry {
    targets: Mutex<BTreeMap<String, Arc<Target>>>,
    sessions: Mutex<BTreeMap<u64, Session>>,
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
        let target = Target { name: name.clone(), alias, luns, rules: Mutex::default() };
        targets.insert(name, Arc::new(target));
        Ok(())
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
        for (lun, _) in target.luns.units() {
            target.luns.remove(lun);
        }
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

    /// Give a target a logical unit.
    pub fn map_lun(&self, name: &str, lun: u16, unit: Arc<LogicalUnit>) -> Result<(), RegistryError> {
        let target = self.target(name)?;
        let taken = RegistryError::LunTaken { target: target.name.clone(), lun };
        target.luns.insert(lun, unit).map_err(|_| taken)?;
        self.tell_of_change(&target.name, 0, Sense::LUNS_CHANGED);
        Ok(())
    }

    /// Take a logical unit away. Commands under way in it end by themselves; the initiators are told.
    pub fn unmap_lun(&self, name: &str, lun: u16) -> Result<Arc<LogicalUnit>, RegistryError> {
        let target = self.target(name)?;
        let removed = target.luns.remove(lun);
        let removed = removed.ok_or_else(|| RegistryError::NoLun { target: target.name.clone(), lun })?;
        self.tell_of_change(&target.name, 0, Sense::LUNS_CHANGED);
        Ok(removed)
    }

    /// The unit's device has grown or shrunk: every initiator that reaches it is told.
    pub fn capacity_changed(&self, unit: &LogicalUnit) {
        unit.capacity_changed();
        for target in self.targets() {
            for lun in target.luns.addresses_of(unit) {
                self.tell_of_change(&target.name, lun, Sense::CAPACITY_CHANGED);
            }
        }
    }

    /// An initiator with nothing to do would not meet the unit attention for long: a message lets it look at once. The unit
    /// attention stays for those that do not listen.
    fn tell_of_change(&self, target: &str, lun: u64, sense: Sense) {
        for mailbox in self.mailboxes(0, |name| name == target) {
            // Full: it has much else to hear.
            let _ = mailbox.try_send(SessionMessage::Changed { lun, sense });
        }
    }

    /// Everyone who is logged in.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        lock(&self.sessions).values().map(|session| session.info.clone()).collect()
    }

    /// Close a session at once and wait until none of its tasks can change data any more. False if there is none.
    pub async fn drop_session(&self, id: u64) -> bool {
        self.end_session(id, |done| SessionMessage::Drop { done }).await
    }

    /// Ask the initiator to log out, and close the session when it has or its time is up; otherwise the same.
    pub async fn log_session_out(&self, id: u64) -> bool {
        self.end_session(id, |done| SessionMessage::LogOut { done }).await
    }

    async fn end_session(
        &self,
        id: u64,
        message: impl FnOnce(oneshot::Sender<()>) -> SessionMessage,
    ) -> bool {
        let mailbox = lock(&self.sessions).get(&id).map(|session| session.mailbox.clone());
        let Some(mailbox) = mailbox else { return false };
        tell(&mailbox, message).await;
        true
    }

    /// May this initiator, coming from there, log in, and what must it prove?
    pub(crate) fn admit(&self, initiator: &str, target: &str, peer: IpAddr) -> Result<ChapPolicy, Refusal> {
        let target = self.target(target).map_err(|_| Refusal::NotFound)?;
        let rules = lock(&target.rules);
        if rules.access.admits(initiator, peer) { Ok(rules.chap.clone()) } else { Err(Refusal::Forbidden) }
    }

    /// The targets this initiator is to hear of.
    pub(crate) fn visible(&self, initiator: &str, peer: IpAddr) -> Vec<Arc<Target>> {
        let admits = |target: &Arc<Target>| lock(&target.rules).access.admits(initiator, peer);
        self.targets().into_iter().filter(admits).collect()
    }

    /// A number for a session that logs in; never 0 (RFC 7143 section 11.12.6).
    pub(crate) fn next_tsih(&self) -> u16 {
        loop {
            let tsih = self.next_tsih.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            let taken = lock(&self.sessions).values().any(|session| session.info.tsih == tsih);
            if tsih != 0 && !taken {
                return tsih;
            }
        }
    }

    /// Is there a session of this TSIH?
    pub(crate) fn has_tsih(&self, tsih: u16) -> bool {
        lock(&self.sessions).values().any(|session| session.info.tsih == tsih)
    }

    /// The session that a connection with this TSIH may join: of the same initiator port and target port.
    pub(crate) fn to_join(&self, info: &SessionInfo) -> Result<mpsc::Sender<SessionMessage>, Refusal> {
        let sessions = lock(&self.sessions);
        let session = sessions.values().find(|session| session.info.tsih == info.tsih);
        let session = session.ok_or(Refusal::SessionDoesNotExist)?;
        let by_its_group = SessionInfo { portal_group: session.info.portal_group, ..info.clone() };
        match (session.info.is_same_nexus(info), session.info.is_same_nexus(&by_its_group)) {
            (true, _) => Ok(session.mailbox.clone()),
            (false, true) => Err(Refusal::CannotInclude),
            (false, false) => Err(Refusal::SessionDoesNotExist),
        }
    }

    /// From where a session's connections come now.
    pub(crate) fn set_peers(&self, id: u64, peers: Vec<std::net::SocketAddr>) {
        if let Some(session) = lock(&self.sessions).get_mut(&id) {
            session.info.peers = peers;
        }
    }

    /// Enter a session. Session reinstatement (RFC 7143 section 6.3.5): one of the same nexus is closed first, and none of
    /// its tasks runs any more. Of several that come at the same time the last one stays.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        mut info: SessionInfo,
    ) -> (Entered, mpsc::Receiver<SessionMessage>) {
        let (mailbox, messages) = mpsc::channel(limits::SESSION_MAILBOX);
        let id = self.next_session.fetch_add(1, Ordering::Relaxed) + 1;
        info.id = id;
        loop {
            let former: Vec<_> = {
                let mut sessions = lock(&self.sessions);
                let former = sessions.values().filter(|session| session.info.is_same_nexus(&info));
                let former: Vec<_> = former.map(|session| session.mailbox.clone()).collect();
                if former.is_empty() {
                    sessions.insert(id, Session { info, mailbox });
                    return (Entered { registry: Arc::clone(self), id }, messages);
                }
                former
            };
            let endings = former.iter().map(|mailbox| tell(mailbox, |done| SessionMessage::Drop { done }));
            futures_util::future::join_all(endings).await;
        }
    }

    /// The mailboxes of a target's sessions but one.
    pub(crate) fn others(&self, target: &str, but: u64) -> Vec<mpsc::Sender<SessionMessage>> {
        self.mailboxes(but, |name| name == target)
    }

    /// The mailboxes of all sessions but one that reach one of these units, by whatever target.
    pub(crate) fn others_at(
        &self,
        units: &[Arc<LogicalUnit>],
        but: u64,
    ) -> Vec<mpsc::Sender<SessionMessage>> {
        let reaches = |target: &Arc<Target>| target.luns.maps_any(units);
        let names: Vec<String> = self
            .targets()
            .iter()
            .filter(|target| reaches(target))
            .map(|target| target.name.clone())
            .collect();
        self.mailboxes(but, |name| names.iter().any(|other| other == name))
    }

    /// Every logical unit that is a view of one of these.
    pub(crate) fn views_of(&self, units: &[Arc<LogicalUnit>]) -> Vec<Arc<LogicalUnit>> {
        let mut views: Vec<Arc<LogicalUnit>> = Vec::new();
        for (_, unit) in self.targets().iter().flat_map(|target| target.luns.units()) {
            let wanted = units.iter().any(|other| unit.is_view_of(other));
            if wanted && !views.iter().any(|other| Arc::ptr_eq(other, &unit)) {
                views.push(unit);
            }
        }
        views
    }

    fn mailboxes(&self, but: u64, of: impl Fn(&str) -> bool) -> Vec<mpsc::Sender<SessionMessage>> {
        lock(&self.sessions)
            .iter()
            .filter(|(id, session)| **id != but && session.info.target.as_deref().is_some_and(&of))
            .map(|(_, session)| session.mailbox.clone())
            .collect()
    }

    /// End the commands of preempted nexuses in the unit, whatever number it has for them; those of the session `but`
    /// are its own affair. Returns when none can change data any more.
    pub(crate) async fn end_preempted(&self, preempted: &Preempted, but: u64) {
        let is_meant = |session: &SessionInfo| {
            let port = |nexus: &&ItNexus| {
                nexus.isid == session.isid
                    && nexus.portal_group == session.portal_group
                    && nexus.initiator_name.eq_ignore_ascii_case(&session.initiator)
                    && session.target.as_deref() == Some(nexus.target_name.as_str())
            };
            session.id != but && preempted.nexuses.iter().any(|nexus| port(&nexus))
        };
        let sessions: Vec<_> = lock(&self.sessions)
            .values()
            .filter(|session| is_meant(&session.info))
            .map(|session| session.mailbox.clone())
            .collect();
        let endings = sessions.iter().map(|mailbox| {
            let units = vec![Arc::clone(&preempted.unit)];
            tell(mailbox, |done| SessionMessage::Abort { units, cleared: false, done })
        });
        futures_util::future::join_all(endings).await;
    }

    pub(crate) fn all_mailboxes(&self) -> Vec<mpsc::Sender<SessionMessage>> {
        lock(&self.sessions).values().map(|session| session.mailbox.clone()).collect()
    }
}

/// Send a message and wait until it was done, or the session is gone.
pub(crate) async fn tell(
    mailbox: &mpsc::Sender<SessionMessage>,
    message: impl FnOnce(oneshot::Sender<()>) -> SessionMessage,
) {
    let (done, is_done) = oneshot::channel();
    if mailbox.send(message(done)).await.is_ok() {
        tokio::select! {
            // An error means that the session ended on its own, which is as good.
            _ = is_done => {}
            // A message that is sent just as the receiver goes stays in the channel as long as we hold it: nobody would ever tell.
            () = mailbox.closed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::chap::{Account, Secret};

    #[test]
    fn names_are_unique_and_secrets_differ() {
        let registry = TargetRegistry::new();
        registry.create_target("iqn.2026-11.org.labsan:t", None).unwrap();
        let again = registry.create_target("IQN.2026-11.org.labsan:T", None);
        assert!(matches!(again, Err(RegistryError::TargetExists(_))));
        assert!(matches!(registry.create_target("nonsense", None), Err(RegistryError::BadName(_))));
        let account = |name: &str| Account { name: name.into(), secret: Secret::new("same") };
        let chap = ChapPolicy { accounts: vec![account("a")], mutual: Some(account("b")) };
        let refused = registry.set_chap("iqn.2026-11.org.labsan:t", chap);
        assert_eq!(refused, Err(RegistryError::SameSecret("a".into())));
        assert!(registry.remove_target("iqn.2026-11.org.labsan:none", false).is_err());
        registry.remove_target("iqn.2026-11.org.labsan:t", false).unwrap();
    }

    /// The session ends at any moment, also between the sending of a message and its arrival. Two threads take turns at
    /// hitting that moment: each round one of them lets go a little later.
    #[test]
    fn nobody_waits_for_a_session_that_ended_meanwhile() {
        const ROUNDS: usize = 30_000;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (hand_over, taken) = std::sync::mpsc::channel::<mpsc::Receiver<SessionMessage>>();
        let (ready, go) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let until = |counter: &AtomicUsize, value: usize| {
            let mut spins = 0;
            while counter.load(Ordering::SeqCst) < value {
                // Whoever it waits for may have no processor.
                spins += 1;
                if spins < 1000 { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for (round, messages) in taken.into_iter().enumerate() {
                    ready.store(round + 1, Ordering::SeqCst);
                    until(&go, round + 1);
                    (0..round % 64).for_each(|_| std::hint::spin_loop());
                    drop(messages);
                }
            });
            for round in 0..ROUNDS {
                let (mailbox, messages) = mpsc::channel(1);
                hand_over.send(messages).unwrap();
                until(&ready, round + 1);
                let told = async {
                    go.store(round + 1, Ordering::SeqCst);
                    tell(&mailbox, |done| SessionMessage::Drop { done }).await;
                };
                let limit = std::time::Duration::from_secs(20);
                runtime.block_on(async { tokio::time::timeout(limit, told).await }).expect("nobody told");
            }
            drop(hand_over);
        });
    }
}
