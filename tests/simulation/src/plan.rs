//! What is to happen in a run? All of it is drawn from the seed beforehand, as a list that can be shortened.
//!
//! Steps that concern disks name them by a number that is reduced to those the step can be done with when it comes:
//! so a plan with steps left out still makes sense.

use std::ops::Range;

use raid_core::array::Policy;
use raid_core::format::layout::MemberLayout;
use raid_core::geometry::{Geometry, Level};

use crate::disk::{Make, SECTOR};
use crate::model::Place;
use crate::rng::Rng;

/// How much is to happen in a run.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests of clients.
    pub operations: usize,
    /// Power cuts, without those that come during a recovery from another.
    pub crashes: usize,
    /// Only this level.
    pub level: Option<u32>,
    /// Only this policy.
    pub policy: Option<Policy>,
    /// `create` makes arrays with a journal.
    pub journal: bool,
    /// Disks also lie: sectors rot, writes get lost or land elsewhere. The engine promises nothing there as long as it
    /// keeps no checksums.
    pub lies: bool,
}

/// The array and its disks.
#[derive(Clone, Debug)]
pub struct Shape {
    pub(crate) level: Level,
    pub(crate) policy: Policy,
    pub(crate) members: usize,
    pub(crate) disks: usize,
    pub(crate) spares: usize,
    pub(crate) chunk_bytes: u64,
    pub(crate) make: Make,
    /// Members are not zeroed when the array is made.
    pub(crate) used_disks: bool,
    pub(crate) volumes: Vec<(u64, bool)>,
    pub(crate) latency_ms: u64,
    pub(crate) depth: usize,
    /// Faults may go beyond what the level bears: then it may fail, and must not lie.
    pub(crate) beyond: bool,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read and check.
    Read(Place),
    /// Write; durably or into caches.
    Write(Place, bool),
    /// Make zeros; durably or not.
    Zero(Place, bool),
    /// Give space back.
    Discard(Place),
    /// Make everything acknowledged durable.
    Flush(usize),
    /// Nothing new begins for so many milliseconds.
    Pause(u64),
    /// Wait until nothing is under way, in the background either.
    Settle,
    /// Ask how it is.
    Status,
    /// Fail a member by command.
    Fail(u64),
    /// Remove a failed member or a spare.
    Remove(u64),
    /// Add a disk that is not in use.
    Add(u64),
    /// A disk goes away.
    Vanish(u64),
    /// A disk that went away is back, as it was.
    Return(u64),
    /// Sectors of a member cannot be read any more: which member, where (in sectors of its used data), how many.
    Spoil(u64, u64, u64),
    /// The next writes to a member fail.
    FailWrites(u64, u32),
    /// The next flush of a member fails.
    FailFlush(u64),
    /// The next reads of a member fail, and would not a moment later.
    FailReads(u64, u32),
    /// A member acknowledges a write and forgets it.
    LoseWrite(u64),
    /// A member's next write lands so many sectors from where it belongs.
    Misdirect(u64, u64),
    /// A sector of a member changes by itself: which member, where (in sectors of its used data).
    Rot(u64, u64),
    /// A member is slow (or, at 1, no longer).
    Slow(u64, u64),
    /// Stop and start again; first, perhaps, with too few members.
    Restart(bool),
    /// The power goes.
    Cut(Cut),
}

/// A power cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// After so many steps of the disks that are not reads.
    pub after: u64,
    /// Or after so many milliseconds, if it is not 0.
    pub after_ms: u64,
    /// Or as soon as one of several durable writes that are under way together has ended: the first of them.
    pub apart: Option<Apart>,
    /// Disks that do not come back with the power.
    pub lose: u64,
    /// Disks that went away earlier come back with it.
    pub give_back: bool,
    /// Where the write hole is open: cut although it is.
    pub careless: bool,
    /// Further cuts, each in the life after the one before.
    pub again: Vec<Again>,
    /// The first start is tried with too few members.
    pub starve: bool,
}

/// What is to come apart at a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// A commit's copies in the journal, or those of an atomic write's record on a mirror.
    Copies,
    /// The pieces of a stripe, or the copies of a unit, in their places.
    Places,
}

