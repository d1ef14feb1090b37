//! How does a test start a program so that it can neither hang nor be left behind?
//!
//! Every program gets a time limit, no standard input, and (where `setpriv` is there) a kernel promise to die with
//! the thread that started it. What it printed is part of the error when it did not do what was wanted.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// What a program that has ended left behind.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub elapsed: Duration,
}

impl Finished {
    /// The same, or an error when the exit code is not 0.
    pub fn ok(self) -> Result<Self> {
        self.expect_code(0)
    }

    /// The same, or an error when the exit code is another than `want`.
    pub fn expect_code(self, want: i32) -> Result<Self> {
        if self.code == Some(want) {
            return Ok(self);
        }
        bail!("exit code {:?}, wanted {want}\n{}", self.code, self.transcript())
    }

    /// The same, or an error when none of what it printed contains `words` (upper and lower case alike).
    pub fn expect_said(self, words: &str) -> Result<Self> {
        let said = format!("{}\n{}", self.stdout, self.stderr).to_lowercase();
        if said.contains(&words.to_lowercase()) {
            return Ok(self);
        }
        bail!("nothing said of \"{words}\"\n{}", self.transcript())
    }

    /// Command line and all output, for a message.
    pub fn transcript(&self) -> String {
        format!("$ {}\n{}{}", self.command, tail(&self.stdout, 60), tail(&self.stderr, 60))
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started, or runs longer than `limit` (it is killed then).
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let line = command_line(command);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start: {line}"))?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = wait_until(&mut child, started + limit)?;
    if status.is_none() {
        end(&mut child);
    }
    let join = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    let finished = Finished {
        command: line,
        code: status.and_then(|s| s.code()),
        stdout: join(stdout),
        stderr: join(stderr),
        elapsed: started.elapsed(),
    };
    if status.is_none() {
        bail!("still running after {limit:?}, killed\n{}", finished.transcript());
    }
    Ok(finished)
}

fn collect(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What was read before an error is still worth showing.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|w| w.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|l| format!("{l}\n")).collect()
}

/// A command that dies with the thread that starts it, where the machine has `setpriv`.
pub fn mortal(program: &Path) -> Command {
    if crate::tools::find("setpriv").is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A program that runs beside the test; killed and reaped when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
    line: String,
}

impl Background {
    /// Starts `command` with both its outputs going to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let line = command_line(command);
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start: {line}"))?;
        Ok(Self { child, log: log.to_owned(), line })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether it is still running.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {}", self.line))
    }

    /// Waits for its end and gives the exit code (`None`: a signal).
    ///
    /// # Errors
    /// When it runs longer than `limit`; it is killed then.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<i32>> {
        match wait_until(&mut self.child, Instant::now() + limit)? {
            Some(status) => Ok(status.code()),
            None => {
                end(&mut self.child);
                bail!("still running after {limit:?}, killed: {}\n{}", self.line, tail(&self.output(), 60))
            }
        }
    }

    /// Waits for exit code 0 within `limit`.
    pub fn wait_ok(&mut self, limit: Duration) -> Result<()> {
        let code = self.wait(limit)?;
        if code == Some(0) {
            return Ok(());
        }
        bail!("exit code {code:?}: {}\n{}", self.line, tail(&self.output(), 60))
    }

    /// Kills it at once (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks `ready` again and again until it gives something.
///
/// # Errors
/// When it has given nothing after `limit`; the message says what was waited for and the last `None`'s reason is
/// whatever `ready` printed.
pub fn wait_for<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready().with_context(|| format!("waiting for {what}"))? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_over_its_limit_is_killed_and_its_output_shown() {
        let error =
            run(Command::new("sh").args(["-c", "echo before; exec sleep 60"]), Duration::from_millis(300))
                .unwrap_err();
        assert!(format!("{error:#}").contains("before"), "{error:#}");
    }

    #[test]
    fn exit_codes_and_words_are_checked() {
        let finished =
            || run(Command::new("sh").args(["-c", "echo Refused >&2; exit 3"]), Duration::from_secs(5));
        finished().unwrap().expect_code(3).unwrap().expect_said("refused").unwrap();
        assert!(finished().unwrap().ok().is_err());
        assert!(finished().unwrap().expect_said("accepted").is_err());
    }

    #[test]
    fn a_background_program_ends_with_its_guard() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = mortal(Path::new("sleep"));
        let mut guard = Background::start(command.arg("60"), &log).unwrap();
        assert!(guard.running());
        let proc_entry = PathBuf::from(format!("/proc/{}", guard.pid()));
        drop(guard);
        assert!(!proc_entry.exists());
    }
}
