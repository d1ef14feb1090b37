//! Who is logged in, and by which connections? How sessions begin, are told, and end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{mpsc, oneshot};

use super::{TargetRegistry, lock};
use crate::limits;
use crate::login::Refusal;
use crate::scsi::reservations::ItNexus;
use crate::scsi::{LogicalUnit, Preempted, Sense};
use crate::server::Joining;

/// What the rest of the target asks of a session, or has to tell it.
#[derive(Debug)]
pub(crate) enum SessionMessage {
    /// A connection that has logged in is to be one of the session's.
    Join(Box<Joining>),
    /// End the tasks of these units without a response; tell when none can change data any more.
    Abort {
        /// Whose.
        units: Vec<Arc<LogicalUnit>>,
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

/// How one connection of a session came in, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The initiator's address.
    pub peer: SocketAddr,
    /// Ours.
    pub local: SocketAddr,
    /// The CHAP account by which it logged in; none without CHAP.
    pub account: Option<String>,
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
    /// Its connections, the leading one first.
    pub connections: Vec<Connected>,
    /// HeaderDigest.
    pub header_digest: bool,
    /// DataDigest.
    pub data_digest: bool,
}

impl SessionInfo {
    /// The nexus; none for discovery.
    fn nexus(&self) -> Option<ItNexus> {
        Some(ItNexus {
            initiator_name: self.initiator.clone(),
            isid: self.isid,
            target_name: self.target.clone()?,
            portal_group: self.portal_group,
        })
    }

    /// The same initiator port at the same target port (RFC 7143 section 4.4.3).
    fn is_same_nexus(&self, other: &Self) -> bool {
        self.target.is_some()
            && self.target == other.target
            && self.portal_group == other.portal_group
            && self.isid == other.isid
            && self.initiator == other.initiator
    }
}

impl SessionInfo {
    /// All discoveries share one room; so do the sessions of an initiator.
    fn shares_room_with(&self, other: &Self) -> bool {
        match &other.target {
            None => self.target.is_none(),
            Some(_) => self.target.is_some() && self.initiator == other.initiator,
        }
    }

    /// Is there room for one more connection of its kind?
    fn finds_room(&self, sessions: &BTreeMap<u64, Session>) -> Result<(), Refusal> {
        let like_it = sessions.values().filter(|session| session.info.shares_room_with(self));
        let most = match self.target {
            None => limits::MAX_DISCOVERIES,
            Some(_) => limits::MAX_CONNECTIONS_OF_INITIATOR,
        };
        // One that begins has none to show yet, or the one that it is about.
        let count: usize = like_it.map(|session| session.info.connections.len().max(1)).sum();
        if count < most { Ok(()) } else { Err(Refusal::OutOfResources) }
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
pub(super) struct Session {
    pub(super) info: SessionInfo,
    pub(super) mailbox: mpsc::Sender<SessionMessage>,
}

impl TargetRegistry {
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

    /// The sessions of targets, and the address of ours by which each is led.
    pub(crate) fn leading(&self) -> Vec<(SocketAddr, ItNexus)> {
        let led = |session: &Session| {
            let local = session.info.connections.first()?.local;
            Some((SocketAddr::new(local.ip().to_canonical(), local.port()), session.info.nexus()?))
        };
        lock(&self.sessions).values().filter_map(led).collect()
    }

    /// Is this nexus logged in?
    pub(crate) fn has_session_of(&self, nexus: &ItNexus) -> bool {
        lock(&self.sessions).values().any(|session| session.info.nexus().as_ref() == Some(nexus))
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
            (true, _) => info.finds_room(&sessions).map(|()| session.mailbox.clone()),
            (false, true) => Err(Refusal::CannotInclude),
            (false, false) => Err(Refusal::SessionDoesNotExist),
        }
    }

    /// A session's connections have come or gone.
    pub(crate) fn set_connections(&self, id: u64, connections: Vec<Connected>) {
        if let Some(session) = lock(&self.sessions).get_mut(&id) {
            session.info.connections = connections;
        }
    }

    /// Enter a session. Session reinstatement (RFC 7143 section 6.3.5): one of the same nexus is closed first, and none of
    /// its tasks runs any more. Of several that come at the same time the last one stays.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        mut info: SessionInfo,
    ) -> Result<(Entered, mpsc::Receiver<SessionMessage>), Refusal> {
        let (mailbox, messages) = mpsc::channel(limits::SESSION_MAILBOX);
        let id = self.next_session.fetch_add(1, Ordering::Relaxed) + 1;
        info.id = id;
        loop {
            let former: Vec<_> = {
                let mut sessions = lock(&self.sessions);
                let former = sessions.values().filter(|session| session.info.is_same_nexus(&info));
                let former: Vec<_> = former.map(|session| session.mailbox.clone()).collect();
                if former.is_empty() {
                    info.finds_room(&sessions)?;
                    sessions.insert(id, Session { info, mailbox });
                    return Ok((Entered { registry: Arc::clone(self), id }, messages));
                }
                former
            };
            let endings = former.iter().map(|mailbox| tell(mailbox, |done| SessionMessage::Drop { done }));
            futures_util::future::join_all(endings).await;
        }
    }

    pub(super) fn mailboxes(
        &self,
        but: u64,
        of: impl Fn(&SessionInfo) -> bool,
    ) -> Vec<mpsc::Sender<SessionMessage>> {
        lock(&self.sessions)
            .iter()
            .filter(|(id, session)| **id != but && of(&session.info))
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
            tell(mailbox, |done| SessionMessage::Abort { units, done })
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
    // An error means that it is gone already.
    if let Ok(place) = mailbox.reserve().await {
        tell_at(mailbox, place, message).await;
    }
}

/// The same with a place in the mailbox. The session may end at any moment, also before it is used.
pub(super) async fn tell_at(
    mailbox: &mpsc::Sender<SessionMessage>,
    place: mpsc::Permit<'_, SessionMessage>,
    message: impl FnOnce(oneshot::Sender<()>) -> SessionMessage,
) {
    let (done, is_done) = oneshot::channel();
    place.send(message(done));
    tokio::select! {
        // An error means that the session ended on its own, which is as good.
        _ = is_done => {}
        // A message that is sent when the receiver has gone stays in the channel as long as we hold it: nobody would ever tell.
        () = mailbox.closed() => {}
    }
}
