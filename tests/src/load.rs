//! What do clients do to a LUN that may be killed at any moment? Writes of all sizes, several in flight each, zeros,
//! reads and flushes in between; every acknowledgement goes into the LUN's [`Ledger`] before anything follows from it.

use crate::ledger::{Ledger, SECTOR, Verdict};
use crate::nbd::{Connection, Initiator, Request};
use crate::seed::Seed;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Requests that one client keeps in flight; qemu-nbd takes 16.
const DEPTH: usize = 10;
/// How often a client looks for something to do that touches nothing in flight before it waits for a reply.
const TRIES: u32 = 8;
/// Where all clients write again and again: within few stripes, so that they meet.
const HOT_SECTORS: u64 = 512;
const SECTORS_PER_BLOCK: u64 = 8;
/// What is read back at a time.
const READ_SECTORS: u64 = 4096;
/// Sectors of the blocks in which an array loses what it cannot know.
const BLOCK_SECTORS: usize = 8;

/// A LUN's record, shared by those who write to it.
pub type Shared = Arc<Mutex<Ledger>>;

fn lock(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What clients did until the target died.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Writes acknowledged to be durable at once.
    pub durable: u64,
    /// Writes acknowledged from the write cache.
    pub cached: u64,
    /// Of those, made durable by a flush.
    pub flushed: u64,
    /// Writes without an acknowledgement.
    pub in_flight: u64,
    /// Sectors read and compared meanwhile.
    pub sectors_read: u64,
}

impl Tally {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.durable += other.durable;
        self.cached += other.cached;
        self.flushed += other.flushed;
        self.in_flight += other.in_flight;
        self.sectors_read += other.sectors_read;
    }

    /// All writes that were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.durable + self.cached
    }
}

enum Pending {
    Write(u64, bool),
    Read(Range<u64>),
    Flush(usize),
}

/// What the outside tells all clients.
#[derive(Debug, Default)]
struct Signals {
    /// Send nothing more.
    enough: AtomicBool,
    /// From here on errors are the target's death.
    dying: AtomicBool,
}

/// Clients at work, each on a session of its own.
#[derive(Debug)]
pub struct Load {
    initiators: Vec<Initiator>,
    clients: Vec<JoinHandle<Result<Tally>>>,
    signals: Arc<Signals>,
}

impl Load {
    /// Starts a client for each LUN named (URL and record; the same LUN may be named more than once).
    pub fn start(luns: &[(String, Shared)], dir: &Path, seed: &mut Seed) -> Result<Self> {
        let mut load = Self { initiators: Vec::new(), clients: Vec::new(), signals: Arc::default() };
        for (number, (url, _)) in luns.iter().enumerate() {
            load.initiators.push(Initiator::start(url, dir, &format!("client{number}"))?);
        }
        for (initiator, (_, ledger)) in load.initiators.iter_mut().zip(luns) {
            let mut client = Client {
                connection: initiator.connect()?,
                cursor: seed.below(lock(ledger).sectors()),
                ledger: Arc::clone(ledger),
                signals: Arc::clone(&load.signals),
                seed: Seed::new(seed.next_u64()),
                pending: HashMap::new(),
                next_handle: 0,
                tally: Tally::default(),
            };
            load.clients.push(std::thread::spawn(move || client.run()));
        }
        Ok(load)
    }

    /// Whether all clients are still at it: one that has ended has failed.
    pub fn working(&self) -> bool {
        !self.clients.iter().any(JoinHandle::is_finished)
    }

    /// Lets what is in flight come to its end and sends nothing more.
    pub fn drain(&mut self) -> Result<Tally> {
        self.signals.enough.store(true, Ordering::SeqCst);
        self.join()
    }

    /// To be said before the target is killed.
    pub fn expect_death(&self) {
        self.signals.dying.store(true, Ordering::SeqCst);
    }

    /// The target is dead: ends the sessions, so that nothing in flight is sent again to the next daemon.
    pub fn end(mut self) -> Result<Tally> {
        for initiator in &mut self.initiators {
            initiator.kill();
        }
        self.join()
    }

