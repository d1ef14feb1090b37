//! The API's socket and thread. A socket that a dead daemon left behind is replaced: the lock beside it says that
//! nobody else can be using it.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::routes;
use crate::config::Config;
use crate::limits::API_GRACE;
use crate::state::Daemon;

/// Why there is no API.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// Something else is where the socket should be.
    #[error("{} is there and is no socket: move it away, or set another socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the control socket {}: {source}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No group of that name.
    #[error("socket_group: there is no group \"{0}\"")]
    Group(String),
    /// The thread cannot be started.
    #[error("cannot start the API: {0}")]
    Thread(io::Error),
}

/// The running API.
#[derive(Debug)]
pub(crate) struct ApiServer {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
    socket: PathBuf,
}

/// Make the socket, with its permissions from the first moment on.
pub(crate) fn bind(config: &Config) -> Result<UnixListener, ApiError> {
    let path = &config.socket;
    let failed = |source| ApiError::Socket { path: path.clone(), source };
    remove_stale(path)?;
    // Made under a private name: nobody can connect before owner and mode are right.
    let private = path.with_extension("new");
    remove_stale(&private)?;
    let listener = UnixListener::bind(&private).map_err(failed)?;
    let mode = std::fs::Permissions::from_mode(config.socket_mode.0);
    if let Some(name) = &config.socket_group {
        let group = nix::unistd::Group::from_name(name).ok().flatten();
        let group = group.ok_or_else(|| ApiError::Group(name.clone()))?;
        nix::unistd::chown(&private, None, Some(group.gid)).map_err(|errno| failed(errno.into()))?;
    }
    std::fs::set_permissions(&private, mode).map_err(failed)?;
    std::fs::rename(&private, path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> Result<(), ApiError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err(ApiError::NotASocket(path.to_owned())),
        Ok(_) => {
            std::fs::remove_file(path).map_err(|source| ApiError::Socket { path: path.to_owned(), source })
        }
        Err(_) => Ok(()),
    }
}

impl ApiServer {
    /// Serve on a thread of its own.
    pub(crate) fn start(daemon: Arc<Daemon>, listener: UnixListener) -> Result<Self, ApiError> {
        let socket = daemon.config.socket.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ApiError::Thread)?;
        let serve = async move {
            let listener = match tokio::net::UnixListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return tracing::error!("the API cannot listen: {error}"),
            };
            let (closing, closed) = tokio::sync::watch::channel(false);
            let shutdown = async move {
                // An error means that the daemon is gone, which is a reason to stop as well.
                let _ = stopped.await;
                closing.send_replace(true);
            };
            let server = axum::serve(listener, routes::router(daemon)).with_graceful_shutdown(shutdown);
            tokio::select! {
                result = server => if let Err(error) = result { tracing::error!("the API ended: {error}") },
                // Long polls and slow callers are not waited for any longer.
                () = grace(closed) => {}
            }
        };
        let thread = std::thread::Builder::new()
            .name("labsan-api".into())
            .spawn(move || runtime.block_on(serve))
            .map_err(ApiError::Thread)?;
        Ok(Self { stop, thread, socket })
    }

    /// Take no more calls, let those under way end for a moment, and remove the socket. Blocks.
    pub(crate) fn stop(self) {
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!("the control socket was gone already: {error}");
        }
        // An error means that the thread ended by itself.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the API's thread panicked");
        }
    }
}

async fn grace(mut closed: tokio::sync::watch::Receiver<bool>) {
    // An error means that the server is gone and this wait is over, too.
    let _ = closed.wait_for(|closed| *closed).await;
    tokio::time::sleep(API_GRACE).await;
}
