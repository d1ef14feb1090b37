//! qemu-img and qemu-io as initiators: whole images in and out, patterns at exact places.

use crate::process::{Background, Finished, mortal, run};
use crate::tools;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn qemu_img(words: &[&str]) -> Result<Finished> {
    run(Command::new(tools::need("qemu-img")?).args(words), LIMIT)
}

/// `qemu-img info`.
pub fn info(url: &str) -> Result<Finished> {
    qemu_img(&["info", "-f", "raw", url])?.ok()
}

/// Writes the whole image `source` to the start of the LUN.
pub fn upload(source: &Path, url: &str) -> Result<Finished> {
    qemu_img(&["convert", "-n", "-f", "raw", "-O", "raw", &source.to_string_lossy(), url])?.ok()
}

/// Reads the whole LUN into a new file.
pub fn download(url: &str, destination: &Path) -> Result<Finished> {
    qemu_img(&["convert", "-f", "raw", "-O", "raw", url, &destination.to_string_lossy()])?.ok()
}

/// `qemu-img compare`: equal, or an error.
pub fn compare(left: &str, right: &str) -> Result<Finished> {
    qemu_img(&["compare", "-f", "raw", "-F", "raw", left, right])?.ok()
}

/// An upload that runs beside the test, slowed down so that things can happen meanwhile.
#[derive(Debug)]
pub struct Upload(Background);

impl Upload {
    /// Starts it, at most `bytes_per_second` fast.
    pub fn start(source: &Path, url: &str, bytes_per_second: u64, log: &Path) -> Result<Self> {
        let mut command = mortal(&tools::need("qemu-img")?);
        command.args(["convert", "-p", "-n", "-f", "raw", "-O", "raw", "-r", &bytes_per_second.to_string()]);
        Ok(Self(Background::start(command.arg(source).arg(url), log)?))
    }

    /// How much is done, in percent.
    pub fn percent(&self) -> f64 {
        let output = self.0.output();
        let last = output.rsplit('(').find_map(|part| part.split_once('/')?.0.trim().parse().ok());
        last.unwrap_or(0.0)
    }

    /// Waits until `percent` of it is done.
    pub fn wait_percent(&mut self, percent: f64) -> Result<()> {
        crate::process::wait_for("the upload to advance", LIMIT, || {
            Ok((self.percent() >= percent || !self.0.running()).then_some(()))
        })
    }

    /// Waits for its end; an error if it failed.
    pub fn finish(mut self) -> Result<()> {
        self.0.wait_ok(LIMIT)
    }

    /// Waits for its end, however it ends, at most `limit`.
    pub fn abandon(mut self) {
        self.0.kill();
    }
}

/// Writes a pattern over and over a region (`Daemon::region`) until it is stopped or the target goes away.
pub fn write_forever(region: &str, pattern: u8, request_bytes: u64, log: &Path) -> Result<Background> {
    let mut command = mortal(&tools::need("qemu-img")?);
    command.args(["bench", "-t", "none", "-w", "-d", "16", "-c", "100000000"]);
    command.args(["-s", &request_bytes.to_string(), "-S", &request_bytes.to_string()]);
    command.args([&format!("--pattern={pattern}"), "--image-opts", region]);
    Background::start(&mut command, log)
}

/// Runs qemu-io commands (`write -P 0x5a 0 4k`, `read -P ...`) on a LUN, in order.
///
/// # Errors
/// When one of them fails, or a pattern that is read back is not there.
pub fn io(url: &str, commands: &[String]) -> Result<Finished> {
    let finished = io_unchecked(url, commands)?.ok()?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    anyhow::ensure!(
        !said.contains("failed") && !said.contains("error"),
        "qemu-io reports a failure\n{}",
        finished.transcript()
    );
    Ok(finished)
}

/// The same without a verdict, for I/O that is meant to fail.
pub fn io_unchecked(url: &str, commands: &[String]) -> Result<Finished> {
    let mut command = Command::new(tools::need("qemu-io")?);
    command.args(["-f", "raw"]);
    for words in commands {
        command.arg("-c").arg(words);
    }
    run(command.arg(url), LIMIT)
}

/// One acknowledged write of a known pattern: block number (4 KiB each) and byte value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which 4 KiB block.
    pub block: u64,
    /// The byte it is filled with.
    pub value: u8,
}

const MARK_BYTES: u64 = 4096;

/// Writes marks, all acknowledged when this returns.
pub fn write_marks(url: &str, marks: &[Mark]) -> Result<()> {
    let words = |m: &Mark| format!("write -q -P {} {} {MARK_BYTES}", m.value, m.block * MARK_BYTES);
    for some in marks.chunks(200) {
        io(url, &some.iter().map(words).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Checks marks in a raw image of the LUN.
pub fn check_marks(image: &Path, marks: &[Mark]) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(image).with_context(|| image.display().to_string())?;
    let mut block = vec![0; usize::try_from(MARK_BYTES)?];
    for mark in marks {
        file.read_exact_at(&mut block, mark.block * MARK_BYTES)?;
        anyhow::ensure!(
            block.iter().all(|&byte| byte == mark.value),
            "block {} should be all {:#04x}, begins {:02x?}",
            mark.block,
            mark.value,
            &block[..16]
        );
    }
    Ok(())
}

/// Checks a region that was being filled with `patterns` when the target died: each 4 KiB block is wholly one of them.
/// Gives how many blocks hold the last pattern.
///
/// # Errors
/// Names the first block that is torn, or holds what nobody wrote.
pub fn check_old_or_new(image: &Path, at: u64, bytes: u64, patterns: &[u8]) -> Result<u64> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(image).with_context(|| image.display().to_string())?;
    let mut block = vec![0; usize::try_from(MARK_BYTES)?];
    let mut newest = 0;
    for number in at / MARK_BYTES..(at + bytes) / MARK_BYTES {
        file.read_exact_at(&mut block, number * MARK_BYTES)?;
        let first = block[0];
        anyhow::ensure!(patterns.contains(&first), "block {number} holds {first:#04x}, which nobody wrote");
        anyhow::ensure!(block.iter().all(|&byte| byte == first), "block {number} is torn");
        newest += u64::from(patterns.last() == Some(&first));
    }
    Ok(newest)
}
