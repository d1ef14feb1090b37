//! What does libiscsi's conformance suite say of a LUN?
//!
//! `iscsi-test-cu` exits 0 whatever fails, and a test that could not be run counts as passed; so its output is read:
//! each test's own verdict, the skips named on the way, and the summary at the end, which must agree.

use crate::process::{Finished, run};
use crate::tools;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;

/// For the whole suite: it pauses for minutes in all.
const LIMIT: Duration = Duration::from_secs(900);

/// What one family of tests came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tests that ran to their end without a complaint.
    pub passed: Vec<String>,
    /// Tests that skipped all or a part of what they do, with the reason they gave.
    pub skipped: Vec<(String, String)>,
    /// Tests that failed.
    pub failed: Vec<String>,
}

impl Tally {
    /// How many tests there were.
    pub fn total(&self) -> usize {
        self.passed.len() + self.skipped.len() + self.failed.len()
    }

    /// Adds another family's results.
    pub fn extend(&mut self, other: Self) {
        self.passed.extend(other.passed);
        self.skipped.extend(other.skipped);
        self.failed.extend(other.failed);
    }
}

/// All of the suite, in the runs that it is cut into: a family each, but of sanitizing each test. With a second path its tests
/// leave RESERVE(6) behind, which only the end of the program releases, and the next ones meet it.
pub fn runs() -> Result<Vec<String>> {
    let listed = run(Command::new(tools::need("iscsi-test-cu")?).arg("--list"), LIMIT)?.ok()?;
    let dots = |name: &str| if name.starts_with("ALL.Sanitize.") { 2 } else { 1 };
    let names = listed.stdout.lines().map(str::trim).filter(|line| line.starts_with("ALL."));
    let runs: Vec<String> = names
        .filter(|name| name.matches('.').count() == dots(name) && *name != "ALL.Sanitize")
        .map(ToOwned::to_owned)
        .collect();
    ensure!(runs.len() > 50, "the suite lists only {runs:?}\n{}", listed.transcript());
    Ok(runs)
}

/// Runs one family (`ALL.Read*`), destructive tests included, with one URL, or with two that are paths to one LUN. Gives
/// the tally and the whole output.
///
/// # Errors
/// When the suite does not come to its end, or its summary contradicts its lines.
pub fn run_family(family: &str, urls: &[&str]) -> Result<(Tally, String)> {
    let mut command = Command::new(tools::need("iscsi-test-cu")?);
    // Everything on the LUN may be lost, and sanitizing it is allowed.
    let finished = run(command.args(["-d", "-S", "-t", family]).args(urls), LIMIT)?;
    let tally = parse(&finished.stdout).with_context(|| finished.transcript())?;
    ensure!(tally.total() > 0, "no test is called {family}\n{}", finished.transcript());
    Ok((tally, format!("{}{}", finished.stdout, finished.stderr)))
}

/// Reads the suite's output.
fn parse(output: &str) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut suite = "";
    let mut current: Option<(String, String)> = None;
    let mut summary = None;
    for line in output.lines() {
        let words = line.trim();
        if let Some(name) = words.strip_prefix("Suite: ") {
            close(&mut tally, current.take());
            suite = name;
        } else if let Some(rest) = words.strip_prefix("Test: ") {
            close(&mut tally, current.take());
            let (name, verdict) = rest.split_once(" ...").unwrap_or((rest, ""));
            current = Some((format!("{suite}.{name}"), format!("{verdict}\n")));
        } else if words.starts_with("Run Summary:") {
            close(&mut tally, current.take());
        } else if let Some(counts) = words.strip_prefix("tests ") {
            summary = Some(counts.split_whitespace().map(str::parse).collect::<Result<Vec<usize>, _>>()?);
        } else if let Some((_, text)) = &mut current {
            text.push_str(words);
            text.push('\n');
        }
    }
    close(&mut tally, current);
    let summary = summary.context("no summary: the suite did not come to its end")?;
    let [total, ran, _, failed, ..] = summary[..] else { anyhow::bail!("a summary of another form") };
    ensure!(
        total == tally.total() && ran == total && failed == tally.failed.len(),
        "the summary says {total} tests, {ran} run, {failed} failed; the lines say {tally:?}"
    );
    Ok(tally)
}

/// A verdict starts a line, or follows the test's name; what comes after it is the suite tidying up, and may stand on
/// the same line.
fn close(tally: &mut Tally, test: Option<(String, String)>) {
    let Some((name, text)) = test else { return };
    let mut reason = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with("passed") {
            match reason {
                Some(reason) => tally.skipped.push((name, reason)),
                None => tally.passed.push(name),
            }
            return;
        }
        if let Some((_, words)) = line.split_once("[SKIPPED]") {
            reason.get_or_insert(words.trim().to_owned());
        }
    }
    tally.failed.push(name);
}

/// `iscsi-ls --show-luns` on a portal (`127.0.0.1:3260`).
pub fn list(portal: &str) -> Result<Finished> {
    let mut command = Command::new(tools::need("iscsi-ls")?);
    run(command.arg("--show-luns").arg(format!("iscsi://{portal}")), LIMIT)?.ok()
}

/// `iscsi-inq`: standard data (`page` none) or a vital product data page.
pub fn inquiry(url: &str, page: Option<u8>) -> Result<Finished> {
    let mut command = Command::new(tools::need("iscsi-inq")?);
    if let Some(page) = page {
        command.args(["-e", "1", "-c", &page.to_string()]);
    }
    run(command.arg(url), LIMIT)?.ok()
}

/// `iscsi-readcapacity16`.
pub fn read_capacity(url: &str) -> Result<Finished> {
    run(Command::new(tools::need("iscsi-readcapacity16")?).arg(url), LIMIT)?.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // As printed by iscsi-test-cu of libiscsi 1.19.0 against tgt 1.0.85.
    const OUTPUT: &str = "
     CUnit - A unit testing framework for C - Version 2.1-3

Suite: iSCSIdatasn
  Test: iSCSIDataSnInvalid ...FAILED
    1. test_iscsi_datasn_invalid.c:98  - CU_ASSERT_NOT_EQUAL(ret,0)
Suite: WriteSame10
  Test: Simple ...passed
  Test: Unmap ...    [SKIPPED] Logical unit is fully provisioned. Skipping test
passed
  Test: UnmapVPD ...    [FAILED] WRITESAME10 command failed with status 2
passed
  Test: Check ...passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
  Test: UnmapUnaligned ...FAILED
    1. test.c:71  - CU_FAIL    [SKIPPED] PERSISTENT RESERVE IN is not implemented.

Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      2      2    n/a      0        0
               tests      6      6      4      2        0
             asserts    337    337    333      4      n/a
";

    #[test]
    fn verdicts_and_skips_are_told_apart() {
        let tally = parse(OUTPUT).unwrap();
        assert_eq!(tally.passed, ["WriteSame10.Simple", "WriteSame10.UnmapVPD", "WriteSame10.Check"]);
        assert_eq!(tally.skipped.len(), 1);
        assert_eq!(tally.skipped[0].0, "WriteSame10.Unmap");
        assert_eq!(tally.failed, ["iSCSIdatasn.iSCSIDataSnInvalid", "WriteSame10.UnmapUnaligned"]);
    }

    #[test]
    fn an_early_end_is_an_error() {
        let cut = OUTPUT.split("Run Summary").next().unwrap();
        assert!(parse(cut).is_err());
        assert!(parse(&OUTPUT.replace("4      2 ", "6      0 ")).is_err());
    }
}
