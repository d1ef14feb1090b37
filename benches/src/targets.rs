//! Which targets are measured, how are they started and ended, and what CPU time have they used?

use crate::clients::Lun;
use anyhow::{Context, Result, bail};
use nix::unistd::{SysconfVar, sysconf};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use system_tests::process::{mortal, wait_for};
use system_tests::{Background, IQN, Kind, Lab, run, tools};
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(30);
const TGT_IQN: &str = "iqn.2026-11.org.labsan:peer";
const DEMO_IQN: &str = "iqn.2026-11.org.labsan:demo";
const DATA_DISKS: u64 = 3;
/// Data disks where policies are compared: 4+1.
const POLICY_DATA_DISKS: u64 = 4;
pub(crate) const POLICY_DISK_BYTES: u64 = 1 << 30;
/// Metadata and rounding on each of labsan's members.
pub(crate) const MEMBER_OVERHEAD_BYTES: u64 = 64 << 20;

/// A running target with one LUN.
pub(crate) trait Target {
    fn name(&self) -> &'static str;
    fn lun(&self) -> Lun;
    fn pid(&self) -> u32;

    /// User and system time of all its threads so far.
    fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The second field is the program's name in parentheses and may hold anything; utime and stime are
        // the 14th and 15th (proc(5)).
        let fields = stat.rsplit_once(')').context("/proc/PID/stat")?.1;
        let ticks: Vec<u64> =
            fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
        let [user, system] = ticks[..] else { bail!("/proc/PID/stat of another form: {stat}") };
        Ok(Duration::from_secs_f64((user + system) as f64 / per_second as f64))
    }
}

/// tgt's daemon with its fastest backing store over one file.
#[derive(Debug)]
pub(crate) struct Tgt {
    process: Background,
    portal: String,
    _dir: TempDir,
}

impl Tgt {
    pub(crate) fn start(parent: &Path, port: u16, lun_bytes: u64) -> Result<Self> {
        let dir = scratch(parent)?;
        let file = dir.path().join("plain.img");
        File::create(&file)?.set_len(lun_bytes)?;
        let portal = format!("127.0.0.1:{port}");
        let control = port.to_string();
        let mut command = mortal(&tools::need("tgtd")?);
        command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]);
        // The control port is only a name of a socket; tgtd ignores SIGTERM, so dropping the guard kills it.
        let process = Background::start(&mut command, &dir.path().join("tgtd.log"))?;
        wait_for("tgtd", START_LIMIT, || Ok(tgtadm(&control, &["--mode", "sys", "--op", "show"]).ok()))?;
        let target = ["--mode", "target", "--tid", "1"];
        tgtadm(&control, &[&target[..], &["--op", "new", "--targetname", TGT_IQN]].concat())?;
        let store = file.to_string_lossy();
        let lun = ["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1"];
        tgtadm(&control, &[&lun[..], &["--backing-store", &store, "--bstype", "aio"]].concat())?;
        tgtadm(&control, &[&target[..], &["--op", "bind", "--initiator-address", "ALL"]].concat())?;
        Ok(Self { process, portal, _dir: dir })
    }
}

fn tgtadm(control: &str, words: &[&str]) -> Result<()> {
    let mut command = Command::new(tools::need("tgtadm")?);
    command.args(["-C", control, "--lld", "iscsi"]).args(words);
    run(&mut command, Duration::from_secs(5))?.ok()?;
    Ok(())
}

impl Target for Tgt {
    fn name(&self) -> &'static str {
        "tgt"
    }
    fn lun(&self) -> Lun {
        Lun { portal: self.portal.clone(), iqn: TGT_IQN, number: 1 }
    }
    fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// labsand's demo: RAID 5 over four files and a spare, as anyone would run it.
#[derive(Debug)]
pub(crate) struct Labsan {
    process: Background,
    portal: String,
    _dir: TempDir,
}

impl Labsan {
    pub(crate) fn start(parent: &Path, port: u16, lun_bytes: u64) -> Result<Self> {
        let dir = scratch(parent)?;
        let portal = format!("127.0.0.1:{port}");
        let disk_mib = (lun_bytes.div_ceil(DATA_DISKS) + MEMBER_OVERHEAD_BYTES).div_ceil(1 << 20);
        let mut command = mortal(&tools::own("labsand")?);
        command.arg("demo").arg(dir.path().join("demo")).args(["--listen", &portal]);
        command.args(["--disk-size", &format!("{disk_mib}MiB")]);
        let log = dir.path().join("labsand.log");
        let mut process = Background::start(&mut command, &log)?;
        wait_for("labsand's portal", START_LIMIT, || {
            if !process.running() {
                bail!("labsand ended:\n{}", process.output());
            }
            Ok(std::net::TcpStream::connect(&portal).ok())
        })?;
        Ok(Self { process, portal, _dir: dir })
    }
}

impl Target for Labsan {
    fn name(&self) -> &'static str {
        "labsan"
    }
    fn lun(&self) -> Lun {
        Lun { portal: self.portal.clone(), iqn: DEMO_IQN, number: 0 }
    }
    fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// An array of RAID 5 over five files (4+1) with one policy or the other.
#[derive(Debug)]
pub(crate) struct Policied {
    pub(crate) lab: Lab,
    policy: &'static str,
}

impl Policied {
    pub(crate) fn start(parent: &Path, policy: &'static str, lun_bytes: u64) -> Result<Self> {
        // Not much smaller than a disk that anyone would use: the journal's size follows from it.
        let disk_bytes = (lun_bytes / POLICY_DATA_DISKS + MEMBER_OVERHEAD_BYTES).max(POLICY_DISK_BYTES);
        let mut lab = Lab::within(parent, Kind::Files, POLICY_DATA_DISKS as usize + 1, disk_bytes)?;
        lab.daemon.start()?;
        let mut words: Vec<String> =
            ["array", "create", "lab", "--level", "5", "--policy", policy].map(str::to_owned).into();
        words.extend((0..lab.disks.len()).map(|number| lab.disk(number)));
        lab.daemon.raidctl_words(&words)?.ok()?;
        lab.export_volume("lun", &format!("{}MiB", lun_bytes >> 20), 0)?;
        Ok(Self { lab, policy })
    }
}

impl Target for Policied {
    fn name(&self) -> &'static str {
        self.policy
    }
    fn lun(&self) -> Lun {
        Lun { portal: self.lab.daemon.portal().to_owned(), iqn: IQN, number: 0 }
    }
    fn pid(&self) -> u32 {
        self.lab.daemon.pid().unwrap_or_default()
    }
}

fn scratch(parent: &Path) -> Result<TempDir> {
    let make = tempfile::Builder::new().prefix("labsan-bench-").tempdir_in(parent);
    make.with_context(|| format!("no room in {}", PathBuf::from(parent).display()))
}