    fn join(&mut self) -> Result<Tally> {
        let mut tally = Tally::default();
        for client in self.clients.drain(..) {
            let one = client.join().ok().context("a client panicked")??;
            tally.add(&one);
        }
        Ok(tally)
    }
}

struct Client {
    connection: Connection,
    ledger: Shared,
    signals: Arc<Signals>,
    seed: Seed,
    cursor: u64,
    pending: HashMap<u64, Pending>,
    next_handle: u64,
    tally: Tally,
}

impl Client {
    fn run(&mut self) -> Result<Tally> {
        let mut sending = true;
        loop {
            while sending && self.pending.len() < DEPTH && !self.signals.enough.load(Ordering::SeqCst) {
                match self.send_something()? {
                    Sent::Yes => {}
                    Sent::Nothing => break,
                    Sent::Gone => sending = false,
                }
            }
            if self.pending.is_empty() {
                if !sending || self.signals.enough.load(Ordering::SeqCst) {
                    break;
                }
                std::thread::yield_now();
            } else if !self.take_a_reply()? {
                break;
            }
        }
        let dying = self.signals.dying.load(Ordering::SeqCst);
        ensure!(dying || self.pending.is_empty(), "qemu-nbd went away by itself");
        self.tally.in_flight =
            self.pending.values().filter(|p| matches!(p, Pending::Write(..))).count() as u64;
        Ok(self.tally)
    }

    fn send_something(&mut self) -> Result<Sent> {
        let write_cache = lock(&self.ledger).write_cache();
        let kind = self.seed.below(100);
        if kind < if write_cache { 4 } else { 1 } {
            let mark = lock(&self.ledger).begin_flush();
            return self.send(Pending::Flush(mark), 0, &Request::Flush);
        }
        for _ in 0..TRIES {
            let sectors = self.somewhere();
            let offset = sectors.start * SECTOR as u64;
            let bytes = u32::try_from((sectors.end - sectors.start) * SECTOR as u64)?;
            if kind < 10 {
                if lock(&self.ledger).begin_read(&sectors) {
                    return self.send(Pending::Read(sectors), offset, &Request::Read(bytes));
                }
            } else if kind < 14 {
                let begun = lock(&self.ledger).begin_zeros(sectors);
                if let Some(generation) = begun {
                    let pending = Pending::Write(generation, !write_cache);
                    return self.send(pending, offset, &Request::Zero(bytes));
                }
            } else {
                let fua = write_cache && self.seed.below(8) == 0;
                let begun = lock(&self.ledger).begin_write(sectors, fua);
                if let Some((generation, data)) = begun {
                    let pending = Pending::Write(generation, fua || !write_cache);
                    return self.send(pending, offset, &Request::Write(&data, fua));
                }
            }
        }
        Ok(Sent::Nothing)
    }

    fn send(&mut self, pending: Pending, offset: u64, request: &Request<'_>) -> Result<Sent> {
        self.next_handle += 1;
        self.pending.insert(self.next_handle, pending);
        let sent = self.connection.send(self.next_handle, offset, request)?;
        Ok(if sent { Sent::Yes } else { Sent::Gone })
    }

    /// Small, odd, sequential, hot, over what was written just now, and whole stripes at once.
    fn somewhere(&mut self) -> Range<u64> {
        let all = lock(&self.ledger).sectors();
        let (start, count) = match self.seed.below(100) {
            0..30 => {
                let blocks = 1 + self.seed.below(8);
                (self.seed.below(all / SECTORS_PER_BLOCK) * SECTORS_PER_BLOCK, blocks * SECTORS_PER_BLOCK)
            }
            30..45 => (self.seed.below(all), 1 + self.seed.below(63)),
            45..65 => {
                let count = 64 << self.seed.below(4);
                self.cursor = (self.cursor + count) % all;
                (self.cursor, count)
            }
            65..83 => (all / 2 + self.seed.below(HOT_SECTORS), 1 + self.seed.below(24)),
            83..94 => {
                let back = self.seed.below(40);
                let recent = lock(&self.ledger).recent(back).unwrap_or(0..64);
                let start = recent.start + self.seed.below(recent.end - recent.start);
                (start.saturating_sub(self.seed.below(12)), 1 + self.seed.below(48))
            }
            _ => {
                let count = 512 * (1 + self.seed.below(4));
                (self.seed.below(all / 128) * 128, count)
            }
        };
        let start = start.min(all - 1);
        start..(start + count).min(all)
    }

