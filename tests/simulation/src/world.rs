//! What all disks of a run share: power, the count of their steps, latencies, and the hash of all that happened.
//!
//! A step is an operation's arrival at a disk or its end there. A power cut is armed for a step (or comes at a time of the
//! harness's choice): from that step on no disk takes or ends anything, every operation hangs, and the harness is
//! woken to drop the engine where it stands. So a cut hits any await between two steps of any disk.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::rng::Rng;

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    DurableWrite,
    Flush,
    Zero,
    Discard,
}

/// One step, as it goes into the hash.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) ends: bool,
    pub(crate) disk: usize,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// No operation takes longer.
const SLOWEST_MS: u64 = 5_000;

/// When the power is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// After so many steps.
    Steps(u64),
    /// After so many steps that can leave something behind: reads are not counted.
    Changes(u64),
    /// When a durable write to these bytes of a disk has ended, and another is still under way.
    Apart(Range<u64>),
}

struct State {
    rng: Rng,
    powered: bool,
    steps: u64,
    changes: u64,
    writes: u64,
    cut_at: Option<When>,
    /// Durable writes under way: disk and place.
    durable: Vec<(usize, u64)>,
    hash: u64,
    /// Longest latency, ms; 0 for a world where nothing takes time.
    latency_ms: u64,
    before_ms: u64,
    since: Option<Instant>,
    verbose: bool,
}

/// See the module.
pub(crate) struct World {
    state: Mutex<State>,
    cut: tokio::sync::Notify,
}

impl World {
    pub(crate) fn new(seed: u64, latency_ms: u64, verbose: bool) -> Self {
        let state = State {
            rng: Rng::new(seed, 1),
            powered: true,
            steps: 0,
            changes: 0,
            writes: 0,
            cut_at: None,
            durable: Vec::new(),
            hash: seed,
            latency_ms,
            before_ms: 0,
            since: None,
            verbose,
        };
        Self { state: Mutex::new(state), cut: tokio::sync::Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A machine starts, in a runtime of its own: time goes on from where the last one stopped.
    pub(crate) fn power_on(&self) {
        let mut state = self.state();
        state.powered = true;
        state.cut_at = None;
        state.durable.clear();
        state.since = Some(Instant::now());
    }

    /// The machine is gone; its clock with it.
    pub(crate) fn power_off(&self, now_ms: u64) {
        let mut state = self.state();
        state.powered = false;
        state.cut_at = None;
        state.before_ms = now_ms;
        state.since = None;
    }

    /// Virtual time since the run began.
    pub(crate) fn now_ms(&self) -> u64 {
        let state = self.state();
        now_ms(&state)
    }

    /// Cut the power so many steps from now.
    pub(crate) fn arm(&self, when: When) {
        let mut state = self.state();
        state.cut_at = Some(match when {
            When::Steps(steps) => When::Steps(state.steps + steps.max(1)),
            When::Changes(changes) => When::Changes(state.changes + changes.max(1)),
            When::Apart(region) => When::Apart(region),
        });
    }

    pub(crate) fn is_armed(&self) -> bool {
        self.state().cut_at.is_some()
    }

    /// Cut the power now.
    pub(crate) fn cut_now(&self) {
        self.state().powered = false;
        self.cut.notify_one();
    }

    /// Ends when the power is cut.
    pub(crate) async fn until_cut(&self) {
        while self.state().powered {
            self.cut.notified().await;
        }
    }

    /// A disk takes a step. False if there is no power: then nothing happens any more.
    pub(crate) fn step(&self, event: Event) -> bool {
        let mut state = self.state();
        if !state.powered {
            return false;
        }
        let now = now_ms(&state);
        state.steps += 1;
        state.changes += u64::from(event.kind != Kind::Read);
        state.writes += u64::from(!event.ends && event.kind != Kind::Read);
        let word = (event.kind as u64) << 1 | u64::from(event.ends) | (event.disk as u64) << 8 | now << 16;
        for value in [word, event.offset, event.length] {
            mix(&mut state.hash, value);
        }
        if state.verbose {
            let Event { kind, ends, disk, offset, length } = event;
            let phase = if ends { "ends" } else { "begins" };
            println!(
                "{now:>8} ms  step {:>7}  disk {disk:>2} {kind:?} {offset}+{length} {phase}",
                state.steps
            );
        }
        let apart = state.tell_apart(event);
        let is_due = match &state.cut_at {
            Some(When::Steps(at)) => state.steps >= *at,
            Some(When::Changes(at)) => state.changes >= *at,
            Some(When::Apart(_)) | None => false,
        };
        if is_due {
            state.powered = false;
            self.cut.notify_one();
            return false;
        }
        if apart {
            // The last thing that comes to its end.
            state.powered = false;
            self.cut.notify_one();
        }
        true
    }

    /// How long an operation of a disk this slow takes, ms; often no time at all.
    pub(crate) fn latency(&self, slowness: u64) -> u64 {
        let mut state = self.state();
        let longest = state.latency_ms;
        if slowness > 1 {
            return state.rng.between(1, (longest.max(1) * slowness).min(SLOWEST_MS));
        }
        if longest == 0 || state.rng.chance(40) { 0 } else { state.rng.between(1, longest) }
    }

    /// Choose at random, in the order in which the run comes to its choices.
    pub(crate) fn random<T>(&self, choose: impl FnOnce(&mut Rng) -> T) -> T {
        choose(&mut self.state().rng)
    }

    /// Put something that is not a disk's step into the hash, and into the trace.
    pub(crate) fn note(&self, value: u64, text: impl FnOnce() -> String) {
        let mut state = self.state();
        mix(&mut state.hash, value);
        if state.verbose {
            println!("{:>8} ms  {}", now_ms(&state), text());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.state().hash
    }

    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// Writes of any kind that disks have been asked for.
    pub(crate) fn writes(&self) -> u64 {
        self.state().writes
    }
}

impl State {
    /// Whether this is the end that a cut waits for.
    fn tell_apart(&mut self, event: Event) -> bool {
        if event.kind != Kind::DurableWrite {
            return false;
        }
        let write = (event.disk, event.offset);
        if !event.ends {
            self.durable.push(write);
            return false;
        }
        if let Some(at) = self.durable.iter().position(|other| *other == write) {
            self.durable.swap_remove(at);
        }
        let Some(When::Apart(region)) = &self.cut_at else { return false };
        region.contains(&event.offset) && self.durable.iter().any(|(_, offset)| region.contains(offset))
    }
}

fn now_ms(state: &State) -> u64 {
    state.before_ms + state.since.map_or(0, |since| since.elapsed().as_millis() as u64)
}

fn mix(hash: &mut u64, value: u64) {
    *hash = (hash.rotate_left(23) ^ value).wrapping_mul(0x2545_f491_4f6c_dd1d);
}
