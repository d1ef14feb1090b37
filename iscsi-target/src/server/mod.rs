//! The sockets: portals that accept, workers that serve. The only part of the crate that does I/O.
//!
//! A connection is handed to the worker with the fewest of them, or to that of the session it joins, and stays there: its
//! commands, its disk I/O and its responses never change threads.

mod commands;
mod complete;
mod connection;
mod ending;
mod link;
mod login;
mod management;
mod members;
mod placing;
mod portals;
mod receive;
mod send;
mod state;
mod text;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use block_io::{BufferPool, runtime::WorkerPool};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::chap::Algorithm;
use crate::limits;
use crate::login::{Refusal, SessionKind};
use crate::redirect::Redirect;
use crate::registry::{SessionInfo, SessionMessage, Target, TargetRegistry, tell};
use crate::scsi::{LunMap, Nexus};
use commands::Commands;
use link::Link;
use login::{Desk, LoginError, log_in};
pub(crate) use members::Joining;
use members::Members;
use portals::CameBy;
use state::State;
use text::TextExchange;

pub use portals::Portal;
pub use upkeep::Patience;

/// What a server needs to begin.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub portals: Vec<Portal>,
    /// Memory for commands' data.
    pub pool: BufferPool,
    /// How long initiators are waited for.
    pub patience: Patience,
    /// CHAP algorithms that initiators may use.
    pub algorithms: Vec<Algorithm>,
    /// Portals, by their index, that send initiators elsewhere.
    pub redirects: BTreeMap<usize, Arc<Redirect>>,
}

impl ServerConfig {
    /// With the defaults for all else.
    pub fn new(portals: Vec<Portal>, pool: BufferPool) -> Self {
        Self {
            portals,
            pool,
            patience: Patience::default(),
            algorithms: Algorithm::ALL.to_vec(),
            redirects: BTreeMap::new(),
        }
    }
}

/// Why a server cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A portal cannot be listened on.
    #[error("cannot listen on {portal}: {error}")]
    Listen {
        /// The address.
        portal: SocketAddr,
        /// Why; `AddrInUse` if somebody else does.
        error: io::Error,
    },
}

/// A running server.
#[derive(Debug)]
pub struct TargetServer {
    portals: Arc<[Portal]>,
    registry: Arc<TargetRegistry>,
    stop: watch::Sender<bool>,
}

/// What all connections share.
struct Hall {
    registry: Arc<TargetRegistry>,
    pool: BufferPool,
    parameter_pool: BufferPool,
    patience: Patience,
    algorithms: Vec<Algorithm>,
    redirects: BTreeMap<usize, Arc<Redirect>>,
    portals: Arc<[Portal]>,
    workers: WorkerPool,
    connections: Vec<AtomicUsize>,
    logins: AtomicUsize,
    stopped: watch::Receiver<bool>,
}

impl TargetServer {
    /// Listen on all portals and serve on `workers`.
    pub fn start(
        config: ServerConfig,
        registry: Arc<TargetRegistry>,
        workers: &WorkerPool,
    ) -> Result<Self, ServerError> {
        let failed = |(portal, error)| ServerError::Listen { portal, error };
        let listeners = portals::listen(&config.portals).map_err(failed)?;
        let mut portals = config.portals;
        for (portal, listener) in portals.iter_mut().zip(&listeners) {
            let address = listener.local_addr();
            portal.address = address.map_err(|error| failed((portal.address, error)))?;
        }
        let portals: Arc<[Portal]> = portals.into();
        let groups: BTreeSet<u16> = portals.iter().map(|portal| portal.group).collect();
        registry.set_portal_groups(groups.into_iter().collect());
        let (stop, stopped) = watch::channel(false);
        let hall = Arc::new(Hall {
            registry: Arc::clone(&registry),
            pool: config.pool,
            parameter_pool: BufferPool::new(limits::PARAMETER_POOL_BYTES),
            patience: config.patience,
            algorithms: config.algorithms,
            redirects: config.redirects,
            portals: Arc::clone(&portals),
            connections: (0..workers.len()).map(|_| AtomicUsize::new(0)).collect(),
            workers: workers.clone(),
            logins: AtomicUsize::new(0),
            stopped: stopped.clone(),
        });
        for (index, listener) in listeners.into_iter().enumerate() {
            let (hall, stopped) = (Arc::clone(&hall), stopped.clone());
            workers.spawn_background(move || accept(listener, index, hall, stopped));
        }
        Ok(Self { portals, registry, stop })
    }

