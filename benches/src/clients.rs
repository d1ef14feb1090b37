//! What load is put on a target, and by which program?
//!
//! Reads: iscsi-perf, which does nothing else. Writes: qemu-img bench, which has no random mode; its step is set to a
//! golden-ratio share of the LUN instead, so that it visits every block once in an order without neighbours.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::process::mortal;
use system_tests::{Background, run, tools};

const LIMIT: Duration = Duration::from_secs(120);
const FILL_BYTES: u64 = 1 << 20;
/// Operations of the short run that tells how many fit the time.
const PROBE_SECONDS: f64 = 0.15;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) random: bool,
    pub(crate) bytes: u64,
    pub(crate) depth: u32,
}

const fn workload(
    name: &'static str,
    direction: Direction,
    random: bool,
    bytes: u64,
    depth: u32,
) -> Workload {
    Workload { name, direction, random, bytes, depth }
}

const KIB: u64 = 1 << 10;

/// 768 KiB is four whole stripes of the demo's RAID 5 (three data chunks of 64 KiB).
pub(crate) const WORKLOADS: [Workload; 9] = [
    workload("4 KiB random read, depth 1", Direction::Read, true, 4 * KIB, 1),
    workload("4 KiB random read, depth 32", Direction::Read, true, 4 * KIB, 32),
    workload("4 KiB random write, depth 1", Direction::Write, true, 4 * KIB, 1),
    workload("4 KiB random write, depth 32", Direction::Write, true, 4 * KIB, 32),
    workload("128 KiB sequential read, depth 16", Direction::Read, false, 128 * KIB, 16),
    workload("128 KiB sequential write, depth 16", Direction::Write, false, 128 * KIB, 16),
    workload("1 MiB sequential read, depth 8", Direction::Read, false, 1024 * KIB, 8),
    workload("1 MiB sequential write, depth 8", Direction::Write, false, 1024 * KIB, 8),
    workload("768 KiB full-stripe write, depth 8", Direction::Write, false, 768 * KIB, 8),
];

/// A size that every request size above divides: qemu-img bench wraps around in the middle of a request otherwise.
const SPAN_UNIT_BYTES: u64 = 3 << 20;

/// The one LUN that a client is aimed at.
#[derive(Debug, Clone)]
pub(crate) struct Lun {
    /// `127.0.0.1:3260`.
    pub(crate) portal: String,
    /// The target's name.
    pub(crate) iqn: &'static str,
    /// The LUN's number.
    pub(crate) number: u16,
}

impl Lun {
    fn url(&self) -> String {
        format!("iscsi://{}/{}/{}", self.portal, self.iqn, self.number)
    }

    /// The first `bytes` of it, in qemu's words.
    fn image_options(&self, bytes: u64) -> String {
        let Self { portal, iqn, number } = self;
        format!(
            "driver=raw,size={bytes},file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={iqn},\
             file.lun={number}"
        )
    }

    /// Its size, rounded down to what all request sizes divide.
    pub(crate) fn span_bytes(&self) -> Result<u64> {
        let mut command = Command::new(tools::need("qemu-img")?);
        let finished = run(command.args(["info", "-f", "raw", "--output=json", &self.url()]), LIMIT)?.ok()?;
        let info: serde_json::Value = serde_json::from_str(&finished.stdout)?;
        let bytes = info["virtual-size"].as_u64().with_context(|| finished.transcript())?;
        Ok(bytes / SPAN_UNIT_BYTES * SPAN_UNIT_BYTES)
    }
}

/// A client aimed at one LUN.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) lun: Lun,
    pub(crate) span_bytes: u64,
    pub(crate) duration: Duration,
}

/// What a client did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) operations: f64,
    pub(crate) elapsed: Duration,
}

impl Client {
    pub(crate) fn run(&self, workload: &Workload) -> Result<Run> {
        match workload.direction {
            Direction::Read => self.iscsi_perf(workload),
            Direction::Write => {
                let seconds = self.duration.as_secs_f64();
                let probe = self.qemu_bench(workload, 200)?;
                let guess =
                    |run: Run, seconds: f64| (run.operations / run.elapsed.as_secs_f64() * seconds).max(50.0);
                let probe = self.qemu_bench(workload, guess(probe, PROBE_SECONDS.min(seconds)) as u64)?;
                self.qemu_bench(workload, guess(probe, seconds) as u64)
            }
        }
    }

