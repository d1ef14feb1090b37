//! Does a RAID 5 LUN behave as a disk should, to libiscsi's tools and its conformance suite, also with a member lost?

use anyhow::{Result, ensure};
use std::time::Duration;
use system_tests::conformance::{self, Tally};
use system_tests::lab::free_port;
use system_tests::process::{mortal, wait_for};
use system_tests::{Background, IQN, Kind, Lab, MIB, Seed, image, qemu, report, tools};

const START_LIMIT: Duration = Duration::from_secs(20);

const DISK_BYTES: u64 = 96 * MIB;
const LUN_BYTES: u64 = 160 * MIB;
/// What must pass. Of GET LBA STATUS not UnmapSingle, which expects an answer to begin elsewhere than where it asked unless
/// physical blocks are logical ones (docs/scsi-conformance.md); of SANITIZE neither BlockErase, which wants the end of the LUN told as
/// deallocated though it shares a region, nor Reset, which wants a LUN so large that it takes longer than the suite's pauses.
const FAMILIES: [&str; 29] = [
    "ALL.CompareAndWrite",
    "ALL.ExtendedCopy",
    "ALL.GetLBAStatus.Simple",
    "ALL.GetLBAStatus.BeyondEol",
    "ALL.Inquiry",
    "ALL.Mandatory",
    "ALL.ModeSense6",
    "ALL.OrWrite",
    "ALL.Prefetch*",
    "ALL.PreventAllow",
    "ALL.Read6",
    "ALL.Read1*",
    "ALL.ReadCapacity*",
    "ALL.ReadDefectData*",
    "ALL.ReceiveCopyResults",
    "ALL.ReportSupportedOpcodes",
    "ALL.Sanitize.BlockEraseReserved",
    "ALL.Sanitize.Crypto*",
    "ALL.Sanitize.ExitFailureMode",
    "ALL.Sanitize.InvalidServiceAction",
    "ALL.Sanitize.Overwrite*",
    "ALL.Sanitize.Readonly",
    "ALL.Sanitize.Reservations",
    "ALL.StartStopUnit",
    "ALL.TestUnitReady",
    "ALL.Unmap",
    "ALL.Verify*",
    "ALL.Write*",
    "ALL.iSCSI*",
];
/// What needs a second initiator: the suite's own, or a second path.
const SHARED: [&str; 4] = ["ALL.Prin*", "ALL.Prout*", "ALL.Reserve6", "ALL.MultipathIO"];
/// What the suite can only skip, by the beginning of its name, and why. Any other skip is a failure.
const CAN_ONLY_SKIP: [(&str, &str); 6] = [
    ("PreventAllow.", "the medium cannot be removed"),
    ("StartStopUnit.Simple", "the medium cannot be removed"),
    ("StartStopUnit.NoLoej", "the medium cannot be removed"),
    ("Sanitize.CryptoErase", "nothing is encrypted, so there is no key to forget"),
    ("Sanitize.Readonly", "its last part is about CRYPTO ERASE"),
    ("Sanitize.Reservations", "its last part is about CRYPTO ERASE"),
];
/// What else the suite has for disks. Counted and shown; only the families above must pass.
const OTHERS: [&str; 3] = ["ALL.GetLBAStatus.UnmapSingle", "ALL.Sanitize.BlockErase", "ALL.Sanitize.Reset"];

fn raid5() -> Result<(Lab, String)> {
    let lab = Lab::new(Kind::Files, 4, DISK_BYTES)?;
    lab.create_array("5", 4)?;
    let url = lab.export_volume("lun", &format!("{}MiB", LUN_BYTES / MIB), 0)?;
    Ok((lab, url))
}

fn suite(families: &[&str], what: &str, urls: &[&str]) -> Result<Tally> {
    let mut all = Tally::default();
    let mut outputs = String::new();
    for family in families {
        let (tally, output) = conformance::run_family(family, urls)?;
        if !tally.failed.is_empty() {
            outputs.push_str(&output);
        }
        all.extend(tally);
    }
    let (passed, skipped, failed) = (all.passed.len(), all.skipped.len(), all.failed.len());
    report::figure(&format!(
        "conformance, {what}: {passed} passed, {skipped} skipped in part or whole, {failed} failed"
    ));
    for (name, reason) in &all.skipped {
        eprintln!("skipped: {name}: {reason}");
    }
    if failed > 0 {
        eprintln!("{outputs}");
    }
    Ok(all)
}

fn must_pass(what: &str, url: &str) -> Result<()> {
    let tally = suite(&FAMILIES, what, &[url])?;
    ensure!(tally.failed.is_empty(), "failed: {}", tally.failed.join(", "));
    let known = |name: &str| CAN_ONLY_SKIP.iter().any(|(start, _)| name.starts_with(start));
    let skipped: Vec<&str> =
        tally.skipped.iter().map(|(name, _)| name.as_str()).filter(|name| !known(name)).collect();
    ensure!(skipped.is_empty(), "skipped: {}", skipped.join(", "));
    Ok(())
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
    must_pass("in memory", &url)
}

#[test]
fn suite_passes_on_a_healthy_array() -> Result<()> {
    let (lab, url) = raid5()?;
    must_pass("RAID 5", &url)?;
    lab.daemon.raidctl(&["status"])?.expect_code(0)?;
    Ok(())
}

#[test]
fn suite_passes_on_a_degraded_array() -> Result<()> {
    let (lab, url) = raid5()?;
    lab.fail(1)?;
    must_pass("RAID 5 degraded", &url)?;
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said("degraded")?;
    Ok(())
}

/// By two initiators, which is what shows most of it; and by two paths.
#[test]
fn suite_passes_with_two_initiators() -> Result<()> {
    let (_lab, url) = raid5()?;
    for urls in [&[&*url][..], &[&*url, &*url]] {
        let what = format!("reservations on RAID 5, {} URL(s)", urls.len());
        // Without a second path the last family can only be skipped.
        let families = if urls.len() == 1 { &SHARED[..3] } else { &SHARED[..] };
        let tally = suite(families, &what, urls)?;
        ensure!(tally.failed.is_empty(), "failed: {}", tally.failed.join(", "));
        ensure!(tally.skipped.is_empty(), "skipped: {:?}", tally.skipped);
    }
    Ok(())
}

#[test]
fn a_read_only_lun_takes_no_writes() -> Result<()> {
    let (lab, _) = raid5()?;
    lab.daemon.raidctl(&["volume", "create", "lab/fixed", "--size", "16MiB"])?.ok()?;
    lab.daemon.raidctl(&["lun", "map", IQN, "lab/fixed", "--lun", "1", "--read-only"])?.ok()?;
    let tally = suite(&["ALL.ReadOnly"], "read-only LUN", &[&lab.daemon.url(IQN, 1)])?;
    ensure!(tally.passed == ["ReadOnly.ReadOnlySBC"], "{tally:?}");
    Ok(())
}

#[test]
fn other_families_leave_the_target_alive() -> Result<()> {
    let (mut lab, url) = raid5()?;
    let tally = suite(&OTHERS, "other families on RAID 5", &[&url])?;
    if !tally.failed.is_empty() {
        report::figure(&format!("other families, failed: {}", tally.failed.join(", ")));
    }
    ensure!(lab.daemon.running(), "labsand ended");
    qemu::io(&url, &["write -P 7 1M 64k".into(), "read -P 7 1M 64k".into()])?;
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
