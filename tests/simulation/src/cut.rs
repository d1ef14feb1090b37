//! What a power cut leaves: caches lost, disks that do not come back or cannot read, and cuts that follow. The world's malice is
//! here, within what the level bears; `medium` decides what becomes of each write.

use raid_core::array::{ActivityKind, ArrayStatus, MemberState, Policy};
use raid_core::geometry::MemberIndex;

use crate::medium::Recent;
use crate::plan::{Again, Apart, Cut};
use crate::run::Sim;

impl Sim {
    /// The power is gone: so are caches, and perhaps disks.
    pub(crate) fn after_cut(&self, status: Option<&ArrayStatus>) {
        let shape = &self.plan.shape;
        let cut = self.cut.borrow_mut().take();
        if let Some(status) = status {
            self.see(status);
        }
        self.count_cut(status);
        self.model.borrow_mut().power_cut();
        let telling = self.telling.take();
        let left = self.cut_disks();
        let witnesses = self.find_witnesses(&left);
        let behind = self.find_behind(&left);
        self.stats.borrow_mut().lone_commits += u64::from(!witnesses.is_empty());
        self.stats.borrow_mut().half_written += u64::from(!behind.is_empty());
        let hidden = self.weaken(&left, &witnesses);
        // What was hidden is to come to light.
        let known: Vec<usize> = witnesses.into_iter().filter(|disk| Some(*disk) != hidden).collect();
        if let Some(cut) = cut {
            self.lose(cut.lose, &telling);
            self.give_back(&cut);
            if !known.is_empty() && self.world.random(|rng| rng.chance(80)) {
                // What the next start makes of a lone copy matters only if it is cut short.
                let again = self.world.random(|rng| match rng.below(2) {
                    0 => Again::Committing,
                    _ => Again::Starting(rng.between(20, 160)),
                });
                self.due.borrow_mut().push_front(again);
            } else if !behind.is_empty() && self.world.random(|rng| rng.chance(60)) {
                // What it makes of a stripe that is neither old nor new, only until something else is written.
                self.due.borrow_mut().push_front(Again::Seen);
            }
            self.due.borrow_mut().extend(&cut.again);
            self.starve.set(cut.starve);
        } else if self.may_lose_more() && self.world.random(|rng| rng.chance(65)) {
            // What the last start read, and showed, may have been on one member alone.
            self.lose(1, &telling);
        }
        *self.telling.borrow_mut() = known.into_iter().chain(behind).collect();
        if !shape.beyond {
            for disk in &self.disks {
                if shape.has_hole() { disk.heal() } else { disk.calm() }
            }
        }
        self.keep_authority();
        self.world.note(0, || {
            let gone: Vec<usize> = (0..self.disks.len()).filter(|&disk| self.disks[disk].is_gone()).collect();
            format!(
                "after the power cut: gone {gone:?}, in sync when last seen {:?}, suspect {:?}",
                self.in_sync.borrow(),
                self.suspects.borrow()
            )
        });
    }

    fn count_cut(&self, status: Option<&ArrayStatus>) {
        let mut stats = self.stats.borrow_mut();
        stats.cuts += 1;
        match status {
            None => stats.cuts_in_start += 1,
            Some(_) if self.stopping.get() => stats.cuts_in_stop += 1,
            Some(_) if self.managing.get() => stats.cuts_in_command += 1,
            Some(status) => match status.activity.as_ref().map(|activity| activity.kind) {
                Some(ActivityKind::Rebuild) => stats.cuts_in_rebuild += 1,
                Some(ActivityKind::Resync | ActivityKind::InitialSync) => stats.cuts_in_resync += 1,
                None if status.members.iter().any(|m| m.state == MemberState::Missing) => {
                    stats.cuts_degraded += 1;
                }
                None => {}
            },
        }
    }

    /// A power cut may take a member as well whenever it comes: what is in sync is known.
    fn may_lose_more(&self) -> bool {
        let shape = &self.plan.shape;
        !(shape.level.has_parity() && (shape.has_hole() || shape.used_disks))
    }

    /// The power goes for all disks.
    pub(crate) fn cut_disks(&self) -> Vec<Vec<Recent>> {
        self.disks.iter().map(|disk| self.world.random(|rng| disk.power_cut(rng))).collect()
    }

    /// A member whose loss the array bears now; its disk.
    fn expendable(&self, slot: usize) -> Option<usize> {
        let in_sync = self.in_sync.borrow().clone();
        let disk = in_sync.get(slot).copied().flatten()?;
        let mut impaired = self.impaired(&in_sync);
        impaired.insert(MemberIndex(slot as u16));
        (self.plan.shape.beyond || self.geometry.tolerates(&impaired)).then_some(disk)
    }