/// A power cut that follows another, without anything done about the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// So many steps that are not reads after the start began: in the recovery.
    Starting(u64),
    /// When of the first commit after the start began one copy is there, and the others are under way: in the recovery, if it
    /// commits anything.
    Committing,
    /// So many steps of any kind after clients were served.
    Serving(u64),
    /// As soon as clients were served and have read what the cut before left in doubt, with nothing written meanwhile.
    Seen,
    /// So many steps after all was read back and mended, with nothing written meanwhile.
    Mended(u64),
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it was drawn from.
    pub seed: u64,
    /// The array and its disks.
    pub shape: Shape,
    /// What happens.
    pub steps: Vec<Step>,
}

impl Shape {
    /// How people call it.
    #[must_use]
    pub fn kind(&self) -> (Level, Policy) {
        (self.level, self.policy)
    }

    /// The write hole can be open: what a crash left half-written is not known once a member is missing.
    pub(crate) fn has_hole(&self) -> bool {
        self.level.has_parity() && self.policy != Policy::Journal
    }

    /// The members' rings hold something: the journal, or the record of a mirror's atomic write.
    fn has_records(&self) -> bool {
        self.policy == Policy::Journal || matches!(self.level, Level::Raid1 | Level::Raid10)
    }

    pub(crate) fn layout(&self) -> Option<MemberLayout> {
        MemberLayout::for_member(self.make.size_bytes).ok()
    }

    /// Bytes of a member where this is written.
    pub(crate) fn region(&self, apart: Apart) -> Option<Range<u64>> {
        let layout = self.layout()?;
        match apart {
            Apart::Copies if !self.has_records() => None,
            Apart::Copies => Some(layout.journal.offset..layout.journal.offset + layout.journal.len),
            Apart::Places => Some(layout.data_offset..self.make.size_bytes),
        }
    }

    pub(crate) fn geometry(&self) -> Option<Geometry> {
        let layout = self.layout()?;
        let chunk = if self.level == Level::Raid1 { 0 } else { self.chunk_bytes };
        let component = raid_core::format::layout::component_bytes([&layout], chunk);
        Geometry::new(self.level, self.members, self.chunk_bytes, component).ok()
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { level, policy, members, spares, disks, chunk_bytes, latency_ms, depth, .. } = self;
        let (size, block) = (self.make.size_bytes >> 20, self.make.block_bytes);
        let beyond = if self.beyond { ", faults beyond what it bears" } else { "" };
        let zeroed = if self.make.cheap_zeroing { "" } else { ", used disks" };
        write!(
            f,
            "{level} of {members} (+{spares} spares, {disks} disks of {size} MiB, sectors of {block}{zeroed}), {policy:?}, \
             chunks of {} KiB, volumes {:?}, up to {latency_ms} ms a disk operation, {depth} at once{beyond}",
            chunk_bytes >> 10,
            self.volumes
        )
    }
}

impl Plan {
    /// Draw a run from its seed.
    #[must_use]
    pub fn draw(seed: u64, limits: &Limits) -> Self {
        let mut rng = Rng::new(seed, 2);
        let shape = draw_shape(&mut rng, limits);
        let mut drawer = Drawer { rng, shape: &shape, steps: Vec::new(), mood: Mood::default() };
        drawer.draw(limits);
        let steps = drawer.steps;
        Self { seed, shape, steps }
    }
}

