//! Is bad input refused clearly, with the right exit code, and without a byte written?
//!
//! Every refusal here is checked three ways: exit code 3 (a rule) or 4 (could not), words that name the cause, and
//! all bytes of all disks as they were.

use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use system_tests::loop_device::{self, LoopDevice};
use system_tests::{Finished, IQN, Kind, Lab, MIB, image, report, run, tools};

const DISK_BYTES: u64 = 64 * MIB;
const LIMIT: Duration = Duration::from_secs(30);

fn lab(disks: usize) -> Result<Lab> {
    Lab::new(Kind::Files, disks, DISK_BYTES)
}

/// Runs a command that must be refused: `code` 3 or 4, the words said, nothing written to `watched`.
fn refused(lab: &Lab, words: &[&str], code: i32, said: &str, watched: &[PathBuf]) -> Result<Finished> {
    let before = image::fingerprints(watched)?;
    let finished = lab.daemon.raidctl(words)?.expect_code(code)?.expect_said(said)?;
    ensure!(finished.stdout.is_empty(), "a refusal belongs on stderr\n{}", finished.transcript());
    ensure!(finished.stderr.trim().lines().count() <= 3, "not one clear line\n{}", finished.transcript());
    ensure!(image::fingerprints(watched)? == before, "something was written\n{}", finished.transcript());
    Ok(finished)
}

fn refused_create(lab: &Lab, options: &[&str], disks: &[&str], code: i32, said: &str) -> Result<()> {
    let words = [&["array", "create", "new"], options, disks].concat();
    refused(lab, &words, code, said, &lab.disks)?;
    let arrays = lab.daemon.json(&["array", "list"])?;
    ensure!(!arrays.to_string().contains("\"new\""), "the array is there all the same: {arrays}");
    Ok(())
}

#[test]
fn the_same_disk_twice_by_any_name() -> Result<()> {
    let lab = lab(3)?;
    let (a, b) = (lab.disk(0), lab.disk(1));
    let link = lab.dir().join("link.img");
    symlink(&lab.disks[0], &link)?;
    let hard = lab.dir().join("hard.img");
    fs::hard_link(&lab.disks[0], &hard)?;
    let detour = format!("{}/./disk0.img", lab.dir().display());
    for other in [a.clone(), link.display().to_string(), hard.display().to_string(), detour] {
        refused_create(&lab, &["--level", "5"], &[&a, &b, &other], 3, "same disk")?;
    }
    let spare = ["--level", "1", "--spare", &a];
    refused_create(&lab, &spare, &[&a, &b], 3, "same disk")
}

#[test]
fn a_disk_of_another_array() -> Result<()> {
    let lab = lab(5)?;
    lab.create_array("5", 3).or_else(|_| -> Result<()> { anyhow::bail!("no first array") })?;
    // The lab's spares are part of it, too.
    refused_create(&lab, &["--level", "1"], &[&lab.disk(0), &lab.disk(4)], 3, "lab")?;
    let fresh = lab.extra_disk("fresh.img", DISK_BYTES)?.display().to_string();
    refused_create(&lab, &["--level", "1", "--force", "--yes"], &[&lab.disk(1), &fresh], 3, "lab")?;
    lab.daemon.raidctl(&["array", "stop", "lab", "--yes"])?.ok()?;
    refused_create(&lab, &["--level", "1"], &[&lab.disk(0), &fresh], 3, "lab")
}

