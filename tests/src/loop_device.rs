//! Loop devices: real block devices over files, where the machine allows them.

use crate::process::run;
use crate::tools;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// A loop device over a file; detached when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    /// Attaches a free loop device to `file`, with sectors of `sector_bytes`.
    pub fn attach(file: &Path, sector_bytes: u32) -> Result<Self> {
        let mut command = Command::new(tools::need("losetup")?);
        command.args(["--find", "--show", "--sector-size", &sector_bytes.to_string()]).arg(file);
        let finished = run(&mut command, LIMIT)?.ok()?;
        let path = PathBuf::from(finished.stdout.trim());
        if path.as_os_str().is_empty() {
            bail!("losetup named no device for {}", file.display());
        }
        Ok(Self { path })
    }

    /// `/dev/loopN`.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let Ok(losetup) = tools::need("losetup") else { return };
        let done =
            run(Command::new(losetup).arg("--detach").arg(&self.path), LIMIT).and_then(crate::Finished::ok);
        if let Err(error) = done {
            eprintln!("{} stays attached: {error:#}", self.path.display());
        }
    }
}

/// Why loop devices cannot be used here, or `None` if they can.
pub fn refusal() -> Option<String> {
    if !tools::is_root() {
        return Some("not root".into());
    }
    let attempt = || -> Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        file.as_file().set_len(1 << 20)?;
        LoopDevice::attach(file.path(), 512)?;
        Ok(())
    };
    attempt().err().map(|error| format!("{error:#}").lines().last().unwrap_or("losetup fails").to_owned())
}
