//! Does `raidctl` tell the truth at every step of a member's life, and does the daemon act by itself when it must?

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use system_tests::process::wait_for;
use system_tests::{IQN, Kind, Lab, MIB, image, loop_device, qemu, report};

const DISK_BYTES: u64 = 96 * MIB;
/// What `array create` takes.
const CHUNK_BYTES: usize = 64 << 10;
const SECONDS: Duration = Duration::from_secs(5);
const SCREEN_LINES: usize = 50;

fn lab(kind: Kind, level: &str, members: usize, spares: usize) -> Result<(Lab, String)> {
    let lab = Lab::new(kind, members + spares, DISK_BYTES)?;
    lab.create_array(level, members)?;
    let url = lab.export_volume("lun", "64MiB", 0)?;
    Ok((lab, url))
}

fn array(lab: &Lab) -> Result<Value> {
    lab.daemon.json(&["array", "show", "lab"])
}

/// The state word of the member on disk `number`.
fn member_state(lab: &Lab, number: usize) -> Result<String> {
    let shown = array(lab)?;
    let path = lab.disk(number);
    let members = shown["members"].as_array().context("members")?;
    let member = members.iter().find(|m| m["path"] == path.as_str());
    Ok(member.map_or("absent", |m| m["state"].as_str().unwrap_or("?")).to_owned())
}

#[test]
fn status_tells_the_truth_after_each_step() -> Result<()> {
    let (lab, url) = lab(Kind::Files, "5", 3, 0)?;
    let status = |code: i32, words: &[&str]| -> Result<()> {
        let mut said = lab.daemon.raidctl(&["status"])?.expect_code(code)?;
        ensure!(said.stdout.lines().count() <= SCREEN_LINES, "more than a screen\n{}", said.transcript());
        for word in words {
            said = said.expect_said(word)?;
        }
        Ok(())
    };
    status(0, &["lab", "optimal", &lab.disk(0), IQN])?;
    qemu::io(&url, &["write -P 1 0 8M".into()])?;

    lab.fail(1)?;
    status(1, &["degraded", "failed", &lab.disk(1), "raidctl"])?;
    ensure!(array(&lab)?["state"] == "degraded" && member_state(&lab, 1)? == "failed");
    qemu::io(&url, &["read -P 1 0 8M".into(), "write -P 2 4M 1M".into()])?;

    lab.daemon.raidctl(&["array", "remove", "lab", &lab.disk(1)])?.ok()?;
    ensure!(member_state(&lab, 1)? == "absent", "a removed disk is still shown");
    status(1, &["degraded", "missing"])?;

    lab.daemon.raidctl(&["array", "add", "lab", &lab.disk(1)])?.ok()?;
    lab.wait_optimal()?;
    status(0, &["optimal", &lab.disk(1)])?;
    ensure!(member_state(&lab, 1)? == "in_sync");

    lab.fail(0)?;
    qemu::io(&url, &["read -P 1 0 4M".into(), "read -P 2 4M 1M".into(), "read -P 1 5M 3M".into()])?;
    Ok(())
}

#[test]
fn a_spare_takes_over_within_seconds() -> Result<()> {
    let (lab, url) = lab(Kind::Files, "6", 4, 1)?;
    ensure!(member_state(&lab, 4)? == "spare");
    qemu::io(&url, &["write -P 3 0 32M".into()])?;
    lab.fail(2)?;
    wait_for("the spare to be taken", SECONDS, || {
        let state = member_state(&lab, 4)?;
        Ok((state == "rebuilding" || state == "in_sync").then_some(()))
    })?;
    lab.wait_optimal()?;
    ensure!(member_state(&lab, 4)? == "in_sync");
    let events = lab.daemon.raidctl(&["events"])?.ok()?;
    for name in ["Fail", "RebuildStarted", "RebuildFinished", "SpareActive"] {
        ensure!(events.stdout.contains(name), "no {name}\n{}", events.transcript());
    }
    Ok(())
}

