//! Is every acknowledged write there after a SIGKILL, at every level, on files and on loop devices?
//!
//! One array per test, two LUNs on it (without and with a write cache), two clients on each. A cycle: load, kill at a
//! random moment, start, compare both LUNs with their records, get well, compare again. Cycles differ in what else goes
//! wrong ([`Trouble`]). At the end the stopped array's disks are looked at as md would.
//!
//! `LABSAN_CRASH_CYCLES=n` spreads n cycles over the tests (`scripts/crash-cycles`); without it there are four each,
//! one of each trouble.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use system_tests::ledger::{InFlight, Ledger};
use system_tests::load::{self, Load, Shared, Tally};
use system_tests::process::wait_for;
use system_tests::{Kind, Lab, MIB, Seed, loop_device, md, report};

const DISK_BYTES: u64 = 96 * MIB;
const LUN_BYTES: u64 = 24 * MIB;
const CLIENTS_PER_LUN: usize = 2;
/// How long the load runs at most before the kill, and how long a rebuild does.
const LOAD_MS: u64 = 700;
const REBUILD_MS: u64 = 400;
/// At which the daemon is killed again while it recovers.
const RECOVERY_MS: u64 = 300;
const SPARE_LIMIT: Duration = Duration::from_secs(10);
const TESTS: u64 = 10;
const DEFAULT_SEED: u64 = 7_000;
/// What a lost disk's place holds until it is rebuilt: neither zeros nor anything that was written.
const GARBAGE: u8 = 0xee;

struct Case {
    level: &'static str,
    members: usize,
    /// How many members may be lost.
    bears: usize,
}

const RAID0: Case = Case { level: "0", members: 3, bears: 0 };
const RAID1: Case = Case { level: "1", members: 2, bears: 1 };
const RAID5: Case = Case { level: "5", members: 4, bears: 1 };
const RAID6: Case = Case { level: "6", members: 5, bears: 2 };
const RAID10: Case = Case { level: "10", members: 4, bears: 1 };

/// What goes wrong beside the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nothing.
    None,
    /// A member has failed just before, and a spare is being filled.
    Rebuilding,
    /// As many members as the level bears are gone at the next start.
    DisksGone,
    /// The next start is killed too, while it recovers.
    KilledAgain,
}

#[test]
fn raid0_on_files() -> Result<()> {
    survive(&RAID0, Kind::Files)
}

#[test]
fn raid1_on_files() -> Result<()> {
    survive(&RAID1, Kind::Files)
}

#[test]
fn raid5_on_files() -> Result<()> {
    survive(&RAID5, Kind::Files)
}

#[test]
fn raid6_on_files() -> Result<()> {
    survive(&RAID6, Kind::Files)
}

#[test]
fn raid10_on_files() -> Result<()> {
    survive(&RAID10, Kind::Files)
}

#[test]
fn raid0_on_loop_devices() -> Result<()> {
    survive(&RAID0, Kind::Loops)
}

#[test]
fn raid1_on_loop_devices() -> Result<()> {
    survive(&RAID1, Kind::Loops)
}

#[test]
fn raid5_on_loop_devices() -> Result<()> {
    survive(&RAID5, Kind::Loops)
}

#[test]
fn raid6_on_loop_devices() -> Result<()> {
    survive(&RAID6, Kind::Loops)
}

#[test]
fn raid10_on_loop_devices() -> Result<()> {
    survive(&RAID10, Kind::Loops)
}

fn survive(case: &'static Case, kind: Kind) -> Result<()> {
    let on = if kind == Kind::Files { "files" } else { "loop devices" };
    let name = format!("RAID {} on {on}", case.level);
    if let (Kind::Loops, Some(why)) = (kind, loop_device::refusal()) {
        report::skipped(&format!("crash cycles, {name}"), &why);
        return Ok(());
    }
    let mut bench = Bench::new(case, kind, &name)?;
    let troubles = bench.troubles();
    let outcome = (0..bench.cycles()).zip(troubles.iter().cycle()).try_for_each(|(number, &trouble)| {
        bench.cycle(number, trouble).with_context(|| format!("{}, cycle {number}, {trouble:?}", bench.name))
    });
    let outcome = outcome.and_then(|()| bench.all_is_well_at_the_end());
    // Told also when writes were lost: how many of how many.
    bench.report();
    outcome?;
    ensure!(bench.total.acknowledged() > 0, "the kills came before any acknowledgement");
    Ok(())
}

struct Bench {
    case: &'static Case,
    name: String,
    lab: Lab,
    luns: Vec<(String, Shared)>,
    /// Whether a stripe that is written while a member is missing survives a kill.
    write_hole_closed: bool,
    seed: Seed,
    first_seed: u64,
    cycles_done: u64,
    kills: u64,
    kills_while_rebuilding: u64,
    total: Tally,
    lost: usize,
}

