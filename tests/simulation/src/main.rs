//! `simulate`: run seeds, stop at the first broken promise, tell how to see it again.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use raid_core::array::Policy;
use raid_core::sabotage::{Sabotage, plant};
use simulation::{Limits, Outcome, Plan, Totals, Violation, has_journal, keep_panics, run, shortest};

/// Runs the RAID engine over simulated disks, each run decided by its seed.
#[derive(Clone, Debug, Parser)]
#[command(name = "simulate")]
struct Options {
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Run so many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Begin with this one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run so many at the same time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Requests of clients in a run.
    #[arg(long, default_value_t = 2000)]
    ops: usize,
    /// Power cuts in a run.
    #[arg(long, default_value_t = 5)]
    crashes: usize,
    /// Only arrays of this level.
    #[arg(long)]
    level: Option<u32>,
    /// Only this policy: none, bitmap or journal.
    #[arg(long, value_parser = parse_policy)]
    policy: Option<Policy>,
    /// Have the engine make this mistake, and say after how many seeds it is found.
    #[arg(long, value_parser = parse_sabotage)]
    plant: Option<Sabotage>,
    /// Have the engine make every mistake in turn; fail unless each is found within 500 seeds.
    #[arg(long)]
    plants: bool,
    /// With --plants: leave this one out. May be given more than once.
    #[arg(long, value_parser = parse_sabotage)]
    except: Vec<Sabotage>,
    /// Let disks lie too (rot, lost and misdirected writes), from which the engine does not protect yet.
    #[arg(long)]
    lies: bool,
    /// Do not look for a shorter history.
    #[arg(long)]
    no_shrink: bool,
    /// Print every step of every disk.
    #[arg(short, long)]
    verbose: bool,
}

fn parse_policy(name: &str) -> Result<Policy, String> {
    match name {
        "none" => Ok(Policy::None),
        "bitmap" => Ok(Policy::Bitmap),
        "journal" => Ok(Policy::Journal),
        _ => Err("there are none, bitmap and journal".to_owned()),
    }
}

