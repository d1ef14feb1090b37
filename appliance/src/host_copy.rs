//! When is the host's own copy of the document written? Before a change of the configuration is in force; and after a
//! change of reservations, which count without it, in the background: many of them at once, again until it works, and never
//! an older document over a newer one.

use std::sync::Arc;

use crate::limits::HOST_COPY_PAUSE;
use crate::san::SanDocument;
use crate::state::Daemon;
use crate::state_file::{self, StateFileError};

/// Make a configuration durable here, then the one in force.
pub(crate) async fn bring_into_force(daemon: &Daemon, next: SanDocument) -> Result<(), StateFileError> {
    let _turn = daemon.host_copy.lock().await;
    store(daemon, &next).await?;
    daemon.put_in_force(next);
    Ok(())
}

/// The same, also where it cannot be written: every array has it already. Gives why it cannot.
pub(crate) async fn bring_into_force_anyway(daemon: &Daemon, next: SanDocument) -> Option<StateFileError> {
    let _turn = daemon.host_copy.lock().await;
    let failed = store(daemon, &next).await.err();
    daemon.put_in_force(next);
    if failed.is_some() {
        daemon.host_is_behind.notify_one();
    }
    failed
}

/// Follow the reservations for as long as the daemon runs.
pub(crate) async fn keep_up(daemon: Arc<Daemon>) {
    loop {
        daemon.host_is_behind.notified().await;
        let mut told = false;
        while let Err(error) = catch_up(&daemon).await {
            if !told {
                tracing::warn!(
                    "{error}; it is tried again until it works; the arrays have all that it would say"
                );
                told = true;
            }
            tokio::time::sleep(HOST_COPY_PAUSE).await;
        }
        if told {
            tracing::info!("the host's copy of the configuration is up to date again");
        }
    }
}

/// Write the document in force.
pub(crate) async fn catch_up(daemon: &Daemon) -> Result<(), StateFileError> {
    let _turn = daemon.host_copy.lock().await;
    store(daemon, &daemon.document()).await
}

/// Write a configuration and the reservations that are known now. Off the worker, which carries the orders of nodes and
/// must not wait for a file system.
async fn store(daemon: &Daemon, configuration: &SanDocument) -> Result<(), StateFileError> {
    let (directory, mut document) = (daemon.config.state_dir.clone(), configuration.clone());
    document.reservations = daemon.document().reservations;
    let written = tokio::task::spawn_blocking(move || state_file::store(&directory, &document));
    written.await.unwrap_or_else(|lost| Err(StateFileError::lost(&daemon.config.state_dir, lost)))
}
