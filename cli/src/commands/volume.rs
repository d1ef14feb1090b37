//! `raidctl volume ...`

use hyper::Method;
use labsan_api::volume::{CreateVolume, ResizeVolume, Volumes};
use labsan_api::{Done, ErrorCode, ExitCode, Size, VolumePath, paths};

use super::{Context, Outcome};
use crate::args::{Confirm, OnOff, SizeOrMax, VolumeCommand};
use crate::confirm::confirm;
use crate::error::CliError;
use crate::output::lists;

pub(super) async fn run(context: &Context, command: VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::Create { volume, size, write_cache, physical_block } => {
            let size_bytes = match size {
                SizeOrMax::Size(size) => Some(size.0),
                SizeOrMax::Max => None,
            };
            let body = CreateVolume {
                name: volume,
                size_bytes,
                write_cache: write_cache == OnOff::On,
                physical_block_bytes: physical_block,
            };
            context.done(&context.client.send(Method::POST, paths::VOLUMES, &body).await?)
        }
        VolumeCommand::List => {
            let answer = context.client.get::<Volumes>(paths::VOLUMES).await?;
            context.show(&answer, |volumes| lists::volumes(&volumes.volumes));
            Ok(ExitCode::Ok)
        }
        VolumeCommand::Resize { volume, size, confirm: answer } => {
            resize(context, &volume, size, answer).await
        }
        VolumeCommand::Delete { volume, confirm: answer } => {
            confirm(answer, &format!("Deleting volume {volume} destroys its data"))?;
            let names = [volume.array.as_str(), volume.volume.as_str()];
            context.done(&context.client.delete::<Done>(paths::VOLUME, &names).await?)
        }
    }
}

/// Growing needs no yes. The daemon refuses to shrink unasked, and only then we ask.
async fn resize(context: &Context, volume: &VolumePath, size: Size, answer: Confirm) -> Outcome {
    let path = paths::fill(paths::VOLUME, &[&volume.array, &volume.volume]);
    let mut body = ResizeVolume { size_bytes: size.0, allow_shrink: answer.yes };
    match context.client.send(Method::PATCH, &path, &body).await {
        Err(CliError::Daemon(refusal)) if refusal.code == ErrorCode::Unsafe && !answer.yes => {
            confirm(answer, &format!("Shrinking {volume} to {size} destroys the data beyond that"))?;
            body.allow_shrink = true;
            context.done(&context.client.send(Method::PATCH, &path, &body).await?)
        }
        result => context.done(&result?),
    }
}