fn parse_sabotage(name: &str) -> Result<Sabotage, String> {
    Sabotage::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Sabotage::ALL.iter().map(|sabotage| sabotage.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

/// Seeds in which a planted mistake must show.
const PLANT_SEEDS: u64 = 500;

/// How long a shorter history is looked for.
const SHRINK_PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    keep_panics();
    let options = Options::parse();
    let journal = has_journal();
    let limits = Limits {
        operations: options.ops,
        crashes: options.crashes,
        level: options.level,
        policy: options.policy,
        journal,
        lies: options.lies,
    };
    if !journal {
        println!("create refuses the journal: RAID 5 and 6 are run with a bitmap and without");
    }
    let passed = if options.plants {
        all_plants(&options, &limits)
    } else if let Some(sabotage) = options.plant {
        one_plant(&options, &limits, sabotage, options.seeds).is_some()
    } else if let Some(seed) = options.seed {
        one_seed(&options, &limits, seed)
    } else {
        let seeds = Seeds::run(&options, &limits, None, options.seeds);
        println!("{}", seeds.totals);
        println!("{}", seeds.rate());
        figure(&format!(
            "simulation: {}; {} broke a promise",
            seeds.rate(),
            if seeds.broken.is_some() { "one" } else { "none" }
        ));
        seeds.broken.is_none_or(|(seed, violation)| tell(&options, &limits, seed, &violation))
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one_seed(options: &Options, limits: &Limits, seed: u64) -> bool {
    let plan = Plan::draw(seed, limits);
    println!("seed {seed}: {}", plan.shape);
    let Outcome { hash, stats, violation } = run(&plan, options.verbose);
    let mut totals = Totals::default();
    totals.add(plan.shape.kind(), &stats);
    println!("{totals}\ntrace {hash:016x}");
    violation.is_none_or(|violation| tell(options, limits, seed, &violation))
}

/// Say what is wrong and how it came about. Always false: the promise is broken.
fn tell(options: &Options, limits: &Limits, seed: u64, violation: &Violation) -> bool {
    let plan = Plan::draw(seed, limits);
    println!("seed {seed} breaks a promise: {violation}\n  {}", plan.shape);
    let Options { ops, crashes, .. } = options;
    let level = options.level.map(|level| format!(" --level {level}")).unwrap_or_default();
    let policy = options.policy.map(|p| format!(" --policy {}", simulation::policy_name(p)));
    let planted = options.plant.map(|planted| format!(" --plant {}", planted.name()));
    let lies = if options.lies { " --lies" } else { "" };
    println!(
        "again: simulate --seed {seed} --ops {ops} --crashes {crashes}{level}{}{}{lies} -v",
        policy.unwrap_or_default(),
        planted.unwrap_or_default()
    );
    if !options.no_shrink {
        let (short, violation) = shortest(&plan, violation, SHRINK_PATIENCE);
        println!("{} of {} steps do:", short.steps.len(), plan.steps.len());
        for (index, step) in short.steps.iter().enumerate() {
            println!("  {index:>4}  {step:?}");
        }
        println!("  then: {violation}");
        if options.verbose {
            let _ = run(&short, true);
        }
    }
    false
}

fn all_plants(options: &Options, limits: &Limits) -> bool {
    let plants = Sabotage::ALL.into_iter().filter(|sabotage| limits.journal || !sabotage.is_of_the_journal());
    let plants = plants.filter(|sabotage| !options.except.contains(sabotage));
    let (mut found, mut tried, mut latest) = (0, 0, 0);
    for sabotage in plants {
        let options = Options { no_shrink: true, ..options.clone() };
        tried += 1;
        if let Some(seeds) = one_plant(&options, limits, sabotage, PLANT_SEEDS) {
            found += 1;
            latest = latest.max(seeds);
        }
    }
    figure(&format!("simulation: {found} of {tried} planted mistakes found, each within {latest} seeds"));
    found == tried
}

/// Have `scripts/test` show this at its end.
fn figure(text: &str) {
    let Some(path) = std::env::var_os("LABSAN_TEST_REPORT") else { return };
    let report = std::fs::OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = report.and_then(|mut report| writeln!(report, "figure: {text}")) {
        println!("the figure is not in the report: {error}");
    }
}

/// After how many seeds it is found, if it is.
fn one_plant(options: &Options, limits: &Limits, sabotage: Sabotage, seeds: u64) -> Option<u64> {
    let runs = Seeds::run(options, limits, Some(sabotage), seeds);
    let name = sabotage.name();
    let Some((seed, violation)) = &runs.broken else {
        println!("{name}: NOT FOUND in {seeds} seeds");
        return None;
    };
    if let Some(genuine) = run(&Plan::draw(*seed, limits), false).violation {
        println!("{name}: seed {seed} breaks a promise without it, too: {genuine}");
        return None;
    }
    println!("{name}: found by seed {seed}, after {} seeds: {violation}", runs.runs);
    if !options.no_shrink {
        plant(Some(sabotage));
        tell(options, limits, *seed, violation);
    }
    Some(runs.runs)
}

/// Many seeds, several at a time, until one breaks a promise.
struct Seeds {
    totals: Totals,
    runs: u64,
    broken: Option<(u64, Violation)>,
    took: Duration,
}

impl Seeds {
    fn run(options: &Options, limits: &Limits, sabotage: Option<Sabotage>, seeds: u64) -> Self {
        let began = Instant::now();
        let next = AtomicU64::new(options.from);
        let over = AtomicBool::new(false);
        let shared = Mutex::new((Totals::default(), 0, None::<(u64, Violation)>));
        let end = options.from + seeds;
        std::thread::scope(|scope| {
            for _ in 0..options.jobs.max(1) {
                scope.spawn(|| {
                    plant(sabotage);
                    while !over.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        let plan = Plan::draw(seed, limits);
                        let outcome = run(&plan, false);
                        let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        shared.0.add(plan.shape.kind(), &outcome.stats);
                        shared.1 += 1;
                        if let Some(violation) = outcome.violation {
                            over.store(true, Ordering::Relaxed);
                            let first = shared.2.as_ref().is_none_or(|(known, _)| seed < *known);
                            if first {
                                shared.2 = Some((seed, violation));
                            }
                        }
                    }
                });
            }
        });
        let (totals, runs, broken) = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Self { totals, runs, broken, took: began.elapsed() }
    }

    fn rate(&self) -> String {
        let seconds = self.took.as_secs_f64();
        let (_, sum) = self.totals.sum();
        format!(
            "{} seeds in {seconds:.1} s: {:.2} s each; {} operations, {} power cuts",
            self.runs,
            seconds / self.runs.max(1) as f64,
            sum.operations,
            sum.cuts
        )
    }
}
