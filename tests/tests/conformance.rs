//! Does a RAID 5 LUN behave as a disk should, to libiscsi's tools and its conformance suite, also with a member lost?

use anyhow::{Result, ensure};
use std::time::Duration;
use system_tests::conformance::{self, Tally};
use system_tests::lab::free_port;
use system_tests::process::{mortal, wait_for};
use system_tests::{Background, IQN, Kind, Lab, MIB, Seed, image, qemu, report, tools};

const START_LIMIT: Duration = Duration::from_secs(20);

const DISK_BYTES: u64 = 160 * MIB;
/// Whole regions of the written map at every level below, so that all of it can be told as deallocated.
const LUN_BYTES: u64 = 81 * MIB;
/// A volume's sanitizing takes longer than the suite's pauses (`Sanitize.Reset`): it wants to meet it under way.
const SANITIZE_RATE: &str = "9MiB";
/// The same volume is a LUN of this target too: the suite's second path.
const SECOND: &str = "iqn.2026-11.org.labsan:second";

/// What the suite can only skip, by the beginning of its name, and why. Any other skip is a failure.
const CAN_ONLY_SKIP: [(&str, &str); 8] = [
    ("NoMedia.", "the medium cannot be removed"),
    ("PreventAllow.", "the medium cannot be removed"),
    ("StartStopUnit.Simple", "the medium cannot be removed"),
    ("StartStopUnit.NoLoej", "the medium cannot be removed"),
    ("Sanitize.CryptoErase", "nothing is encrypted, so there is no key to forget"),
    ("Sanitize.Readonly", "its last part is about CRYPTO ERASE"),
    ("Sanitize.Reservations", "its last part is about CRYPTO ERASE"),
    ("ReadOnly.", "the LUN can be written; `a_read_only_lun_takes_no_writes` has one that cannot"),
];
/// What only a LUN whose physical blocks are told as 512 bytes can pass (docs/scsi-conformance.md).
const NEEDS_SMALL_BLOCKS: &str = "GetLBAStatus.UnmapSingle";
/// What wants a way back to the LUN by a second path.
const SECOND_PATH: &str = "MultipathIO.";

/// What a test says that only a LUN with larger physical blocks can pass.
const NEEDS_LARGE_BLOCKS: &str = "LBPPB < 2";

/// An array with one volume, and its URLs by both targets. `physical_block`: what initiators are told, if not the truth.
fn lab(level: &str, physical_block: Option<&str>) -> Result<(Lab, [String; 2])> {
    let mut lab = Lab::new(Kind::Files, 4, DISK_BYTES)?;
    lab.daemon.kill();
    lab.daemon.set("sanitize_rate", SANITIZE_RATE)?;
    lab.daemon.start()?;
    lab.create_array(level, if level == "1" { 2 } else { 4 })?;
    let size = format!("{}MiB", LUN_BYTES / MIB);
    let mut words = vec!["volume", "create", "lab/lun", "--size", &size];
    words.extend(physical_block.iter().flat_map(|bytes| ["--physical-block", bytes]));
    lab.daemon.raidctl(&words)?.ok()?;
    for target in [IQN, SECOND] {
        lab.daemon.raidctl(&["target", "create", target])?.ok()?;
        lab.daemon.raidctl(&["target", "allow", target, "*"])?.ok()?;
        lab.daemon.raidctl(&["lun", "map", target, "lab/lun", "--lun", "0"])?.ok()?;
    }
    let urls = [IQN, SECOND].map(|target| lab.daemon.url(target, 0));
    Ok((lab, urls))
}

fn raid5() -> Result<(Lab, String)> {
    let (lab, [url, _]) = lab("5", None)?;
    Ok((lab, url))
}

/// The whole suite, destructive tests and sanitizing included, or one family of it.
fn suite(what: &str, families: &str, urls: &[&str]) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut output = String::new();
    let runs = if families == "ALL" { conformance::runs()? } else { vec![families.to_owned()] };
    for run in &runs {
        let (of_run, said) = conformance::run_family(run, urls)?;
        if !of_run.failed.is_empty() {
            output.push_str(&said);
        }
        tally.extend(of_run);
    }
    let (passed, skipped, failed) = (tally.passed.len(), tally.skipped.len(), tally.failed.len());
    report::figure(&format!(
        "conformance, {what}: {passed} passed, {skipped} skipped in part or whole, {failed} failed"
    ));
    for (name, reason) in &tally.skipped {
        eprintln!("skipped: {name}: {reason}");
    }
    if failed > 0 {
        eprintln!("{output}");
    }
    Ok(tally)
}

/// Nothing fails but what `excused` begins, and nothing is skipped but what can only be.
fn must_pass(tally: &Tally, excused: &[&str]) -> Result<()> {
    let excused = |name: &&String| !excused.iter().any(|start| name.starts_with(start));
    let failed: Vec<&String> = tally.failed.iter().filter(excused).collect();
    ensure!(failed.is_empty(), "failed: {failed:?}");
    let known = |name: &&String| !CAN_ONLY_SKIP.iter().any(|(start, _)| name.starts_with(start));
    let skipped: Vec<&String> =
        tally.skipped.iter().map(|(name, _)| name).filter(known).filter(excused).collect();
    ensure!(skipped.is_empty(), "skipped: {skipped:?}");
    Ok(())
}

