//! How fast is labsan, and what does an I/O cost, beside a peer on the same machine in the same minute?
//!
//! labsan serves RAID 5 over four files as `labsand demo` makes it; tgt serves one plain, unprotected file.
//! Both lie on one tmpfs, so that what is measured is the target's own work. The same client programs drive both
//! in turn, workload by workload, round by round; the middle round counts.
//!
//! With `--policies`, labsan is measured beside itself: RAID 5 (4+1) with a journal, and with a bitmap, over files on a
//! file system with a disk behind it, because what a journal saves is waiting for disks. And then the daemon is killed under
//! random writes, and the time from its start until it serves again is told: a journal as full as it gets is recovered. Last,
//! two nodes reserve and preempt while all else is busy and a disk is rebuilt; how long their commands took is told.

mod clients;
mod engine;
mod recovery;
mod reservations;
mod table;
mod targets;

use anyhow::{Context, Result, bail};
use clap::Parser;
use clients::{Client, Workload};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use system_tests::lab::free_port;
use table::{Cell, Row};
use targets::{Labsan, Policied, Target, Tgt};

/// Measure labsan (RAID 5 over four files) and tgt (one plain file) on the same tmpfs with the same clients.
#[derive(Debug, Parser)]
struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Measurements per workload and target; the middle one counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Size of the LUNs, in MiB.
    #[arg(long, default_value_t = 512)]
    lun_mib: u64,
    /// Where the files go: by default a tmpfs, with --policies a place on disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Measure labsan's policies journal and bitmap beside each other, writes only.
    #[arg(long)]
    policies: bool,
    /// Measure one target only.
    #[arg(long, value_enum)]
    only: Option<Peer>,
    /// Only what has this in its name: workloads, and with --policies "engine", "recovery", "reservations".
    #[arg(long)]
    workload: Option<String>,
    /// A run of a few seconds that only shows that everything works.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Peer {
    Labsan,
    Tgt,
}

impl Options {
    fn is_wanted(&self, name: &str) -> bool {
        self.workload.as_ref().is_none_or(|part| name.contains(part))
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    if options.quick {
        (options.seconds, options.rounds, options.lun_mib) = (0.2, 1, 64);
    }
    let tools = ["iscsi-perf", "qemu-img", "tgtd", "tgtadm"];
    for tool in if options.policies { &tools[1..2] } else { &tools[..] } {
        system_tests::tools::need(tool)?;
    }
    if options.policies && options.is_wanted(engine::NAME) {
        println!("{}", engine::compare(&dir_of(&options), &options)?);
    }
    if options.policies {
        build_labsan()?;
    }
    let workloads: Vec<Workload> =
        clients::WORKLOADS.into_iter().filter(|w| is_wanted(&options, w)).collect();
    if !workloads.is_empty() {
        compare(&options, &workloads)?;
    }
    let (dir, lun_bytes) = (dir_of(&options), options.lun_mib << 20);
    if options.policies && options.is_wanted(recovery::NAME) {
        eprintln!("{}", recovery::NAME);
        println!("{}", recovery::measure(&dir, lun_bytes, options.quick)?);
    }
    if options.policies && options.is_wanted(reservations::NAME) {
        eprintln!("{}", reservations::NAME);
        println!("{}", reservations::measure(&dir, lun_bytes, options.quick)?);
    }
    Ok(())
}

/// Measure the targets side by side.
fn compare(options: &Options, workloads: &[Workload]) -> Result<()> {
    let targets = start_targets(options)?;
    let clients = clients_for(options, &targets)?;
    let rows = measure_all(options, workloads, &targets, &clients)?;
    drop(targets);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&table::document(&rows))?);
    } else {
        print!("{}", table::render(&rows));
    }
    Ok(())
}

fn start_targets(options: &Options) -> Result<Vec<Box<dyn Target>>> {
    let lun_bytes = options.lun_mib << 20;
    let mut targets: Vec<Box<dyn Target>> = Vec::new();
    let dir = dir_of(options);
    if options.policies {
        for policy in ["bitmap", "journal"] {
            targets.push(Box::new(Policied::start(&dir, policy, lun_bytes)?));
        }
        return Ok(targets);
    }
    if options.only != Some(Peer::Labsan) {
        targets.push(Box::new(Tgt::start(&dir, free_port()?, lun_bytes)?));
    }
    if options.only != Some(Peer::Tgt) {
        build_labsan()?;
        targets.push(Box::new(Labsan::start(&dir, free_port()?, lun_bytes)?));
    }
    Ok(targets)
}

fn dir_of(options: &Options) -> PathBuf {
    let usual = if options.policies { "/var/tmp" } else { "/dev/shm" };
    options.dir.clone().unwrap_or_else(|| PathBuf::from(usual))
}

fn clients_for(options: &Options, targets: &[Box<dyn Target>]) -> Result<Vec<Client>> {
    let client = |target: &dyn Target| {
        eprintln!("filling {}", target.name());
        let lun = target.lun();
        let span_bytes = lun.span_bytes()?;
        let client = Client { lun, span_bytes, duration: options.duration() };
        client.fill()?;
        Ok(client)
    };
    targets.iter().map(|target| client(target.as_ref())).collect()
}

/// `cargo run -p benches` builds only this program; the daemon must be of the same sources.
fn build_labsan() -> Result<()> {
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--release", "--quiet", "--package", "appliance", "--package", "cli"]);
    let status = build.status().context("cargo")?;
    if !status.success() {
        bail!("labsand does not build");
    }
    Ok(())
}

fn is_wanted(options: &Options, workload: &Workload) -> bool {
    let writes = !options.policies || workload.direction == clients::Direction::Write;
    writes && options.is_wanted(workload.name)
}

fn measure_all(
    options: &Options,
    workloads: &[Workload],
    targets: &[Box<dyn Target>],
    clients: &[Client],
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for workload in workloads {
        eprintln!("{}", workload.name);
        let mut rounds = vec![Vec::new(); targets.len()];
        for _ in 0..options.rounds.max(1) {
            for ((target, client), cells) in targets.iter().zip(clients).zip(&mut rounds) {
                cells.push(measure(workload, target.as_ref(), client)?);
            }
        }
        let cells = targets.iter().zip(rounds).map(|(t, cells)| (t.name(), table::middle(cells))).collect();
        rows.push(Row { workload: *workload, cells });
    }
    Ok(rows)
}

fn measure(workload: &Workload, target: &dyn Target, client: &Client) -> Result<Cell> {
    let before = target.cpu_time()?;
    let run = client.run(workload)?;
    let cpu = target.cpu_time()?.saturating_sub(before);
    Ok(Cell {
        per_second: run.operations / run.elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / run.operations,
    })
}
