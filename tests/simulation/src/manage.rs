//! What the administrator does, and what befalls disks. Faults stay within what the level bears, unless the run is one that
//! goes beyond.
//!
//! What it bears: the slots that are impaired (missing, being rebuilt, or with a disk that has faults) are never
//! more than the level tolerates. Where the write hole can be open (parity without a journal) nothing may be lost
//! while regions are out of sync, and no crash come while a member is missing, unless nothing is marked dirty.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use raid_core::array::{ArrayStatus, CreateError, MemberDevice, MemberError, MemberState, Policy};
use raid_core::geometry::{Level, MemberIndex};

use crate::disk::SECTOR;
use crate::life::{Running, disk_of, path};
use crate::plan::{Cut, Step};
use crate::run::Sim;
use crate::world::When;

/// The bitmap forgets what was idle for a whole sweep: longer than two of them.
const SWEPT: Duration = Duration::from_secs(12);

/// More steps than a run has.
const NEVER: u64 = u64::MAX / 2;

/// An administrator has the array do something that takes a while.
pub(crate) fn is_command(step: &Step) -> bool {
    matches!(step, Step::Fail(_) | Step::Remove(_) | Step::Add(_))
}

/// Carry out a step that is not a client's.
pub(crate) async fn carry_out(sim: &Rc<Sim>, running: &Running, step: Step) {
    match step {
        Step::Pause(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        Step::Settle => {
            let _ = sim.settle(running).await;
        }
        Step::Cut(cut) => prepare_cut(sim, running, cut).await,
        _ => {
            let status = running.array.status().await;
            sim.see(&status);
            Scene { sim, running, status: &status }.act(step).await;
        }
    }
}

struct Scene<'a> {
    sim: &'a Rc<Sim>,
    running: &'a Running,
    status: &'a ArrayStatus,
}

