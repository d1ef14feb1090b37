//! `raidctl completions` and `raidctl man`, made from the command line's own description.

use std::path::Path;

use clap::CommandFactory;
use labsan_api::ExitCode;

use super::Outcome;
use crate::args::Cli;
use crate::error::CliError;

pub(super) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "raidctl", &mut script);
    super::print(&String::from_utf8_lossy(&script));
    Ok(ExitCode::Ok)
}

pub(super) fn man(dir: &Path) -> Outcome {
    let failed = |error: std::io::Error| CliError::Write { path: dir.to_owned(), why: error.to_string() };
    if !dir.is_dir() {
        return Err(failed(std::io::ErrorKind::NotADirectory.into()));
    }
    clap_mangen::generate_to(Cli::command(), dir).map_err(failed)?;
    Ok(ExitCode::Ok)
}
