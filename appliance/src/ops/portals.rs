//! Addresses that serve iSCSI, and where they send initiators.

use labsan_api::portal::{Portal, Portals};

use crate::state::Daemon;

/// All portals.
pub(crate) fn list(daemon: &Daemon) -> Portals {
    let portals = daemon.targets.portals().into_iter().enumerate().map(|(index, portal)| Portal {
        address: portal.address.to_string(),
        group: portal.group,
        redirect: daemon.redirects.shown(index, |address| daemon.targets.sessions_at(address)),
    });
    Portals { portals: portals.collect() }
}