fn draw_shape(rng: &mut Rng, limits: &Limits) -> Shape {
    use Level::{Raid0, Raid1, Raid5, Raid6, Raid10};
    let weighted = [
        Raid5, Raid5, Raid5, Raid5, Raid5, Raid6, Raid6, Raid6, Raid6, Raid10, Raid10, Raid10, Raid1, Raid1,
        Raid1, Raid0,
    ];
    let drawn = rng.pick(&weighted);
    let level = limits.level.and_then(Level::from_number).unwrap_or(drawn);
    let most = match level {
        Raid1 => 3,
        _ => 5,
    };
    let minimum = usize::from(level.minimum_members());
    let mut members = (minimum + rng.below(4) as usize).min(most.max(minimum));
    if rng.chance(6) {
        members = (minimum + rng.below(16) as usize).min(16);
    }
    let drawn = match level {
        Raid0 => Policy::None,
        Raid5 | Raid6 if limits.journal && rng.chance(65) => Policy::Journal,
        _ if rng.chance(20) => Policy::None,
        _ => Policy::Bitmap,
    };
    let policy = if level == Raid0 { Policy::None } else { limits.policy.unwrap_or(drawn) };
    let spares = if level == Raid0 { 0 } else { rng.below(3) as usize };
    let make = Make {
        size_bytes: (16 << 20) + rng.below(3) * (512 << 10),
        block_bytes: if rng.chance(12) { 4096 } else { SECTOR as u32 },
        cheap_zeroing: !rng.chance(15),
        discards: rng.chance(70),
    };
    let mut shape = Shape {
        level,
        policy,
        members,
        disks: members + spares + 1 + rng.below(2) as usize,
        spares,
        chunk_bytes: 4096 << rng.below(5),
        make,
        used_disks: !make.cheap_zeroing,
        volumes: Vec::new(),
        latency_ms: rng.pick(&[0, 1, 3, 3, 20, 200]),
        depth: 1 + rng.below(16) as usize,
        beyond: rng.chance(12),
    };
    let stripe = shape.geometry().map_or(1 << 20, |geometry| u64::from(geometry.stripe_data_bytes()));
    let count = 1 + rng.below(2);
    shape.volumes =
        (0..count).map(|_| (rng.between(1, 8).max(stripe >> 16) * (256 << 10), rng.chance(50))).collect();
    shape
}

/// How clients behave for a while.
#[derive(Clone, Copy, Debug, Default)]
struct Mood {
    left: u64,
    pattern: u64,
    volume: usize,
    next: u64,
    hot: u64,
    read_percent: u64,
    durable_percent: u64,
    flush_percent: u64,
    zero_percent: u64,
    longest: u64,
}

struct Drawer<'a> {
    rng: Rng,
    shape: &'a Shape,
    steps: Vec<Step>,
    mood: Mood,
}

