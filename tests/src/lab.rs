//! What does a test start from? A directory, a few disks, and a daemon of its own that serves them.
//!
//! Each lab has its own socket, port and state directory, so that tests run side by side and beside whatever else
//! the machine does. The daemon is killed and reaped with the lab; its last lines are printed then.

use crate::loop_device::LoopDevice;
use crate::process::{Background, Finished, mortal, run, tail, wait_for};
use crate::tools;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(30);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const RAIDCTL_LIMIT: Duration = Duration::from_secs(150);
const LOG_LINES_SHOWN: usize = 60;
/// The target that a lab exports its volume as.
pub const IQN: &str = "iqn.2026-11.org.labsan:test";

/// What the disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular files.
    Files,
    /// Block devices (loop).
    Loops,
}

/// Disks and a daemon.
#[derive(Debug)]
pub struct Lab {
    /// The daemon.
    pub daemon: Daemon,
    /// Paths to give to raidctl.
    pub disks: Vec<PathBuf>,
    _loops: Vec<LoopDevice>,
    dir: TempDir,
}

impl Lab {
    /// Makes `count` blank disks of `disk_bytes` and starts a daemon that has nothing to do yet.
    ///
    /// # Errors
    /// When the machine does not allow it, or the daemon does not come up.
    pub fn new(kind: Kind, count: usize, disk_bytes: u64) -> Result<Self> {
        let mut lab = Self::stopped(kind, count, disk_bytes)?;
        lab.daemon.start()?;
        Ok(lab)
    }

    /// The same with the daemon not started.
    pub fn stopped(kind: Kind, count: usize, disk_bytes: u64) -> Result<Self> {
        Self::within(&std::env::temp_dir(), kind, count, disk_bytes)
    }

    /// The same in a directory made below `parent`: on the file system that is wanted.
    pub fn within(parent: &Path, kind: Kind, count: usize, disk_bytes: u64) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("labsan-test-").tempdir_in(parent)?;
        // Files under loop devices get a name that the scan does not match: one disk, one path.
        let ending = if kind == Kind::Files { "img" } else { "backing" };
        let mut files = Vec::new();
        for number in 0..count {
            files.push(dir.path().join(format!("disk{number}.{ending}")));
            allocate(&files[number], disk_bytes)?;
        }
        let loops = match kind {
            Kind::Files => Vec::new(),
            Kind::Loops => files.iter().map(|f| LoopDevice::attach(f, 512)).collect::<Result<Vec<_>>>()?,
        };
        let disks =
            if loops.is_empty() { files } else { loops.iter().map(|l| l.path().to_owned()).collect() };
        let mut scan = vec![dir.path().join("*.img"), dir.path().join("small/*.img")];
        scan.extend(loops.iter().map(|l| l.path().to_owned()));
        let daemon = Daemon::configured(dir.path(), &scan)?;
        Ok(Self { daemon, disks, _loops: loops, dir })
    }

    /// The lab's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A disk's path as raidctl takes it.
    pub fn disk(&self, number: usize) -> String {
        self.disks[number].to_string_lossy().into_owned()
    }

    /// Another blank disk file, not given to the daemon.
    pub fn extra_disk(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        allocate(&path, bytes)?;
        Ok(path)
    }

    /// A file of no bytes at all.
    pub fn extra_disk_empty(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        File::create_new(&path)?;
        Ok(path)
    }

    /// Creates array `lab` over the first `members` disks, the others being spares.
    pub fn create_array(&self, level: &str, members: usize) -> Result<()> {
        let mut words =
            vec!["array".to_owned(), "create".into(), "lab".into(), "--level".into(), level.into()];
        for spare in members..self.disks.len() {
            words.extend(["--spare".to_owned(), self.disk(spare)]);
        }
        words.extend((0..members).map(|number| self.disk(number)));
        self.daemon.raidctl_words(&words)?.ok()?;
        Ok(())
    }

    /// Creates volume `lab/NAME` and exports it as a LUN of [`IQN`]; gives its URL.
    pub fn export_volume(&self, name: &str, size: &str, lun: u16) -> Result<String> {
        self.export(name, size, lun, "off")
    }

    /// The same with a write cache.
    pub fn export_cached_volume(&self, name: &str, size: &str, lun: u16) -> Result<String> {
        self.export(name, size, lun, "on")
    }

    fn export(&self, name: &str, size: &str, lun: u16, write_cache: &str) -> Result<String> {
        let volume = format!("lab/{name}");
        let words = ["volume", "create", &volume, "--size", size, "--write-cache", write_cache];
        self.daemon.raidctl(&words)?.ok()?;
        if lun == 0 {
            self.daemon.raidctl(&["target", "create", IQN])?.ok()?;
            self.daemon.raidctl(&["target", "allow", IQN, "*"])?.ok()?;
        }
        self.daemon.raidctl(&["lun", "map", IQN, &volume, "--lun", &lun.to_string()])?.ok()?;
        Ok(self.daemon.url(IQN, lun))
    }

    /// Fails a member.
    pub fn fail(&self, number: usize) -> Result<()> {
        self.daemon.raidctl(&["array", "fail", "lab", &self.disk(number), "--yes"])?.ok()?;
        Ok(())
    }

    /// Waits until the array has all its redundancy.
    pub fn wait_optimal(&self) -> Result<()> {
        self.daemon.raidctl(&["array", "wait", "lab", "--for", "optimal", "--timeout", "120"])?.ok()?;
        Ok(())
    }
}

