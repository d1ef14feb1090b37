//! What clients do: requests, one task each, checked against the model.

use std::rc::Rc;

use block_io::{BlockDevice, Buffer, Durability, IoError, IoErrorKind};
use raid_core::array::Policy;

use crate::disk::SECTOR;
use crate::life::Running;
use crate::model::Place;
use crate::pattern::fill;
use crate::plan::Step;
use crate::run::Sim;
use crate::violation::Violation;

/// A client's step, not the administrator's.
pub(crate) fn is_request(step: &Step) -> bool {
    matches!(step, Step::Read(_) | Step::Write(..) | Step::Zero(..) | Step::Discard(_) | Step::Flush(_))
}

/// Begin a request; `wait_for_room` waits for its end.
pub(crate) fn submit(sim: &Rc<Sim>, running: &Running, index: usize, step: Step) {
    sim.outstanding.set(sim.outstanding.get() + 1);
    let (sim, running) = (Rc::clone(sim), running.clone());
    tokio::task::spawn_local(async move {
        Request { sim: &sim, running: &running, index }.carry_out(step).await;
        sim.outstanding.set(sim.outstanding.get() - 1);
        sim.ended.notify_one();
    });
}

/// Of so many steps one that is a durable write is an atomic one.
const ATOMIC_EVERY: usize = 5;

struct Request<'a> {
    sim: &'a Rc<Sim>,
    running: &'a Running,
    index: usize,
}

impl Request<'_> {
    fn name(&self) -> String {
        if self.index == usize::MAX { "read-back".to_owned() } else { format!("step {}", self.index) }
    }

    fn count(&self) {
        let mut stats = self.sim.stats.borrow_mut();
        if self.index == usize::MAX {
            stats.read_backs += 1;
        } else {
            stats.operations += 1;
        }
    }

    async fn carry_out(&self, step: Step) {
        self.count();
        match step {
            Step::Read(place) => self.read(place).await,
            Step::Flush(volume) => self.flush(volume).await,
            Step::Write(place, durable) => self.change(place, durable, Change::Write).await,
            Step::Zero(place, durable) => self.change(place, durable, Change::Zero).await,
            Step::Discard(place) => self.change(place, false, Change::Discard).await,
            _ => {}
        }
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        self.sim.world.note(self.index as u64, || format!("{}: {}", self.name(), what()));
    }

    async fn read(&self, place: Place) {
        let volume = &self.running.volumes[place.volume];
        let began = self.sim.model.borrow_mut().begin_read();
        // A write that ends meanwhile says nothing of what this read met.
        let lost = self.may_lose(place);
        self.trace(|| format!("read {place:?}"));
        let buffer = Buffer::zeroed((place.sectors * SECTOR) as usize);
        let (buffer, result) = volume.read(place.sector * SECTOR, buffer).await;
        if result.is_err() {
            self.sim.model.borrow_mut().end_read(began);
        }
        match result {
            Ok(()) => self.check(began, place, &buffer),
            Err(error) if error.kind == IoErrorKind::Medium && lost => {
                self.read_blocks(place).await;
            }
            Err(error) => self.failed("read", place, &error),
        }
    }

    fn check(&self, began: u64, place: Place, bytes: &[u8]) {
        self.sim.stats.borrow_mut().sectors_checked += place.sectors;
        let checked = self.sim.model.borrow_mut().read(began, place, bytes);
        if let Err(wrong) = checked {
            let at_ms = self.sim.world.now_ms();
            self.sim.violate(Violation::WrongData { what: self.name(), at_ms, wrong });
        }
    }

    /// Something of it is unreadable: block by block it shows whether the rest is there.
    async fn read_blocks(&self, place: Place) {
        let volume = &self.running.volumes[place.volume];
        let mut sector = place.sector;
        while sector < place.sector + place.sectors {
            let end = (sector / 8 * 8 + 8).min(place.sector + place.sectors);
            let block = Place { sector, sectors: end - sector, ..place };
            let began = self.sim.model.borrow_mut().begin_read();
            let lost = self.may_lose(block);
            let buffer = Buffer::zeroed((block.sectors * SECTOR) as usize);
            let (buffer, result) = volume.read(sector * SECTOR, buffer).await;
            if result.is_err() {
                self.sim.model.borrow_mut().end_read(began);
            }
            match result {
                Ok(()) => self.check(began, block, &buffer),
                Err(error) if error.kind == IoErrorKind::Medium && lost => {
                    self.sim.stats.borrow_mut().lost_blocks_read += 1;
                }
                Err(error) => self.failed("read", block, &error),
            }
            sector = end;
        }
    }

    fn may_lose(&self, place: Place) -> bool {
        self.sim.plan.shape.policy == Policy::Journal && self.sim.model.borrow().may_be_lost(place)
    }

    async fn flush(&self, volume: usize) {
        let began = self.sim.model.borrow_mut().tick();
        self.trace(|| "flush".to_owned());
        match self.running.volumes[volume].flush().await {
            Ok(()) => self.sim.model.borrow_mut().flushed(began),
            Err(error) => self.failed("flush", Place { volume, sector: 0, sectors: 0 }, &error),
        }
    }

    /// Some of the durable writes are atomic, where the volume knows such.
    fn is_atomic(&self, place: Place, durable: bool, change: Change) -> bool {
        let limit = u64::from(self.running.volumes[place.volume].atomic_limit_bytes());
        change == Change::Write
            && durable
            && self.index.is_multiple_of(ATOMIC_EVERY)
            && place.sectors * SECTOR <= limit
    }

    async fn change(&self, place: Place, durable: bool, change: Change) {
        let volume = &self.running.volumes[place.volume];
        let atomic = self.is_atomic(place, durable, change);
        let zeros = change != Change::Write;
        let lost = self.may_lose(place);
        let (ticket, value) = self.sim.model.borrow_mut().begin(place, zeros, durable, self.index);
        if atomic {
            self.sim.model.borrow_mut().is_whole(ticket, place);
        }
        self.trace(|| format!("{change:?} {value} {place:?}, durable: {durable}, atomic: {atomic}"));
        let (offset, length) = (place.sector * SECTOR, place.sectors * SECTOR);
        let durability = if durable { Durability::Durable } else { Durability::Cached };
        let result = match change {
            Change::Write if atomic => volume.write_atomic(offset, fill(place, value).into()).await,
            Change::Write => volume.write(offset, fill(place, value).into(), durability).await,
            Change::Zero => volume.zero(offset, length, durability).await,
            Change::Discard => volume.discard(offset, length).await,
        };
        self.sim.model.borrow_mut().end(ticket, place, result.is_ok());
        self.trace(|| format!("{change:?} {value} ended: {:?}", result.as_ref().map_err(|e| e.kind)));
        if let Err(error) = result
            && !(error.kind == IoErrorKind::Medium && lost)
        {
            self.failed("write", place, &error);
        }
    }

    fn failed(&self, what: &str, place: Place, error: &IoError) {
        let stopped = error.kind == IoErrorKind::Stopped && self.sim.stopping.get();
        if stopped || self.sim.plan.shape.beyond {
            self.sim.stats.borrow_mut().errors_seen += 1;
            return;
        }
        self.sim.fail(&format!("{} ({what} of {place:?})", self.name()), error);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Write,
    Zero,
    Discard,
}
