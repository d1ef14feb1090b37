//! From the command line to the process's end: arguments, log, exit code.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use labsan_api::ExitCode as Code;

use crate::args::{Cli, Command, DEFAULT_CONFIG, DemoArgs};
use crate::config::{Config, ConfigError};
use crate::daemon::{self, Signals, StartError};
use crate::demo::{Demo, DemoError};

/// Why labsand ended other than by being told to.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Demo(#[from] DemoError),
    #[error("log = \"{filter}\": {why}")]
    Log { filter: String, why: String },
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
}

impl RunError {
    fn exit_code(&self) -> Code {
        match self {
            Self::Demo(DemoError::Different { .. } | DemoError::Shape { .. } | DemoError::Level(_)) => {
                Code::Refused
            }
            _ => Code::Failed,
        }
    }
}

/// labsand's main function.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed stderr.
            let _ = error.print();
            return if error.use_stderr() { Code::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match run_command(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("labsand: {error}");
            error.exit_code().into()
        }
    }
}

fn run_command(cli: Cli) -> Result<(), RunError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RunError::Runtime)?;
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => {
            let path = cli.config.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
            let config = Config::load(&path)?;
            start_log(&config.log)?;
            runtime.block_on(serve(config))
        }
        Command::Demo(args) => runtime.block_on(demo(args)),
    }
}

async fn serve(config: Config) -> Result<(), RunError> {
    let signals = Signals::catch()?;
    let running = daemon::start(config, async |_| Ok(())).await?;
    running.until_told_to_stop(signals).await;
    Ok(())
}

async fn demo(args: DemoArgs) -> Result<(), RunError> {
    let demo = Demo::plan(args)?;
    let config = demo.config();
    start_log(&config.log)?;
    let signals = Signals::catch()?;
    let prepared = demo.clone();
    let running = daemon::start(config, move |daemon| prepared.prepare(daemon)).await?;
    if let Err(error) = demo.check_opened(&running.daemon).await {
        running.stop().await;
        return Err(error.into());
    }
    println!("{}", demo.greeting(&running.daemon).await);
    running.until_told_to_stop(signals).await;
    Ok(())
}

/// `RUST_LOG` wins over the configuration.
fn start_log(filter: &str) -> Result<(), RunError> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let parsed = tracing_subscriber::EnvFilter::try_new(&filter)
        .map_err(|error| RunError::Log { filter: filter.clone(), why: error.to_string() })?;
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(parsed).with_ansi(colours).with_writer(std::io::stderr).init();
    Ok(())
}