    /// A slot whose disk is one of these, where that can be; else any.
    fn slot_among(&self, disks: &[usize]) -> usize {
        let wanted = self.world.random(|rng| match disks {
            [] => None,
            _ if rng.chance(25) => None,
            _ => Some(rng.pick(disks)),
        });
        let in_sync = self.in_sync.borrow();
        let slot = wanted.and_then(|wanted| in_sync.iter().position(|&disk| disk == Some(wanted)));
        slot.unwrap_or_else(|| self.world.random(|rng| rng.below(in_sync.len() as u64)) as usize)
    }

    /// Disks with the newest commit, if there are not as many as an acknowledged one has. Its copies begin together.
    fn find_witnesses(&self, left: &[Vec<Recent>]) -> Vec<usize> {
        let shape = &self.plan.shape;
        let Some(ring) = shape.region(Apart::Copies) else { return Vec::new() };
        let commits = |disk: &Vec<Recent>| {
            disk.iter().filter(|write| ring.contains(&write.range.start)).cloned().collect()
        };
        let commits: Vec<Vec<Recent>> = left.iter().map(commits).collect();
        let Some(newest) = commits.iter().flatten().map(|write| write.began).max() else { return Vec::new() };
        let copies_it = |write: &Recent| write.kept && write.began + shape.members as u64 > newest;
        let holders: Vec<usize> =
            (0..left.len()).filter(|&disk| commits[disk].iter().any(copies_it)).collect();
        if holders.len() > usize::from(self.geometry.tolerated_losses()) { Vec::new() } else { holders }
    }

    /// Disks that lack some of what was being written straight to its place.
    fn find_behind(&self, left: &[Vec<Recent>]) -> Vec<usize> {
        let shape = &self.plan.shape;
        let Some(places) = shape.region(Apart::Places).filter(|_| shape.policy == Policy::Journal) else {
            return Vec::new();
        };
        let lacks = |write: &Recent| !write.kept && places.contains(&write.range.start);
        (0..left.len()).filter(|&disk| left[disk].iter().any(lacks)).collect()
    }

    /// Now and then a member cannot read at the next start what it was writing, and can at the one after. Which one.
    fn weaken(&self, left: &[Vec<Recent>], witnesses: &[usize]) -> Option<usize> {
        let percent = if witnesses.len() == 1 { 60 } else { 40 };
        if !self.may_lose_more() || self.world.random(|rng| !rng.chance(percent)) {
            return None;
        }
        let disk = self.expendable(self.slot_among(witnesses))?;
        for write in left[disk].iter().filter(|write| write.kept) {
            self.disks[disk].weaken(write.range.clone());
        }
        self.suspects.borrow_mut().insert(disk);
        self.stats.borrow_mut().weak_at_cut += 1;
        self.stats.borrow_mut().lone_hidden += u64::from(witnesses == [disk]);
        // What it hid comes to light again before anything was written that could hide it for good.
        match self.world.random(|rng| rng.below(4)) {
            0 => self.due.borrow_mut().push_back(Again::Mended(1)),
            1 | 2 => self.due.borrow_mut().push_back(Again::Seen),
            _ => {}
        }
        Some(disk)
    }

    /// Disks do not come back with the power: preferably those that alone knew what the life that has just ended may have
    /// shown.
    fn lose(&self, count: u64, knowing: &[usize]) {
        for _ in 0..count {
            if let Some(disk) = self.expendable(self.slot_among(knowing)) {
                self.world.random(|rng| self.disks[disk].vanish(rng));
                self.suspects.borrow_mut().insert(disk);
                self.stats.borrow_mut().lost_at_cut += 1;
            }
        }
    }

    fn give_back(&self, cut: &Cut) {
        for disk in self.disks.iter().filter(|disk| disk.is_gone()) {
            if cut.give_back && self.world.random(|rng| rng.chance(60)) {
                disk.come_back();
            }
        }
    }

    /// Members that know who is in sync must be there: of those that were dropped alone no program can tell that they were.
    pub(crate) fn keep_authority(&self) {
        let suspects = self.suspects.borrow();
        let in_sync: Vec<usize> = self.in_sync.borrow().iter().flatten().copied().collect();
        let mut knowing: Vec<usize> =
            in_sync.iter().copied().filter(|disk| !suspects.contains(disk)).collect();
        if knowing.is_empty() {
            for &disk in &in_sync {
                self.disks[disk].come_back();
            }
            knowing = in_sync;
        }
        if knowing.iter().all(|&disk| self.disks[disk].is_gone())
            && let Some(&disk) = knowing.first()
        {
            self.disks[disk].come_back();
        }
    }
}
