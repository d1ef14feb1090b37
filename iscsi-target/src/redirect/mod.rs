//! Where does a portal send the initiators that come to it? (RFC 7143 sections 6.3.1 and 11.13.5.)
//!
//! A portal that redirects has a list of addresses and a policy. Whoever may log in is sent to one of them, for this login only:
//! what it remembers is the portal, and it asks there again the next time. Which one is a pure choice ([`policy`]) among the
//! addresses whose checks pass ([`health`]); the checks themselves are made by whoever owns the target. Nobody is turned
//! away for want of an address: the portal itself then serves.
//!
//! Invariants: an address that was never seen to work is not chosen; nobody is sent to the address that it came to; time is an
//! argument.

pub mod health;
pub mod policy;
mod underway;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::scsi::reservations::ItNexus;
use health::{Health, Record, Thresholds};
use policy::{Candidate, Chooser, Policy};
use underway::{Load, Underway};

/// An address that initiators may be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// As initiators are told it.
    pub address: SocketAddr,
    /// Its share, beside those of the others.
    pub weight: u16,
    /// It is a portal of this server, in the portal group of the one that redirects: its sessions are known here.
    pub ours: bool,
}

/// Somebody who may log in, before it has proved who it is.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its session, if it begins one.
    pub nexus: &'a ItNexus,
    /// The address of ours that it came to.
    pub local: SocketAddr,
    /// When.
    pub now: Instant,
}

/// What is known of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceInfo {
    /// Which.
    pub place: Place,
    /// What it is taken for.
    pub health: Health,
    /// Since when, in seconds since 1970.
    pub since_unix: u64,
    /// Why the last check failed, if it did.
    pub reason: Option<String>,
    /// Logins that were sent there; of the portal's own address those that were to stay.
    pub sent: u64,
    /// Sessions there, as the last check told it.
    pub told_sessions: Option<u64>,
}

/// What is known of a portal that redirects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectInfo {
    /// How an address is chosen.
    pub policy: Policy,
    /// In the order of the configuration.
    pub places: Vec<PlaceInfo>,
    /// Logins that the portal served because they could be sent nowhere.
    pub served_here: u64,
}

/// One portal's redirection, shared by those who check addresses and those who choose among them.
#[derive(Debug)]
pub struct Redirect {
    policy: Policy,
    places: Vec<Place>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: Vec<Record>,
    told: Vec<Option<Told>>,
    sent: Vec<u64>,
    served_here: u64,
    chooser: Chooser,
    underway: Underway,
}

/// What a check was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    sessions: u64,
    /// When the check began.
    asked: Instant,
}

impl Redirect {
    /// Nothing was checked yet. `now_unix`: seconds since 1970.
    pub fn new(policy: Policy, places: Vec<Place>, thresholds: Thresholds, now_unix: u64) -> Arc<Self> {
        let state = State {
            records: places.iter().map(|_| Record::new(thresholds, now_unix)).collect(),
            told: vec![None; places.len()],
            sent: vec![0; places.len()],
            served_here: 0,
            chooser: Chooser::default(),
            underway: Underway::default(),
        };
        Arc::new(Self { policy, places, state: Mutex::new(state) })
    }

    /// The addresses, in the order by which checks name them.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Does the choice depend on who is where?
    pub fn counts_sessions(&self) -> bool {
        self.policy == Policy::LeastSessions
    }

    /// Where to send it; `None`: it is served where it is. `sessions`: who is logged in to this server, by the address of its
    /// leading connection; it matters only if [`Self::counts_sessions`]. `may_go`: whether an address other than the one that it came to is one for it.
    pub fn choose(
        &self,
        arrival: Arrival<'_>,
        sessions: &[(SocketAddr, ItNexus)],
        may_go: impl Fn(&Place) -> bool,
    ) -> Option<SocketAddr> {
        let stays = |place: &Place| place.address == arrival.local;
        let mut state = self.state();
        let open = self.places.iter().enumerate().filter(|(index, place)| {
            state.records[*index].health() == Health::Healthy && (stays(place) || may_go(place))
        });
        let candidates: Vec<Candidate> = open
            .map(|(index, place)| Candidate {
                index,
                address: place.address,
                weight: place.weight,
                sessions: if self.counts_sessions() {
                    self.load(&state, index, arrival, sessions)
                } else {
                    0
                },
            })
            .collect();
        let chosen = state.chooser.choose(self.policy, &arrival.nexus.initiator_name, &candidates);
        let Some(index) = chosen else {
            state.served_here += 1;
            return None;
        };
        state.sent[index] += 1;
        if self.counts_sessions() {
            state.underway.note(arrival.nexus.clone(), index, arrival.now);
        }
        Some(self.places[index].address).filter(|address| *address != arrival.local)
    }

    /// Sessions at an address, those on their way to it among them; but for one that it had itself, whose place it takes.
    fn load(
        &self,
        state: &State,
        index: usize,
        arrival: Arrival<'_>,
        sessions: &[(SocketAddr, ItNexus)],
    ) -> u64 {
        let place = self.places[index];
        let here: HashSet<&ItNexus> = sessions
            .iter()
            .filter(|(address, nexus)| *address == place.address && nexus != arrival.nexus)
            .map(|(_, nexus)| nexus)
            .collect();
        let load = match (place.ours, state.told[index]) {
            (false, Some(told)) => Load::Told { sessions: told.sessions, asked: told.asked },
            _ => Load::Here(here),
        };
        state.underway.beside(&load, index, arrival.nexus, arrival.now) + load.sessions()
    }

    /// A check of the address of this index has ended: it failed for this reason, or passed, and may have told how many sessions
    /// are there. Its health, if that is another now. `asked`: when the check began; `now_unix`: seconds since 1970.
    pub fn checked(
        &self,
        index: usize,
        result: Result<Option<u64>, String>,
        asked: Instant,
        now_unix: u64,
    ) -> Option<Health> {
        let mut state = self.state();
        if let Ok(told) = &result {
            state.told[index] = told.map(|sessions| Told { sessions, asked });
        }
        state.records[index].note(result.map(|_| ()), now_unix)
    }

    /// All that is known.
    pub fn info(&self) -> RedirectInfo {
        let state = self.state();
        let info = |(index, place): (usize, &Place)| PlaceInfo {
            place: *place,
            health: state.records[index].health(),
            since_unix: state.records[index].since_unix(),
            reason: state.records[index].reason().map(str::to_owned),
            sent: state.sent[index],
            told_sessions: state.told[index].map(|told| told.sessions),
        };
        let places = self.places.iter().enumerate().map(info).collect();
        RedirectInfo { policy: self.policy, places, served_here: state.served_here }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