impl Bench {
    fn new(case: &'static Case, kind: Kind, name: &str) -> Result<Self> {
        let number: u64 = case.level.parse()?;
        let first_seed = Seed::from_env(DEFAULT_SEED).number();
        // Tests that are given the same seed do not do the same.
        let test_number = 2 * number + u64::from(kind == Kind::Loops);
        let seed = Seed::new(Seed::new(first_seed.wrapping_mul(100).wrapping_add(test_number)).next_u64());
        let spares = usize::from(case.bears > 0);
        let lab = Lab::new(kind, case.members + spares, DISK_BYTES)?;
        lab.create_array(case.level, case.members)?;
        let size = format!("{}MiB", LUN_BYTES / MIB);
        let ledger = |lun, cached| Arc::new(Mutex::new(Ledger::new(lun, LUN_BYTES, cached)));
        let luns = vec![
            (lab.export_volume("through", &size, 0)?, ledger(0, false)),
            (lab.export_cached_volume("cached", &size, 1)?, ledger(1, true)),
        ];
        let shown = lab.daemon.json(&["array", "show", "lab"])?;
        let policy = shown["policy"].as_str().context("policy")?;
        let name = format!("{name}, {policy}");
        let parity = matches!(case.level, "5" | "6");
        Ok(Self {
            case,
            name,
            lab,
            luns,
            write_hole_closed: !parity || policy == "journal",
            seed,
            first_seed,
            cycles_done: 0,
            kills: 0,
            kills_while_rebuilding: 0,
            total: Tally::default(),
            lost: 0,
        })
    }

    fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = vec![Trouble::None];
        if self.case.bears > 0 {
            troubles.extend([Trouble::Rebuilding, Trouble::DisksGone, Trouble::KilledAgain]);
        }
        if !self.write_hole_closed {
            // A bitmap cannot tell what a missing member held of a stripe whose write was cut off.
            troubles.retain(|&trouble| trouble != Trouble::DisksGone);
            let what = format!(
                "crash cycles, {}: disks gone at the kill, writes cut off while rebuilding",
                self.name
            );
            report::skipped(&what, "no journal: the write hole is open");
        }
        troubles
    }

    fn cycles(&self) -> u64 {
        let asked = std::env::var("LABSAN_CRASH_CYCLES").ok().and_then(|n| n.parse::<u64>().ok());
        asked.map_or(4, |all| all.div_ceil(TESTS))
    }

    fn cycle(&mut self, number: u64, trouble: Trouble) -> Result<()> {
        // Half of the plain kills come while the last one's resync still runs.
        if trouble != Trouble::None || self.seed.below(2) == 0 {
            self.get_well()?;
        }
        let engine = self.lab.daemon.json(&["status"])?["engine"].as_str().unwrap_or("?").to_owned();
        let clients: Vec<_> = (0..CLIENTS_PER_LUN).flat_map(|_| self.luns.clone()).collect();
        let delay = self.seed.below(LOAD_MS);
        let load = Load::start(&clients, self.lab.dir(), &mut self.seed)?;
        std::thread::sleep(Duration::from_millis(delay));
        let tally = match trouble {
            Trouble::None => self.kill(load)?,
            Trouble::Rebuilding => self.kill_while_rebuilding(load)?,
            Trouble::DisksGone => {
                let disks = self.some_in_sync(self.case.bears)?;
                let tally = self.kill(load)?;
                disks.iter().try_for_each(|&disk| overwrite(&self.lab.disks[disk]))?;
                tally
            }
            Trouble::KilledAgain => {
                let tally = self.kill(load)?;
                self.choose_engine()?;
                self.lab.daemon.launch()?;
                std::thread::sleep(Duration::from_millis(self.seed.below(RECOVERY_MS)));
                self.lab.daemon.kill();
                self.kills += 1;
                tally
            }
        };
        self.total.add(&tally);
        let found = self.start(trouble).and_then(|()| self.compare("after the crash"));
        eprintln!(
            "{}, cycle {number}, {trouble:?}, seed {}: {engine} killed {delay} ms after the load began: {} writes \
             acknowledged, {} of them cached, {} of those flushed; {} in flight{}",
            self.name,
            self.first_seed,
            tally.acknowledged(),
            tally.cached,
            tally.flushed,
            tally.in_flight,
            found
                .as_ref()
                .map_or(String::new(), |f| format!(", {} of them found, {} in part", f.whole, f.torn))
        );
        found?;
        if trouble != Trouble::None {
            self.get_well()?;
            self.compare("some time after the crash")?;
        }
        self.cycles_done += 1;
        Ok(())
    }

    fn kill(&mut self, load: Load) -> Result<Tally> {
        let at_work = load.working();
        load.expect_death();
        self.lab.daemon.kill();
        self.kills += 1;
        let tally = load.end()?;
        ensure!(at_work, "a client had ended before the kill");
        Ok(tally)
    }

    /// A member fails, the spare takes its place, and some of it is filled when the kill comes.
    fn kill_while_rebuilding(&mut self, mut load: Load) -> Result<Tally> {
        let disk = self.some_in_sync(1)?[0];
        self.lab.fail(disk)?;
        wait_for("the spare to be taken", SPARE_LIMIT, || Ok(self.disks("spare")?.is_empty().then_some(())))?;
        let mut tally = if self.write_hole_closed { Tally::default() } else { load.drain()? };
        std::thread::sleep(Duration::from_millis(self.seed.below(REBUILD_MS)));
        tally.add(&self.kill(load)?);
        Ok(tally)
    }

    fn start(&mut self, trouble: Trouble) -> Result<()> {
        self.choose_engine()?;
        self.lab.daemon.start()?;
        if trouble == Trouble::Rebuilding {
            if !self.write_hole_closed && self.array().is_err() {
                // Refused, as it cannot know that nothing was in flight.
                self.lab.daemon.raidctl(&["array", "start", "--scan", "--force", "--yes"])?.ok()?;
            }
            self.kills_while_rebuilding += u64::from(self.array()?["state"] == "rebuilding");
        }
        Ok(())
    }

    /// What io_uring was given the kernel carries out, whatever becomes of the process; of what waits for a thread, some
    /// is done and some is not.
    fn choose_engine(&mut self) -> Result<()> {
        self.lab.daemon.set("engine", if self.seed.below(2) == 0 { "auto" } else { "threads" })
    }

    /// Every disk is in use, and every member in sync.
    fn get_well(&self) -> Result<()> {
        let in_use: Vec<usize> = ["in_sync", "rebuilding", "spare"]
            .iter()
            .map(|state| self.disks(state))
            .collect::<Result<Vec<_>>>()?
            .concat();
        for number in (0..self.lab.disks.len()).filter(|number| !in_use.contains(number)) {
            let disk = self.lab.disk(number);
            self.lab.daemon.raidctl(&["array", "add", "lab", &disk, "--force", "--yes"])?.ok()?;
        }
        self.lab.wait_optimal()
    }

    /// Every sector of every LUN; what is found has to be found from now on.
    fn compare(&mut self, when: &str) -> Result<InFlight> {
        let mut found = InFlight::default();
        for (url, ledger) in &self.luns {
            let verdict = load::check(url, ledger, self.lab.dir())?;
            self.lost += verdict.lost_writes.len();
            ensure!(verdict.sectors == 0, "{when}, {url}: {}", load::describe(&verdict));
            found.add(&verdict.in_flight);
        }
        Ok(found)
    }

    /// What was once read is read again, and the disks of the stopped array have their parity and copies right.
    fn all_is_well_at_the_end(&mut self) -> Result<()> {
        self.get_well()?;
        self.compare("at the end")?;
        let members: Vec<PathBuf> =
            self.disks("in_sync")?.into_iter().map(|number| self.lab.disks[number].clone()).collect();
        self.lab.daemon.stop()?;
        let array = md::Array::open(&members)?;
        array.check_clean()?;
        array.check_redundancy()
    }

    fn array(&self) -> Result<Value> {
        self.lab.daemon.json(&["array", "show", "lab"])
    }

    /// The lab's numbers of the disks that are in this state.
    fn disks(&self, state: &str) -> Result<Vec<usize>> {
        let shown = self.array()?;
        let members = shown["members"].as_array().context("members")?;
        let paths: Vec<&str> = members
            .iter()
            .filter(|member| member["state"] == state)
            .filter_map(|m| m["path"].as_str())
            .collect();
        let is_one = |number: &usize| paths.contains(&&*self.lab.disk(*number));
        Ok((0..self.lab.disks.len()).filter(is_one).collect())
    }

    fn some_in_sync(&mut self, count: usize) -> Result<Vec<usize>> {
        let mut disks = self.disks("in_sync")?;
        ensure!(disks.len() >= count, "only {disks:?} are in sync");
        let mut pick =
            || disks.swap_remove(usize::try_from(self.seed.below(disks.len() as u64)).unwrap_or(0));
        Ok((0..count).map(|_| pick()).collect())
    }

    fn report(&self) {
        report::figure(&format!(
            "crash cycles, {}: {} cycles, {} kills, {} of them while rebuilding; {} acknowledged writes checked, \
             {} lost; {} were in flight",
            self.name,
            self.cycles_done,
            self.kills,
            self.kills_while_rebuilding,
            self.total.acknowledged(),
            self.lost,
            self.total.in_flight
        ));
    }
}

/// The disk is replaced by one that holds something else. Its path stays, as a loop device's number may not be let go
/// of while other tests look for free ones.
fn overwrite(disk: &Path) -> Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(disk).context("a lost disk")?;
    let block = vec![GARBAGE; usize::try_from(MIB)?];
    for _ in 0..DISK_BYTES / MIB {
        file.write_all(&block)?;
    }
    Ok(file.sync_all()?)
}
