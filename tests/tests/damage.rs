//! What becomes of an array whose metadata is damaged, or whose disks were mixed up, while it was stopped?

use anyhow::{Result, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use system_tests::{Kind, Lab, MIB, Seed, image, qemu};

const DISK_BYTES: u64 = 64 * MIB;
const SUPERBLOCK_AT: u64 = 4096;

fn lab_with_data() -> Result<(Lab, String)> {
    let lab = Lab::new(Kind::Files, 3, DISK_BYTES)?;
    lab.create_array("5", 3)?;
    let url = lab.export_volume("lun", "48MiB", 0)?;
    qemu::io(&url, &["write -P 0x41 0 16M".into()])?;
    Ok((lab, url))
}

fn spoil(path: &Path, seed: &mut Seed) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    Ok(file.write_all_at(&seed.bytes(256), SUPERBLOCK_AT)?)
}

#[test]
fn one_spoilt_superblock_means_degraded_and_said_so() -> Result<()> {
    let mut seed = Seed::from_env(4);
    let (mut lab, url) = lab_with_data()?;
    lab.daemon.stop()?;
    spoil(&lab.disks[1], &mut seed)?;
    lab.daemon.start()?;
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said("degraded")?.expect_said("missing")?;
    qemu::io(
        &url,
        &["read -P 0x41 0 16M".into(), "write -P 0x42 1M 1M".into(), "read -P 0x42 1M 1M".into()],
    )?;
    Ok(())
}

#[test]
fn all_spoilt_superblocks_mean_refused_and_said_so() -> Result<()> {
    let mut seed = Seed::from_env(5);
    let (mut lab, _) = lab_with_data()?;
    lab.daemon.stop()?;
    for disk in &lab.disks {
        spoil(disk, &mut seed)?;
    }
    let before = image::fingerprints(&lab.disks)?;
    lab.daemon.start()?;
    let disks = [lab.disk(0), lab.disk(1), lab.disk(2)];
    let words = ["array", "start", &disks[0], &disks[1], &disks[2]];
    let finished = lab.daemon.raidctl(&words)?.expect_said("disk0.img")?;
    ensure!(matches!(finished.code, Some(3 | 4)), "{}", finished.transcript());
    ensure!(image::fingerprints(&lab.disks)? == before, "something was written");
    Ok(())
}

#[test]
fn a_flipped_bit_in_a_superblock_is_noticed() -> Result<()> {
    let (mut lab, url) = lab_with_data()?;
    lab.daemon.stop()?;
    let file = File::options().read(true).write(true).open(&lab.disks[0])?;
    let mut byte = [0];
    // The low byte of `size` (md_p.h): believed, it would move every stripe.
    file.read_exact_at(&mut byte, SUPERBLOCK_AT + 80)?;
    file.write_all_at(&[byte[0] ^ 0x10], SUPERBLOCK_AT + 80)?;
    lab.daemon.start()?;
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said("degraded")?;
    qemu::io(&url, &["read -P 0x41 0 16M".into()])?;
    Ok(())
}

#[test]
fn members_of_two_arrays_are_not_mixed() -> Result<()> {
    let lab = Lab::new(Kind::Files, 4, DISK_BYTES)?;
    let disks: Vec<String> = (0..4).map(|n| lab.disk(n)).collect();
    for (name, pair) in [("one", &disks[..2]), ("two", &disks[2..])] {
        lab.daemon.raidctl(&["array", "create", name, "--level", "1", &pair[0], &pair[1]])?.ok()?;
    }
    for name in ["one", "two"] {
        lab.daemon.raidctl(&["array", "stop", name, "--yes"])?.ok()?;
    }
    let before = image::fingerprints(&lab.disks)?;
    let finished = lab.daemon.raidctl(&["array", "start", &disks[0], &disks[2]])?;
    ensure!(matches!(finished.code, Some(3 | 4)), "{}", finished.transcript());
    let finished = finished.expect_said("one")?.expect_said("two")?;
    ensure!(image::fingerprints(&lab.disks)? == before, "something was written\n{}", finished.transcript());
    lab.daemon.raidctl(&["array", "start", "--scan"])?.ok()?;
    lab.daemon.raidctl(&["status"])?.expect_code(0)?;
    Ok(())
}
