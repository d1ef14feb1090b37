//! One machine's life: it creates or assembles the array, reads everything back, goes on with the plan's steps, and is
//! stopped, or dies anywhere on the way.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use raid_core::array::{
    Array, ArrayState, AssembleError, AssembleOptions, CreateSpec, Environment, MemberDevice, MemberState,
    assemble, create,
};
use raid_core::format::assembly::AssemblyRefusal;
use raid_core::geometry::{MemberIndex, MemberSet};
use raid_core::volume::{Volume, VolumeSpec};

use crate::client;
use crate::disk::{SECTOR, path_of};
use crate::manage;
use crate::model::Place;
use crate::plan::{Again, Apart, Step};
use crate::run::Sim;
use crate::violation::Violation;
use crate::world::When;

/// Longer than this, in virtual time, nothing takes that ends at all.
const PATIENCE: Duration = Duration::from_secs(1800);

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The power went.
    Cut,
    /// The array was stopped; everything was well before that.
    Stopped { clean: bool, optimal: bool },
    /// It does not start any more, and that is right.
    Refused,
    /// The plan is carried out.
    Finished,
}

impl End {
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Cut => 1,
            Self::Stopped { .. } => 2,
            Self::Refused => 3,
            Self::Finished => 4,
        }
    }
}

/// A running array, as its clients see it.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) array: Array,
    pub(crate) volumes: Rc<Vec<Arc<Volume>>>,
}

/// The disk that is known by this path.
pub(crate) fn disk_of(path: &Path) -> Option<usize> {
    path.to_str()?.strip_prefix("/disks/")?.parse().ok()
}

pub(crate) fn path(disk: usize) -> PathBuf {
    path_of(disk).into()
}

pub(crate) fn environment() -> Environment {
    Environment { hostname: "simulated".to_owned() }
}

/// Live until the plan is carried out or the array cannot start. A power cut simply drops this.
pub(crate) async fn live(sim: Rc<Sim>) -> End {
    let running = if sim.created.get() {
        let due = sim.due.borrow_mut().pop_front();
        match due {
            Some(Again::Starting(changes)) => sim.world.arm(When::Changes(changes)),
            Some(Again::Committing) => {
                if let Some(ring) = sim.plan.shape.region(Apart::Copies) {
                    sim.world.arm(When::Apart(ring));
                }
            }
            _ => {}
        }
        let Some(running) = start(&sim).await else { return End::Refused };
        match due {
            Some(Again::Serving(steps)) => sim.world.arm(When::Steps(steps)),
            Some(Again::Seen) => {
                sim.read_doubtful(&running).await;
                sim.wait_for_room(1).await;
                sim.stats.borrow_mut().cuts_when_seen += 1;
                sim.world.cut_now();
                std::future::pending::<()>().await;
            }
            Some(Again::Mended(steps)) => {
                sim.read_back(&running).await;
                sim.mend(&running).await;
                sim.world.arm(When::Steps(steps));
            }
            _ => {}
        }
        running
    } else {
        match make(&sim).await {
            Ok(running) => running,
            Err(error) => {
                sim.fail("creation", &error);
                return End::Refused;
            }
        }
    };
    sim.read_back(&running).await;
    while let Some(step) = sim.plan.steps.get(sim.cursor.get()).cloned() {
        let index = sim.cursor.get();
        sim.cursor.set(index + 1);
        if client::is_request(&step) {
            sim.wait_for_room(sim.plan.shape.depth).await;
            client::submit(&sim, &running, index, step);
            continue;
        }
        sim.world.note(index as u64, || format!("step {index}: {step:?}"));
        if let Step::Restart(starve) = step {
            sim.starve.set(starve);
            return stop(&sim, &running).await;
        }
        let what = format!("step {index} ({step:?})");
        sim.managing.set(manage::is_command(&step));
        let managed = tokio::time::timeout(PATIENCE, manage::carry_out(&sim, &running, step)).await;
        sim.managing.set(false);
        if managed.is_err() {
            match sim.hang(what).await {}
        }
    }
    finish(&sim, &running).await
}

