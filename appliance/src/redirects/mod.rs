//! Portals that send initiators elsewhere: what the configuration makes of them, the checks of their addresses, and how they
//! are shown. The choice itself is [`iscsi_target::redirect`].
//!
//! Each address has a task on the background worker that checks it (`checks`) by one probe after the other (`probe`), from the
//! moment that the portals serve until the daemon stops.

mod checks;
mod probe;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iscsi_target::redirect as target;
use labsan_api::portal;
use tokio::sync::watch;

use crate::config::Config;
use crate::config::redirect::{Redirect as Table, canonical, own_portal};
use crate::events::{News, now_unix};
use crate::state::Daemon;
use checks::{Pace, keep_checking};
use probe::Probe;

/// All of them.
#[derive(Debug)]
pub(crate) struct Redirects {
    /// With the index of their portal.
    list: Vec<(usize, Table, Arc<target::Redirect>)>,
    stop: watch::Sender<bool>,
}

impl Redirects {
    /// As they are configured; nothing was checked yet.
    pub(crate) fn new(config: &Config) -> Self {
        let list = config.redirect.iter().filter_map(|table| {
            // The configuration was checked: each is for a portal that there is.
            let index = own_portal(&config.portals, table.portal.address)?;
            Some((index, table.clone(), redirect(config, table)))
        });
        Self { list: list.collect(), stop: watch::Sender::new(false) }
    }

    /// By the index of their portal.
    pub(crate) fn by_portal(&self) -> BTreeMap<usize, Arc<target::Redirect>> {
        self.list.iter().map(|(index, _, redirect)| (*index, Arc::clone(redirect))).collect()
    }

    /// Begin to check all addresses.
    pub(crate) fn start(&self, daemon: &Arc<Daemon>) {
        for (_, table, redirect) in &self.list {
            let pace = Pace {
                interval: Duration::from_secs(table.interval.0),
                timeout: Duration::from_secs(table.timeout.0),
            };
            for (index, place) in redirect.places().iter().enumerate() {
                let wants_count = redirect.counts_sessions() && !place.ours;
                let probe = Probe { address: place.address, check: table.health.clone(), wants_count };
                let watcher = Watcher {
                    daemon: Arc::clone(daemon),
                    redirect: Arc::clone(redirect),
                    index,
                    portal: canonical(table.portal.address),
                };
                let stopped = self.stop.subscribe();
                daemon.workers.spawn_background(move || async move {
                    let probe = async || probe.run().await;
                    keep_checking(pace, probe, |result, asked| watcher.note(result, asked), stopped).await;
                });
            }
        }
    }

    /// No more checks; those under way end without a result.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The redirection of the portal of this index. `sessions_at`: how many sessions an address of ours leads.
    pub(crate) fn shown(
        &self,
        portal: usize,
        sessions_at: impl Fn(SocketAddr) -> u64,
    ) -> Option<portal::Redirect> {
        let (_, table, redirect) = self.list.iter().find(|(index, ..)| *index == portal)?;
        let info = redirect.info();
        let place = |one: target::PlaceInfo| portal::Place {
            address: one.place.address.to_string(),
            weight: one.place.weight,
            health: health(one.health),
            since_unix: one.since_unix,
            reason: one.reason,
            sent: one.sent,
            sessions: if one.place.ours { Some(sessions_at(one.place.address)) } else { one.told_sessions },
        };
        Some(portal::Redirect {
            policy: table.policy,
            check: table.health.to_string(),
            interval_seconds: table.interval.0,
            timeout_seconds: table.timeout.0,
            rise: table.rise,
            fall: table.fall,
            served_here: info.served_here,
            addresses: info.places.into_iter().map(place).collect(),
        })
    }
}

fn redirect(config: &Config, table: &Table) -> Arc<target::Redirect> {
    let place = |place: &crate::config::redirect::Place| target::Place {
        address: canonical(place.address),
        weight: place.weight.unwrap_or(1),
        ours: own_portal(&config.portals, place.address).is_some(),
    };
    let places = table.addresses.iter().map(place).collect();
    let thresholds = target::health::Thresholds { rise: table.rise, fall: table.fall };
    target::Redirect::new(policy(table.policy), places, thresholds, now_unix())
}

fn policy(policy: portal::Policy) -> target::policy::Policy {
    use target::policy::Policy;
    match policy {
        portal::Policy::Fixed => Policy::Fixed,
        portal::Policy::RoundRobin => Policy::RoundRobin,
        portal::Policy::Weighted => Policy::Weighted,
        portal::Policy::InitiatorHash => Policy::InitiatorHash,
        portal::Policy::LeastSessions => Policy::LeastSessions,
    }
}

fn health(health: target::health::Health) -> portal::Health {
    use target::health::Health;
    match health {
        Health::Unknown => portal::Health::Unknown,
        Health::Healthy => portal::Health::Healthy,
        Health::Failing => portal::Health::Failing,
    }
}

/// Takes in what checks of one address find out.
struct Watcher {
    daemon: Arc<Daemon>,
    redirect: Arc<target::Redirect>,
    index: usize,
    portal: SocketAddr,
}

impl Watcher {
    fn note(&self, result: Result<Option<u64>, probe::ProbeError>, asked: tokio::time::Instant) {
        let why = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let result = result.map_err(|_| why.clone());
        let changed = self.redirect.checked(self.index, result, asked.into_std(), now_unix());
        let (address, portal) = (self.redirect.places()[self.index].address, self.portal);
        let (event, message) = match changed {
            Some(target::health::Health::Healthy) => (
                "AddressHealthy",
                format!("{address} passes its checks: initiators that come to {portal} are sent there"),
            ),
            Some(_) => (
                "AddressFailing",
                format!("{address} fails its checks ({why}): nobody that comes to {portal} is sent there"),
            ),
            None => return,
        };
        self.daemon.events.note(News { event, message, ..News::default() });
    }
}