fn allocate(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create_new(path).with_context(|| path.display().to_string())?;
    nix::fcntl::posix_fallocate(&file, 0, i64::try_from(bytes)?).context("no room for a disk file")?;
    Ok(())
}

/// One labsand: how it is started, and how it is spoken to.
#[derive(Debug)]
pub struct Daemon {
    words: Vec<String>,
    socket: PathBuf,
    portal: String,
    log: PathBuf,
    user: Option<u32>,
    process: Option<Background>,
}

impl Daemon {
    /// A daemon with a configuration file of its own in `dir`, looking for disks where `scan` says.
    pub fn configured(dir: &Path, scan: &[PathBuf]) -> Result<Self> {
        let portal = format!("127.0.0.1:{}", free_port()?);
        let config = dir.join("labsan.toml");
        fs::write(&config, configuration(dir, &portal, scan))?;
        Ok(Self {
            words: vec!["serve".into(), "--config".into(), config.to_string_lossy().into_owned()],
            socket: dir.join("labsand.sock"),
            portal,
            log: dir.join("labsand.log"),
            user: None,
            process: None,
        })
    }

    /// `labsand demo DIR` on a port of its own; `words` are further options.
    pub fn demo(dir: &Path, words: &[&str]) -> Result<Self> {
        let portal = format!("127.0.0.1:{}", free_port()?);
        let mut all =
            vec!["demo".to_owned(), dir.to_string_lossy().into_owned(), "--listen".into(), portal.clone()];
        all.extend(words.iter().map(ToString::to_string));
        Ok(Self {
            words: all,
            socket: dir.join("labsand.sock"),
            portal,
            log: dir.with_extension("log"),
            user: None,
            process: None,
        })
    }