async fn make(sim: &Sim) -> Result<Running, String> {
    let shape = &sim.plan.shape;
    let device = |disk| MemberDevice { path: path(disk), device: Arc::new(sim.disks[disk].handle()) };
    let spec = CreateSpec {
        name: "tank".to_owned(),
        level: shape.level,
        chunk_bytes: shape.chunk_bytes,
        policy: shape.policy,
        members: (0..shape.members).map(device).collect(),
        spares: (shape.members..shape.members + shape.spares).map(device).collect(),
        force: false,
    };
    let array = create(spec, &environment()).await.map_err(|error| error.to_string())?;
    *sim.array.borrow_mut() = Some(array.clone());
    let mut volumes = Vec::new();
    for (index, (size_bytes, write_cache)) in shape.volumes.iter().copied().enumerate() {
        let spec =
            VolumeSpec { name: format!("v{index}"), size_bytes, write_cache, physical_block_bytes: None };
        volumes.push(array.create_volume(spec).await.map_err(|error| error.to_string())?);
    }
    sim.created.set(true);
    sim.see(&array.status().await);
    Ok(Running { array, volumes: Rc::new(volumes) })
}

/// Assemble from the disks that are there. `None` if it rightly refuses, or the run is over.
async fn start(sim: &Rc<Sim>) -> Option<Running> {
    if sim.starve.replace(false) {
        starve(sim).await;
    }
    let mut outcome = assemble_from(sim, sim.present()).await;
    if let Err(AssembleError::Refused(AssemblyRefusal::SplitBrain { .. })) = outcome {
        // A member that left before all the others were replaced cannot be told from one that ran on by itself. Do
        // as it says: leave out what is known to be stale.
        let known = sim.in_sync.borrow().clone();
        let current = sim.present().into_iter().filter(|disk| known.contains(&Some(*disk))).collect();
        sim.stats.borrow_mut().split_refusals += 1;
        outcome = assemble_from(sim, current).await;
    }
    if outcome.is_err() && sim.plan.shape.beyond {
        // Connect the missing disks and try again, as it says.
        sim.stats.borrow_mut().refusals += 1;
        for disk in &sim.disks {
            disk.come_back();
            disk.heal();
        }
        outcome = assemble_from(sim, sim.present()).await;
    }
    match outcome {
        Ok(array) => {
            *sim.array.borrow_mut() = Some(array.clone());
            let status = array.status().await;
            sim.see(&status);
            sim.world.note(1, || format!("started, in sync: {:?}, {:?}", sim.in_sync.borrow(), status.state));
            let in_sync: Vec<usize> = sim.in_sync.borrow().iter().flatten().copied().collect();
            sim.suspects.borrow_mut().retain(|disk| !in_sync.contains(disk));
            let names = 0..sim.plan.shape.volumes.len();
            let volumes: Option<Vec<_>> = names.map(|index| array.volume(&format!("v{index}"))).collect();
            let Some(volumes) = volumes else {
                sim.fail("start", "a volume is not there any more");
                return None;
            };
            Some(Running { array, volumes: Rc::new(volumes) })
        }
        Err(error) => {
            sim.stats.borrow_mut().refusals += 1;
            if !sim.may_refuse(&error) {
                sim.violate(Violation::NotStarted {
                    at_ms: sim.world.now_ms(),
                    offered: sim.present(),
                    error: error.to_string(),
                });
            }
            sim.world.note(0, || format!("the start is refused: {error}"));
            None
        }
    }
}

async fn assemble_from(sim: &Sim, disks: Vec<usize>) -> Result<Array, AssembleError> {
    sim.world.note(disks.len() as u64, || format!("assembling from disks {disks:?}"));
    let devices = disks
        .into_iter()
        .map(|disk| MemberDevice { path: path(disk), device: Arc::new(sim.disks[disk].handle()) })
        .collect();
    let environment = environment();

    let starting = assemble(devices, AssembleOptions::default(), &environment);
    match tokio::time::timeout(PATIENCE, starting).await {
        Ok(outcome) => outcome,
        Err(_) => match sim.hang("the start".to_owned()).await {},
    }
}

