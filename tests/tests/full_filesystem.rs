//! What happens when the filesystem under file members is full?
//!
//! Members are allocated in full when they are made, so that it cannot happen later; with `--sparse` it can, and then
//! the client is told "space allocation failed" (7/27/07), no member is blamed, and every stripe stays consistent.

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};
use system_tests::{Kind, Lab, md, qemu, report, tools};

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