#[test]
fn foreign_signatures_need_force() -> Result<()> {
    let lab = lab(2)?;
    let good = lab.disk(0);
    let foreign = lab.disks[1].clone();
    let makers: [(&str, Maker); 5] = [
        // The array's name, as its superblock has it.
        ("array five", |path| write_at(path, 0, fixtures::md::image("raid5-member0"))),
        ("LVM", |path| write_at(path, 512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001")),
        ("ext", |path| {
            let mut command = Command::new(tools::need("mke2fs")?);
            run(command.args(["-q", "-F", "-t", "ext4"]).arg(path), LIMIT)?.ok().map(|_| ())
        }),
        ("partition", |path| write_at(path, 512, b"EFI PART\0\0\x01\0\x5c\0\0\0")),
        ("partition", |path| {
            // One Linux partition from sector 2048 on, and the boot signature.
            write_at(path, 446, &[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0x80, 0, 0])?;
            write_at(path, 510, &[0x55, 0xaa])
        }),
    ];
    for (what, make) in makers {
        File::options().write(true).open(&foreign)?.write_all_at(&vec![0; 1 << 20], 0)?;
        make(&foreign)?;
        refused_create(&lab, &["--level", "1"], &[&good, &lab.disk(1)], 3, what)?;
        refused_create(&lab, &["--level", "1"], &[&good, &lab.disk(1)], 3, "--force")?;
    }
    let words = ["array", "create", "lab", "--level", "1", "--force", "--yes", &good, &lab.disk(1)];
    lab.daemon.raidctl(&words)?.ok()?;
    Ok(())
}

/// Puts a foreign signature on a disk.
type Maker = fn(&Path) -> Result<()>;

fn write_at(path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
    Ok(File::options().write(true).open(path)?.write_all_at(bytes, offset)?)
}

#[test]
fn members_that_do_not_fit() -> Result<()> {
    let lab = lab(3)?;
    let tiny = lab.extra_disk("tiny.img", 64 << 10)?.display().to_string();
    refused_create(&lab, &["--level", "5"], &[&lab.disk(0), &lab.disk(1), &tiny], 3, "too small")?;
    let empty = lab.extra_disk_empty("empty.img")?.display().to_string();
    refused_create(&lab, &["--level", "5"], &[&lab.disk(0), &lab.disk(1), &empty], 3, "too small")?;
    lab.create_array("1", 2)?;
    let smaller = lab.extra_disk("smaller.img", DISK_BYTES / 2)?;
    let words = ["array", "add", "lab", &smaller.display().to_string()];
    refused(&lab, &words, 3, "room", std::slice::from_ref(&smaller))?;
    Ok(())
}

#[test]
fn members_of_another_sector_size() -> Result<()> {
    if let Some(why) = loop_device::refusal() {
        report::skipped("members of another sector size", &why);
        return Ok(());
    }
    let lab = lab(3)?;
    let device = LoopDevice::attach(&lab.disks[2], 4096)?;
    let path = device.path().display().to_string();
    refused_create(&lab, &["--level", "5"], &[&lab.disk(0), &lab.disk(1), &path], 3, "sector")
}

#[test]
fn counts_and_chunks_that_cannot_be() -> Result<()> {
    let lab = lab(3)?;
    let (a, b, c) = (lab.disk(0), lab.disk(1), lab.disk(2));
    refused_create(&lab, &["--level", "1"], &[&a], 3, "at least 2")?;
    refused_create(&lab, &["--level", "5"], &[&a], 3, "at least")?;
    refused_create(&lab, &["--level", "6"], &[&a, &b, &c], 3, "at least 4")?;
    refused_create(&lab, &["--level", "10"], &[&a], 3, "at least")?;
    refused_create(&lab, &["--level", "0", "--spare", &c], &[&a, &b], 3, "spare")?;
    for chunk in ["48KiB", "2KiB", "2MiB", "65535"] {
        refused_create(&lab, &["--level", "5", "--chunk", chunk], &[&a, &b, &c], 3, "chunk")?;
    }
    let usage = lab.daemon.raidctl(&["array", "create", "new", "--level", "7", &a, &b])?;
    ensure!(matches!(usage.code, Some(3 | 64)), "{}", usage.transcript());
    Ok(())
}

#[test]
fn more_members_than_md_has_places_for() -> Result<()> {
    let lab = lab(1)?;
    let mut words: Vec<String> = ["array", "create", "new", "--level", "5"].map(String::from).to_vec();
    for number in 0..400 {
        let path = lab.dir().join(format!("many{number}.img"));
        File::create(&path)?.set_len(8 * MIB)?;
        words.push(path.display().to_string());
    }
    lab.daemon.raidctl_words(&words)?.expect_code(3)?.expect_said("at most")?;
    Ok(())
}

#[test]
fn names_taken_or_not_valid() -> Result<()> {
    let lab = lab(4)?;
    lab.create_array("1", 2)?;
    let long = "x".repeat(200);
    for name in ["", "a b", "a/b", "../x", "-x", "ü", &long] {
        let finished = lab.daemon.raidctl(&["array", "create", "--level", "1", "--", name, &lab.disk(2)])?;
        ensure!(matches!(finished.code, Some(3 | 64)), "name {name:?}\n{}", finished.transcript());
    }
    let fresh = ["a.img", "b.img"].map(|n| lab.extra_disk(n, DISK_BYTES));
    let [a, b] = fresh;
    let (a, b) = (a?, b?);
    let words =
        ["array", "create", "lab", "--level", "1", &a.display().to_string(), &b.display().to_string()];
    refused(&lab, &words, 3, "lab", &[a.clone(), b.clone()])?;
    lab.export_volume("v", "8MiB", 0)?;
    for (words, said) in [
        (vec!["volume", "create", "lab/v", "--size", "9MiB"], "v"),
        (vec!["volume", "create", "lab/bad name", "--size", "8MiB"], "name"),
        (vec!["volume", "create", "lab/w", "--size", "100TiB"], "free"),
        (vec!["volume", "create", "lab/w", "--size", "0"], "size"),
        (vec!["target", "create", "not-an-iqn"], "iqn"),
        (vec!["target", "create", "iqn.2026-11.org.labsan:UPPER CASE"], "iqn"),
    ] {
        let finished = lab.daemon.raidctl(&words)?.expect_said(said)?;
        ensure!(matches!(finished.code, Some(3 | 4 | 64)), "{}", finished.transcript());
    }
    Ok(())
}

#[test]
fn paths_that_are_no_disks() -> Result<()> {
    let lab = lab(2)?;
    let (a, b) = (lab.disk(0), lab.disk(1));
    let missing = lab.dir().join("nothing.img").display().to_string();
    refused_create(&lab, &["--level", "5"], &[&a, &b, &missing], 4, &missing)?;
    ensure!(!Path::new(&missing).exists(), "a file was made");
    let directory = lab.dir().display().to_string();
    refused_create(&lab, &["--level", "5"], &[&a, &b, &directory], 4, "directory")?;
    refused_create(&lab, &["--level", "5"], &[&a, &b, "/dev/null"], 4, "/dev/null")
}

#[test]
fn disks_without_permission() -> Result<()> {
    let lab = lab(0)?;
    let dir = lab.dir().join("theirs");
    fs::create_dir(&dir)?;
    let disks = ["a.img", "b.img"].map(|name| dir.join(name));
    for disk in &disks {
        File::create(disk)?.set_len(DISK_BYTES)?;
        fs::set_permissions(disk, fs::Permissions::from_mode(0o000))?;
    }
    if tools::is_root() {
        // Root may open anything; a daemon without privileges may not.
        return unprivileged_daemon(&disks);
    }
    let paths = disks.map(|d| d.display().to_string());
    lab.daemon
        .raidctl(&["array", "create", "new", "--level", "1", &paths[0], &paths[1]])?
        .expect_code(4)?
        .expect_said("permission")?;
    Ok(())
}

fn unprivileged_daemon(disks: &[PathBuf]) -> Result<()> {
    const NOBODY: u32 = 65_534;
    let mut lab = Lab::stopped(Kind::Files, 0, 0)?;
    std::os::unix::fs::chown(lab.dir(), Some(NOBODY), Some(NOBODY))?;
    lab.daemon.run_as(NOBODY);
    let readable = tools::own("labsand")?.metadata()?.permissions().mode() & 0o005 == 0o005;
    if !readable || lab.daemon.start().is_err() {
        report::skipped("disks without permission", "as root, and nobody may not run target/debug/labsand");
        return Ok(());
    }
    fs::set_permissions(
        disks[0].parent().context("parent")?.parent().context("parent")?,
        fs::Permissions::from_mode(0o755),
    )?;
    let before = image::fingerprints(disks)?;
    let paths: Vec<String> = disks.iter().map(|d| d.display().to_string()).collect();
    let words = ["array", "create", "new", "--level", "1", &paths[0], &paths[1]];
    lab.daemon.raidctl(&words)?.expect_code(4)?.expect_said("permission")?;
    ensure!(image::fingerprints(disks)? == before);
    Ok(())
}

#[test]
fn targets_and_luns_that_are_not_there_or_taken() -> Result<()> {
    let lab = lab(2)?;
    lab.create_array("1", 2)?;
    lab.export_volume("v", "8MiB", 0)?;
    lab.daemon.raidctl(&["volume", "create", "lab/w", "--size", "8MiB"])?.ok()?;
    let unknown = "iqn.2026-11.org.labsan:nobody";
    lab.daemon.raidctl(&["lun", "map", unknown, "lab/w"])?.expect_code(4)?.expect_said(unknown)?;
    lab.daemon.raidctl(&["lun", "map", IQN, "lab/nothing"])?.expect_code(4)?.expect_said("lab/nothing")?;
    lab.daemon.raidctl(&["lun", "map", IQN, "lab/w", "--lun", "0"])?.expect_code(3)?.expect_said("LUN 0")?;
    lab.daemon.raidctl(&["target", "allow", unknown, "*"])?.expect_code(4)?.expect_said(unknown)?;
    lab.daemon.raidctl(&["array", "show", "nothing"])?.expect_code(4)?.expect_said("nothing")?;
    // Access is taken away before what it leads to.
    lab.daemon.raidctl(&["volume", "delete", "lab/v", "--yes"])?.expect_code(3)?;
    lab.daemon.raidctl(&["array", "delete", "lab", "--yes"])?.expect_code(3)?;
    Ok(())
}

#[test]
fn destruction_without_yes_and_without_a_terminal() -> Result<()> {
    let lab = lab(2)?;
    lab.create_array("1", 2)?;
    refused(&lab, &["array", "delete", "lab"], 3, "--yes", &lab.disks)?;
    lab.daemon.raidctl(&["array", "show", "lab"])?.expect_code(0)?;
    Ok(())
}

#[test]
fn no_daemon_a_port_in_use_and_a_bad_configuration() -> Result<()> {
    let mut lab = Lab::stopped(Kind::Files, 0, 0)?;
    lab.daemon.raidctl(&["status"])?.expect_code(4)?.expect_said("labsand")?;

    let listener = std::net::TcpListener::bind(lab.daemon.portal())?;
    let port = listener.local_addr()?.port().to_string();
    let finished = lab.daemon.run_to_its_end(LIMIT)?;
    finished.expect_code(4)?.expect_said(&port)?.expect_said("in use")?;
    drop(listener);

    let config = lab.daemon.config_path().context("no configuration")?.to_owned();
    let text = fs::read_to_string(&config)?;
    let lines = text.lines().count();
    fs::write(&config, format!("{text}colour = \"blue\"\n"))?;
    let finished = lab.daemon.run_to_its_end(LIMIT)?.expect_code(4)?.expect_said("colour")?;
    finished.expect_said(&format!("line {}", lines + 1))?;
    fs::write(&config, "listen = \n")?;
    lab.daemon.run_to_its_end(LIMIT)?.expect_code(4)?.expect_said("line 1")?;
    fs::write(&config, text)?;
    lab.daemon.start()
}
