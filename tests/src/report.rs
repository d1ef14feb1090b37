//! What should a person see of a test that passed? Counts, and what could not be run on this machine.
//!
//! Test runners swallow a passing test's output; lines written here are shown by `scripts/test` at its end.

use std::io::Write;

fn line(text: &str) {
    eprintln!("{text}");
    let Some(path) = std::env::var_os("LABSAN_TEST_REPORT") else { return };
    let opened = std::fs::OpenOptions::new().create(true).append(true).open(path);
    if let Ok(mut file) = opened {
        // One write, so that lines of tests that run side by side do not mix.
        let _ = file.write_all(format!("{text}\n").as_bytes());
    }
}

/// A measured or counted fact.
pub fn figure(text: &str) {
    line(&format!("figure: {text}"));
}

/// A test, or a part of one, that this machine does not allow, and why.
pub fn skipped(what: &str, why: &str) {
    line(&format!("not run: {what}: {why}"));
}
