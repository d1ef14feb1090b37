//! What may a sector hold? For each sector of a volume the values that a read may give now, and those that a power cut
//! may leave.
//!
//! Every write has a number, and a sector that it wrote holds that number and the sector's own: so a wrong sector names
//! its writer. A counter that moves on at every begin and end of a request orders them.
//!
//! After a power cut the values it may have left are all that is known of a sector. The first read decides among them:
//! what was once read stays.

use std::collections::BTreeSet;

use smallvec::SmallVec;

use crate::disk::SECTOR;
use crate::pattern::{describe_garbage, identify};
use crate::sector::{Candidate, Fate, Sector, Write, allowed, prune, settle};
use crate::whole::Wholes;

/// Sectors of a block that the engine may have to give up as a whole.
const BLOCK_SECTORS: u64 = 4096 / SECTOR;

/// A sector that holds what it must not.
#[derive(Clone, Debug)]
pub struct WrongSector {
    /// Which volume.
    pub volume: usize,
    /// Which of its sectors.
    pub sector: u64,
    /// What was read.
    pub found: String,
    /// What would have been right.
    pub expected: Vec<String>,
}

/// See the module.
pub(crate) struct Model {
    clock: u64,
    life: u32,
    writes: Vec<Write>,
    /// Acknowledged, not known to be durable.
    volatile: Vec<u32>,
    volumes: Vec<Volume>,
    /// Begins of the reads under way: what they may give must not be forgotten yet.
    readers: BTreeSet<u64>,
    wholes: Wholes,
}

struct Volume {
    sectors: Vec<Sector>,
    /// Blocks that a power cut may have left unreadable.
    lost: Vec<bool>,
    /// Sectors below which something was ever written, to be read back.
    touched: Vec<bool>,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    write: u32,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which volume.
    pub volume: usize,
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u64,
}

impl Place {
    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.sector as usize..(self.sector + self.sectors) as usize
    }
}

impl Model {
    /// All volumes hold zeros, durably.
    pub(crate) fn new(volume_bytes: &[u64]) -> Self {
        let fresh = Sector { left: SmallVec::from_slice(&[0]), writes: SmallVec::new() };
        let volumes = volume_bytes
            .iter()
            .map(|bytes| Volume {
                sectors: vec![fresh.clone(); (bytes / SECTOR) as usize],
                lost: vec![false; (bytes / SECTOR / BLOCK_SECTORS) as usize],
                touched: vec![false; (bytes / SECTOR / BLOCK_SECTORS) as usize],
            })
            .collect();
        Self {
            clock: 0,
            life: 0,
            writes: Vec::new(),
            volatile: Vec::new(),
            volumes,
            readers: BTreeSet::new(),
            wholes: Wholes::default(),
        }
    }

    /// This write is to be there as a whole after a power cut, or not at all.
    pub(crate) fn is_whole(&mut self, ticket: Ticket, place: Place) {
        self.wholes.begin(ticket.write, place);
    }

    /// A read begins.
    pub(crate) fn begin_read(&mut self) -> u64 {
        let began = self.tick();
        self.readers.insert(began);
        began
    }

    /// A read that began at `began` has failed.
    pub(crate) fn end_read(&mut self, began: u64) {
        self.readers.remove(&began);
    }

    fn oldest_reader(&self) -> u64 {
        self.readers.first().copied().unwrap_or(u64::MAX)
    }

    /// The time now, to be kept from a flush's begin to its end.
    pub(crate) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A write begins. Its sectors hold the value that [`fill`] is to be given.
    pub(crate) fn begin(&mut self, place: Place, zeros: bool, fua: bool, step: usize) -> (Ticket, u64) {
        let index = self.writes.len() as u32;
        let value = if zeros { 0 } else { u64::from(index) + 1 };
        let (began, life) = (self.tick(), self.life);
        let fate = Fate::UnderWay;
        self.writes.push(Write { value, step, life, began, ended: u64::MAX, fate, durable: false, fua });
        self.wholes.overwritten(place);
        let oldest = self.oldest_reader();
        let volume = &mut self.volumes[place.volume];
        for sector in &mut volume.sectors[place.range()] {
            if sector.writes.len() > 6 {
                prune(sector, &self.writes, oldest);
            }
            sector.writes.push(Candidate { write: index, hidden: u64::MAX });
        }
        for block in blocks(place) {
            volume.touched[block] = true;
        }
        (Ticket { write: index }, value)
    }

    /// The write has ended.
    pub(crate) fn end(&mut self, ticket: Ticket, place: Place, success: bool) {
        let now = self.tick();
        let write = &mut self.writes[ticket.write as usize];
        write.ended = now;
        write.fate = if success { Fate::Acknowledged } else { Fate::Failed };
        write.durable = success && write.fua;
        let durable = write.durable;
        if durable {
            self.wholes.acknowledged(ticket.write);
        }
        if success && !durable {
            self.volatile.push(ticket.write);
        }
        let oldest = self.oldest_reader();
        let volume = &mut self.volumes[place.volume];
        if success {
            for block in whole_blocks(place) {
                volume.lost[block] = false;
            }
        }
        if durable {
            for sector in &mut volume.sectors[place.range()] {
                prune(sector, &self.writes, oldest);
            }
        }
    }

