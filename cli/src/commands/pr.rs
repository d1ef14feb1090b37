//! `raidctl pr ...`

use labsan_api::reservation::{Reservations, format_key};
use labsan_api::target::Luns;
use labsan_api::{Done, ErrorBody, ErrorCode, ExitCode, VolumePath, paths};

use super::{Context, Outcome};
use crate::args::{Confirm, LunName, PrCommand};
use crate::confirm::confirm;
use crate::error::CliError;
use crate::output::reservations;

pub(super) async fn run(context: &Context, command: PrCommand) -> Outcome {
    match command {
        PrCommand::List { lun } => {
            let volume = match lun {
                Some(lun) => Some(resolve(context, lun).await?),
                None => None,
            };
            let answer = context.client.get::<Reservations>(&listing(volume.as_ref())).await?;
            context.show(&answer, |list| reservations::screen(&list.volumes));
            Ok(ExitCode::Ok)
        }
        PrCommand::Purge { lun, key, all: _, confirm: answer } => {
            let volume = resolve(context, lun).await?;
            match key {
                Some(key) => purge(context, &volume, &format_key(key), answer).await,
                None => purge_all(context, &volume, answer).await,
            }
        }
    }
}

async fn purge(context: &Context, volume: &VolumePath, key: &str, answer: Confirm) -> Outcome {
    confirm(answer, &format!("Purging key {key} may let other nodes write to {volume}"))?;
    let names = [&*volume.array, &*volume.volume, key];
    context.done(&context.client.delete::<Done>(paths::RESERVATION, &names).await?)
}

async fn purge_all(context: &Context, volume: &VolumePath, answer: Confirm) -> Outcome {
    confirm(answer, &format!("Purging all keys lets every node write to {volume}, fenced ones too"))?;
    let names = [&*volume.array, &*volume.volume];
    context.done(&context.client.delete::<Done>(paths::VOLUME_RESERVATIONS, &names).await?)
}

fn listing(volume: Option<&VolumePath>) -> String {
    let mut path = paths::RESERVATIONS.to_owned();
    if let Some(volume) = volume {
        path.push_str("?volume=");
        paths::push_encoded(&mut path, &volume.to_string());
    }
    path
}

/// The volume behind a LUN.
async fn resolve(context: &Context, lun: LunName) -> Result<VolumePath, CliError> {
    let (target, number) = match lun {
        LunName::Volume(volume) => return Ok(volume),
        LunName::Place(target, number) => (target, number),
    };
    let luns = context.client.get::<Luns>(paths::LUNS).await?.body.luns;
    let found = luns.into_iter().find(|lun| lun.target == target && lun.lun == number);
    found.and_then(|lun| lun.volume).ok_or_else(|| {
        let hint = Some("see which there are: raidctl lun list".to_owned());
        CliError::Daemon(ErrorBody::new(
            ErrorCode::NotFound,
            format!("{target} serves no LUN {number}"),
            hint,
        ))
    })
}