impl Scene<'_> {
    async fn act(&self, step: Step) {
        match step {
            Step::Fail(pick) => self.fail(pick).await,
            Step::Remove(pick) => self.remove(pick).await,
            Step::Add(pick) => self.add(pick).await,
            Step::Vanish(pick) => self.vanish(pick),
            Step::Return(pick) => self.come_back(pick),
            Step::Spoil(pick, at, sectors) => self.spoil(pick, at, sectors),
            Step::FailWrites(pick, count) => {
                self.fault(pick, |disk| disk.fail_writes(count));
            }
            Step::FailFlush(pick) => self.fault(pick, |disk| disk.fail_flushes(1)),
            Step::FailReads(pick, count) => self.fail_reads(pick, count),
            Step::LoseWrite(pick) => self.fault(pick, |disk| disk.lose_writes(1)),
            Step::Misdirect(pick, sectors) => {
                self.fault(pick, |disk| disk.misdirect_write(sectors * SECTOR));
            }
            Step::Rot(pick, at) => {
                if let Some((disk, range)) = self.target(pick, at, 1) {
                    let (start, bytes): (u64, Vec<u8>) =
                        (range.start, range.map(|at| at as u8 ^ 0x5a).collect());
                    self.sim.disks[disk].rot(start, &bytes);
                }
            }
            Step::Slow(pick, slowness) => {
                self.sim.disks[pick as usize % self.sim.disks.len()].set_slowness(slowness);
            }
            _ => {}
        }
    }

    /// Disks in one of these states, with their slots.
    fn disks(&self, states: &[MemberState]) -> Vec<(usize, Option<u16>)> {
        self.status
            .members
            .iter()
            .filter(|member| states.contains(&member.state))
            .filter_map(|member| Some((member.path.as_deref().and_then(disk_of)?, member.slot)))
            .collect()
    }

    fn choose(&self, pick: u64, from: &[(usize, Option<u16>)]) -> Option<(usize, Option<u16>)> {
        (!from.is_empty()).then(|| from[pick as usize % from.len()])
    }

    /// A member in sync that may be lost now, and one that is not in sync at any time.
    fn victim(&self, pick: u64) -> Option<usize> {
        let from = self.disks(&[MemberState::InSync, MemberState::Rebuilding]);
        let (disk, slot) = self.choose(pick, &from)?;
        let shape = &self.sim.plan.shape;
        if shape.beyond {
            return Some(disk);
        }
        if shape.level.has_parity() && self.status.unsynced_regions > 0 {
            return None;
        }
        let mut impaired = self.sim.impaired(&self.sim.in_sync.borrow());
        impaired.insert(MemberIndex(slot?));
        self.sim.geometry.tolerates(&impaired).then_some(disk)
    }

    fn suspect(&self, disk: usize) {
        self.sim.suspects.borrow_mut().insert(disk);
    }

    fn fault(&self, pick: u64, hit: impl FnOnce(&crate::disk::Disk)) {
        if let Some(disk) = self.victim(pick) {
            self.suspect(disk);
            hit(&self.sim.disks[disk]);
            self.sim.stats.borrow_mut().write_faults += 1;
        }
    }

    fn fail_reads(&self, pick: u64, count: u32) {
        if let Some(disk) = self.victim(pick) {
            self.sim.disks[disk].fail_reads(count);
            self.sim.stats.borrow_mut().read_faults += 1;
        }
    }

    fn vanish(&self, pick: u64) {
        let Some(disk) = self.victim(pick) else { return };
        self.suspect(disk);
        self.sim.world.random(|rng| self.sim.disks[disk].vanish(rng));
        self.sim.stats.borrow_mut().vanished += 1;
    }

    fn come_back(&self, pick: u64) {
        let gone: Vec<_> = self.sim.disks.iter().filter(|disk| disk.is_gone()).collect();
        if !gone.is_empty() {
            gone[pick as usize % gone.len()].come_back();
            self.sim.stats.borrow_mut().returned += 1;
        }
    }

    fn spoil(&self, pick: u64, at: u64, sectors: u64) {
        let Some((disk, range)) = self.target(pick, at, sectors) else { return };
        self.sim.disks[disk].spoil(range);
        self.sim.stats.borrow_mut().spoilt += 1;
    }

    /// A member that may be hurt, and bytes of it that are in use: of its data, or of its journal.
    fn target(&self, pick: u64, at: u64, sectors: u64) -> Option<(usize, Range<u64>)> {
        let (disk, layout) = (self.victim(pick)?, self.sim.plan.shape.layout()?);
        let shape = &self.sim.plan.shape;
        let data: u64 = shape.volumes.iter().map(|(bytes, _)| bytes).sum();
        let used = match shape.level {
            Level::Raid10 => data * 2 / shape.members as u64,
            _ => data / u64::from(self.sim.geometry.data_rows()),
        };
        let used = (used + shape.chunk_bytes).min(self.sim.geometry.member_bytes());
        let region = if shape.policy == Policy::Journal && pick.is_multiple_of(4) {
            layout.journal.offset..layout.journal.offset + layout.journal.len
        } else {
            layout.data_offset..layout.data_offset + used
        };
        let start = region.start + at % ((region.end - region.start) / SECTOR).max(1) * SECTOR;
        Some((disk, start..(start + sectors * SECTOR).min(region.end)))
    }

    async fn fail(&self, pick: u64) {
        let Some(disk) = self.victim(pick) else { return };
        self.suspect(disk);
        let result = self.running.array.fail(&path(disk), false).await;
        match result {
            Ok(()) => self.sim.stats.borrow_mut().failed += 1,
            Err(MemberError::Resyncing { .. } | MemberError::Indispensable { .. }) => {
                if !self.sim.disks[disk].has_faults() {
                    self.sim.suspects.borrow_mut().remove(&disk);
                }
            }
            Err(error) => self.refused("fail", disk, &error),
        }
    }

    async fn remove(&self, pick: u64) {
        let from = self.disks(&[MemberState::Failed, MemberState::Spare]);
        let Some((disk, _)) = self.choose(pick, &from) else { return };
        match self.running.array.remove(&path(disk)).await {
            Ok(()) => {
                // One that is away keeps its superblock, and must be known for what it is when it is back.
                if !self.sim.disks[disk].is_gone() {
                    self.sim.ours.borrow_mut().remove(&disk);
                }
                self.sim.stats.borrow_mut().removed += 1;
            }
            // A spare may have got a role since we looked.
            Err(MemberError::InUse { .. }) => {}
            Err(error) => self.refused("remove", disk, &error),
        }
    }

    async fn add(&self, pick: u64) {
        let used = self.disks(&[MemberState::InSync, MemberState::Rebuilding, MemberState::Spare]);
        let free: Vec<_> = (0..self.sim.disks.len())
            .filter(|disk| !used.iter().any(|(other, _)| other == disk))
            .filter(|&disk| !self.sim.disks[disk].is_gone())
            .map(|disk| (disk, None))
            .collect();
        let Some((disk, _)) = self.choose(pick, &free) else { return };
        self.sim.disks[disk].heal();
        self.sim.ours.borrow_mut().insert(disk);
        let handle = Arc::new(self.sim.disks[disk].handle());
        let device = MemberDevice { path: path(disk), device: handle };
        let mut added = self.running.array.add(device.clone(), false).await;
        if let Err(MemberError::Unsuitable(CreateError::Foreign { .. })) = added {
            // A removal or an addition that a power cut interrupted leaves half a member.
            added = self.running.array.add(device, true).await;
        }
        match added {
            Ok(()) => {
                self.sim.suspects.borrow_mut().remove(&disk);
                self.sim.stats.borrow_mut().added += 1;
            }
            Err(error) => self.refused("add", disk, &error),
        }
    }

    fn refused(&self, what: &str, disk: usize, error: &MemberError) {
        let waits = matches!(error, MemberError::Hangs { .. }) && self.sim.disks[disk].is_slow();
        if !self.sim.plan.shape.beyond && !waits {
            self.sim.fail(&format!("{what} of disk {disk}"), error);
        }
    }
}