    /// A flush that began at `began` has succeeded.
    pub(crate) fn flushed(&mut self, began: u64) {
        let writes = &mut self.writes;
        self.volatile.retain(|&index| {
            let write = &mut writes[index as usize];
            write.durable = write.ended < began;
            !write.durable
        });
    }

    /// A read that began at `began` gave these bytes.
    pub(crate) fn read(&mut self, began: u64, place: Place, bytes: &[u8]) -> Result<(), WrongSector> {
        let now = self.tick();
        self.end_read(began);
        let writes = &self.writes;
        let volume = &mut self.volumes[place.volume];
        for (sector, bytes) in (place.sector..).zip(bytes.chunks_exact(SECTOR as usize)) {
            let state = &mut volume.sectors[sector as usize];
            let found = identify(bytes, place.volume, sector);
            if !found.is_some_and(|value| settle(state, writes, (began, now), value)) {
                let expected = allowed(state, writes, began);
                return Err(WrongSector {
                    volume: place.volume,
                    sector,
                    found: match found {
                        Some(value) => self.describe(value),
                        None => format!("garbage, {}", describe_garbage(bytes)),
                    },
                    expected: expected.into_iter().map(|value| self.describe(value)).collect(),
                });
            }
            if let Some(found) = found
                && let Some(expected) = self.wholes.contradicts(place.volume, sector, found)
            {
                let (volume, found) = (place.volume, self.describe(found));
                return Err(WrongSector { volume, sector, found, expected: vec![expected] });
            }
        }
        for block in whole_blocks(place) {
            volume.lost[block] = false;
        }
        Ok(())
    }

    /// May this range be unreadable? Only where a power cut came over a write that nobody had been told is durable.
    pub(crate) fn may_be_lost(&self, place: Place) -> bool {
        blocks(place).any(|block| self.volumes[place.volume].lost[block])
    }

    /// The power went. Whatever was not durable may be there or not.
    pub(crate) fn power_cut(&mut self) {
        self.readers.clear();
        self.wholes.power_cut(&self.writes, |place| &self.volumes[place.volume].sectors[place.range()]);
        for volume in &mut self.volumes {
            for (index, sector) in volume.sectors.iter_mut().enumerate() {
                if sector.writes.is_empty() {
                    continue;
                }
                prune(sector, &self.writes, u64::MAX);
                let unsure = sector.writes.iter().any(|c| !self.writes[c.write as usize].durable);
                for candidate in std::mem::take(&mut sector.writes) {
                    let value = self.writes[candidate.write as usize].value;
                    if !sector.left.contains(&value) {
                        sector.left.push(value);
                    }
                }
                volume.lost[index / BLOCK_SECTORS as usize] |= unsure;
            }
        }
        self.volatile.clear();
        self.life += 1;
    }

    /// Whether the last power cut may have left more than one thing here, and nobody has looked yet.
    pub(crate) fn is_in_doubt(&self, place: Place) -> bool {
        let volume = &self.volumes[place.volume];
        self.may_be_lost(place) || volume.sectors[place.range()].iter().any(|sector| sector.left.len() > 1)
    }

    /// Everything that was ever written, in pieces of at most `sectors`.
    pub(crate) fn touched(&self, sectors: u64) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for (index, volume) in self.volumes.iter().enumerate() {
            for block in (0..volume.touched.len()).filter(|&block| volume.touched[block]) {
                let sector = block as u64 * BLOCK_SECTORS;
                match places.last_mut() {
                    Some(last)
                        if last.volume == index
                            && last.sector + last.sectors == sector
                            && last.sectors < sectors =>
                    {
                        last.sectors += BLOCK_SECTORS;
                    }
                    _ => places.push(Place { volume: index, sector, sectors: BLOCK_SECTORS }),
                }
            }
        }
        places
    }

    fn describe(&self, value: u64) -> String {
        if value == 0 {
            return "zeros".to_owned();
        }
        let Some(write) = usize::try_from(value - 1).ok().and_then(|index| self.writes.get(index)) else {
            return format!("value {value:#x}, which nobody wrote");
        };
        let fate = match write.fate {
            Fate::UnderWay => "under way",
            Fate::Acknowledged if write.durable => "durable",
            Fate::Acknowledged => "acknowledged, not durable",
            Fate::Failed => "failed",
        };
        format!("write {value} (step {}, life {}, {fate})", write.step, write.life)
    }
}

fn blocks(place: Place) -> std::ops::RangeInclusive<usize> {
    (place.sector / BLOCK_SECTORS) as usize..=((place.sector + place.sectors - 1) / BLOCK_SECTORS) as usize
}

