//! What must a LUN hold? A record of every write that a client sent, and of what it was told about it.
//!
//! Each write has a number (its generation, in the order of sending), and fills each of its sectors with bytes that
//! only this generation of this sector of this LUN has; or makes them zeros. Writes and reads that touch each other are never in flight
//! together (`begin` refuses), so for each sector the order of writes is the order of generations, and what a crash
//! may leave there is exact:
//!
//! | sector last written by | after a crash it holds |
//! |---|---|
//! | an acknowledged write, durable: no write cache, FUA, or a flush that was sent after the acknowledgement is done | that generation |
//! | an acknowledged write that is in the write cache only | that generation, or any back to the newest durable one |
//! | a write in flight | the same, or this one |
//!
//! What was found after a crash is the state from then on: it must be found again, and what was lost stays lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

/// Bytes of a sector: what is told apart.
pub const SECTOR: usize = 512;
/// Losses that are described; others are counted.
const LOSSES_SHOWN: usize = 8;

#[derive(Debug)]
struct Write {
    sectors: Range<u64>,
    fua: bool,
    zeros: bool,
}

/// The record of one LUN.
#[derive(Debug)]
pub struct Ledger {
    lun: u16,
    write_cache: bool,
    /// Write number `n` is generation `n + 1`; 0 is a sector that nobody wrote.
    writes: Vec<Write>,
    /// Per sector, the newest acknowledged generation.
    newest: Vec<u64>,
    /// Per sector, the newest generation that no crash may take away.
    durable: Vec<u64>,
    in_flight: Vec<Range<u64>>,
    /// Writes without an acknowledgement, and how many of their sectors a crash left.
    unanswered: BTreeMap<u64, u64>,
    /// Generations in the write cache, oldest acknowledgement first; numbered on from `flushed`.
    cached: Vec<u64>,
    flushed: usize,
    /// Generations up to this one were sent before the last crash: what it did not leave cannot appear any more.
    settled: u64,
}

/// A sector that holds what it must not.
#[derive(Debug)]
pub struct Loss {
    sector: u64,
    wanted: u64,
    found: Found,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Generation(u64),
    /// Never written, or by a write of zeros.
    Zeros,
    Garbage([u8; 16]),
}

/// What a comparison of the LUN with its record came to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The first sectors that were wrong.
    pub losses: Vec<Loss>,
    /// How many sectors were wrong.
    pub sectors: u64,
    /// Acknowledged writes of which something was lost.
    pub lost_writes: BTreeSet<u64>,
    /// What became of the writes that were in flight.
    pub in_flight: InFlight,
    /// Blocks of writes in flight that nobody can know.
    pub unknown: u64,
}

/// How many writes that nobody heard of again were found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// In all their sectors.
    pub whole: u64,
    /// In some.
    pub torn: u64,
    /// In none.
    pub absent: u64,
}

impl Ledger {
    /// A LUN of so many bytes, all zeros.
    pub fn new(lun: u16, bytes: u64, write_cache: bool) -> Self {
        let sectors = usize::try_from(bytes).unwrap_or(usize::MAX) / SECTOR;
        Self {
            lun,
            write_cache,
            writes: Vec::new(),
            newest: vec![0; sectors],
            durable: vec![0; sectors],
            in_flight: Vec::new(),
            unanswered: BTreeMap::new(),
            cached: Vec::new(),
            flushed: 0,
            settled: 0,
        }
    }

    /// How many sectors the LUN has.
    pub fn sectors(&self) -> u64 {
        self.newest.len() as u64
    }

    /// Whether it has a write cache.
    pub fn write_cache(&self) -> bool {
        self.write_cache
    }

    /// A sector range that was written not long ago, `back` writes before the last.
    pub fn recent(&self, back: u64) -> Option<Range<u64>> {
        let at = self.writes.len().checked_sub(1 + usize::try_from(back).ok()?)?;
        Some(self.writes[at].sectors.clone())
    }

    fn claim(&mut self, sectors: &Range<u64>) -> bool {
        let touches = |busy: &Range<u64>| busy.start < sectors.end && sectors.start < busy.end;
        if self.in_flight.iter().any(touches) {
            return false;
        }
        self.in_flight.push(sectors.clone());
        true
    }

    fn release(&mut self, sectors: &Range<u64>) {
        self.in_flight.retain(|busy| busy != sectors);
    }

    /// A write is about to be sent: its generation, and its bytes. `None` if something in flight touches it.
    pub fn begin_write(&mut self, sectors: Range<u64>, fua: bool) -> Option<(u64, Vec<u8>)> {
        if !self.claim(&sectors) {
            return None;
        }
        let generation = self.writes.len() as u64 + 1;
        let data = sectors.clone().flat_map(|sector| sector_bytes(self.lun, generation, sector)).collect();
        self.writes.push(Write { sectors, fua, zeros: false });
        self.unanswered.insert(generation, 0);
        Some((generation, data))
    }

