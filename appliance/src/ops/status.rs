//! How is it all?

use labsan_api::status::Status;

use super::{arrays, targets, volumes};
use crate::state::Daemon;

/// Everything for one screen.
pub(crate) async fn status(daemon: &Daemon) -> Status {
    let arrays = arrays::list(daemon).await;
    let (san_uuid, notes) = {
        let state = daemon.state();
        (state.document.san_uuid, state.notes.clone())
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        san_uuid,
        uptime_seconds: daemon.started.elapsed().as_secs(),
        engine: daemon.workers.engine().to_string(),
        portals: daemon.targets.portals().iter().map(ToString::to_string).collect(),
        memory_used_bytes: daemon.pool.used_bytes() as u64,
        memory_limit_bytes: daemon.pool.capacity_bytes() as u64,
        arrays: arrays.arrays,
        refused: arrays.refused,
        volumes: volumes::list(daemon).volumes,
        targets: targets::list(daemon).targets,
        sessions: targets::sessions(daemon).sessions,
        notes,
    }
}
