//! Does an array keep a real filesystem through everything that goes wrong at once?
//!
//! A filesystem with thousands of files is written through iSCSI; half-way a member fails; the spare is rebuilt;
//! writing goes on; labsand is killed in the middle of it; it starts again; as many members fail as the level still
//! bears; and what iSCSI then gives back is compared byte by byte with what was acknowledged.

use anyhow::{Result, ensure};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use system_tests::qemu::{self, Mark, Upload};
use system_tests::{IQN, Kind, Lab, MIB, Seed, image, loop_device, md, report};

const IMAGE_BYTES: u64 = 96 * MIB;
const FILES: u32 = 3000;
const LUN_BYTES: u64 = 128 * MIB;
/// After the filesystem: blocks that are written one by one and remembered.
const MARKS_AT: u64 = IMAGE_BYTES;
const MARKS_BYTES: u64 = 16 * MIB;
/// After those: what is being written when the daemon is killed; each block is old or new, nothing else.
const TORN_AT: u64 = MARKS_AT + MARKS_BYTES;
const TORN_BYTES: u64 = 12 * MIB;
const TORN_PATTERN: u8 = 0xa5;
const BLOCK: u64 = 4096;
const MARK_COUNT: usize = 600;
const UPLOAD_BYTES_PER_SECOND: u64 = 48 * MIB;

struct Case {
    level: &'static str,
    members: usize,
    /// Failed at the end, all together. Member 0 fails half-way and the spare takes its slot.
    fail_at_end: &'static [usize],
    disk_bytes: u64,
}

const RAID1: Case = Case { level: "1", members: 3, fail_at_end: &[1, 2], disk_bytes: 192 * MIB };
const RAID5: Case = Case { level: "5", members: 4, fail_at_end: &[2], disk_bytes: 96 * MIB };
const RAID6: Case = Case { level: "6", members: 5, fail_at_end: &[1, 3], disk_bytes: 96 * MIB };
/// Pairs are slots 0-1 and 2-3: the rebuilt spare must stand for the first pair alone.
const RAID10: Case = Case { level: "10", members: 4, fail_at_end: &[1, 2], disk_bytes: 128 * MIB };

#[test]
fn raid1_on_files() -> Result<()> {
    survive(&RAID1, Kind::Files)
}

#[test]
fn raid5_on_files() -> Result<()> {
    survive(&RAID5, Kind::Files)
}

#[test]
fn raid6_on_files() -> Result<()> {
    survive(&RAID6, Kind::Files)
}

#[test]
fn raid10_on_files() -> Result<()> {
    survive(&RAID10, Kind::Files)
}

#[test]
fn raid1_on_loop_devices() -> Result<()> {
    survive_on_loops(&RAID1)
}

#[test]
fn raid5_on_loop_devices() -> Result<()> {
    survive_on_loops(&RAID5)
}

#[test]
fn raid6_on_loop_devices() -> Result<()> {
    survive_on_loops(&RAID6)
}

#[test]
fn raid10_on_loop_devices() -> Result<()> {
    survive_on_loops(&RAID10)
}

fn survive_on_loops(case: &Case) -> Result<()> {
    if let Some(why) = loop_device::refusal() {
        report::skipped(&format!("RAID {} on loop devices", case.level), &why);
        return Ok(());
    }
    survive(case, Kind::Loops)
}

fn survive(case: &Case, kind: Kind) -> Result<()> {
    let mut seed = Seed::from_env(20_261_100 + case.members as u64);
    let mut lab = Lab::new(kind, case.members + 1, case.disk_bytes)?;
    lab.create_array(case.level, case.members)?;
    let url = lab.export_volume("fs", &format!("{}MiB", LUN_BYTES / MIB), 0)?;
    let source = lab.dir().join("source.ext4");
    image::make_ext4(&source, IMAGE_BYTES, FILES, &mut seed)?;

    lose_a_member_half_way(&lab, &source, &url)?;
    let marks = marks(&mut seed);
    qemu::write_marks(&url, &marks)?;
    kill_in_the_middle_of_writing(&mut lab)?;
    redundancy_is_whole_at_rest(&mut lab)?;

    for &number in case.fail_at_end {
        lab.fail(number)?;
    }
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said("degraded")?;
    everything_is_there(&lab, &source, &url, &marks)
}

fn lose_a_member_half_way(lab: &Lab, source: &Path, url: &str) -> Result<()> {
    let log = lab.dir().join("upload.log");
    let mut upload = Upload::start(source, url, UPLOAD_BYTES_PER_SECOND, &log)?;
    upload.wait_percent(50.0)?;
    lab.fail(0)?;
    // Degraded or rebuilding: it works, and says that all is not well.
    lab.daemon.raidctl(&["status"])?.expect_code(1)?.expect_said(&lab.disk(0))?;
    upload.finish()?;
    lab.wait_optimal()?;
    lab.daemon.raidctl(&["status"])?.expect_code(0)?.expect_said("optimal")?;
    Ok(())
}

fn marks(seed: &mut Seed) -> Vec<Mark> {
    let mut by_block = std::collections::BTreeMap::new();
    for _ in 0..MARK_COUNT {
        let block = (MARKS_AT + seed.below(MARKS_BYTES)) / BLOCK;
        by_block.insert(block, u8::try_from(1 + seed.below(254)).unwrap_or(1));
    }
    by_block.into_iter().map(|(block, value)| Mark { block, value }).collect()
}

fn kill_in_the_middle_of_writing(lab: &mut Lab) -> Result<()> {
    let region = lab.daemon.region(IQN, 0, TORN_AT, TORN_BYTES);
    let mut writer = qemu::write_forever(&region, TORN_PATTERN, 3 * BLOCK, &lab.dir().join("writer.log"))?;
    std::thread::sleep(Duration::from_millis(400));
    ensure!(writer.running(), "the writer ended by itself:\n{}", writer.output());
    lab.daemon.kill();
    Ok(())
}

/// Started again after the kill it recovers by itself; stopped cleanly, every stripe on the disks is consistent.
fn redundancy_is_whole_at_rest(lab: &mut Lab) -> Result<()> {
    lab.daemon.start()?;
    lab.wait_optimal()?;
    lab.daemon.stop()?;
    let in_array: Vec<PathBuf> = lab.disks[1..].to_vec();
    let array = md::Array::open(&in_array)?;
    array.check_clean()?;
    array.check_redundancy()?;
    lab.daemon.start()
}

fn everything_is_there(lab: &Lab, source: &Path, url: &str, marks: &[Mark]) -> Result<()> {
    let copy = lab.dir().join("copy.raw");
    qemu::download(url, &copy)?;
    ensure!(copy.metadata()?.len() == LUN_BYTES, "the LUN has another size");
    image::same_bytes(source, &copy, IMAGE_BYTES)?;
    qemu::check_marks(&copy, marks)?;
    let written = qemu::check_old_or_new(&copy, TORN_AT, TORN_BYTES, &[0, TORN_PATTERN])?;
    eprintln!("{written} blocks were written when the daemon was killed");
    File::options().write(true).open(&copy)?.set_len(IMAGE_BYTES)?;
    image::check_ext4(&copy)
}
