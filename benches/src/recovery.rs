//! How long does a start take that finds the journal full?

use crate::clients::Client;
use crate::targets::{Policied, Target};
use anyhow::{Context, Result};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// By this name it is asked for.
pub(crate) const NAME: &str = "recovery";

/// Random writes come faster than their stripes can be put in place: by then the ring is as full as destaging lets it get.
const UNDER_LOAD: Duration = Duration::from_secs(20);

/// What the daemon says of its recovery, with the time from its start until it serves.
pub(crate) fn measure(parent: &Path, lun_bytes: u64, quick: bool) -> Result<String> {
    let mut target = Policied::start(parent, "journal", lun_bytes)?;
    let lun = target.lun();
    let span_bytes = lun.span_bytes()?;
    let client = Client { lun, span_bytes, duration: UNDER_LOAD };
    client.fill()?;
    let log = tempfile::NamedTempFile::new()?;
    let mut writing = client.write_on(log.path())?;
    sleep(if quick { UNDER_LOAD / 20 } else { UNDER_LOAD });
    let daemon = &mut target.lab.daemon;
    daemon.kill();
    writing.kill();
    let began = Instant::now();
    daemon.start()?;
    let seconds = began.elapsed().as_secs_f64();
    let log = daemon.log();
    let said = log.rsplit("the journal held ").next().and_then(|rest| rest.lines().next());
    let said = said.filter(|said| said.contains("recovered")).context("nothing was recovered")?;
    Ok(format!("recovery: the journal held {said}; served again {seconds:.1} s after its start"))
}
