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
    let client = Client { span_bytes: lun.span_bytes()?, lun, duration: Duration::ZERO };
    client.fill()?;
    let [mut one, mut two] =
        [Initiator::log_in(&portal, IQN, 0, "a")?, Initiator::log_in(&portal, IQN, 0, "b")?];
    one.done(Order::RegisterAndIgnore, 0, (0, KEYS.0), true)?;
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
    let mut times = Vec::new();
    while rebuild.running() && times.len() < if quick { QUICK } else { MOST } {
        // A node comes, is kept out, is thrown out, and what it wanted is free again.
        time(&mut times, || two.done(Order::RegisterAndIgnore, 0, (0, KEYS.1), true))?;
        time(&mut times, || one.done(Order::Reserve, KIND, (KEYS.0, 0), false))?;
        time(&mut times, || two.reservation().map(drop))?;
        time(&mut times, || one.done(Order::PreemptAndAbort, KIND, KEYS, false))?;
        time(&mut times, || one.keys().map(drop))?;
        time(&mut times, || one.done(Order::Release, KIND, (KEYS.0, 0), false))?;
    }
    ensure!(writing.running(), "the load ended early:\n{}", writing.output());
    writing.kill();
    times.sort_unstable();
    let share = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len() - 1)).copied();
    let ms =
        |share_of: f64| share(share_of).map(|time| time.as_secs_f64() * 1e3).context("no rebuild was seen");
    Ok(format!(
        "reservations: {} PR commands under full load during a rebuild of {} MiB: half in {:.1} ms, 99.9 % in {:.1} ms, \
         all in {:.1} ms",
        times.len(),
        lun_bytes / MIB,
        ms(0.5)?,
        ms(0.999)?,
        ms(1.0)?,
    ))
}

fn time(times: &mut Vec<Duration>, order: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    order()?;
    times.push(began.elapsed());
    Ok(())
}
