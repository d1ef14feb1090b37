//! The life of the process: from the configuration to serving, and back to plain md arrays.
//!
//! Start: locks, workers, arrays, configuration of the SAN, targets, portals, API; what fails on the way ends all that
//! was begun. Stop, in this order: API (no more changes), sessions are told to log out, arrays, workers, locks.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use block_io::runtime::{RuntimeError, WorkerPool, detect};
use iscsi_target::server::{self, ServerConfig};
use raid_core::array::Environment;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{ApiError, ApiServer};
use crate::config::{Config, Portal};
use crate::error::Failure;
use crate::host_copy;
use crate::lock::{Lock, LockError};
use crate::ops::assembly;
use crate::space;
use crate::state::Daemon;
use crate::state_file::{self, StateFileError};
use crate::targets::TargetsError;

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A directory cannot be made.
    #[error("cannot make {}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another labsand is here.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A portal's address cannot be had.
    #[error("cannot listen on {address}: {source}")]
    Portal {
        /// Which.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No workers.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// No API.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The host's copy of the configuration.
    #[error("{0}; move it away to go on with what the arrays carry")]
    StateFile(#[from] StateFileError),
    /// The targets.
    #[error(transparent)]
    Targets(#[from] TargetsError),
    /// Arrays or configuration.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// Signals cannot be caught.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
}

/// A daemon that serves.
#[derive(Debug)]
pub(crate) struct Running {
    /// What it is.
    pub(crate) daemon: Arc<Daemon>,
    api: ApiServer,
    _locks: Vec<Lock>,
}

/// Start everything. `prepare` runs once arrays are up, before anybody is served.
pub(crate) async fn start<F, Fut>(config: Config, prepare: F) -> Result<Running, StartError>
where
    F: FnOnce(Arc<Daemon>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + 'static,
{
    let locks = take_locks(&config)?;
    check_portals(&config)?;
    let workers = WorkerPool::start(detect(config.engine.into())?, config.data_workers())?;
    let environment = Environment { hostname: hostname() };
    let daemon = Daemon::new(config, workers, environment);
    match bring_up(&daemon, prepare).await {
        Ok(api) => {
            tracing::info!("serving");
            Ok(Running { daemon, api, _locks: locks })
        }
        Err(error) => {
            wind_down(&daemon).await;
            Err(error)
        }
    }
}

async fn bring_up<F, Fut>(daemon: &Arc<Daemon>, prepare: F) -> Result<ApiServer, StartError>
where
    F: FnOnce(Arc<Daemon>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + 'static,
{
    let config = &daemon.config;
    let was_open = state_file::is_open_to_others(&config.state_dir);
    match state_file::load(&config.state_dir)? {
        Some(mut document) => {
            document.settle_times(&crate::clock::now());
            daemon.state().document = document;
        }
        None => state_file::store(&config.state_dir, &daemon.document())?,
    }
    let here = Arc::clone(daemon);
    let arrays = daemon.workers.call_background(move || async move {
        tokio::task::spawn_local(host_copy::keep_up(Arc::clone(&here)));
        tokio::task::spawn_local(space::keep_up(Arc::clone(&here)));
        {
            let _turn = here.take_turn().await?;
            // From nothing: what the host's copy says is served even if no array carries it.
            crate::change::follow(&here, &crate::san::plan::plan(None, &here.document())).await?;
            let started = assembly::scan_all(&here, false).await?;
            for refused in &started.refused {
                let name = refused.name.as_deref().unwrap_or("without a name");
                tracing::warn!("array {name} was not started: {}", refused.reason);
            }
        }
        prepare(here).await
    });
    arrays.await??;
    if was_open {
        close_to_others(daemon).await?;
    }
    daemon.targets.start(server_config(daemon), &daemon.workers)?;
    // Not sooner: some of the addresses may be our own.
    daemon.redirects.start(daemon);
    let listener = crate::api::bind(config)?;
    Ok(ApiServer::start(Arc::clone(daemon), listener)?)
}

fn server_config(daemon: &Daemon) -> ServerConfig {
    let config = &daemon.config;
    let portal = |portal: &Portal| server::Portal { address: portal.address, group: portal.group };
    let portals = config.portals.iter().map(portal).collect();
    ServerConfig {
        algorithms: config.chap_algorithms.iter().map(|known| known.0).collect(),
        redirects: daemon.redirects.by_portal(),
        ..ServerConfig::new(portals, daemon.pool.clone())
    }
}

/// The host's copy was open to others. It is made anew, which is private; what they have read they know.
async fn close_to_others(daemon: &Daemon) -> Result<(), StartError> {
    host_copy::catch_up(daemon).await?;
    if daemon.document().has_secrets() {
        let note = format!(
            "others could read {}/san.json, which holds CHAP secrets; it is private now, but have other secrets set: \
             raidctl target chap IQN --add --user USER --secret-file FILE",
            daemon.config.state_dir.display()
        );
        tracing::warn!("{note}");
        daemon.state().notes.push(note);
    }
    Ok(())
}

impl Running {
    /// Serve until SIGTERM or SIGINT, then stop cleanly. A second signal ends the process at once; that is a crash, and
    /// the next start recovers from it.
    pub(crate) async fn until_told_to_stop(self, mut signals: Signals) {
        signals.next().await;
        tracing::info!("stopping; a second signal ends at once");
        let insist = async {
            signals.next().await;
            tracing::warn!("ended without a clean stop; the next start recovers");
            std::process::exit(4);
        };
        tokio::select! {
            () = self.stop() => {}
            () = insist => {}
        }
    }

    /// Stop cleanly.
    pub(crate) async fn stop(self) {
        let Self { daemon, api, _locks } = self;
        daemon.close().await;
        let api = tokio::task::spawn_blocking(move || api.stop());
        if api.await.is_err() {
            tracing::error!("the API could not be stopped");
        }
        wind_down(&daemon).await;
        tracing::info!("stopped");
    }
}

/// Sessions first, then arrays, then the threads.
async fn wind_down(daemon: &Arc<Daemon>) {
    daemon.redirects.stop();
    daemon.targets.stop().await;
    let here = Arc::clone(daemon);
    let stopped = daemon.workers.call_background(move || async move {
        let arrays = std::mem::take(&mut here.state().arrays);
        for (name, array) in arrays {
            match array.stop().await {
                Ok(()) => tracing::info!("array {name} stopped"),
                Err(error) => tracing::error!("{error}"),
            }
        }
    });
    if let Err(error) = stopped.await {
        tracing::error!("arrays could not be stopped: {error}");
    }
    let workers = daemon.workers.clone();
    // Joining threads blocks.
    let _ = tokio::task::spawn_blocking(move || workers.shut_down()).await;
}

fn take_locks(config: &Config) -> Result<Vec<Lock>, StartError> {
    let socket_dir = config.socket.parent().unwrap_or(Path::new("/"));
    for (path, mode) in [(config.state_dir.as_path(), 0o700), (socket_dir, 0o755)] {
        let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| StartError::Directory { path: path.to_owned(), source })?;
    }
    let mut beside_socket = config.socket.clone().into_os_string();
    beside_socket.push(".lock");
    Ok(vec![Lock::take(&config.state_dir.join("labsand.lock"))?, Lock::take(Path::new(&beside_socket))?])
}

/// An address that is taken is better known before arrays are started than after.
fn check_portals(config: &Config) -> Result<(), StartError> {
    for portal in &config.portals {
        let address = portal.address;
        TcpListener::bind(address).map_err(|source| StartError::Portal { address, source })?;
    }
    Ok(())
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

/// The signals that mean stop.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catch them from now on.
    pub(crate) fn catch() -> Result<Self, StartError> {
        let catch = |kind| signal(kind).map_err(StartError::Signals);
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
