//! Who speaks to whom: the I_T nexus (SAM-5 clause 4.7), and what each nexus has yet to be told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::Sense;
use super::reservations::ItNexus;
use crate::limits::MAX_RETURNING;

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
pub(crate) struct Attentions {
    waiting: HashMap<Nexus, VecDeque<Sense>>,
    /// Hashes of the names of initiators that were here and have lost a nexus: they are not told of the start when they come
    /// back, be it under another ISID, as some do.
    returning: HashSet<u64>,
    hasher: RandomState,
}

impl Attentions {
    /// From now on this nexus is told of changes.
    pub(crate) fn meet(&mut self, nexus: &Nexus) {
        if !self.waiting.contains_key(nexus) {
            self.waiting.insert(nexus.clone(), VecDeque::new());
        }
    }

    /// The same for one that begins; it is told of the start, unless it only comes back.
    pub(crate) fn begin(&mut self, nexus: &Nexus) {
        let is_here = self.waiting.contains_key(nexus);
        self.meet(nexus);
        if !is_here && !self.returning.contains(&self.hasher.hash_one(&nexus.initiator_name)) {
            self.tell(nexus, Sense::POWER_ON);
        }
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.returning.len()
    }

    pub(crate) fn forget(&mut self, nexus: &Nexus) {
        if self.waiting.remove(nexus).is_some() {
            // Strangers with ever new names take no memory for good: some are told again instead.
            if self.returning.len() >= MAX_RETURNING {
                self.returning.clear();
            }
            self.returning.insert(self.hasher.hash_one(&nexus.initiator_name));
        }
    }

    /// Tell every nexus, but not `but`.
    pub(crate) fn raise(&mut self, sense: Sense, but: Option<&Nexus>) {
        for (nexus, queue) in &mut self.waiting {
            if Some(nexus) != but && !queue.contains(&sense) {
                queue.push_back(sense);
            }
        }
    }

    /// Tell one nexus, if it is known.
    pub(crate) fn tell(&mut self, nexus: &Nexus, sense: Sense) {
        if let Some(queue) = self.waiting.get_mut(nexus).filter(|queue| !queue.contains(&sense)) {
            queue.push_back(sense);
        }
    }

    /// Tell one nexus, if it is logged in. Who is not begins anew.
    pub(crate) fn raise_for(&mut self, nexus: &ItNexus, sense: Sense) {
        let queues = self.waiting.iter_mut().filter(|(known, _)| nexus.is(known));
        for (_, queue) in queues {
            if !queue.contains(&sense) {
                queue.push_back(sense);
            }
        }
    }

    /// Everyone who is told.
    pub(crate) fn nexuses(&self) -> impl Iterator<Item = &Nexus> {
        self.waiting.keys()
    }

    /// Nobody has anything to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.values().all(VecDeque::is_empty)
    }

    /// The next one for this nexus.
    pub(crate) fn next(&mut self, nexus: &Nexus) -> Option<Sense> {
        self.waiting.get_mut(nexus)?.pop_front()
    }

    /// Take out one kind: it was told otherwise (REPORT LUNS clears 3F/0E, SPC-4).
    pub(crate) fn clear(&mut self, nexus: &Nexus, sense: Sense) {
        if let Some(queue) = self.waiting.get_mut(nexus) {
            queue.retain(|waiting| *waiting != sense);
        }
    }
}