/// With the second path, and so with two initiators: all of it. What needs larger physical blocks runs on a second LUN.
fn whole_suite(what: &str, level: &str, spoil: impl FnOnce(&Lab) -> Result<()>) -> Result<Lab> {
    let (lab, urls) = lab(level, Some("512"))?;
    let large = lab.export_volume("large", "48MiB", 1)?;
    spoil(&lab)?;
    let mut tally = suite(what, "ALL", &[&urls[0], &urls[1]])?;
    let (needing, skipped) = std::mem::take(&mut tally.skipped)
        .into_iter()
        .partition(|(_, why)| why.starts_with(NEEDS_LARGE_BLOCKS));
    tally.skipped = skipped;
    let needing: Vec<(String, String)> = needing;
    for (name, _) in needing {
        tally.extend(suite(&format!("{what}, 512e: {name}"), &format!("ALL.{name}"), &[&large])?);
    }
    must_pass(&tally, &[])?;
    Ok(lab)
}

/// The protocol without RAID: `iscsi-target`'s own example.
#[test]
fn suite_passes_on_memory() -> Result<()> {
    let portal = format!("127.0.0.1:{}", free_port()?);
    let dir = tempfile::tempdir()?;
    let mut command = mortal(&tools::own("examples/memory_target")?);
    let log = dir.path().join("log");
    let mut target = Background::start(command.args([&portal, "160"]), &log)?;
    let url = wait_for("the target", START_LIMIT, || {
        ensure!(target.running(), "it ended: {}", target.output());
        Ok(target.output().lines().find(|line| line.starts_with("iscsi://")).map(ToOwned::to_owned))
    })?;
    let tally = suite("in memory", "ALL", &[&url])?;
    // Its disk does not know what was written, cannot write atomically, and is sanitized at once.
    let excused =
        [NEEDS_SMALL_BLOCKS, SECOND_PATH, "Sanitize.BlockErase", "Sanitize.Reset", "WriteAtomic16."];
    must_pass(&tally, &excused)
}

#[test]
fn whole_suite_passes_on_raid5() -> Result<()> {
    let lab = whole_suite("RAID 5, two paths", "5", |_| Ok(()))?;
    lab.daemon.raidctl(&["status"])?.expect_code(0)?;
    Ok(())
}

#[test]
fn whole_suite_passes_on_raid5_degraded() -> Result<()> {
    let lab = whole_suite("RAID 5 degraded, two paths", "5", |lab| lab.fail(1))?;
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said("degraded")?;
    Ok(())
}

#[test]
fn whole_suite_passes_on_raid1() -> Result<()> {
    let lab = whole_suite("RAID 1, two paths", "1", |_| Ok(()))?;
    lab.daemon.raidctl(&["status"])?.expect_code(0)?;
    Ok(())
}

/// As volumes are unless something else is asked for, and by one path.
#[test]
fn suite_passes_with_physical_blocks_of_4096_bytes() -> Result<()> {
    let (lab, url) = raid5()?;
    let tally = suite("RAID 5, 512e, one path", "ALL", &[&url])?;
    must_pass(&tally, &[NEEDS_SMALL_BLOCKS, SECOND_PATH])?;
    lab.daemon.raidctl(&["status"])?.expect_code(0)?;
    Ok(())
}

#[test]
fn a_read_only_lun_takes_no_writes() -> Result<()> {
    let (lab, _) = raid5()?;
    lab.daemon.raidctl(&["volume", "create", "lab/fixed", "--size", "16MiB"])?.ok()?;
    lab.daemon.raidctl(&["lun", "map", IQN, "lab/fixed", "--lun", "1", "--read-only"])?.ok()?;
    let tally = suite("read-only LUN", "ALL.ReadOnly", &[&lab.daemon.url(IQN, 1)])?;
    ensure!(tally.passed == ["ReadOnly.ReadOnlySBC"], "{tally:?}");
    Ok(())
}

#[test]
fn client_tools_see_one_disk() -> Result<()> {
    let (lab, url) = raid5()?;
    conformance::list(lab.daemon.portal())?
        .expect_said(IQN)?
        .expect_said("Lun:0")?
        .expect_said("DIRECT_ACCESS")?;
    conformance::inquiry(&url, None)?.expect_said("DIRECT_ACCESS")?.expect_said("CmdQue:1")?;
    for page in [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2] {
        conformance::inquiry(&url, Some(page))?;
    }
    conformance::inquiry(&url, Some(0x83))?.expect_said("NAA")?;
    let capacity = conformance::read_capacity(&url)?.expect_said("LOGICAL BLOCK LENGTH IN BYTES:512")?;
    capacity.expect_said(&format!("RETURNED LOGICAL BLOCK ADDRESS:{}", LUN_BYTES / 512 - 1))?;
    qemu::info(&url)?.expect_said(&format!("({LUN_BYTES} bytes)"))?;
    Ok(())
}

#[test]
fn identity_survives_a_restart_and_volumes_differ() -> Result<()> {
    let (mut lab, url) = raid5()?;
    let other = lab.export_volume("other", "16MiB", 1)?;
    let identity = |url: &str| -> Result<String> { Ok(conformance::inquiry(url, Some(0x83))?.stdout) };
    let before = identity(&url)?;
    ensure!(before != identity(&other)?, "two volumes have one identity");
    lab.daemon.kill();
    lab.daemon.start()?;
    ensure!(before == identity(&url)?, "the identity changed over a restart");
    Ok(())
}

#[test]
fn images_go_in_and_out_unchanged() -> Result<()> {
    let mut seed = Seed::from_env(77);
    let (lab, url) = raid5()?;
    let (source, copy) = (lab.dir().join("source.ext4"), lab.dir().join("copy.raw"));
    image::make_ext4(&source, LUN_BYTES, 1000, &mut seed)?;
    qemu::upload(&source, &url)?;
    qemu::compare(&source.to_string_lossy(), &url)?.expect_said("identical")?;
    qemu::download(&url, &copy)?;
    image::same_bytes(&source, &copy, LUN_BYTES)
}
