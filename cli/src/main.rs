//! raidctl, the command line of labsan: asks the daemon, shows its answer, exits with a code that scripts can use.

#![warn(unreachable_pub)]

mod args;
mod client;
mod commands;
mod confirm;
mod error;
mod output;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};

use crate::args::Cli;
use crate::commands::Context;

fn main() -> ExitCode {
    let (cli, socket_given) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => return usage(&error),
    };
    let context = Context::new(&cli, socket_given);
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(commands::run(&context, cli.command)) {
            Ok(code) => code.into(),
            Err(error) => context.fail(&error),
        },
        Err(error) => {
            eprintln!("raidctl: cannot start: {error}");
            labsan_api::ExitCode::Failed.into()
        }
    }
}

/// The command line, and whether it named the socket itself.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<(Cli, bool), clap::Error> {
    let matches = Cli::command().try_get_matches_from(words)?;
    // A global argument given after a verb is known only in the verb's own matches.
    let mut level = Some(&matches);
    let mut given = false;
    while let Some(matches) = level {
        given |= matches.value_source("socket") == Some(ValueSource::CommandLine);
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    Ok((Cli::from_arg_matches(&matches)?, given))
}

/// clap's own exit code for wrong usage is 2, which here means "unusable".
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed stderr.
    let _ = error.print();
    if error.use_stderr() { labsan_api::ExitCode::Usage.into() } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_repeated_only_if_it_was_typed() {
        let given = |line: &str| parse(line.split(' ').map(OsString::from)).unwrap().1;
        assert!(given("raidctl --socket /s status"));
        assert!(given("raidctl status --socket /s"));
        assert!(given("raidctl array list --socket /s"));
        assert!(!given("raidctl status"));
    }
}