/// Arm the power cut, or come to a state in which it may come.
async fn prepare_cut(sim: &Rc<Sim>, running: &Running, mut cut: Cut) {
    if sim.world.is_armed() {
        sim.world.cut_now();
        return std::future::pending().await;
    }
    let shape = &sim.plan.shape;
    let status = running.array.status().await;
    sim.see(&status);
    let after = cut.after;
    if shape.level.has_parity() && status.unsynced_regions > 0 && !shape.beyond {
        // Used disks that were never in sync yet: no journal makes up for that.
        cut.lose = 0;
    }
    if shape.has_hole() && !shape.beyond && !cut.careless {
        for disk in &sim.disks {
            disk.heal();
        }
        let impaired = !sim.impaired(&sim.in_sync.borrow()).is_empty();
        if shape.policy == Policy::None {
            // There is nothing that tells which stripes are in sync: no member may be missing after a crash.
            cut.lose = 0;
            if impaired {
                return;
            }
        } else if impaired || cut.lose > 0 {
            let _ = sim.settle(running).await;
            tokio::time::sleep(SWEPT).await;
            *sim.cut.borrow_mut() = Some(cut);
            sim.world.cut_now();
            return std::future::pending().await;
        }
    }
    let after_ms = cut.after_ms;
    let apart = cut.apart.and_then(|apart| shape.region(apart));
    *sim.cut.borrow_mut() = Some(cut);
    if let Some(region) = apart {
        return sim.world.arm(When::Apart(region));
    }
    if after_ms == 0 {
        return sim.world.arm(When::Changes(after));
    }
    sim.world.arm(When::Steps(NEVER));
    let sim = Rc::clone(sim);
    tokio::task::spawn_local(async move {
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        sim.world.cut_now();
    });
}
