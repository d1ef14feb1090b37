//! Does `labsand demo` do what it says: one command, a working LUN, the same one next time, disks that md can read?

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use system_tests::process::wait_for;
use system_tests::{Daemon, MIB, md, qemu, report, run, tools};

const DEMO_IQN: &str = "iqn.2026-11.org.labsan:demo";
const LIMIT: Duration = Duration::from_secs(60);
const DISK_SIZE: [&str; 2] = ["--disk-size", "96MiB"];

fn demo(dir: &Path) -> Result<Daemon> {
    let mut daemon = Daemon::demo(dir, &DISK_SIZE)?;
    daemon.start()?;
    Ok(daemon)
}

fn members(dir: &Path) -> Vec<PathBuf> {
    (0..4).map(|n| dir.join(format!("disk{n}.img"))).collect()
}

#[test]
fn second_run_opens_what_the_first_made() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let dir = parent.path().join("demo");
    let mut first = demo(&dir)?;
    let url = first.url(DEMO_IQN, 0);
    qemu::io(&url, &["write -P 0x31 0 1M".into(), "write -P 0x32 17M 12k".into()])?;
    first.raidctl(&["status"])?.expect_code(0)?.expect_said("demo")?.expect_said("optimal")?;
    let uuid = first.json(&["array", "show", "demo"])?["uuid"].clone();
    first.stop()?;

    let mut second = demo(&dir)?;
    let url = second.url(DEMO_IQN, 0);
    qemu::io(&url, &["read -P 0x31 0 1M".into(), "read -P 0x32 17M 12k".into(), "read -P 0 16M 1M".into()])?;
    ensure!(second.json(&["array", "show", "demo"])?["uuid"] == uuid, "a new array was made");
    second.stop()
}

#[test]
fn a_stopped_demo_is_clean_to_mdadm_and_a_running_one_is_barred() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let dir = parent.path().join("demo");
    let mut daemon = demo(&dir)?;
    qemu::io(&daemon.url(DEMO_IQN, 0), &["write -P 0x77 3M 5M".into(), "write -P 0x78 64M 100k".into()])?;
    let running = md::Superblock::read(&std::fs::File::open(dir.join("disk0.img"))?)?;
    ensure!(running.feature_map & md::FEATURE_IN_USE != 0, "the kernel would take a running array's member");
    daemon.stop()?;

    let array = md::Array::open(&members(&dir))?;
    array.check_clean()?;
    array.check_redundancy()?;
    let bytes = array.read_all()?;
    // A volume may begin anywhere in the array; what was written in it keeps its distances.
    let at = find_run(&bytes, 0x77, 5 * MIB).context("what was written is not where md would look for it")?;
    let second = at + usize::try_from(61 * MIB)?;
    ensure!(bytes[second..second + (100 << 10)].iter().all(|&b| b == 0x78), "the second write is elsewhere");
    mdadm_finds_it_clean(&members(&dir))
}

fn find_run(bytes: &[u8], value: u8, len: u64) -> Option<usize> {
    let len = usize::try_from(len).ok()?;
    let start = bytes.chunks(4096).position(|block| block.iter().all(|&b| b == value))? * 4096;
    bytes.get(start..start + len)?.iter().all(|&b| b == value).then_some(start)
}

fn mdadm_finds_it_clean(members: &[PathBuf]) -> Result<()> {
    let Some(mdadm) = tools::find("mdadm") else {
        report::skipped("demo's disks under mdadm --examine", "no mdadm");
        return Ok(());
    };
    for (slot, member) in members.iter().enumerate() {
        let said = run(Command::new(&mdadm).arg("--examine").arg(member), LIMIT)?.ok()?;
        let said = said.expect_said("State : clean")?.expect_said("raid5")?.expect_said("left-symmetric")?;
        said.expect_said(&format!("Active device {slot}"))?;
    }
    Ok(())
}

/// Every line that the demo prints with a command in it can be typed as it stands.
#[test]
fn printed_commands_run() -> Result<()> {
    let parent = tempfile::tempdir()?;
    let dir = parent.path().join("demo");
    let daemon = demo(&dir)?;
    let commands = wait_for("the demo's instructions", LIMIT, || {
        let log = daemon.log();
        let found: Vec<String> = log.lines().filter_map(command_in).collect();
        Ok((found.len() >= 3).then_some(found))
    })?;
    for command in commands {
        let program = command.split_whitespace().next().unwrap_or_default();
        if tools::find(program).is_none() && tools::own(program).is_err() {
            report::skipped(&format!("demo's line: {command}"), "that program is not installed");
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &command]).env("PATH", path_with_tools()?).current_dir(parent.path());
        let finished = run(&mut shell, LIMIT)?;
        ensure!(finished.code.is_some_and(|code| code <= 1), "{}", finished.transcript());
    }
    Ok(())
}

const PROGRAMS: [&str; 6] =
    ["raidctl", "qemu-img", "iscsi-ls", "iscsi-inq", "iscsi-perf", "iscsi-readcapacity16"];

fn command_in(line: &str) -> Option<String> {
    let words = line.trim().trim_start_matches("$ ");
    let program = words.split_whitespace().next()?.rsplit('/').next()?;
    PROGRAMS.contains(&program).then(|| words.split("  #").next().unwrap_or(words).trim().to_owned())
}

fn path_with_tools() -> Result<std::ffi::OsString> {
    let profile = tools::profile_dir()?;
    let target = profile.parent().context("no target directory")?.join("tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(std::env::join_paths([profile, target].into_iter().chain(std::env::split_paths(&path)))?)
}

#[test]
fn levels_and_counts_can_be_asked_for() -> Result<()> {
    for (level, disks) in [("1", "2"), ("6", "5"), ("10", "4")] {
        let parent = tempfile::tempdir()?;
        let dir = parent.path().join("demo");
        let words = ["--level", level, "--disks", disks, DISK_SIZE[0], DISK_SIZE[1]];
        let mut daemon = Daemon::demo(&dir, &words)?;
        daemon.start()?;
        qemu::io(&daemon.url(DEMO_IQN, 0), &["write -P 9 1M 1M".into(), "read -P 9 1M 1M".into()])?;
        let shown = daemon.json(&["array", "show", "demo"])?;
        ensure!(shown["level"] == level.parse::<u64>()?, "{shown}");
        daemon.stop()?;
    }
    Ok(())
}
