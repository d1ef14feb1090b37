//! Does a SANITIZE outlive the daemon? Whoever was told that it had begun may hand the disks on when it is over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use system_tests::initiator::{Ended, GOOD, Initiator};
use system_tests::{IQN, Kind, Lab, MIB};

const VOLUME_BYTES: u64 = 32 * MIB;
const PATIENCE: Duration = Duration::from_secs(120);
const PIECE_BYTES: u32 = 128 << 10;
const RUNS: (u8, u8, u8) = (2, 0x04, 0x1b);

/// What the unit answers now, once it has told what it had to tell.
fn ready(node: &mut Initiator) -> Result<Ended> {
    loop {
        let ended = node.command(&[0x00, 0, 0, 0, 0, 0], &[], 0)?;
        if ended.sense.0 != 6 {
            return Ok(ended);
        }
    }
}

fn read(node: &mut Initiator, offset: u64) -> Result<Vec<u8>> {
    let mut cdb = [0; 10];
    cdb[0] = 0x28;
    cdb[2..6].copy_from_slice(&u32::try_from(offset / 512)?.to_be_bytes());
    cdb[7..9].copy_from_slice(&u16::try_from(PIECE_BYTES / 512)?.to_be_bytes());
    let ended = node.command(&cdb, &[], PIECE_BYTES)?;
    ensure!(ended.status == GOOD, "{ended:?}");
    Ok(ended.data)
}

#[test]
fn a_sanitize_goes_on_after_every_power_cut() -> Result<()> {
    let mut lab = Lab::new(Kind::Files, 3, 64 * MIB)?;
    lab.create_array("5", 3)?;
    lab.export_volume("old", "32MiB", 0)?;
    lab.daemon.set("sanitize_rate", "8MiB")?;
    lab.daemon.stop()?;
    lab.daemon.start()?;
    let node = |lab: &Lab| Initiator::log_in(lab.daemon.portal(), IQN, 0, "a");
    let mut first = node(&lab)?;
    ensure!(ready(&mut first)?.status == GOOD);
    let begun = first.command(&[0x48, 0x81, 0, 0, 0, 0, 0, 0, 5, 0], &[1, 0, 0, 1, 0x55], 0)?;
    ensure!(begun.status == GOOD, "IMMED: {begun:?}");
    for cut in 0..2 {
        lab.daemon.kill();
        lab.daemon.start()?;
        let ended = ready(&mut node(&lab)?)?;
        ensure!(ended.sense == RUNS, "after cut {cut}: {ended:?}");
    }
    let mut last = node(&lab)?;
    let began = Instant::now();
    while ready(&mut last)?.sense == RUNS {
        ensure!(began.elapsed() < PATIENCE, "it never ends\n{}", lab.daemon.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    for offset in (0..VOLUME_BYTES).step_by(PIECE_BYTES as usize) {
        let data = read(&mut last, offset)?;
        ensure!(data.iter().all(|byte| *byte == 0x55), "old data at {offset}");
    }
    // And it is over: what is written now stays.
    ensure!(last.write(0, 7)? == GOOD);
    lab.daemon.kill();
    lab.daemon.start()?;
    let mut after = node(&lab)?;
    ensure!(ready(&mut after)?.status == GOOD);
    ensure!(after.read(0)? == (GOOD, Some(7)));
    Ok(())
}
