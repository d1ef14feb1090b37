//! Who speaks to whom: the I_T nexus (SAM-5 clause 4.7), and what each nexus has yet to be told.

use std::collections::{HashMap, VecDeque};

use super::Sense;
use super::reservations::ItNexus;

/// An initiator port and a target port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Nexus {
    /// InitiatorName.
    pub initiator_name: String,
    /// ISID: with the name, the initiator port.
    pub isid: [u8; 6],
    /// The target's name.
    pub target_name: String,
    /// TargetPortalGroupTag: with the name, the target port.
    pub target_portal_group: u16,
    /// Relative target port identifier.
    pub relative_target_port: u16,
}

/// The target portal group where nothing is said of groups.
pub(crate) const PORTAL_GROUP_TAG: u16 = 1;

/// Unit attentions waiting for each nexus that is known, in the order they came, each once.
#[derive(Debug, Default)]
pub(crate) struct Attentions(HashMap<Nexus, VecDeque<Sense>>);

impl Attentions {
    /// From now on this nexus is told of changes. False if it was already.
    pub(crate) fn meet(&mut self, nexus: &Nexus) -> bool {
        let is_new = !self.0.contains_key(nexus);
        if is_new {
            self.0.insert(nexus.clone(), VecDeque::new());
        }
        is_new
    }

    pub(crate) fn forget(&mut self, nexus: &Nexus) {
        self.0.remove(nexus);
    }

    /// Tell every nexus, but not `but`.
    pub(crate) fn raise(&mut self, sense: Sense, but: Option<&Nexus>) {
        for (nexus, queue) in &mut self.0 {
            if Some(nexus) != but && !queue.contains(&sense) {
                queue.push_back(sense);
            }
        }
    }

    /// Tell one nexus, if it is known.
    pub(crate) fn tell(&mut self, nexus: &Nexus, sense: Sense) {
        if let Some(queue) = self.0.get_mut(nexus).filter(|queue| !queue.contains(&sense)) {
            queue.push_back(sense);
        }
    }

    /// Tell one nexus, if it is logged in. Who is not begins anew.
    pub(crate) fn raise_for(&mut self, nexus: &ItNexus, sense: Sense) {
        let queues = self.0.iter_mut().filter(|(known, _)| nexus.is(known));
        for (_, queue) in queues {
            if !queue.contains(&sense) {
                queue.push_back(sense);
            }
        }
    }

    /// Everyone who is told.
    pub(crate) fn nexuses(&self) -> impl Iterator<Item = &Nexus> {
        self.0.keys()
    }

    /// Nobody has anything to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(VecDeque::is_empty)
    }

    /// The next one for this nexus.
    pub(crate) fn next(&mut self, nexus: &Nexus) -> Option<Sense> {
        self.0.get_mut(nexus)?.pop_front()
    }

    /// Take out one kind: it was told otherwise (REPORT LUNS clears 3F/0E, SPC-4).
    pub(crate) fn clear(&mut self, nexus: &Nexus, sense: Sense) {
        if let Some(queue) = self.0.get_mut(nexus) {
            queue.retain(|waiting| *waiting != sense);
        }
    }
}