/// With too few members it must say no, and leave no trace.
async fn starve(sim: &Sim) {
    let in_sync = sim.in_sync.borrow().clone();
    let suspects = sim.suspects.borrow().clone();
    // Suspects may be in sync after all, and a spare may be since it was last seen: either would make it enough.
    let mut offered = sim.present();
    offered.retain(|disk| in_sync.contains(&Some(*disk)) && !suspects.contains(disk));
    let suffices = |offered: &[usize]| {
        let mut missing = MemberSet::new();
        for (slot, disk) in in_sync.iter().enumerate() {
            if disk.is_none_or(|disk| !offered.contains(&disk)) {
                missing.insert(MemberIndex(slot as u16));
            }
        }
        sim.geometry.tolerates(&missing)
    };
    while suffices(&offered) {
        offered.pop();
    }
    if offered.is_empty() {
        return;
    }
    let writes = sim.world.writes();
    sim.stats.borrow_mut().starved_starts += 1;
    let outcome = assemble_from(sim, offered.clone()).await;
    let what = match outcome {
        Ok(array) => {
            *sim.array.borrow_mut() = Some(array);
            "started"
        }
        Err(_) if sim.world.writes() != writes => "wrote to them",
        Err(_) => return,
    };
    sim.violate(Violation::NotRefused { offered, what: what.to_owned() });
}

/// Stop cleanly, with clients still at work.
async fn stop(sim: &Rc<Sim>, running: &Running) -> End {
    sim.stopping.set(true);
    if sim.plan.shape.has_hole() && !sim.plan.shape.beyond {
        // A stop that fails is like a crash: with parity and no journal no fault may come on top.
        for disk in &sim.disks {
            disk.heal();
        }
    }
    let status = running.array.status().await;
    sim.see(&status);
    let Ok(stopped) = tokio::time::timeout(PATIENCE, running.array.stop()).await else {
        match sim.hang("the stop".to_owned()).await {}
    };
    sim.wait_for_room(1).await;
    let status = running.array.status().await;
    sim.see(&status);
    let in_sync = sim.in_sync.borrow().clone();
    if let Err(error) = &stopped
        && !sim.plan.shape.beyond
        && sim.impaired(&in_sync).is_empty()
    {
        sim.fail("the stop", error);
    }
    let mut bytes = running.array.scratch_used_bytes() as u64;
    // One that fails in its stop keeps what it could not put in place.
    if stopped.is_ok() && status.state != ArrayState::Failed && !sim.plan.shape.beyond {
        bytes += running.array.journal_used_bytes();
    }
    if bytes > 0 {
        sim.violate(Violation::Leak { bytes });
    }
    let failed = status.members.iter().any(|member| member.state == MemberState::Failed);
    let well = in_sync.iter().all(Option::is_some) && status.unsynced_regions == 0 && !failed;
    sim.stats.borrow_mut().stops += 1;
    // An array that has failed stops without a word, and without a flush.
    let clean = stopped.is_ok() && !sim.plan.shape.beyond;
    End::Stopped { clean, optimal: well && clean }
}

/// The steps are done. A cut that is still to come comes now; else all is mended, settles, is read back, stopped and
/// looked at.
async fn finish(sim: &Rc<Sim>, running: &Running) -> End {
    sim.wait_for_room(1).await;
    if sim.world.is_armed() {
        tokio::time::sleep(Duration::from_millis(50)).await;
        sim.world.cut_now();
        std::future::pending::<()>().await;
    }
    let settled = sim.mend(running).await;
    sim.read_back(running).await;
    sim.wait_for_room(1).await;
    let status = running.array.status().await;
    if !settled && !sim.plan.shape.beyond && status.state != ArrayState::Failed && !sim.any_faults() {
        match sim.hang(format!("what goes on in the background ({:?})", status.activity)).await {}
    }
    if let End::Stopped { clean: true, optimal: true } = stop(sim, running).await {
        sim.cut_disks();
        sim.check_at_rest();
    }
    End::Finished
}

impl Sim {
    /// Disks of the array that are there, in any order.
    pub(crate) fn present(&self) -> Vec<usize> {
        let ours = self.ours.borrow();
        let mut present: Vec<usize> =
            ours.iter().copied().filter(|&disk| !self.disks[disk].is_gone()).collect();
        self.world.random(|rng| rng.shuffle(&mut present));
        present
    }

    fn any_faults(&self) -> bool {
        self.disks.iter().any(|disk| disk.has_faults())
    }