    /// Gives `false` when nothing more will come.
    fn take_a_reply(&mut self) -> Result<bool> {
        let Some((handle, error)) = self.connection.receive()? else { return Ok(false) };
        if error != 0 && self.signals.dying.load(Ordering::SeqCst) {
            // The target's death, as qemu tells it: nobody can know what became of this request.
            return Ok(true);
        }
        let pending = self.pending.remove(&handle).context("a reply to nothing")?;
        match pending {
            Pending::Write(generation, durable) => {
                ensure!(error == 0, "write {generation}: error {error}");
                lock(&self.ledger).acknowledge(generation);
                *(if durable { &mut self.tally.durable } else { &mut self.tally.cached }) += 1;
            }
            Pending::Flush(mark) => {
                ensure!(error == 0, "flush: error {error}");
                self.tally.flushed += lock(&self.ledger).end_flush(mark);
            }
            Pending::Read(sectors) => {
                ensure!(error == 0, "read of {sectors:?}: error {error}");
                let mut data = vec![0; usize::try_from(sectors.end - sectors.start)? * SECTOR];
                if !self.connection.receive_data(&mut data)? {
                    return Ok(false);
                }
                let verdict = lock(&self.ledger).end_read(&sectors, &data);
                ensure!(verdict.sectors == 0, "read while writing, {}", describe(&verdict));
                self.tally.sectors_read += sectors.end - sectors.start;
            }
        }
        Ok(true)
    }
}

enum Sent {
    Yes,
    /// All that was tried touches what is in flight.
    Nothing,
    /// The server is gone.
    Gone,
}

/// Reads a whole LUN and compares it with what may be there; see [`Ledger::check_after_crash`].
pub fn check(url: &str, ledger: &Shared, dir: &Path) -> Result<Verdict> {
    let mut initiator = Initiator::start(url, dir, "reader")?;
    let mut connection = initiator.connect()?;
    let mut ledger = lock(ledger);
    let sectors = ledger.sectors();
    if connection.bytes() != sectors * SECTOR as u64 {
        bail!("the LUN has {} bytes now", connection.bytes());
    }
    let mut verdict = Verdict::default();
    for first in (0..sectors).step_by(usize::try_from(READ_SECTORS)?) {
        let count = READ_SECTORS.min(sectors - first);
        let mut data = vec![0; usize::try_from(count)? * SECTOR];
        if connection.read(first * SECTOR as u64, &mut data)? {
            ledger.check_after_crash(first, &data, &mut verdict);
            continue;
        }
        for block in (first..first + count).step_by(BLOCK_SECTORS) {
            check_block(&mut connection, &mut ledger, block, &mut verdict)?;
        }
    }
    verdict.in_flight = ledger.settle();
    Ok(verdict)
}

/// What a power cut together with lost disks leaves of a whole stripe that was being written may be unknowable: it is an error then,
/// until it is written again. Nothing that was acknowledged, and not being overwritten, may be.
fn check_block(
    connection: &mut Connection,
    ledger: &mut Ledger,
    first: u64,
    verdict: &mut Verdict,
) -> Result<()> {
    let mut data = [0; BLOCK_SECTORS * SECTOR];
    if connection.read(first * SECTOR as u64, &mut data)? {
        ledger.check_after_crash(first, &data, verdict);
        return Ok(());
    }
    if !ledger.replace_unknown(first..first + BLOCK_SECTORS as u64) {
        bail!("sectors from {first} cannot be read, though no write of them was in flight");
    }
    verdict.unknown += 1;
    connection.write(first * SECTOR as u64, &[0; BLOCK_SECTORS * SECTOR])
}

/// What was lost, in words.
pub fn describe(verdict: &Verdict) -> String {
    let mut text = format!("{} sectors of {} writes are wrong:", verdict.sectors, verdict.lost_writes.len());
    for loss in &verdict.losses {
        text.push_str(&format!("\n  {loss}"));
    }
    text
}
