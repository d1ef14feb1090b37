//! How is it all?

use iscsi_target::server::Portal;
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
        portals: daemon.targets.portals().iter().map(shown_portal).collect(),
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

/// As in the configuration: the portal group only where it is not the first.
fn shown_portal(portal: &Portal) -> String {
    match portal {
        Portal { address, group: 1 } => address.to_string(),
        Portal { address, group } => format!("{address},{group}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_are_shown_as_they_are_written() {
        let shown = |address: &str, group| shown_portal(&Portal { address: address.parse().unwrap(), group });
        assert_eq!(shown("[::1]:3260", 1), "[::1]:3260");
        assert_eq!(shown("10.0.0.1:3261", 7), "10.0.0.1:3261,7");
    }
}