fn whole_blocks(place: Place) -> std::ops::Range<usize> {
    place.sector.div_ceil(BLOCK_SECTORS) as usize..((place.sector + place.sectors) / BLOCK_SECTORS) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::fill;

    const PLACE: Place = Place { volume: 0, sector: 3, sectors: 1 };

    fn write(model: &mut Model, fua: bool) -> u64 {
        let (ticket, value) = model.begin(PLACE, false, fua, 0);
        model.end(ticket, PLACE, true);
        value
    }

    fn read(model: &mut Model, value: u64) -> bool {
        let began = model.begin_read();
        model.read(began, PLACE, &fill(PLACE, value)).is_ok()
    }

    #[test]
    fn a_read_gives_the_latest_and_a_cut_leaves_what_was_durable_or_later() {
        let mut model = Model::new(&[1 << 16]);
        assert!(read(&mut model, 0));
        let first = write(&mut model, true);
        let second = write(&mut model, false);
        assert!(!read(&mut model, 0) && !read(&mut model, first) && read(&mut model, second));
        model.power_cut();
        assert!(model.may_be_lost(PLACE));
        assert!(!read(&mut model, 0) && read(&mut model, first));
        assert!(!read(&mut model, second), "what was once read stays");
    }

    #[test]
    fn a_flush_covers_what_had_ended_when_it_began() {
        let mut model = Model::new(&[1 << 16]);
        let first = write(&mut model, false);
        let began = model.tick();
        let second = write(&mut model, false);
        model.flushed(began);
        model.power_cut();
        let mut other = Model::new(&[1 << 16]);
        std::mem::swap(&mut model.volumes[0].sectors, &mut other.volumes[0].sectors);
        let left: Vec<u64> = other.volumes[0].sectors[3].left.to_vec();
        assert_eq!(left, [first, second]);
    }

    #[test]
    fn of_writes_at_the_same_time_either_may_win_but_then_it_stays() {
        let mut model = Model::new(&[1 << 16]);
        let (first, a) = model.begin(PLACE, false, false, 0);
        let (second, b) = model.begin(PLACE, false, false, 1);
        assert!(read(&mut model, 0) && read(&mut model, a) && read(&mut model, b));
        model.end(second, PLACE, true);
        model.end(first, PLACE, true);
        assert!(read(&mut model, b));
        assert!(!read(&mut model, a) && !read(&mut model, 0));
    }

    #[test]
    fn a_failed_write_may_be_there_until_another_is_acknowledged() {
        let mut model = Model::new(&[1 << 16]);
        let (ticket, value) = model.begin(PLACE, false, true, 0);
        model.end(ticket, PLACE, false);
        assert!(read(&mut model, 0) && read(&mut model, value));
        let next = write(&mut model, true);
        assert!(read(&mut model, next) && !read(&mut model, value));
    }

    #[test]
    fn an_atomic_write_is_found_whole_or_not_at_all_unless_others_wrote_there() {
        let whole = Place { sectors: 8, sector: 8, ..PLACE };
        let part = |sector| Place { sector, sectors: 1, ..PLACE };
        let found = |model: &mut Model, sector, value| {
            let began = model.begin_read();
            model.read(began, part(sector), &fill(part(sector), value)).is_ok()
        };
        let cut_over_it = |beside: bool| {
            let mut model = Model::new(&[1 << 16]);
            let (ticket, value) = model.begin(whole, false, true, 0);
            model.is_whole(ticket, whole);
            let other = beside.then(|| model.begin(part(12), false, true, 1).1);
            model.power_cut();
            (model, value, other)
        };
        let (mut model, value, _) = cut_over_it(false);
        assert!(found(&mut model, 8, value) && found(&mut model, 15, value));
        model.power_cut();
        assert!(!found(&mut model, 9, 0), "all of it");
        let (mut model, value, _) = cut_over_it(false);
        assert!(found(&mut model, 15, 0) && !found(&mut model, 8, value), "none of it");
        let (mut model, value, other) = cut_over_it(true);
        assert!(found(&mut model, 8, value) && found(&mut model, 12, other.unwrap()));
        assert!(found(&mut model, 13, 0), "nothing is asked where another wrote at the same time");
    }

    #[test]
    fn garbage_is_told_from_data() {
        let mut model = Model::new(&[1 << 16]);
        let value = write(&mut model, true);
        let mut bytes = fill(PLACE, value);
        bytes[300] ^= 1;
        let began = model.begin_read();
        let wrong = model.read(began, PLACE, &bytes).unwrap_err();
        assert!(wrong.found.contains("garbage"), "{wrong:?}");
        let elsewhere = fill(Place { sector: 4, ..PLACE }, value);
        let began = model.begin_read();
        assert!(model.read(began, PLACE, &elsewhere).is_err());
    }
}