impl Drawer<'_> {
    fn draw(&mut self, limits: &Limits) {
        let operations = limits.operations as u64;
        let mut cuts: Vec<u64> =
            (0..limits.crashes).map(|_| self.rng.between(operations / 40, operations)).collect();
        cuts.sort_unstable();
        let mut cuts = cuts.into_iter().peekable();
        for operation in 0..operations {
            while cuts.next_if(|&at| at <= operation).is_some() {
                let mut cut = self.cut();
                if self.rng.chance(if cut.apart == Some(Apart::Copies) { 60 } else { 25 }) {
                    // The journal is empty by then: the commit that is cut short is its only one.
                    self.steps.push(Step::Pause(2000));
                    cut.after = self.rng.between(1, 8);
                }
                self.steps.push(Step::Cut(cut));
                if self.rng.chance(25) {
                    // What an administrator or a fault sets off is short: only so is it met.
                    let step = self.happening();
                    self.steps.push(step);
                }
            }
            if self.rng.below(1000) < 30 {
                let lie = limits.lies && self.rng.chance(10);
                let step = if lie { self.lie() } else { self.happening() };
                self.steps.push(step);
            }
            let step = self.request();
            self.steps.push(step);
        }
        for _ in cuts {
            let cut = self.cut();
            self.steps.push(Step::Cut(cut));
        }
    }

    fn cut(&mut self) -> Cut {
        let rng = &mut self.rng;
        let after = match rng.below(10) {
            0..4 => rng.between(1, 40),
            4..8 => rng.between(1, 600),
            _ => rng.between(1, 6000),
        };
        let again = match rng.below(10) {
            0..5 => 0,
            5..8 => 1,
            _ => 2,
        };
        let again = (0..again)
            .map(|_| match rng.below(20) {
                0..2 => Again::Starting(rng.between(1, 40)),
                2 => Again::Committing,
                3..8 => Again::Starting(rng.between(20, 160)),
                8..10 => Again::Starting(rng.between(1, 1000)),
                10..12 => Again::Serving(rng.between(1, 200)),
                12 => Again::Serving(rng.between(1, 4000)),
                13..16 => Again::Seen,
                _ => Again::Mended(rng.between(1, 4)),
            })
            .collect();
        Cut {
            after,
            after_ms: if rng.chance(20) { rng.between(1, 9_000) } else { 0 },
            apart: match rng.below(10) {
                0..2 => Some(Apart::Copies),
                2..4 => Some(Apart::Places),
                _ => None,
            },
            lose: if rng.chance(30) { rng.between(1, 2) } else { 0 },
            give_back: rng.chance(60),
            careless: rng.chance(2),
            again,
            starve: rng.chance(15),
        }
    }

    fn happening(&mut self) -> Step {
        let rng = &mut self.rng;
        let pick = rng.next() >> 32;
        match rng.below(100) {
            0..14 => Step::Pause(rng.between(1, 200)),
            14..20 => Step::Pause(rng.between(1_000, 12_000)),
            20..24 => Step::Settle,
            24..30 => Step::Status,
            30..38 => Step::Fail(pick),
            38..44 => Step::Remove(pick),
            44..58 => Step::Add(pick),
            58..66 => Step::Vanish(pick),
            66..74 => Step::Return(pick),
            74..81 => Step::Spoil(pick, rng.next() >> 32, rng.between(1, 64)),
            81..84 => Step::FailReads(pick, rng.between(1, 4) as u32),
            84..88 => Step::FailWrites(pick, rng.between(1, 3) as u32),
            88..90 => Step::FailFlush(pick),
            90..97 => Step::Slow(pick, rng.pick(&[1, 1, 5, 50, 500])),
            _ => Step::Restart(rng.chance(30)),
        }
    }

    fn lie(&mut self) -> Step {
        let rng = &mut self.rng;
        let pick = rng.next() >> 32;
        match rng.below(3) {
            0 => Step::LoseWrite(pick),
            1 => Step::Misdirect(pick, rng.between(1, 64)),
            _ => Step::Rot(pick, rng.next() >> 32),
        }
    }

    fn request(&mut self) -> Step {
        if self.mood.left == 0 {
            self.mood = self.draw_mood();
        }
        self.mood.left -= 1;
        let Mood { volume, read_percent, durable_percent, flush_percent, .. } = self.mood;
        if self.rng.chance(flush_percent) {
            return Step::Flush(volume);
        }
        let place = self.place();
        if self.rng.chance(read_percent) {
            return Step::Read(place);
        }
        let durable = self.rng.chance(durable_percent);
        match (self.rng.chance(self.mood.zero_percent), self.rng.chance(33)) {
            (true, true) => Step::Discard(place),
            (true, false) => Step::Zero(place, durable),
            (false, _) => Step::Write(place, durable),
        }
    }

    fn draw_mood(&mut self) -> Mood {
        let stripe = self.stripe_sectors();
        let rng = &mut self.rng;
        let volume = rng.below(self.shape.volumes.len() as u64) as usize;
        let sectors = self.shape.volumes[volume].0 / SECTOR;
        Mood {
            left: rng.between(20, 300),
            pattern: rng.below(6),
            volume,
            next: rng.below(sectors),
            hot: rng.below(sectors),
            read_percent: rng.pick(&[5, 20, 40, 80]),
            durable_percent: rng.pick(&[0, 10, 50, 100]),
            flush_percent: rng.pick(&[0, 1, 4, 15]),
            zero_percent: rng.pick(&[0, 3, 3, 10, 40]),
            longest: rng.pick(&[1, 8, 16, 64, 128, stripe, 3 * stripe]).min(1024),
        }
    }

    fn stripe_sectors(&self) -> u64 {
        self.shape.geometry().map_or(128, |geometry| u64::from(geometry.stripe_data_bytes()) / SECTOR)
    }

    fn place(&mut self) -> Place {
        let grain = u64::from(self.shape.make.block_bytes) / SECTOR;
        let stripe = self.stripe_sectors();
        let rng = &mut self.rng;
        let Mood { pattern, volume, next, hot, longest, .. } = self.mood;
        let whole = self.shape.volumes[volume].0 / SECTOR;
        let length = if rng.chance(50) { rng.between(1, longest.min(16)) } else { rng.between(1, longest) };
        let (start, length) = match pattern {
            0 => (next, length),
            1 => (hot + rng.below(64), length),
            2 => (rng.below(whole) / stripe * stripe, stripe.min(2048) * rng.between(1, 2)),
            3 => (hot / stripe * stripe + rng.below(stripe), rng.between(1, stripe.min(1024))),
            _ => (rng.below(whole), length),
        };
        let length = length.next_multiple_of(grain).min(whole);
        let start = start.min(whole - length) / grain * grain;
        self.mood.next = if start + length >= whole { 0 } else { start + length };
        Place { volume, sector: start, sectors: length }
    }
}