    /// Zeros are about to be asked for. `None` if something in flight touches them.
    pub fn begin_zeros(&mut self, sectors: Range<u64>) -> Option<u64> {
        if !self.claim(&sectors) {
            return None;
        }
        self.writes.push(Write { sectors, fua: false, zeros: true });
        let generation = self.writes.len() as u64;
        self.unanswered.insert(generation, 0);
        Some(generation)
    }

    /// The client was told that it is done.
    pub fn acknowledge(&mut self, generation: u64) {
        let Some(write) = self.write(generation) else { return };
        let (sectors, durable) = (write.sectors.clone(), write.fua || !self.write_cache);
        for sector in indexes(&sectors) {
            self.newest[sector] = generation;
        }
        if durable {
            self.make_durable(generation);
        } else {
            self.cached.push(generation);
        }
        self.release(&sectors);
        self.unanswered.remove(&generation);
    }

    fn write(&self, generation: u64) -> Option<&Write> {
        self.writes.get(usize::try_from(generation.checked_sub(1)?).ok()?)
    }

    fn make_durable(&mut self, generation: u64) {
        let Some(sectors) = self.write(generation).map(|write| write.sectors.clone()) else { return };
        for sector in indexes(&sectors) {
            self.durable[sector] = self.durable[sector].max(generation);
        }
    }

    /// A read is about to be sent. `false` if something in flight touches it.
    pub fn begin_read(&mut self, sectors: &Range<u64>) -> bool {
        self.claim(sectors)
    }

    /// What it brought: the newest acknowledged writes, cached or not.
    pub fn end_read(&mut self, sectors: &Range<u64>, data: &[u8]) -> Verdict {
        self.release(sectors);
        let mut verdict = Verdict::default();
        for (sector, bytes) in sectors.clone().zip(data.chunks_exact(SECTOR)) {
            let wanted = self.newest[index(sector)];
            match self.identify(sector, bytes) {
                Found::Generation(generation) if generation == wanted => {}
                Found::Zeros if self.is_zeros(wanted) => {}
                found => verdict.add(Loss { sector, wanted, found }),
            }
        }
        verdict
    }

    /// A flush is about to be sent: what it must make durable.
    pub fn begin_flush(&self) -> usize {
        self.flushed + self.cached.len()
    }

    /// The client was told that the flush that began at `mark` is done. Gives how many writes it made durable.
    pub fn end_flush(&mut self, mark: usize) -> u64 {
        let count = mark.saturating_sub(self.flushed).min(self.cached.len());
        let done: Vec<u64> = self.cached.drain(..count).collect();
        self.flushed += count;
        for &generation in &done {
            self.make_durable(generation);
        }
        count as u64
    }

    /// The target was killed, and reads answer again: compares the part of the LUN that starts at `first` with what
    /// may be there, and takes what is there for the state from now on. Call [`Self::settle`] after the last part.
    pub fn check_after_crash(&mut self, first: u64, data: &[u8], verdict: &mut Verdict) {
        for (sector, bytes) in (first..).zip(data.chunks_exact(SECTOR)) {
            let at = index(sector);
            let wanted = self.durable[at];
            let found = self.identify(sector, bytes);
            let held = match found {
                Found::Generation(generation) => Some(generation).filter(|&one| self.may_hold(at, one)),
                Found::Zeros => self.zeros_that_may_be_held(at),
                Found::Garbage(_) => None,
            };
            match held {
                Some(generation) => {
                    if let Some(found) = self.unanswered.get_mut(&generation) {
                        *found += 1;
                    }
                    (self.newest[at], self.durable[at]) = (generation, generation);
                }
                None => verdict.add(Loss { sector, wanted, found }),
            }
        }
    }

    /// After a crash, before [`Self::settle`]: these sectors cannot be known, and are written with zeros, durably. `false` if any of
    /// them was not being written when the crash came.
    pub fn replace_unknown(&mut self, sectors: Range<u64>) -> bool {
        let in_flight = |sector: u64| {
            self.unanswered
                .keys()
                .any(|one| self.write(*one).is_some_and(|write| write.sectors.contains(&sector)))
        };
        if !sectors.clone().all(in_flight) {
            return false;
        }
        self.writes.push(Write { sectors: sectors.clone(), fua: true, zeros: true });
        let generation = self.writes.len() as u64;
        for sector in indexes(&sectors) {
            (self.newest[sector], self.durable[sector]) = (generation, generation);
        }
        true
    }

    fn may_hold(&self, at: usize, generation: u64) -> bool {
        let covers = |write: &Write| write.sectors.contains(&(at as u64));
        generation == self.durable[at]
            || (generation > self.durable[at].max(self.settled) && self.write(generation).is_some_and(covers))
    }