    /// Runs whole seconds only, and prints its average rate over them.
    fn iscsi_perf(&self, workload: &Workload) -> Result<Run> {
        let seconds = self.duration.as_secs_f64().ceil().max(1.0);
        let mut command = Command::new(tools::need("iscsi-perf")?);
        command.args(["-m", &workload.depth.to_string(), "-b", &(workload.bytes / 512).to_string()]);
        command.args(["-t", &seconds.to_string()]);
        if workload.random {
            command.arg("-r");
        }
        let finished = run(command.arg(self.lun.url()), LIMIT)?.ok()?;
        let average =
            finished.stdout.rsplit("iops average ").next().and_then(|s| s.split(' ').next()?.parse().ok());
        let rate: f64 = average.with_context(|| finished.transcript())?;
        if rate <= 0.0 {
            bail!("no I/O was done\n{}", finished.transcript());
        }
        Ok(Run { operations: rate * seconds, elapsed: Duration::from_secs_f64(seconds) })
    }

    fn qemu_bench(&self, workload: &Workload, count: u64) -> Result<Run> {
        let step =
            if workload.random { scattering_step(self.span_bytes, workload.bytes) } else { workload.bytes };
        let mut command = Command::new(tools::need("qemu-img")?);
        command.args(["bench", "-t", "none", "-w", "--pattern=165"]);
        command.args(["-c", &count.to_string(), "-d", &workload.depth.to_string()]);
        command.args(["-s", &workload.bytes.to_string(), "-S", &step.to_string()]);
        command.arg("--image-opts").arg(self.lun.image_options(self.span_bytes));
        let finished = run(&mut command, LIMIT)?.ok()?;
        let words = finished.stdout.rsplit("Run completed in ").next();
        let seconds: Option<f64> = words.and_then(|s| s.split(' ').next()?.parse().ok());
        let seconds = seconds.with_context(|| finished.transcript())?;
        Ok(Run { operations: count as f64, elapsed: Duration::from_secs_f64(seconds.max(1e-3)) })
    }

    /// Small writes all over the LUN, until it is killed.
    pub(crate) fn write_on(&self, log: &Path) -> Result<Background> {
        let mut command = mortal(&tools::need("qemu-img")?);
        let step = scattering_step(self.span_bytes, 4 * KIB);
        command.args(["bench", "-t", "none", "-w", "-c", "2000000000", "-d", "64", "-s", "4096"]);
        command.args(["-S", &step.to_string(), "--image-opts"]).arg(self.lun.image_options(self.span_bytes));
        Background::start(&mut command, log)
    }

    /// Writes the whole LUN once, so that no read is answered from "never written".
    pub(crate) fn fill(&self) -> Result<()> {
        let fill = workload("fill", Direction::Write, false, FILL_BYTES, 8);
        self.qemu_bench(&fill, self.span_bytes / FILL_BYTES)?;
        Ok(())
    }
}

/// A step that has no common factor with either modulus qemu-img uses (the blocks of the LUN, or one fewer) and
/// lands far from where it was each time.
fn scattering_step(lun_bytes: u64, bytes: u64) -> u64 {
    let blocks = lun_bytes / bytes;
    let mut step = blocks * 618 / 1000;
    while gcd(step, blocks) != 1 || gcd(step, blocks - 1) != 1 {
        step += 1;
    }
    step * bytes
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scattering_step_visits_every_block_once() {
        for blocks in [16_384_u64, 131_072, 100_000] {
            let step = scattering_step(blocks * 4096, 4096) / 4096;
            for modulus in [blocks, blocks - 1] {
                let seen: std::collections::HashSet<u64> = (0..modulus).map(|i| i * step % modulus).collect();
                assert_eq!(seen.len() as u64, modulus);
            }
            assert!(step > blocks / 2 && step < blocks * 7 / 10);
        }
    }
}
