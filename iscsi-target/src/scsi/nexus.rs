//! Who speaks to whom: the I_T nexus (SAM-5 clause 4.7), and what each nexus has yet to be told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};

use super::Sense;
use super::reservations::ItNexus;
use crate::limits::{MAX_AWAY, MAX_RETURNING};

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

/// What a nexus that was lost has yet to be told.
#[derive(Debug)]
struct Away {
    nexus: Nexus,
    queue: VecDeque<Sense>,
    /// Its initiator was told so under another ISID.
    is_told: bool,
}

/// Unit attentions waiting for each nexus that is known, in the order they came, each once.
#[derive(Debug, Default)]
pub(crate) struct Attentions {
    waiting: HashMap<Nexus, VecDeque<Sense>>,
    /// The same of nexuses that were lost, the one that was lost first in front: they are told when they come back.
    away: VecDeque<Away>,
    /// Hashes of the names of initiators that were here and have lost a nexus: they are not told of the start when they come
    /// back, be it under another ISID, as some do.
    returning: HashSet<u64>,
    hasher: RandomState,
}

impl Attentions {
    /// From now on this nexus is told of changes; if it comes back, of what it has missed. True if it was not here before.
    pub(crate) fn meet(&mut self, nexus: &Nexus) -> bool {
        if self.waiting.contains_key(nexus) {
            return false;
        }
        let missed = self.missed(nexus);
        let is_new = missed.is_none();
        self.waiting.insert(nexus.clone(), missed.unwrap_or_default());
        is_new
    }

    /// The same for one that begins: unless its initiator was here before, it is told of the start.
    pub(crate) fn begin(&mut self, nexus: &Nexus) {
        let is_known = self.returning.contains(&self.hasher.hash_one(&nexus.initiator_name));
        if self.meet(nexus) && !is_known {
            self.tell(nexus, Sense::POWER_ON);
        }
    }

    /// What has happened since it was lost, if it was here. Under another ISID an initiator is told of one that it has lost, once;
    /// that one is told all the same if it comes back.
    fn missed(&mut self, nexus: &Nexus) -> Option<VecDeque<Sense>> {
        if let Some(at) = self.away.iter().position(|away| away.nexus == *nexus) {
            return self.away.remove(at).map(|away| away.queue);
        }
        let away = self.away.iter_mut().find(|away| {
            let lost = &away.nexus;
            !away.is_told
                && lost.initiator_name == nexus.initiator_name
                && lost.target_name == nexus.target_name
        })?;
        away.is_told = true;
        Some(away.queue.clone())
    }

    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.returning.len()
    }

    /// It does not see the unit any more, and is told of nothing: also not later, if it sees it again.
    pub(crate) fn forget(&mut self, nexus: &Nexus) -> Option<VecDeque<Sense>> {
        let queue = self.waiting.remove(nexus)?;
        // Who has not heard of the start is told of it when it comes again.
        if !queue.contains(&Sense::POWER_ON) {
            // Strangers with ever new names take no memory for good: some are told again instead.
            if self.returning.len() >= MAX_RETURNING {
                self.returning.clear();
            }
            self.returning.insert(self.hasher.hash_one(&nexus.initiator_name));
        }
        Some(queue)
    }

    /// It is lost, and may come back.
    pub(crate) fn lose(&mut self, nexus: &Nexus) {
        let Some(queue) = self.forget(nexus) else { return };
        // Here too: some are not told what they missed.
        if self.away.len() >= MAX_AWAY {
            self.away.pop_front();
        }
        self.away.push_back(Away { nexus: nexus.clone(), queue, is_told: false });
    }

    /// Those who are here, and those who will be told when they come back.
    fn queues(&mut self) -> impl Iterator<Item = (&Nexus, &mut VecDeque<Sense>)> {
        let away = self.away.iter_mut().map(|away| (&away.nexus, &mut away.queue));
        self.waiting.iter_mut().chain(away)
    }

    /// Tell every nexus, but not `but`.
    pub(crate) fn raise(&mut self, sense: Sense, but: Option<&Nexus>) {
        for (nexus, queue) in self.queues() {
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

    /// Tell one nexus, if it is or was here.
    pub(crate) fn raise_for(&mut self, nexus: &ItNexus, sense: Sense) {
        for (_, queue) in self.queues().filter(|(known, _)| nexus.is(known)) {
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