#[test]
fn the_last_redundancy_is_not_given_away_unasked() -> Result<()> {
    let (lab, url) = lab(Kind::Files, "5", 3, 0)?;
    qemu::io(&url, &["write -P 4 0 1M".into()])?;
    lab.fail(0)?;
    lab.daemon.raidctl(&["array", "fail", "lab", &lab.disk(1), "--yes"])?.expect_code(3)?;
    qemu::io(&url, &["read -P 4 0 1M".into()])?;
    ensure!(array(&lab)?["state"] == "degraded");
    Ok(())
}

/// A loop device whose file was cut short cannot read what lay beyond. What is written there makes the file longer, and then
/// whatever is below reads as zeros without an error, as no disk does: so just one chunk is lost, the last that was written.
#[test]
fn an_unreadable_chunk_is_read_from_the_others_and_mended() -> Result<()> {
    if let Some(why) = loop_device::refusal() {
        report::skipped("unreadable sectors", &why);
        return Ok(());
    }
    let (mut lab, url) = lab(Kind::Loops, "5", 3, 0)?;
    // The last stripe has its parity on another disk.
    qemu::io(&url, &["write -P 5 0 65408k".into()])?;
    lab.daemon.stop()?;
    let backing = lab.dir().join("disk1.backing");
    let lost = last_chunk(&backing, 5)?;
    let file = std::fs::OpenOptions::new().write(true).open(&backing)?;
    file.set_len(lost)?;
    lab.daemon.start()?;
    qemu::io(&url, &["read -P 5 0 65408k".into()])?;
    let corrected = array(&lab)?["members"][1]["corrected_errors"].clone();
    ensure!(corrected.as_u64() > Some(0), "nobody noticed: {}", array(&lab)?);
    ensure!(array(&lab)?["state"] == "optimal" && file.metadata()?.len() == lost + CHUNK_BYTES as u64);
    file.set_len(DISK_BYTES)?;
    lab.fail(0)?;
    qemu::io(&url, &["read -P 5 0 65408k".into()])?;
    Ok(())
}

/// Where the last chunk of this byte begins in a file that has only zeros behind it.
fn last_chunk(file: &Path, byte: u8) -> Result<u64> {
    let bytes = std::fs::read(file)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).context("it is empty")? + 1;
    let start = end.checked_sub(CHUNK_BYTES).context("no chunk")?;
    ensure!(
        bytes[start..end].iter().all(|found| *found == byte),
        "the end of {} is not data",
        file.display()
    );
    Ok(start as u64)
}

#[test]
fn an_array_without_one_member_starts_degraded_and_says_which() -> Result<()> {
    let (mut lab, url) = lab(Kind::Files, "5", 3, 0)?;
    qemu::io(&url, &["write -P 7 0 8M".into()])?;
    lab.daemon.stop()?;
    let away = lab.dir().join("away");
    std::fs::create_dir(&away)?;
    std::fs::rename(&lab.disks[2], away.join("disk2.img"))?;
    lab.daemon.start()?;
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said("degraded")?.expect_said("missing")?;
    qemu::io(&url, &["read -P 7 0 8M".into(), "write -P 8 1M 64k".into()])?;
    // Back again, it is out of date: never taken as in sync silently.
    lab.daemon.stop()?;
    std::fs::rename(away.join("disk2.img"), &lab.disks[2])?;
    lab.daemon.start()?;
    ensure!(member_state(&lab, 2)? != "in_sync" || array(&lab)?["state"] == "optimal");
    qemu::io(&url, &["read -P 7 0 1M".into(), "read -P 8 1M 64k".into(), "read -P 7 2M 6M".into()])?;
    Ok(())
}

#[test]
fn too_few_members_are_refused_and_said_so() -> Result<()> {
    let (mut lab, _) = lab(Kind::Files, "5", 3, 0)?;
    lab.daemon.stop()?;
    std::fs::remove_file(&lab.disks[1])?;
    std::fs::remove_file(&lab.disks[2])?;
    let before = image::fingerprints(&lab.disks[..1])?;
    lab.daemon.start()?;
    lab.daemon.raidctl(&["status"])?.expect_code(2)?.expect_said(&lab.disk(0))?;
    ensure!(image::fingerprints(&lab.disks[..1])? == before, "the refused array's disk was written");
    Ok(())
}