    /// Where it listens, with the ports that were chosen.
    pub fn portals(&self) -> &[Portal] {
        &self.portals
    }

    /// Accept nobody more, ask every initiator to log out, and wait until no command runs any more.
    pub async fn shut_down(self) {
        // Nobody listening any more is what is wanted.
        let _ = self.stop.send(true);
        let sessions = self.registry.all_mailboxes();
        let endings = sessions.iter().map(|mailbox| tell(mailbox, |done| SessionMessage::LogOut { done }));
        futures_util::future::join_all(endings).await;
    }
}

async fn accept(
    listener: std::net::TcpListener,
    portal: usize,
    hall: Arc<Hall>,
    mut stopped: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a portal cannot be served"),
    };
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => hand_over(&hall, stream, portal, peer),
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back instead of spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Give a new connection to the worker with the fewest.
fn hand_over(hall: &Arc<Hall>, stream: TcpStream, portal: usize, peer: SocketAddr) {
    let counts: Vec<usize> = hall.connections.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let full = counts.iter().sum::<usize>() >= limits::MAX_CONNECTIONS;
    let logins = hall.logins.load(Ordering::Relaxed) >= limits::MAX_LOGINS;
    let fewest = counts.iter().enumerate().min_by_key(|(_, count)| **count);
    let (Some((worker, _)), false, false) = (fewest, full, logins) else {
        return tracing::warn!(%peer, "too many connections: turned away");
    };
    let Ok(stream) = stream.into_std() else { return };
    hall.connections[worker].fetch_add(1, Ordering::Relaxed);
    // Counted here, so that no crowd gets past the limit while the workers are busy.
    let login = LoggingIn::begin(hall);
    let hall = Arc::clone(hall);
    let workers = hall.workers.clone();
    workers.spawn_on(worker, move || async move {
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(&hall, stream, portal, peer, login).await;
        }
        hall.connections[worker].fetch_sub(1, Ordering::Relaxed);
    });
}

/// One of the logins in progress.
struct LoggingIn(Arc<Hall>);

impl LoggingIn {
    fn begin(hall: &Arc<Hall>) -> Self {
        hall.logins.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(hall))
    }
}

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.logins.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(hall: &Hall, mut stream: TcpStream, index: usize, peer: SocketAddr, counted: LoggingIn) {
    let Ok(local) = stream.local_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let came_by = CameBy { portals: Arc::clone(&hall.portals), index, local, peer };
    let desk = Desk {
        registry: &hall.registry,
        came_by: &came_by,
        algorithms: &hall.algorithms,
        redirect: hall.redirects.get(&index).map(Arc::as_ref),
    };
    let login = tokio::time::timeout(hall.patience.login, log_in(&mut stream, &desk)).await;
    drop(counted);
    let login = match login.unwrap_or(Err(LoginError::TimedOut)) {
        Ok(login) => login,
        Err(LoginError::Nothing) => return tracing::debug!(%peer, "a connection without a login"),
        Err(error) => return tracing::info!(%peer, %error, "login"),
    };
    let target = match &login.outcome.kind {
        SessionKind::Discovery => None,
        SessionKind::Normal { target } => match hall.registry.target(target) {
            Ok(target) => Some(target),
            // Removed since it was admitted.
            Err(_) => return,
        },
    };
    let info = session_info(&login, target.as_deref(), &came_by);
    if login.joins {
        return join(hall, stream, login, came_by, &info).await;
    }
    // What its former self has under way may hang: it is refused then, and comes again.
    let entering = tokio::time::timeout(hall.patience.login, hall.registry.enter(info.clone())).await;
    let (entered, messages) = match entering.unwrap_or(Err(Refusal::ServiceUnavailable)) {
        // Whoever stops has asked only those to log out that were there.
        Ok(_) if *hall.stopped.borrow() => {
            return refuse(hall, &stream, &login, Refusal::ServiceUnavailable).await;
        }
        Ok(entered) => entered,
        Err(refusal) => return refuse(hall, &stream, &login, refusal).await,
    };
    let session = entered.id;
    let admits = |target, connection| hall.registry.still_admits(&info.initiator, connection, target);
    if let Some(target) = &target
        && !info.connections.iter().all(|connection| admits(target, connection))
    {
        drop(entered);
        return refuse(hall, &stream, &login, Refusal::Forbidden).await;
    }
    let nexus = nexus(&login, target.as_deref(), &came_by);
    // Whatever changes once it knows that it is logged in, it is told of.
    if let Some(target) = &target {
        target.luns.nexus_met(&nexus);
    }
    let mut ended = None;
    // An initiator that does not even take this must not keep its session for good.
    if send_within(&stream, &login.last, hall.patience.login).await.is_ok() {
        tracing::info!(%peer, session, initiator = %nexus.initiator_name, target = %nexus.target_name, "logged in");
        let members = begin(hall, stream, came_by, login, nexus.clone(), target.clone(), session);
        let over = members.run(messages).await;
        tracing::info!(%peer, session, ending = %over.ending, "session ended");
        ended = Some(over);
    }
    if let Some(target) = target {
        target.luns.nexus_lost(&nexus);
    }
    // First gone from the registry, then told.
    drop(entered);
    if let Some(ended) = ended {
        ended.tell().await;
    }
}