    /// Which of several writes of zeros it was cannot be seen, and does not matter.
    fn zeros_that_may_be_held(&self, at: usize) -> Option<u64> {
        if self.is_zeros(self.durable[at]) {
            return Some(self.durable[at]);
        }
        let unsettled = self.settled + 1..=self.writes.len() as u64;
        unsettled.rev().find(|&generation| self.is_zeros(generation) && self.may_hold(at, generation))
    }

    fn is_zeros(&self, generation: u64) -> bool {
        self.write(generation).is_none_or(|write| write.zeros)
    }

    /// All that the crash left is known. Gives what became of the writes in flight.
    pub fn settle(&mut self) -> InFlight {
        let mut fate = InFlight::default();
        for (generation, found) in std::mem::take(&mut self.unanswered) {
            let sectors = self.write(generation).map_or(0, |write| write.sectors.end - write.sectors.start);
            match found {
                0 => fate.absent += 1,
                _ if found == sectors => fate.whole += 1,
                _ => fate.torn += 1,
            }
        }
        self.settled = self.writes.len() as u64;
        self.in_flight.clear();
        self.flushed += self.cached.len();
        self.cached.clear();
        fate
    }

    fn identify(&self, sector: u64, bytes: &[u8]) -> Found {
        if bytes.iter().all(|&byte| byte == 0) {
            return Found::Zeros;
        }
        let generation = u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
        if *bytes == sector_bytes(self.lun, generation, sector) {
            return Found::Generation(generation);
        }
        Found::Garbage(std::array::from_fn(|at| bytes[at]))
    }
}

