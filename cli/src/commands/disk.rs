//! `raidctl disk ...`. `examine` looks at the disks itself, so it works without a daemon and beside one.

use std::path::{Path, PathBuf};

use block_io::file::{FileDevice, OpenOptions};
use block_io::runtime::{Engine, run_local};
use block_io::{BlockDevice, IoError};
use labsan_api::disk::Disks;
use labsan_api::{ExitCode, Reply, paths};
use raid_core::array::{Examination, examine};
use serde::Serialize;

use super::{Context, Outcome, print, print_json};
use crate::args::DiskCommand;
use crate::error::CliError;
use crate::output::examine::{Report, report, text};
use crate::output::lists;

pub(super) async fn run(context: &Context, command: DiskCommand) -> Outcome {
    match command {
        DiskCommand::Examine { paths } => examine_all(context, &paths),
        DiskCommand::List => {
            let answer = context.client.get::<Disks>(paths::DISKS).await?;
            context.show(&answer, |disks| lists::disks(&disks.disks));
            Ok(ExitCode::Ok)
        }
    }
}

#[derive(Serialize)]
struct Reports {
    disks: Vec<Report>,
}

fn examine_all(context: &Context, paths: &[PathBuf]) -> Outcome {
    let looked = on_a_thread_of_its_own(paths.to_vec())?;
    let reports: Vec<Report> = paths.iter().zip(looked).map(|(path, found)| report(path, found)).collect();
    let unreadable = reports.iter().any(Report::is_unreadable);
    if context.json {
        let json = serde_json::to_value(Reply::new(Reports { disks: reports })).unwrap_or_default();
        print_json(&json);
    } else {
        for report in &reports {
            print(&text(report));
        }
    }
    Ok(if unreadable { ExitCode::Failed } else { ExitCode::Ok })
}

type Looked = Result<(u64, Examination), IoError>;

/// Disk I/O has a runtime of its own, which cannot run inside ours.
fn on_a_thread_of_its_own(paths: Vec<PathBuf>) -> Result<Vec<Looked>, CliError> {
    let names = paths.clone();
    let worker = std::thread::spawn(move || {
        run_local(Engine::Threads, async move {
            let mut all = Vec::new();
            for path in &paths {
                all.push(look(path).await);
            }
            all
        })
    });
    worker.join().map_err(|_| CliError::File {
        path: names.into_iter().next().unwrap_or_default(),
        why: "raidctl failed while looking at it".into(),
    })
}

async fn look(path: &Path) -> Looked {
    let device = FileDevice::open(path, OpenOptions::EXAMINE)?;
    let found = examine(&device).await?;
    Ok((device.info().size_bytes, found))
}
