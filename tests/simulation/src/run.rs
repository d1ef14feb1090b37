//! One run: machines that start, work, die, and start again, over the same disks, as a plan says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use raid_core::array::{Array, ArrayStatus, MemberState};
use raid_core::geometry::{Geometry, MemberIndex, MemberSet};

use crate::check;
use crate::disk::Disk;
use crate::life::{self, End};
use crate::model::Model;
use crate::plan::{Again, Cut, Plan};
use crate::report::Stats;
use crate::violation::Violation;
use crate::world::World;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of every step of every disk, with its time: two runs of one seed give the same.
    pub hash: u64,
    /// What happened in it.
    pub stats: Stats,
    /// The promise that was broken first.
    pub violation: Option<Violation>,
}

/// A run under way.
pub(crate) struct Sim {
    pub(crate) plan: Plan,
    pub(crate) geometry: Geometry,
    pub(crate) world: Arc<World>,
    pub(crate) disks: Vec<Arc<Disk>>,
    pub(crate) model: RefCell<Model>,
    pub(crate) stats: RefCell<Stats>,
    pub(crate) violation: RefCell<Option<Violation>>,
    /// The machine's array, while it runs.
    pub(crate) array: RefCell<Option<Array>>,
    pub(crate) created: Cell<bool>,
    pub(crate) cursor: Cell<usize>,
    pub(crate) outstanding: Cell<usize>,
    pub(crate) ended: tokio::sync::Notify,
    pub(crate) stopping: Cell<bool>,
    /// Disks that carry the array's metadata, current or not.
    pub(crate) ours: RefCell<BTreeSet<usize>>,
    /// Disks that the array may have dropped without our having seen it yet.
    pub(crate) suspects: RefCell<BTreeSet<usize>>,
    /// What each slot held in sync when last seen.
    pub(crate) in_sync: RefCell<Vec<Option<usize>>>,
    /// What else is to happen when the power goes.
    pub(crate) cut: RefCell<Option<Cut>>,
    /// Cuts that wait for the next starts.
    pub(crate) due: RefCell<VecDeque<Again>>,
    /// An administrator's command is being carried out.
    pub(crate) managing: Cell<bool>,
    /// Disks whose loss at the next power cut would tell most: those that alone have the commit that was under way at the last
    /// one, and those that lack what was being written to their places.
    pub(crate) telling: RefCell<Vec<usize>>,
    pub(crate) starve: Cell<bool>,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// Have panics kept for the run they happen in, instead of printed. Tasks of the engine may panic where nobody asks for
/// their outcome.
pub fn keep_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let otherwise = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !RUNNING.get() {
                return otherwise(info);
            }
            PANIC.with(|kept| {
                kept.borrow_mut().get_or_insert(info.to_string());
            });
        }));
    });
}

/// Carry out a plan.
#[must_use]
pub fn run(plan: &Plan, verbose: bool) -> Outcome {
    PANIC.with(|kept| kept.borrow_mut().take());
    let Some(geometry) = plan.shape.geometry() else {
        let violation = Some(Violation::Panic(format!("no array has this shape: {}", plan.shape)));
        return Outcome { hash: 0, stats: Stats::default(), violation };
    };
    let sim = Rc::new(Sim::new(plan, geometry, verbose));
    let lives = std::panic::AssertUnwindSafe(|| while sim.live() {});
    RUNNING.set(true);
    let panicked = std::panic::catch_unwind(lives).is_err();
    RUNNING.set(false);
    sim.take_panic(panicked);
    if panicked {
        // Its array may hold anything: leave it where it is.
        std::mem::forget(sim.array.borrow_mut().take());
    }
    for disk in &sim.disks {
        disk.release();
    }
    let mut stats = sim.stats.borrow().clone();
    stats.disk_steps = sim.world.steps();
    let violation = sim.violation.borrow().clone();
    Outcome { hash: sim.world.hash(), stats, violation }
}

impl Sim {
    fn new(plan: &Plan, geometry: Geometry, verbose: bool) -> Self {
        let shape = &plan.shape;
        let world = Arc::new(World::new(plan.seed, shape.latency_ms, verbose));
        let disks: Vec<_> = (0..shape.disks).map(|index| Disk::new(index, shape.make, &world)).collect();
        // Also where creation zeroes its members: spares, and what is added later, are not zeroed then.
        for disk in &disks {
            world.random(|rng| disk.litter(rng));
        }
        let volumes: Vec<u64> = shape.volumes.iter().map(|(bytes, _)| *bytes).collect();
        Self {
            plan: plan.clone(),
            geometry,
            world,
            disks,
            model: RefCell::new(Model::new(&volumes)),
            stats: RefCell::default(),
            violation: RefCell::default(),
            array: RefCell::default(),
            created: Cell::new(false),
            cursor: Cell::new(0),
            outstanding: Cell::new(0),
            ended: tokio::sync::Notify::new(),
            stopping: Cell::new(false),
            ours: RefCell::new((0..shape.members + shape.spares).collect()),
            suspects: RefCell::default(),
            in_sync: RefCell::default(),
            cut: RefCell::default(),
            due: RefCell::default(),
            managing: Cell::new(false),
            telling: RefCell::default(),
            starve: Cell::new(false),
        }
    }