/// The bytes of one sector: the generation, the place, and a sequence that depends on both to its last byte.
fn sector_bytes(lun: u16, generation: u64, sector: u64) -> [u8; SECTOR] {
    let place = u64::from(lun) << 48 | sector;
    let mut word = (generation ^ place.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = [0; SECTOR];
    for (at, slot) in bytes.chunks_exact_mut(8).enumerate() {
        let value = match at {
            0 => generation,
            1 => place,
            _ => {
                word = word.rotate_left(23).wrapping_add(0x0000_0100_0000_01b3);
                word
            }
        };
        slot.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

fn index(sector: u64) -> usize {
    usize::try_from(sector).unwrap_or(usize::MAX)
}

fn indexes(sectors: &Range<u64>) -> Range<usize> {
    index(sectors.start)..index(sectors.end)
}

impl InFlight {
    /// Adds another LUN's.
    pub fn add(&mut self, other: &Self) {
        self.whole += other.whole;
        self.torn += other.torn;
        self.absent += other.absent;
    }
}

impl Verdict {
    fn add(&mut self, loss: Loss) {
        self.sectors += 1;
        self.lost_writes.insert(loss.wanted);
        if self.losses.len() < LOSSES_SHOWN {
            self.losses.push(loss);
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sector {} should hold generation {}, holds ", self.sector, self.wanted)?;
        match &self.found {
            Found::Generation(generation) => write!(f, "generation {generation}"),
            Found::Zeros => f.write_str("zeros"),
            Found::Garbage(bytes) => write!(f, "what nobody wrote, or a torn sector: {bytes:02x?}..."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 64 * SECTOR as u64;

    fn write(ledger: &mut Ledger, lun: &mut [u8], sectors: Range<u64>, fua: bool) -> u64 {
        let (generation, data) = ledger.begin_write(sectors.clone(), fua).unwrap();
        lun[index(sectors.start) * SECTOR..index(sectors.end) * SECTOR].copy_from_slice(&data);
        generation
    }

    fn crash(ledger: &mut Ledger, lun: &[u8]) -> Verdict {
        let mut verdict = Verdict::default();
        ledger.check_after_crash(0, lun, &mut verdict);
        verdict.in_flight = ledger.settle();
        verdict
    }

    fn put(lun: &mut [u8], from: &[u8], sector: usize) {
        lun[sector * SECTOR..][..SECTOR].copy_from_slice(&from[sector * SECTOR..][..SECTOR]);
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_a_loss() {
        let (mut ledger, mut lun) = (Ledger::new(0, BYTES, false), vec![0; BYTES as usize]);
        let blank = lun.clone();
        let generation = write(&mut ledger, &mut lun, 3..9, false);
        ledger.acknowledge(generation);
        assert_eq!(crash(&mut ledger, &lun).sectors, 0);
        put(&mut lun, &blank, 5);
        let verdict = crash(&mut ledger, &lun);
        assert_eq!((verdict.sectors, verdict.lost_writes), (1, BTreeSet::from([generation])));
    }

    #[test]
    fn in_flight_is_old_or_new_by_sector_and_then_stays() {
        let (mut ledger, mut lun) = (Ledger::new(0, BYTES, false), vec![0; BYTES as usize]);
        let old = write(&mut ledger, &mut lun, 0..8, false);
        ledger.acknowledge(old);
        let before = lun.clone();
        write(&mut ledger, &mut lun, 0..4, false);
        let after = lun.clone();
        put(&mut lun, &before, 2);
        let verdict = crash(&mut ledger, &lun);
        assert_eq!((verdict.sectors, verdict.in_flight), (0, InFlight { whole: 0, torn: 1, absent: 0 }));
        assert_eq!(crash(&mut ledger, &lun).sectors, 0);
        assert_eq!(crash(&mut ledger, &after).sectors, 1);
        assert_eq!(crash(&mut ledger, &before).sectors, 3);
    }

    #[test]
    fn only_what_was_in_flight_may_be_unknown() {
        let (mut ledger, mut lun) = (Ledger::new(0, BYTES, false), vec![0; BYTES as usize]);
        let old = write(&mut ledger, &mut lun, 0..16, false);
        ledger.acknowledge(old);
        write(&mut ledger, &mut lun, 0..12, false);
        assert!(ledger.replace_unknown(0..8));
        assert!(!ledger.replace_unknown(8..16), "sectors 12 to 15 were acknowledged");
        lun[..8 * SECTOR].fill(0);
        assert_eq!(crash(&mut ledger, &lun).sectors, 0);
    }

    #[test]
    fn torn_sectors_and_other_places_are_garbage() {
        let (mut ledger, mut lun) = (Ledger::new(0, BYTES, false), vec![0; BYTES as usize]);
        let generation = write(&mut ledger, &mut lun, 0..2, false);
        let good = lun.clone();
        ledger.acknowledge(generation);
        lun[SECTOR - 1] ^= 1;
        assert_eq!(crash(&mut ledger, &lun).sectors, 1);
        lun[..SECTOR].copy_from_slice(&good[SECTOR..2 * SECTOR]);
        assert_eq!(crash(&mut ledger, &lun).sectors, 1);
        assert_eq!(crash(&mut Ledger::new(1, BYTES, false), &good).sectors, 2);
    }

    #[test]
    fn a_cached_write_may_go_until_a_later_flush_or_fua() {
        let (mut ledger, mut lun) = (Ledger::new(0, BYTES, true), vec![0; BYTES as usize]);
        let blank = lun.clone();
        let first = write(&mut ledger, &mut lun, 0..1, false);
        ledger.acknowledge(first);
        let mark = ledger.begin_flush();
        let with_first = lun.clone();
        let second = write(&mut ledger, &mut lun, 0..1, false);
        ledger.acknowledge(second);
        let durably = write(&mut ledger, &mut lun, 1..2, true);
        ledger.acknowledge(durably);
        assert_eq!(ledger.end_flush(mark), 1);
        let mut kept = with_first.clone();
        put(&mut kept, &lun, 1);
        assert_eq!(crash(&mut ledger, &kept).sectors, 0);
        assert_eq!(crash(&mut ledger, &lun).sectors, 1, "what a crash took came back");
        assert_eq!(crash(&mut ledger, &with_first).sectors, 1, "FUA was for nothing");
        assert_eq!(crash(&mut ledger, &blank).sectors, 2, "the flush was for nothing");
    }

    #[test]
    fn zeros_are_a_write_like_any_other() {
        let (mut ledger, mut lun) = (Ledger::new(0, BYTES, false), vec![0; BYTES as usize]);
        let blank = lun.clone();
        let generation = write(&mut ledger, &mut lun, 0..4, false);
        ledger.acknowledge(generation);
        ledger.begin_zeros(0..2).unwrap();
        let mut half = lun.clone();
        put(&mut half, &blank, 1);
        assert_eq!(crash(&mut ledger, &half).sectors, 0);
        assert_eq!(crash(&mut ledger, &lun).sectors, 1, "the zeros stay");
        let generation = ledger.begin_zeros(0..4).unwrap();
        ledger.acknowledge(generation);
        assert_eq!(ledger.end_read(&(0..4), &blank[..4 * SECTOR]).sectors, 0);
        assert_eq!(crash(&mut ledger, &half).sectors, 3, "acknowledged zeros are gone");
        assert_eq!(crash(&mut ledger, &blank).sectors, 0);
    }

    #[test]
    fn what_touches_is_not_in_flight_together() {
        let mut ledger = Ledger::new(0, BYTES, false);
        let (generation, _) = ledger.begin_write(4..8, false).unwrap();
        assert!(ledger.begin_write(7..9, false).is_none());
        assert!(!ledger.begin_read(&(0..5)));
        assert!(ledger.begin_read(&(8..9)));
        ledger.acknowledge(generation);
        assert!(ledger.begin_write(7..8, false).is_some());
    }
}
