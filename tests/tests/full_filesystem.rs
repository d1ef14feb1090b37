//! What happens when the filesystem under file members is full?
//!
//! Members are allocated in full when they are made, so that it cannot happen later; with `--sparse` it can, and then
//! the client is told "space allocation failed" (7/27/07), no member is blamed, and every stripe stays consistent. Before it comes
//! to that, whoever is logged in and whoever looks at the status is warned.

use anyhow::{Context, Result, ensure};
use nix::fcntl::posix_fallocate;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use system_tests::initiator::{Ended, GOOD, Initiator};
use system_tests::process::wait_for;
use system_tests::{IQN, Kind, Lab, MIB, md, qemu, report, tools};

/// Longer than the daemon takes to look at its file systems again.
const PATIENCE: Duration = Duration::from_secs(30);
/// THIN PROVISIONING SOFT THRESHOLD REACHED.
const SHORT_OF_SPACE: (u8, u8) = (0x38, 0x07);

/// A small tmpfs of its own; unmounted when dropped.
struct SmallFilesystem(PathBuf);

impl SmallFilesystem {
    /// `None`, with a note, where this machine does not let us mount one.
    fn mount(at: &Path, size_mib: u64) -> Result<Option<Self>> {
        std::fs::create_dir(at)?;
        let options = format!("size={size_mib}m");
        let mounted = tools::is_root()
            && mount(Some("labsan-test"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
                .is_ok();
        if !mounted {
            report::skipped("a full host filesystem", "no permission to mount a tmpfs");
        }
        Ok(mounted.then(|| Self(at.to_owned())))
    }
}

impl SmallFilesystem {
    /// Somebody else's file grows until only so much is left.
    fn leave(&self, bytes: u64) -> Result<()> {
        let room = statvfs(&self.0)?;
        let free = room.blocks_available() * room.fragment_size();
        let hog = File::options().create(true).append(true).open(self.hog())?;
        let (from, more) = (hog.metadata()?.len(), free.checked_sub(bytes).context("less is left")?);
        posix_fallocate(&hog, i64::try_from(from)?, i64::try_from(more)?).context("the hog")
    }

    fn hog(&self) -> PathBuf {
        self.0.join("hog")
    }
}

impl Drop for SmallFilesystem {
    fn drop(&mut self) {
        // The daemon may still have members open in it: it goes when the last of them is closed.
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

fn create(lab: &Lab, dir: &Path, size: &str, more: &[&str]) -> Result<system_tests::Finished> {
    let disks: Vec<String> = (0..3).map(|n| dir.join(format!("m{n}.img")).display().to_string()).collect();
    let disks: Vec<&str> = disks.iter().map(String::as_str).collect();
    let head = ["array", "create", "lab", "--level", "5", "--create-size", size];
    lab.daemon.raidctl(&[&head[..], more, &disks].concat())
}

#[test]
fn members_that_do_not_fit_are_refused_whole() -> Result<()> {
    let lab = Lab::new(Kind::Files, 0, 0)?;
    let Some(small) = SmallFilesystem::mount(&lab.dir().join("small"), 100)? else { return Ok(()) };
    create(&lab, &small.0, "64MiB", &[])?.expect_code(4)?.expect_said("space")?;
    let left = std::fs::read_dir(&small.0)?.count();
    ensure!(left == 0, "{left} files were left behind");
    Ok(())
}

#[test]
fn allocated_members_never_run_out() -> Result<()> {
    let lab = Lab::new(Kind::Files, 0, 0)?;
    let Some(small) = SmallFilesystem::mount(&lab.dir().join("small"), 200)? else { return Ok(()) };
    create(&lab, &small.0, "64MiB", &[])?.ok()?;
    let url = lab.export_volume("lun", "64MiB", 0)?;
    std::fs::write(small.0.join("hog"), vec![1; 8 << 20]).context("room is left")?;
    qemu::io(&url, &["write -P 1 0 64M".into(), "read -P 1 0 64M".into()])?;
    Ok(())
}

#[test]
fn sparse_members_fail_the_write_and_nothing_else() -> Result<()> {
    let mut lab = Lab::new(Kind::Files, 0, 0)?;
    let Some(small) = SmallFilesystem::mount(&lab.dir().join("small"), 110)? else { return Ok(()) };
    create(&lab, &small.0, "64MiB", &["--sparse"])?.ok()?;
    let url = lab.export_volume("lun", "88MiB", 0)?;
    qemu::io(&url, &["write -P 1 0 16M".into()])?;
    // Three members of 64 MiB do not fit into 110 MiB: somewhere in here the host runs full.
    let writes: Vec<String> = (16..88).map(|mib| format!("write -P 2 {mib}M 1M")).collect();
    let finished = qemu::io_unchecked(&url, &writes)?.expect_said("No space left on device")?;
    eprintln!("{}", finished.transcript());
    qemu::io(&url, &["read -P 1 0 16M".into()])?;
    let array = lab.daemon.json(&["array", "show", "lab"])?;
    let states: Vec<&str> =
        array["members"].as_array().context("members")?.iter().filter_map(|m| m["state"].as_str()).collect();
    ensure!(states == ["in_sync"; 3], "a member was blamed: {states:?}");
    lab.daemon.raidctl(&["status"])?.expect_code(0)?;
    lab.daemon.stop()?;
    let members: Vec<PathBuf> = (0..3).map(|n| small.0.join(format!("m{n}.img"))).collect();
    let at_rest = md::Array::open(&members)?;
    at_rest.check_clean()?;
    at_rest.check_redundancy()?;
    Ok(())
}

/// WRITE(10) of a block at this many MiB of the LUN.
fn write_at(node: &mut Initiator, mib: u32) -> Result<Ended> {
    let mut cdb = [0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    cdb[2..6].copy_from_slice(&(mib * 2048).to_be_bytes());
    node.command(&cdb, &[7; 512], 0)
}

/// The available resource as log page 0Ch counts it, in MiB here.
fn available(node: &mut Initiator) -> Result<u32> {
    let ended = node.command(&[0x4d, 0, 0x4c, 0, 0, 0, 1, 0, 255, 0], &[], 255)?;
    let count = ended.data.get(8..12).with_context(|| format!("LOG SENSE: {ended:?}"))?;
    Ok(u32::from_be_bytes(count.try_into()?))
}

/// Waits until this node has been told that space runs short. It is told nothing else.
fn told(node: &mut Initiator) -> Result<()> {
    let attentions = wait_for("the warning", PATIENCE, || {
        let told = node.attentions()?;
        Ok((!told.is_empty()).then_some(told))
    })?;
    ensure!(attentions == [SHORT_OF_SPACE], "{attentions:02x?}");
    Ok(())
}

fn events(lab: &Lab, name: &str) -> Result<usize> {
    let all = lab.daemon.json(&["events"])?;
    let all = all["events"].as_array().context("events")?;
    Ok(all.iter().filter(|event| event["event"] == name).count())
}

#[test]
fn everybody_hears_that_space_runs_short_before_it_does_and_that_it_is_back() -> Result<()> {
    let lab = Lab::new(Kind::Files, 0, 0)?;
    let Some(small) = SmallFilesystem::mount(&lab.dir().join("small"), 110)? else { return Ok(()) };
    create(&lab, &small.0, "64MiB", &["--sparse"])?.ok()?;
    lab.export_volume("lun", "88MiB", 0)?;
    let mut nodes = ["one", "two"]
        .map(|name| Initiator::log_in(lab.daemon.portal(), IQN, 0, name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    for node in &mut nodes {
        node.attentions()?;
    }
    ensure!(write_at(&mut nodes[0], 0)?.status == GOOD, "there is space");
    ensure!(lab.daemon.raidctl(&["status"])?.ok()?.stdout.find("space").is_none(), "there is space");
    ensure!(available(&mut nodes[0])? > 20, "it is told how much");
    // A fifth of 88 MiB is 17. Two of three members hold data: 15 MiB are room for 10.
    small.leave(15 * MIB)?;
    nodes.iter_mut().try_for_each(told)?;
    ensure!(available(&mut nodes[0])? <= 10, "it is told how little");
    let status = || lab.daemon.raidctl(&["status"])?.expect_code(0);
    status()?.expect_said("space runs short")?.expect_said("df -h")?;
    ensure!(events(&lab, "SpaceLow")? == 1, "it is no news twice");
    small.leave(0)?;
    let refused = write_at(&mut nodes[0], 80)?;
    ensure!(refused.sense == (7, 0x27, 0x07), "{refused:?}");
    // There is space again: it is seen, and the same is told once more when that is gone.
    std::fs::remove_file(small.hog())?;
    wait_for("space", PATIENCE, || Ok((events(&lab, "SpaceRestored")? == 1).then_some(())))?;
    ensure!(status()?.stdout.find("space").is_none(), "it is over");
    ensure!(write_at(&mut nodes[0], 80)?.status == GOOD, "and is written again");
    small.leave(15 * MIB)?;
    nodes.iter_mut().try_for_each(told)?;
    ensure!(events(&lab, "SpaceLow")? == 2, "and this is news");
    Ok(())
}
