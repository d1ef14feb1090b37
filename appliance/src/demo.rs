//! `labsand demo DIR`: a whole SAN of file disks, always made of the same things, so that docs and tests can rely on
//! them. The names are fixed; `docs/operating.md` lists them.
//!
//! | what is in DIR | what is done |
//! |---|---|
//! | none of the disks | all is made; a marker stands in DIR until it is complete |
//! | the marker | the last run was cut short while it made them: they are removed and made anew |
//! | any of the disks | what is there is opened; options that ask for something else are refused |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use labsan_api::array::CreateArray;
use labsan_api::target::{AccessChange, CreateTarget, MapLun};
use labsan_api::volume::CreateVolume;
use labsan_api::{Size, VolumePath};
use raid_core::geometry::Level;

use crate::args::DemoArgs;
use crate::config::{Config, Memory, Mode, Portal};
use crate::disks;
use crate::error::Failure;
use crate::limits::{DEFAULT_MEMORY_BYTES, MAX_SOCKET_PATH};
use crate::ops::{arrays, status, targets, volumes};
use crate::state::Daemon;

const ARRAY: &str = "demo";
const VOLUME: &str = "lun0";
pub(crate) const TARGET: &str = "iqn.2026-11.org.labsan:demo";
const SOCKET: &str = "labsand.sock";
const MARKER: &str = ".unfinished";
const DEFAULT_DISK_SIZE: Size = Size(256 << 20);
const DEFAULT_LEVEL: u32 = 5;
const DEFAULT_DISKS: u16 = 4;

/// Why there is no demo.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The directory cannot be used.
    #[error("cannot {doing} {}: {source}", path.display())]
    Directory {
        /// `make`, `write` or `remove`.
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The socket's path would be too long.
    #[error("{} is too long a path for a socket in it: use a shorter one", .0.display())]
    TooLong(PathBuf),
    /// The disks would not fit.
    #[error(
        "no space for {count} disks of {each}: {} has {free} free; use a smaller --disk-size, or --sparse", directory.display()
    )]
    NoSpace {
        /// How many.
        count: u64,
        /// How large each.
        each: Size,
        /// What is there.
        free: Size,
        /// Where.
        directory: PathBuf,
    },
    /// What is there differs from what is asked for.
    #[error("{} holds a demo with {is} already, not {wanted}: leave the option out, or use another directory", directory.display())]
    Different {
        /// Where.
        directory: PathBuf,
        /// What is there.
        is: String,
        /// What was asked for.
        wanted: String,
    },
    /// Not a number of disks this level works with.
    #[error("a demo of level {level}: {source}")]
    Shape {
        /// The level.
        level: u32,
        /// Why not.
        source: raid_core::geometry::GeometryError,
    },
    /// No such level.
    #[error("there is no RAID level {0}: use 0, 1, 5, 6 or 10")]
    Level(u32),
}

/// A demo that is to be opened or made.
#[derive(Clone, Debug)]
pub(crate) struct Demo {
    dir: PathBuf,
    level: u32,
    disks: u16,
    disk_size: Size,
    sparse: bool,
    is_new: bool,
    args: DemoArgs,
}