    /// Say what is wrong, and end the run where it stands.
    pub(crate) fn violate(&self, violation: Violation) {
        self.violation.borrow_mut().get_or_insert(violation);
        self.world.cut_now();
    }

    fn take_panic(&self, panicked: bool) {
        let kept = PANIC.with(|kept| kept.borrow_mut().take());
        let text = kept.or_else(|| panicked.then(|| "of unknown cause".to_owned()));
        if let Some(text) = text {
            *self.violation.borrow_mut() = Some(Violation::Panic(text));
        }
    }

    /// A machine's life, from its start to its end. False if it was the last one.
    fn live(self: &Rc<Self>) -> bool {
        let Some(runtime) = runtime() else { return false };
        let tasks = tokio::task::LocalSet::new();
        self.outstanding.set(0);
        self.stopping.set(false);
        self.managing.set(false);
        let (end, now_ms) = tasks.block_on(&runtime, async {
            self.world.power_on();
            let end = tokio::select! {
                biased;
                () = self.world.until_cut() => End::Cut,
                end = life::live(Rc::clone(self)) => end,
            };
            (end, self.world.now_ms())
        });
        drop(tasks);
        drop(runtime);
        self.world.power_off(now_ms);
        self.world.note(end.number(), || format!("the machine's life ends: {end:?}"));
        self.take_panic(false);
        let status = self.bury();
        self.stats.borrow_mut().lives += 1;
        if self.violation.borrow().is_some() {
            return false;
        }
        match end {
            End::Cut => self.after_cut(status.as_ref()),
            End::Stopped { .. } => {}
            End::Finished | End::Refused => {
                self.stats.borrow_mut().virtual_ms = now_ms;
                self.stats.borrow_mut().refused_ends += u64::from(end == End::Refused);
            }
        }
        if let End::Stopped { clean, optimal } = end {
            self.after_stop(clean, optimal);
        }
        self.violation.borrow().is_none() && matches!(end, End::Cut | End::Stopped { .. })
    }

    /// Take the dead engine apart. Its devices are dead: nothing it does is seen by anyone. Gives what it thought of its
    /// members at the end.
    fn bury(&self) -> Option<ArrayStatus> {
        let array = self.array.borrow_mut().take()?;
        for disk in &self.disks {
            disk.detach();
        }
        let runtime = runtime()?;
        runtime.block_on(async {
            let status = array.status().await;
            array.abandon();
            Some(status)
        })
    }

    /// After a stop a power cut loses nothing, and an array that was well is what md says it is.
    fn after_stop(&self, clean: bool, optimal: bool) {
        {
            let mut model = self.model.borrow_mut();
            if clean {
                let now = model.tick();
                model.flushed(now);
            }
            model.power_cut();
        }
        self.cut_disks();
        if !self.plan.shape.beyond {
            // A superblock that cannot be read refuses the start: people try again, or leave the disk out.
            self.disks.iter().for_each(|disk| disk.calm());
        }
        if clean && optimal {
            self.check_at_rest();
        }
        self.keep_authority();
    }

    /// Parity and copies of the array on the disks.
    pub(crate) fn check_at_rest(&self) {
        self.stats.borrow_mut().rest_checks += 1;
        let disks: Vec<_> = self.ours.borrow().iter().map(|&disk| Arc::clone(&self.disks[disk])).collect();
        if let Err(wrong) = check::at_rest(&disks) {
            self.violation.borrow_mut().get_or_insert(Violation::AtRest(wrong));
        }
    }

    /// Remember what each slot holds.
    pub(crate) fn see(&self, status: &ArrayStatus) {
        let mut in_sync = vec![None; self.plan.shape.members];
        for member in &status.members {
            let disk = member.path.as_deref().and_then(life::disk_of);
            if let (Some(slot), Some(disk), MemberState::InSync) = (member.slot, disk, member.state) {
                in_sync[usize::from(slot)] = Some(disk);
            }
        }
        *self.in_sync.borrow_mut() = in_sync;
    }

    /// Slots that cannot be counted on: nobody in sync there, or somebody with faults.
    pub(crate) fn impaired(&self, in_sync: &[Option<usize>]) -> MemberSet {
        let suspects = self.suspects.borrow();
        let mut impaired = MemberSet::new();
        for (slot, disk) in in_sync.iter().enumerate() {
            if disk.is_none_or(|disk| suspects.contains(&disk) || self.disks[disk].has_faults()) {
                impaired.insert(MemberIndex(slot as u16));
            }
        }
        impaired
    }
}

fn runtime() -> Option<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().ok()
}
