//! The daemon, somebody honest who is there all the time, and what the daemon has in use.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use system_tests::process::wait_for;
use system_tests::{Kind, Lab, MIB};

use crate::honest::{HONEST, Honest};
use crate::logged_in;

/// `memory` of the configuration: the least there is.
pub const MEMORY_BYTES: u64 = 64 * MIB;
/// What the process may have beside that: itself (some 20 MiB), what the array has of the honest one's writes, and what
/// a few hundred connections cost.
const BASE_BYTES: u64 = 64 * MIB;
const PATIENCE: Duration = Duration::from_secs(20);

/// A daemon over a RAID 5, and the honest session.
pub struct Stage {
    lab: Lab,
    honest: Option<Honest>,
    address: SocketAddr,
    /// What its descriptors lead to, and how many of each, before anybody else came.
    descriptors: BTreeMap<String, usize>,
}

impl Stage {
    /// # Errors
    /// When there is no daemon or nobody gets in.
    pub fn new() -> Result<Self> {
        let mut lab = Lab::stopped(Kind::Files, 3, 128 * MIB)?;
        lab.daemon.set("memory", "64MiB")?;
        lab.daemon.start()?;
        lab.create_array("5", 3)?;
        lab.export_volume("v", "32MiB", 0)?;
        lab.wait_optimal()?;
        let address = lab.daemon.portal().parse()?;
        let mut stage = Self { lab, honest: None, address, descriptors: BTreeMap::new() };
        // Whatever a first session sets up for good.
        drop(logged_in(address, "")?);
        stage.honest = Some(Honest::start(address));
        stage.everybody_else_goes_on("before anything")?;
        stage.only_the_honest_one_is_left()?;
        stage.descriptors = stage.descriptors_now()?;
        Ok(stage)
    }

    /// Its portal.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A round of the honest one that has begun by now or later, and the next, go well.
    pub fn everybody_else_goes_on(&self, when: &str) -> Result<()> {
        let honest = self.honest.as_ref().context("it has been stopped")?;
        let rounds = honest.rounds();
        wait_for(&format!("honest I/O {when}"), PATIENCE, || {
            if honest.is_over() {
                bail!("honest I/O failed {when}");
            }
            Ok((honest.rounds() >= rounds + 2).then_some(()))
        })
    }

    fn only_the_honest_one_is_left(&self) -> Result<()> {
        wait_for("the others' sessions to be gone", PATIENCE, || {
            let list = self.lab.daemon.json(&["session", "list"])?;
            let sessions = list["sessions"].as_array().context("no list")?;
            let names: Vec<_> = sessions.iter().filter_map(|session| session["initiator"].as_str()).collect();
            Ok((names == [HONEST]).then_some(()))
        })
    }

    fn descriptors_now(&self) -> Result<BTreeMap<String, usize>> {
        let mut kinds = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid()?))? {
            // It may be closed by now.
            let Ok(path) = fs::read_link(entry?.path()) else { continue };
            // `socket:[number]` and the like: the number is another every time.
            let kind = path.to_string_lossy().split('[').next().unwrap_or_default().to_owned();
            *kinds.entry(kind).or_default() += 1;
        }
        Ok(kinds)
    }

    fn pid(&self) -> Result<u32> {
        self.lab.daemon.pid().context("no daemon")
    }

    /// The most memory that it ever had in use.
    fn peak_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kib << 10)
    }

    /// # Errors
    /// When something is left of the hostile ones, or the honest one has met anything.
    pub fn close(mut self) -> Result<()> {
        self.everybody_else_goes_on("at the end")?;
        self.only_the_honest_one_is_left()?;
        wait_for("all descriptors to be closed", PATIENCE, || {
            let now = self.descriptors_now()?;
            let more =
                |(kind, count): (&String, &usize)| *count > self.descriptors.get(kind).copied().unwrap_or(0);
            Ok((!now.iter().any(more)).then_some(()))
        })
        .with_context(|| format!("{:?}, and before {:?}", self.descriptors_now(), self.descriptors))?;
        let peak = self.peak_bytes()?;
        eprintln!("most memory in use: {} MiB", peak / MIB);
        ensure!(peak < MEMORY_BYTES + BASE_BYTES, "{peak} bytes were in use");
        if let Some(honest) = self.honest.take() {
            honest.stop();
        }
        self.lab.daemon.stop()
    }
}