impl Demo {
    /// Look at the directory, and check what is asked for. Makes the directory; nothing else yet.
    pub(crate) fn plan(args: DemoArgs) -> Result<Self, DemoError> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| DemoError::Directory { doing, path, source }
        };
        std::fs::create_dir_all(&args.dir).map_err(failed("make", &args.dir))?;
        let dir = args.dir.canonicalize().map_err(failed("open", &args.dir))?;
        if dir.join(SOCKET).as_os_str().len() > MAX_SOCKET_PATH {
            return Err(DemoError::TooLong(dir));
        }
        let is_new = clear_unfinished(&dir)? || disk_files(&dir).is_empty();
        let demo = Self {
            level: args.level.unwrap_or(DEFAULT_LEVEL),
            disks: args.disks.unwrap_or(DEFAULT_DISKS),
            disk_size: args.disk_size.unwrap_or(DEFAULT_DISK_SIZE),
            sparse: args.sparse,
            dir,
            is_new,
            args,
        };
        if demo.is_new {
            demo.check_shape()?;
            demo.check_space()?;
        }
        Ok(demo)
    }

    /// The configuration that a demo runs by.
    pub(crate) fn config(&self) -> Config {
        Config {
            portals: vec![Portal::at(self.args.listen)],
            scan: vec![self.dir.join("disk*.img")],
            socket: self.dir.join(SOCKET),
            socket_mode: Mode(0o660),
            socket_group: None,
            state_dir: self.dir.clone(),
            engine: self.args.engine,
            memory: Memory(DEFAULT_MEMORY_BYTES),
            sanitize_rate: None,
            log: "warn".into(),
            ..Config::default()
        }
    }

    fn check_shape(&self) -> Result<(), DemoError> {
        let level = Level::from_number(self.level).ok_or(DemoError::Level(self.level))?;
        let shape = raid_core::geometry::Geometry::new(
            level,
            self.disks.into(),
            arrays::DEFAULT_CHUNK_BYTES.into(),
            1 << 40,
        );
        shape.map(|_| ()).map_err(|source| DemoError::Shape { level: self.level, source })
    }

    fn check_space(&self) -> Result<(), DemoError> {
        let count = u64::from(self.disks) + u64::from(self.has_spare());
        let free = disks::free_space(&self.dir).unwrap_or(u64::MAX);
        let fits = count.checked_mul(self.disk_size.0).is_some_and(|bytes| bytes <= free);
        if self.sparse || fits {
            return Ok(());
        }
        let directory = self.dir.clone();
        Err(DemoError::NoSpace { count, each: self.disk_size, free: Size(free), directory })
    }

    fn has_spare(&self) -> bool {
        self.level != 0
    }

    fn disk(&self, number: u16) -> PathBuf {
        self.dir.join(format!("disk{number}.img"))
    }

    /// Make what is not there yet. Runs before anybody is served.
    pub(crate) async fn prepare(self, daemon: Arc<Daemon>) -> Result<(), Failure> {
        if !self.is_new {
            return Ok(());
        }
        let marker = self.dir.join(MARKER);
        let mark = |result: std::io::Result<()>| {
            result.map_err(|error| Failure::Request(format!("cannot write {}: {error}", marker.display())))
        };
        mark(std::fs::write(&marker, b"the disks here are being made\n"))?;
        let made = self.make(&daemon).await;
        if made.is_ok() {
            mark(std::fs::remove_file(&marker))?;
            // That there were no disks before is no news.
            daemon.state().notes.clear();
        }
        made
    }

    async fn make(&self, daemon: &Arc<Daemon>) -> Result<(), Failure> {
        let array = CreateArray {
            name: ARRAY.into(),
            level: self.level,
            chunk_bytes: None,
            policy: None,
            disks: (0..self.disks).map(|number| self.disk(number)).collect(),
            spares: self.has_spare().then(|| self.disk(self.disks)).into_iter().collect(),
            force: false,
            create_size_bytes: Some(self.disk_size.0),
            sparse: self.sparse,
        };
        arrays::create(daemon, array).await?;
        let volume = VolumePath::new(ARRAY, VOLUME)?;
        let create = CreateVolume {
            name: volume.clone(),
            size_bytes: None,
            write_cache: false,
            physical_block_bytes: None,
        };
        volumes::create(daemon, create).await?;
        let create = CreateTarget { iqn: TARGET.into(), alias: Some("labsan demo".into()) };
        targets::create(daemon, create).await?;
        let map = MapLun {
            target: TARGET.into(),
            volume,
            initiator: None,
            lun: Some(0),
            read_only: false,
            force: false,
        };
        targets::map(daemon, map).await?;
        let everybody_here = AccessChange {
            initiator: Some("*".into()),
            loopback_only: Some(true),
            ..AccessChange::default()
        };
        targets::allow(daemon, TARGET, everybody_here).await?;
        Ok(())
    }

    /// Options that were given must be true of what was opened.
    pub(crate) async fn check_opened(&self, daemon: &Arc<Daemon>) -> Result<(), DemoError> {
        let here = Arc::clone(daemon);
        let shown =
            daemon.workers.call_background(move || async move { arrays::show(&here, ARRAY).await }).await;
        let Ok(Ok(array)) = shown else { return Ok(()) };
        let slots = array.slots();
        let size = std::fs::metadata(self.disk(0)).map_or(self.disk_size.0, |metadata| metadata.len());
        let differs = |is: String, wanted: String| {
            Err(DemoError::Different { directory: self.dir.clone(), is, wanted })
        };
        match (self.args.level, self.args.disks, self.args.disk_size) {
            (Some(level), ..) if level != array.level => {
                differs(format!("RAID {}", array.level), format!("RAID {level}"))
            }
            (_, Some(disks), _) if u32::from(disks) != slots => {
                differs(format!("{slots} disks"), format!("{disks}"))
            }
            (.., Some(wanted)) if wanted.0 != size => {
                differs(format!("disks of {}", Size(size)), format!("of {wanted}"))
            }
            _ => Ok(()),
        }
    }

    /// What to tell the person who started it.
    pub(crate) async fn greeting(&self, daemon: &Arc<Daemon>) -> String {
        let here = Arc::clone(daemon);
        let status = daemon.workers.call_background(move || async move { status::status(&here).await }).await;
        let portal = daemon.targets.portals().first().map_or(self.args.listen, |portal| portal.address);
        greeting(&self.dir, portal, status.ok().as_ref(), self.is_new)
    }
}

