//! What does each command do? Ask the daemon, show the answer, give the exit code.

mod array;
mod disk;
mod events;
mod pr;
mod san;
mod shell;
mod volume;
mod wait;

use std::io::Write;
use std::path::{Path, PathBuf};

use labsan_api::status::Status;
use labsan_api::{Done, ExitCode, paths};
use serde::Serialize;

use crate::args::{Cli, Command};
use crate::client::{Answer, Client};
use crate::error::CliError;
use crate::output::{Naming, status};

/// What all commands share.
#[derive(Debug)]
pub(crate) struct Context {
    /// The daemon.
    pub(crate) client: Client,
    /// Answer in JSON.
    pub(crate) json: bool,
    /// How the user named the daemon.
    pub(crate) naming: Naming,
}

pub(crate) type Outcome = Result<ExitCode, CliError>;

impl Context {
    /// From the command line.
    pub(crate) fn new(cli: &Cli, socket_given: bool) -> Self {
        let socket = socket_given.then(|| cli.socket.display().to_string());
        Self { client: Client::new(&cli.socket), json: cli.json, naming: Naming { socket } }
    }

    /// Print an answer: as it came, or for a person.
    fn show<T>(&self, answer: &Answer<T>, render: impl FnOnce(&T) -> String) {
        if self.json { print_json(&answer.json) } else { print(&render(&answer.body)) }
    }

    /// Print what a change did.
    fn done(&self, answer: &Answer<Done>) -> Outcome {
        self.show(answer, |done| format!("{}\n", done.message));
        Ok(ExitCode::Ok)
    }

    /// Say what went wrong, on stderr (and as JSON on stdout if JSON was asked for).
    pub(crate) fn fail(&self, error: &CliError) -> std::process::ExitCode {
        let body = error.body();
        eprintln!("raidctl: {}", self.naming.command(&body.message));
        if let Some(hint) = &body.hint {
            eprintln!("         {}", self.naming.command(hint));
        }
        if self.json {
            #[derive(Serialize)]
            struct Failed<'a> {
                schema_version: u32,
                error: &'a labsan_api::ErrorBody,
            }
            let failed = Failed { schema_version: labsan_api::SCHEMA_VERSION, error: &body };
            print_json(&serde_json::to_value(failed).unwrap_or_default());
        }
        error.exit_code().into()
    }
}

/// Write to stdout. A reader that went away (`raidctl ... | head`) is no error of ours.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

fn print_json(json: &serde_json::Value) {
    print(&format!("{json:#}\n"));
}

/// The daemon has another working directory than we do.
fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path)
        .map_err(|error| CliError::File { path: path.to_owned(), why: error.to_string() })
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CliError> {
    paths.iter().map(|path| absolute(path)).collect()
}

/// Carry out the command.
pub(crate) async fn run(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Status => show_status(context).await,
        Command::Events(args) => events::run(context, args).await,
        Command::Disk(command) => disk::run(context, command).await,
        Command::Array(command) => array::run(context, command).await,
        Command::Volume(command) => volume::run(context, command).await,
        Command::Target(command) => san::target(context, command).await,
        Command::Lun(command) => san::lun(context, command).await,
        Command::Portal(command) => san::portal(context, &command).await,
        Command::Session(command) => san::session(context, command).await,
        Command::Pr(command) => pr::run(context, command).await,
        Command::Completions { shell } => shell::completions(shell),
        Command::Man { dir } => shell::man(&dir),
    }
}

async fn show_status(context: &Context) -> Outcome {
    let answer = context.client.get::<Status>(paths::STATUS).await?;
    context.show(&answer, |body| status::screen(body, &context.naming));
    Ok(answer.body.exit_code())
}