    /// Beyond what the level bears, and where the write hole is open, no is the right answer.
    fn may_refuse(&self, error: &AssembleError) -> bool {
        if self.plan.shape.beyond {
            return true;
        }
        let hole = matches!(error, AssembleError::Refused(AssemblyRefusal::UncleanDegraded { .. }));
        let in_sync = self.in_sync.borrow().clone();
        let lost = in_sync.iter().any(|disk| disk.is_none_or(|disk| self.disks[disk].is_gone()))
            || !self.suspects.borrow().is_empty();
        hole && self.plan.shape.has_hole() && lost
    }

    pub(crate) fn fail(&self, what: &str, error: impl std::fmt::Display) {
        let at_ms = self.world.now_ms();
        self.violate(Violation::Failed { what: what.to_owned(), at_ms, error: error.to_string() });
    }

    pub(crate) async fn hang(&self, what: String) -> std::convert::Infallible {
        self.violate(Violation::Hang { what, at_ms: self.world.now_ms() });
        std::future::pending().await
    }

    /// Wait until fewer than `depth` requests are under way.
    pub(crate) async fn wait_for_room(&self, depth: usize) {
        while self.outstanding.get() >= depth {
            if tokio::time::timeout(PATIENCE, self.ended.notified()).await.is_err() {
                match self.hang(format!("one of {} requests", self.outstanding.get())).await {}
            }
        }
    }

    /// Read everything that was ever written, what is in doubt first. The last of it may go on beside what comes next.
    async fn read_back(self: &Rc<Self>, running: &Running) {
        let (doubtful, known) = self.touched();
        self.read_places(running, doubtful).await;
        self.read_places(running, known).await;
    }

    /// Read what the last power cut left in doubt.
    async fn read_doubtful(self: &Rc<Self>, running: &Running) {
        let (doubtful, _) = self.touched();
        self.read_places(running, doubtful).await;
    }

    /// Everything that was ever written: what is in doubt, and what is not.
    fn touched(&self) -> (Vec<Place>, Vec<Place>) {
        let model = self.model.borrow();
        model.touched(64 * 1024 / SECTOR).into_iter().partition(|place| model.is_in_doubt(*place))
    }

    async fn read_places(self: &Rc<Self>, running: &Running, places: Vec<Place>) {
        for place in places {
            self.wait_for_room(self.plan.shape.depth).await;
            client::submit(self, running, usize::MAX, Step::Read(place));
        }
    }

    /// No disk is slower than the others.
    fn set_pace(&self) {
        for disk in &self.disks {
            disk.set_slowness(1);
        }
    }

    /// Bring every disk back, well; fill all slots; wait for that. False if something does not end.
    pub(crate) async fn mend(self: &Rc<Self>, running: &Running) -> bool {
        for disk in &self.disks {
            disk.come_back();
            disk.heal();
        }
        let mut settled = self.settle(running).await;
        for pick in 0..self.plan.shape.members as u64 {
            let status = running.array.status().await;
            let missing = status.members.iter().any(|member| member.state == MemberState::Missing);
            if !settled || !missing || status.state == ArrayState::Failed {
                break;
            }
            manage::carry_out(self, running, Step::Add(pick)).await;
            settled = self.settle(running).await;
        }
        settled
    }

    /// Wait until nothing goes on in the background that would end by itself. False if something does not end.
    pub(crate) async fn settle(&self, running: &Running) -> bool {
        self.set_pace();
        self.wait_for_room(1).await;
        let mut waited = Duration::ZERO;
        let mut calm = 0;
        while waited < PATIENCE / 2 {
            let status = running.array.status().await;
            let has = |state| status.members.iter().any(|member| member.state == state);
            let rebuilds =
                has(MemberState::Rebuilding) || has(MemberState::Missing) && has(MemberState::Spare);
            let resyncs = status.state == ArrayState::Resyncing;
            if status.activity.is_none() && !rebuilds && !resyncs || status.state == ArrayState::Failed {
                calm += 1;
                if calm == 3 {
                    self.disks.iter().for_each(|disk| disk.forgive());
                    return true;
                }
            } else {
                calm = 0;
            }
            let pause = Duration::from_millis(if calm > 0 { 2 } else { 100 });
            tokio::time::sleep(pause).await;
            waited += pause;
        }
        false
    }
}