/// True if there was something unfinished, which is gone now.
fn clear_unfinished(dir: &Path) -> Result<bool, DemoError> {
    let marker = dir.join(MARKER);
    if !marker.exists() {
        return Ok(false);
    }
    let remove = |path: &Path| {
        std::fs::remove_file(path).map_err(|source| DemoError::Directory {
            doing: "remove",
            path: path.to_owned(),
            source,
        })
    };
    for disk in disk_files(dir) {
        remove(&disk)?;
    }
    let document = dir.join("san.json");
    if document.exists() {
        remove(&document)?;
    }
    remove(&marker)?;
    Ok(true)
}

fn disk_files(dir: &Path) -> Vec<PathBuf> {
    crate::scan::expand(&[dir.join("disk*.img")]).paths
}

fn greeting(
    dir: &Path,
    portal: std::net::SocketAddr,
    status: Option<&labsan_api::status::Status>,
    is_new: bool,
) -> String {
    let mut text =
        format!("labsan demo in {} is {}.\n\n", dir.display(), if is_new { "made" } else { "open again" });
    for array in status.iter().flat_map(|status| &status.arrays) {
        let disks = array.slots();
        text.push_str(&format!(
            "  array   {}: RAID {}, {disks} disks, {}, {}\n",
            array.name,
            array.level,
            Size(array.size_bytes),
            array.state
        ));
    }
    for refused in status.iter().flat_map(|status| &status.refused) {
        text.push_str(&format!("  array   NOT STARTED: {}\n", refused.reason));
    }
    for volume in status.iter().flat_map(|status| &status.volumes) {
        text.push_str(&format!("  volume  {}: {}\n", volume.name, Size(volume.size_bytes)));
    }
    let socket = quoted(&dir.join(SOCKET).display().to_string());
    text.push_str(&format!(
        "  target  {TARGET}, open to initiators on this machine\n\
         \x20 portal  {portal}\n\
         \nTry next:\n\
         \x20 raidctl --socket {socket} status\n\
         \x20 raidctl --socket {socket} events\n\
         \x20 qemu-img info iscsi://{portal}/{TARGET}/0\n\
         \x20 iscsi-ls iscsi://{portal}\n\
         or, as root, with the kernel's initiator:\n\
         \x20 sudo iscsiadm --mode discovery --type sendtargets --portal {portal}\n\
         \x20 sudo iscsiadm --mode node --targetname {TARGET} --portal {portal} --login\n\
         \nCtrl-C stops it cleanly; the same command opens it again.\n"
    ));
    text
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,=".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn plan(words: &[&str]) -> Result<Demo, DemoError> {
        let words = ["labsand", "demo"].iter().chain(words);
        match crate::args::Cli::try_parse_from(words).unwrap().command {
            Some(crate::args::Command::Demo(args)) => Demo::plan(args),
            _ => unreachable!("the word was demo"),
        }
    }

    #[test]
    fn impossible_demos_are_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        for (words, part) in [
            (vec!["--level", "7"], "no RAID level 7"),
            (vec!["--level", "6", "--disks", "3"], "at least 4"),
            (vec!["--disk-size", "1PiB"], "no space"),
        ] {
            let message = plan(&[&[path.as_str()], &words[..]].concat()).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        plan(&[&path, "--disk-size", "1PiB", "--sparse"]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let long = dir.path().join("x".repeat(100));
        assert!(matches!(plan(&[&long.display().to_string()]), Err(DemoError::TooLong(_))));
    }

    #[test]
    fn an_unfinished_demo_is_made_anew_and_only_its_disks_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        for name in ["disk0.img", "notes.txt"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        assert!(!plan(&[&path]).unwrap().is_new);
        std::fs::write(dir.path().join(MARKER), b"").unwrap();
        assert!(plan(&[&path]).unwrap().is_new);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }

    #[test]
    fn the_greeting_says_what_to_type() {
        let text = greeting(Path::new("/tmp/d"), "127.0.0.1:3260".parse().unwrap(), None, true);
        for line in [
            "  raidctl --socket /tmp/d/labsand.sock status\n",
            "  qemu-img info iscsi://127.0.0.1:3260/iqn.2026-11.org.labsan:demo/0\n",
            "  sudo iscsiadm --mode node --targetname iqn.2026-11.org.labsan:demo --portal 127.0.0.1:3260 --login\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
