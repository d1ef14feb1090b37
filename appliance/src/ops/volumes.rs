//! Making, resizing and deleting volumes.

use std::sync::Arc;

use labsan_api::volume::{CreateVolume, Mapping, ResizeVolume, Volume, Volumes};
use labsan_api::{Done, Size, VolumePath};
use raid_core::volume::VolumeSpec;

use crate::error::Failure;
use crate::replica;
use crate::san::{LunRecord, SanDocument, TargetRecord};
use crate::state::Daemon;

/// All volumes.
pub(crate) fn list(daemon: &Daemon) -> Volumes {
    let document = daemon.document();
    let mut volumes = Vec::new();
    for (name, array) in daemon.arrays() {
        let mut of_array: Vec<Volume> =
            array.volumes().iter().map(|volume| shown(&name, volume, &document)).collect();
        of_array.sort_by(|a, b| a.name.cmp(&b.name));
        volumes.extend(of_array);
    }
    Volumes { volumes }
}

fn shown(array: &str, volume: &raid_core::volume::Volume, document: &SanDocument) -> Volume {
    let record = volume.record();
    let mapping = |(target, whose, lun): (&TargetRecord, Option<&str>, &LunRecord)| Mapping {
        target: target.iqn.clone(),
        initiator: whose.map(str::to_owned),
        lun: lun.lun,
        read_only: lun.read_only,
    };
    Volume {
        name: VolumePath { array: array.to_owned(), volume: record.name },
        uuid: record.uuid,
        size_bytes: record.size_bytes,
        write_cache: record.write_cache,
        physical_block_bytes: record.physical_block_bytes,
        mapped: document.mappings(record.uuid).map(mapping).collect(),
    }
}

/// Make a volume of zeros.
pub(crate) async fn create(daemon: &Arc<Daemon>, request: CreateVolume) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let name = request.name;
    let array = daemon.array(&name.array)?;
    let there = array.volume(&name.volume);
    let size_bytes = match (request.size_bytes, &there) {
        (Some(size_bytes), _) => size_bytes,
        (None, Some(volume)) => volume.record().size_bytes,
        (None, None) => {
            let status = array.status().await;
            let free = status.size_bytes.saturating_sub(status.used_bytes);
            Some(free).filter(|free| *free > 0).ok_or_else(|| Failure::Full(name.array.clone()))?
        }
    };
    let spec = VolumeSpec {
        name: name.volume.clone(),
        size_bytes,
        write_cache: request.write_cache,
        physical_block_bytes: request.physical_block_bytes,
    };
    array.create_volume(spec).await.map_err(|source| Failure::Volume { volume: name.clone(), source })?;
    let size = Size(size_bytes);
    Ok(match there {
        Some(_) => Done::already(format!("volume {name} is there already, {size}")),
        None => Done::changed(format!("volume {name} created, {size}")),
    })
}

/// Change a volume's size while it is in use.
pub(crate) async fn resize(
    daemon: &Arc<Daemon>,
    name: &VolumePath,
    request: ResizeVolume,
) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let array = daemon.array(&name.array)?;
    let volume = array.volume(&name.volume).ok_or_else(|| Failure::NoVolume(name.clone()))?;
    let size = Size(request.size_bytes);
    if volume.record().size_bytes == request.size_bytes {
        return Ok(Done::already(format!("volume {name} has {size} already")));
    }
    array
        .resize_volume(&name.volume, request.size_bytes, request.allow_shrink)
        .await
        .map_err(|source| Failure::Volume { volume: name.clone(), source })?;
    daemon.targets.resized(volume.uuid());
    Ok(Done::changed(format!("volume {name} has {size} now")))
}

/// Destroy a volume that nobody can reach any more.
pub(crate) async fn delete(daemon: &Arc<Daemon>, name: &VolumePath) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let array = daemon.array(&name.array)?;
    let Some(volume) = array.volume(&name.volume) else {
        return Ok(Done::already(format!("there is no volume {name}; nothing to delete")));
    };
    let document = daemon.document();
    if let Some((target, whose, lun)) = document.mappings(volume.uuid()).next() {
        let (target, initiator) = (target.iqn.clone(), whose.map(str::to_owned));
        return Err(Failure::IsMapped { volume: name.clone(), target, initiator, lun: lun.lun });
    }
    array
        .delete_volume(&name.volume)
        .await
        .map_err(|source| Failure::Volume { volume: name.clone(), source })?;
    daemon.targets.forget(&[volume.uuid()]);
    // No volume has its identity again: what is left behind of it harms nobody.
    if let Err(error) = replica::forget_reservations(daemon, &array, volume.uuid()).await {
        tracing::warn!("the reservations of volume {name}, which was deleted, are still kept: {error}");
    }
    Ok(Done::changed(format!("volume {name} deleted")))
}
