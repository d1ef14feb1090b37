//! How long does a cluster wait for its PERSISTENT RESERVE commands while everything else is busy? Clusters take a disk for
//! lost after a few seconds, and the rule here is 99.9 % under 100 ms.

use crate::clients::Client;
use crate::targets::{Policied, Target};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use system_tests::initiator::{Initiator, Order};
use system_tests::process::mortal;
use system_tests::{Background, IQN, MIB, tools};

/// By this name it is asked for.
pub(crate) const NAME: &str = "reservations";

/// The LUN that is reserved.
const QUORUM: u16 = 1;
/// Write exclusive, registrants only: Windows' and fence_scsi's.
const KIND: u8 = 5;
const KEYS: (u64, u64) = (0xa1, 0xb2);
/// So many, if the rebuild takes long enough: below a thousand there is no 99.9 %.
const MOST: usize = 6000;
const QUICK: usize = 60;

/// What the orders of two nodes took, small writes at depth 64 and a rebuild beside them.
pub(crate) fn measure(parent: &Path, lun_bytes: u64, quick: bool) -> Result<String> {
    let target = Policied::start(parent, "journal", lun_bytes)?;
    let lun = target.lun();
    let portal = lun.portal.clone();
    // A disk that decides who may write, of the same array, so that the load is not kept out by its reservations.
    target.lab.export_volume("quorum", "16MiB", QUORUM)?;
    let client = Client { span_bytes: lun.span_bytes()?, lun, duration: Duration::ZERO };
    client.fill()?;
    let [mut one, mut two] = nodes(&portal, QUORUM, ["a", "b"])?;
    let [mut loaded_one, mut loaded_two] = nodes(&portal, 0, ["c", "d"])?;
    let lab = &target.lab;
    let log = tempfile::NamedTempFile::new()?;
    let mut writing = client.write_on(log.path())?;
    let spare = lab.extra_disk("spare.img", std::fs::metadata(&lab.disks[0])?.len())?;
    lab.daemon.raidctl(&["array", "add", "lab", &spare.to_string_lossy()])?.ok()?;
    lab.fail(0)?;
    let mut wait = mortal(&tools::own("raidctl")?);
    wait.arg("--socket").arg(lab.daemon.socket());
    wait.args(["array", "wait", "lab", "--for", "optimal", "--timeout", "600"]);
    let mut rebuild = Background::start(&mut wait, &lab.dir().join("rebuild.log"))?;
    let [mut reserved, mut loaded] = [Vec::new(), Vec::new()];
    while rebuild.running() && reserved.len() < if quick { QUICK } else { MOST } {
        // A node comes, is kept out, is thrown out, and what it wanted is free again.
        time(&mut reserved, || two.done(Order::RegisterAndIgnore, 0, (0, KEYS.1), true))?;
        time(&mut reserved, || one.done(Order::Reserve, KIND, (KEYS.0, 0), false))?;
        time(&mut reserved, || two.reservation().map(drop))?;
        time(&mut reserved, || one.done(Order::PreemptAndAbort, KIND, KEYS, false))?;
        time(&mut reserved, || one.keys().map(drop))?;
        time(&mut reserved, || one.done(Order::Release, KIND, (KEYS.0, 0), false))?;
        // Under the load itself, which nothing reserves: what waits for the writes that are under way.
        time(&mut loaded, || loaded_two.done(Order::RegisterAndIgnore, 0, (0, KEYS.1), true))?;
        time(&mut loaded, || loaded_one.done(Order::PreemptAndAbort, KIND, KEYS, false))?;
        time(&mut loaded, || loaded_one.keys().map(drop))?;
    }
    ensure!(writing.running(), "the load ended early:\n{}", writing.output());
    writing.kill();
    Ok(format!(
        "reservations: a rebuild of {} MiB and small writes at full load beside {}; {}",
        lun_bytes / MIB,
        quantiles("PR commands to another LUN of the array", reserved)?,
        quantiles("to the LUN under load", loaded)?,
    ))
}

/// Two nodes, the first of them registered.
fn nodes(portal: &str, lun: u16, names: [&str; 2]) -> Result<[Initiator; 2]> {
    let [one, two] = names.map(|name| Initiator::log_in(portal, IQN, lun, name));
    let mut nodes = [one?, two?];
    nodes[0].done(Order::RegisterAndIgnore, 0, (0, KEYS.0), true)?;
    Ok(nodes)
}

fn time(times: &mut Vec<Duration>, order: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    order()?;
    times.push(began.elapsed());
    Ok(())
}

/// How many there were and how long they took; without a thousand of them there is no 99.9 %.
fn quantiles(what: &str, mut times: Vec<Duration>) -> Result<String> {
    times.sort_unstable();
    let ms = |share: f64| {
        let time = times.get(((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1)));
        time.map(|time| time.as_secs_f64() * 1e3).context("no rebuild was seen")
    };
    let rare = if times.len() < 1000 {
        "too few for 99.9 %".to_owned()
    } else {
        format!("99.9 % in {:.1} ms", ms(0.999)?)
    };
    Ok(format!("{} {what}: half in {:.1} ms, {rare}, all in {:.1} ms", times.len(), ms(0.5)?, ms(1.0)?))
}
