//! The sockets: portals that accept, workers that serve. The only part of the crate that does I/O.
//!
//! A connection is handed to the worker with the fewest of them and stays there: its commands, its disk I/O and its
//! responses never change threads.

mod commands;
mod connection;
mod login;
mod management;
mod placing;
mod receive;
mod send;
mod state;
mod text;
mod turns;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use block_io::{BufferPool, runtime::WorkerPool};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::limits;
use crate::login::SessionKind;
use crate::registry::{SessionInfo, SessionMessage, Target, TargetRegistry, tell};
use crate::scsi::{LunMap, Nexus, PORTAL_GROUP_TAG};
use commands::Commands;
use connection::Connection;
use login::{Desk, LoginError, log_in};
use receive::Staging;
use state::State;
use text::TextExchange;

/// What a server needs to begin.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0 lets the system choose.
    pub portals: Vec<SocketAddr>,
    /// Memory for commands' data.
    pub pool: BufferPool,
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
    addresses: Vec<SocketAddr>,
    registry: Arc<TargetRegistry>,
    stop: watch::Sender<bool>,
}

/// What all connections share.
struct Hall {
    registry: Arc<TargetRegistry>,
    pool: BufferPool,
    workers: WorkerPool,
    connections: Vec<AtomicUsize>,
    logins: AtomicUsize,
}

impl TargetServer {
    /// Listen on all portals and serve on `workers`.
    pub fn start(
        config: ServerConfig,
        registry: Arc<TargetRegistry>,
        workers: &WorkerPool,
    ) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        let mut addresses = Vec::new();
        for portal in config.portals {
            let listener = listen(portal).map_err(|error| ServerError::Listen { portal, error })?;
            addresses.push(listener.local_addr().map_err(|error| ServerError::Listen { portal, error })?);
            listeners.push(listener);
        }
        let (stop, stopped) = watch::channel(false);
        let hall = Arc::new(Hall {
            registry: Arc::clone(&registry),
            pool: config.pool,
            connections: (0..workers.len()).map(|_| AtomicUsize::new(0)).collect(),
            workers: workers.clone(),
            logins: AtomicUsize::new(0),
        });
        for listener in listeners {
            let (hall, stopped) = (Arc::clone(&hall), stopped.clone());
            workers.spawn_background(move || accept(listener, hall, stopped));
        }
        Ok(Self { addresses, registry, stop })
    }

    /// The addresses listened on, with the ports that were chosen.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Accept nobody more, ask every initiator to log out, and wait until no command runs any more.
    pub async fn shut_down(self) {
        // Nobody listening any more is what is wanted.
        let _ = self.stop.send(true);
        let sessions = self.registry.all_mailboxes();
        let endings = sessions.iter().map(|mailbox| tell(mailbox, |done| SessionMessage::ShutDown { done }));
        futures_util::future::join_all(endings).await;
    }
}

fn listen(portal: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(portal), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted target must get its port back though old connections linger.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&portal.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

async fn accept(listener: std::net::TcpListener, hall: Arc<Hall>, mut stopped: watch::Receiver<bool>) {
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
            Ok((stream, peer)) => hand_over(&hall, stream, peer),
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to come back instead of spinning.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Give a new connection to the worker with the fewest.
fn hand_over(hall: &Arc<Hall>, stream: TcpStream, peer: SocketAddr) {
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
    hall.logins.fetch_add(1, Ordering::Relaxed);
    let hall = Arc::clone(hall);
    let workers = hall.workers.clone();
    workers.spawn_on(worker, move || async move {
        let login = LoggingIn(Arc::clone(&hall));
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(&hall, stream, peer, login).await;
        }
        hall.connections[worker].fetch_sub(1, Ordering::Relaxed);
    });
}

/// One of the logins in progress.
struct LoggingIn(Arc<Hall>);

impl Drop for LoggingIn {
    fn drop(&mut self) {
        self.0.logins.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(hall: &Hall, mut stream: TcpStream, peer: SocketAddr, counted: LoggingIn) {
    let Ok(local) = stream.local_addr() else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY");
    }
    let desk = Desk { registry: &hall.registry, peer, portal_group_tag: PORTAL_GROUP_TAG };
    let limit = Duration::from_millis(limits::LOGIN_TIMEOUT_MS);
    let login = tokio::time::timeout(limit, log_in(&mut stream, &desk)).await;
    drop(counted);
    let login = match login.unwrap_or(Err(LoginError::TimedOut)) {
        Ok(login) => login,
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
    let info = SessionInfo {
        id: 0,
        tsih: login.tsih,
        initiator: login.outcome.initiator.clone(),
        initiator_alias: login.outcome.alias.clone(),
        isid: login.isid,
        target: target.as_ref().map(|target| target.name.clone()),
        peer,
        local,
        header_digest: login.outcome.parameters.header_digest,
        data_digest: login.outcome.parameters.data_digest,
    };
    let (session, messages) = hall.registry.enter(info).await;
    // An initiator that does not even take this must not keep its session for good.
    let answered = tokio::time::timeout(limit, stream.write_all(&login.last)).await;
    if matches!(answered, Ok(Ok(()))) {
        let connection = connect(hall, stream, peer, local, login, target.clone(), session, messages);
        let nexus = connection.commands.state.nexus.clone();
        if let Some(target) = &target {
            target.luns.nexus_met(&nexus);
        }
        tracing::info!(%peer, session, initiator = %nexus.initiator_name, target = %nexus.target_name, "logged in");
        let ended = connection.run().await;
        tracing::info!(%peer, session, ending = %ended.ending, "session ended");
        if let Some(target) = target {
            target.luns.nexus_lost(&nexus);
        }
        hall.registry.leave(session);
        return ended.tell();
    }
    hall.registry.leave(session);
}

#[allow(clippy::too_many_arguments)]
fn connect(
    hall: &Hall,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    login: login::LoggedIn,
    target: Option<Arc<Target>>,
    session: u64,
    messages: tokio::sync::mpsc::Receiver<SessionMessage>,
) -> Connection {
    let discovery = target.is_none();
    let name = target.as_ref().map(|target| target.name.clone());
    let nexus = Nexus {
        initiator_name: login.outcome.initiator.clone(),
        isid: login.isid,
        target_name: name.clone().unwrap_or_default(),
        target_portal_group: PORTAL_GROUP_TAG,
        relative_target_port: target.as_ref().map_or(1, |target| target.luns.port().number()),
    };
    let text = TextExchange {
        registry: Arc::clone(&hall.registry),
        initiator: login.outcome.initiator,
        peer,
        local,
        portal_group_tag: PORTAL_GROUP_TAG,
        target: name,
        request: Vec::new(),
        request_pdus: 0,
        rest: Vec::new(),
    };
    let state = State::new(nexus, login.outcome.parameters, login.cmd_sn, login.stat_sn);
    // A discovery session has no target; commands never reach this one.
    let target = target.unwrap_or_else(|| Arc::new(Target::nowhere(LunMap::new(""))));
    let registry = Arc::clone(&hall.registry);
    let commands = Commands { state, target, pool: hall.pool.clone(), registry, session };
    Connection::new(
        stream,
        Staging::new(),
        commands,
        Arc::clone(&hall.registry),
        session,
        messages,
        text,
        discovery,
    )
}