    /// Starts it and waits until its socket answers and its portal takes connections.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; the error carries its log.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        let ready = wait_for("labsand to serve", START_LIMIT, || {
            if !self.running() {
                bail!("labsand ended");
            }
            let answers = self.raidctl(&["status"])?.code.is_some_and(|code| code <= 2);
            Ok((answers && TcpStream::connect(&self.portal).is_ok()).then_some(()))
        });
        ready.with_context(|| tail(&self.log(), LOG_LINES_SHOWN))
    }

    /// Starts it and waits for nothing.
    pub fn launch(&mut self) -> Result<()> {
        self.process = Some(Background::start(&mut self.command()?, &self.log)?);
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let program = tools::own("labsand")?;
        let mut command = mortal(self.user.map_or(&program, |_| Path::new("setpriv")));
        if let Some(user) = self.user {
            command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into()]);
            command.arg(program);
        }
        command.args(&self.words);
        Ok(command)
    }

    /// Has it started as this user and group (from root).
    pub fn run_as(&mut self, user: u32) {
        self.user = Some(user);
    }

    /// Runs it in the foreground when it is meant to end by itself.
    pub fn run_to_its_end(&self, limit: Duration) -> Result<Finished> {
        run(&mut self.command()?, limit)
    }

    /// Sets a word of its configuration file from its next start on, such as `engine`.
    pub fn set(&self, key: &str, value: &str) -> Result<()> {
        let path = self.config_path().context("it has no configuration file")?;
        let without: String = fs::read_to_string(path)?
            .lines()
            .filter(|line| !line.starts_with(key))
            .map(|line| format!("{line}\n"))
            .collect();
        Ok(fs::write(path, format!("{without}{key} = \"{value}\"\n"))?)
    }

    /// Logs that much (a level, or a filter) from its next start on.
    pub fn set_log(&self, filter: &str) -> Result<()> {
        let path = self.config_path().context("it has no configuration file")?;
        let text = fs::read_to_string(path)?.replace("log = \"debug\"", &format!("log = \"{filter}\""));
        Ok(fs::write(path, text)?)
    }

    /// Its configuration file, if it has one.
    pub fn config_path(&self) -> Option<&str> {
        (self.words[1] == "--config").then_some(self.words[2].as_str())
    }

    /// Whether the process is there.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Background::running)
    }

    /// Its process id, when it was started.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Background::pid)
    }

    /// SIGKILL, as a power cut would end it.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM; it must stop cleanly, with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.process.take().context("labsand was not started")?;
        process.signal(Signal::SIGTERM)?;
        process.wait_ok(STOP_LIMIT)
    }

    /// All it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Address and port of its portal.
    pub fn portal(&self) -> &str {
        &self.portal
    }

    /// Its control socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The URL of a LUN.
    pub fn url(&self, iqn: &str, lun: u16) -> String {
        format!("iscsi://{}/{iqn}/{lun}", self.portal)
    }

    /// A part of a LUN, as qemu's `--image-opts` wants it said.
    pub fn region(&self, iqn: &str, lun: u16, offset: u64, bytes: u64) -> String {
        let portal = &self.portal;
        format!(
            "driver=raw,offset={offset},size={bytes},file.driver=iscsi,file.transport=tcp,file.portal={portal},\
             file.target={iqn},file.lun={lun}"
        )
    }

    /// Runs raidctl against it.
    pub fn raidctl(&self, words: &[&str]) -> Result<Finished> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        self.raidctl_words(&words)
    }

    /// The same, with words put together at run time.
    pub fn raidctl_words(&self, words: &[String]) -> Result<Finished> {
        let mut command = Command::new(tools::own("raidctl")?);
        run(command.arg("--socket").arg(&self.socket).args(words), RAIDCTL_LIMIT)
    }

    /// Runs a reading command with `--json` and gives what it printed.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let finished = self.raidctl(&[words, &["--json"]].concat())?;
        if finished.code.is_none_or(|code| code > 2) {
            bail!("no status\n{}", finished.transcript());
        }
        serde_json::from_str(&finished.stdout).with_context(|| finished.transcript())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        // Test runners show this for a failed test only.
        eprintln!("labsand's last words:\n{}", tail(&self.log(), LOG_LINES_SHOWN));
    }
}

fn configuration(dir: &Path, portal: &str, scan: &[PathBuf]) -> String {
    let dir = dir.display();
    format!(
        "portals = [\"{portal}\"]\nscan = {scan:?}\nsocket = \"{dir}/labsand.sock\"\nstate_dir = \"{dir}/state\"\n\
         log = \"debug\"\n"
    )
}

/// A port that nobody listens on now. Below the range that outgoing connections are given ports from, so that none of
/// them takes it while a daemon is being started again.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default();
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (start.wrapping_mul(17).wrapping_add(step)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