fn nexus(login: &login::LoggedIn, target: Option<&Target>, came_by: &CameBy) -> Nexus {
    Nexus {
        initiator_name: login.outcome.initiator.clone(),
        isid: login.isid,
        target_name: target.map(|target| target.name.clone()).unwrap_or_default(),
        target_portal_group: came_by.group(),
        relative_target_port: target.map_or(1, |target| target.luns.port().number()),
    }
}

/// Hand a connection to the session that it is to join, which may be with another worker, and wait until it is over.
async fn join(hall: &Hall, stream: TcpStream, login: login::LoggedIn, came_by: CameBy, info: &SessionInfo) {
    let session = match hall.registry.to_join(info) {
        Ok(session) => session,
        Err(refusal) => return refuse(hall, &stream, &login, refusal).await,
    };
    let Ok(stream) = stream.into_std() else { return };
    let (over, is_over) = tokio::sync::oneshot::channel();
    let joining = Box::new(Joining { stream, login, came_by, over });
    if session.send(SessionMessage::Join(joining)).await.is_ok() {
        tokio::select! {
            // Nothing is ever sent: it is dropped with the connection.
            _ = is_over => {}
            // The session had ended when the message was sent: nobody takes it any more, and it goes with `session`.
            () = session.closed() => {}
        }
    }
}

/// Say so, to whoever still listens.
async fn refuse(hall: &Hall, stream: &TcpStream, login: &login::LoggedIn, refusal: Refusal) {
    let _ = send_within(stream, &login.refused(refusal), hall.patience.login).await;
    let peer = stream.peer_addr().ok();
    tracing::info!(?peer, initiator = login.outcome.initiator, %refusal, "login");
}

/// Send all of it, to whoever takes it in time.
async fn send_within(stream: &TcpStream, bytes: &[u8], limit: Duration) -> io::Result<()> {
    let sent = tokio::time::timeout(limit, send_whole(stream, bytes)).await;
    sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn send_whole(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn session_info(login: &login::LoggedIn, target: Option<&Target>, came_by: &CameBy) -> SessionInfo {
    SessionInfo {
        id: 0,
        tsih: login.tsih,
        initiator: login.outcome.initiator.clone(),
        initiator_alias: login.outcome.alias.clone(),
        isid: login.isid,
        portal_group: came_by.group(),
        target: target.map(|target| target.name.clone()),
        connections: vec![came_by.connected(login.outcome.account.clone())],
        header_digest: login.outcome.parameters.header_digest,
        data_digest: login.outcome.parameters.data_digest,
    }
}

fn begin(
    hall: &Hall,
    stream: TcpStream,
    came_by: CameBy,
    login: login::LoggedIn,
    nexus: Nexus,
    target: Option<Arc<Target>>,
    session: u64,
) -> Members {
    let parameters = login.outcome.parameters;
    let state = State::new(nexus, parameters.clone(), login.cmd_sn);
    let connected = came_by.connected(login.outcome.account);
    let link = Link::new(login.cid, connected, parameters, &state.window, login.stat_sn);
    // A discovery session has no target; commands never reach this one.
    let target = target.unwrap_or_else(|| Arc::new(Target::nowhere(LunMap::new(""))));
    let registry = Arc::clone(&hall.registry);
    let (pool, parameter_pool) = (hall.pool.clone(), hall.parameter_pool.clone());
    let commands = Commands { state, link, target, pool, parameter_pool, registry, session };
    let text = TextExchange::new(&commands, came_by);
    Members::new(stream, commands, text, hall.patience)
}
