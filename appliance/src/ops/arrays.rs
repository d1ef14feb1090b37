//! Making, stopping and deleting arrays.

use std::path::PathBuf;
use std::sync::Arc;

use block_io::file::Allocation;
use labsan_api::array::{Array, Arrays, CreateArray};
use labsan_api::{Done, VolumePath, names};
use raid_core::array::{CreateSpec, Policy, create as create_array};
use raid_core::geometry::{Geometry, Level};
use raid_core::limits::MIRROR_UNIT_BYTES;

use super::assembly;
use crate::disks::{self, NewFile};
use crate::error::Failure;
use crate::san::plan::Step;
use crate::state::Daemon;
use crate::{change, engine};

/// md's habit is 512 KiB; 64 KiB keeps most random writes of a cluster within one chunk and full stripes small.
pub(crate) const DEFAULT_CHUNK_BYTES: u32 = 64 << 10;
/// Large enough for any chunk: what is checked with it is the shape alone.
const ANY_MEMBER_BYTES: u64 = 1 << 40;

/// All arrays.
pub(crate) async fn list(daemon: &Daemon) -> Arrays {
    let mut arrays = Vec::new();
    for (name, array) in daemon.arrays() {
        let shortage = daemon.spaces.shortage(array.uuid());
        arrays.push(engine::array(&name, &array.status().await, shortage.as_ref()));
    }
    Arrays { arrays, refused: daemon.state().refused.clone() }
}

/// One array.
pub(crate) async fn show(daemon: &Daemon, name: &str) -> Result<Array, Failure> {
    let array = daemon.array(name)?;
    let shortage = daemon.spaces.shortage(array.uuid());
    Ok(engine::array(name, &array.status().await, shortage.as_ref()))
}

/// Make an array. Everything is checked before the first byte is written; files made for it go again if it fails.
pub(crate) async fn create(daemon: &Arc<Daemon>, request: CreateArray) -> Result<Done, Failure> {
    let level = check_shape(&request)?;
    let _turn = daemon.take_turn().await?;
    let paths: Vec<PathBuf> = request.disks.iter().chain(&request.spares).cloned().collect();
    if daemon.array(&request.name).is_ok() {
        return match is_as_asked(daemon, &request).await? {
            true => Ok(Done::already(format!("array {} is there already, just so", request.name))),
            false => Err(Failure::ArrayTaken(request.name)),
        };
    }
    disks::check(&paths, &assembly::in_use(daemon).await, request.create_size_bytes.is_some())?;
    let allocation = if request.sparse { Allocation::Sparse } else { Allocation::Full };
    let new_file = request.create_size_bytes.map(|size_bytes| NewFile { size_bytes, allocation });
    let mut opened = disks::open(&paths, new_file).await?;
    let mut members = opened.members.clone();
    let spares = members.split_off(request.disks.len());
    let spec = CreateSpec {
        name: request.name.clone(),
        level,
        chunk_bytes: request.chunk_bytes.unwrap_or(DEFAULT_CHUNK_BYTES).into(),
        policy: request.policy.map_or_else(|| default_policy(level), engine::policy),
        members,
        spares,
        force: request.force,
    };
    match create_array(spec, &daemon.environment).await {
        Ok(array) => {
            let name = assembly::register(daemon, &array);
            let notes = change::refresh(daemon, std::slice::from_ref(&array), &daemon.document()).await;
            daemon.state().notes.extend(notes);
            opened.members.clear();
            Ok(Done::changed(format!("array {name} created and in service")))
        }
        Err(error) => {
            opened.undo();
            Err(error.into())
        }
    }
}

fn check_shape(request: &CreateArray) -> Result<Level, Failure> {
    names::check_array(&request.name)?;
    let level = Level::from_number(request.level).ok_or(Failure::Level(request.level))?;
    let chunk = request.chunk_bytes.unwrap_or(match level {
        Level::Raid1 => MIRROR_UNIT_BYTES,
        _ => DEFAULT_CHUNK_BYTES,
    });
    Geometry::new(level, request.disks.len(), chunk.into(), ANY_MEMBER_BYTES)?;
    if level == Level::Raid0 && !request.spares.is_empty() {
        return Err(Failure::UselessSpare);
    }
    Ok(level)
}

fn default_policy(level: Level) -> Policy {
    match level {
        Level::Raid0 => Policy::None,
        Level::Raid1 | Level::Raid10 => Policy::Bitmap,
        Level::Raid5 | Level::Raid6 => Policy::Journal,
    }
}

/// True if the array that has this name was made by the same request.
async fn is_as_asked(daemon: &Daemon, request: &CreateArray) -> Result<bool, Failure> {
    let status = daemon.array(&request.name)?.status().await;
    let in_use = assembly::in_use(daemon).await;
    let ours = |path: &PathBuf| {
        disks::identity(path)
            .ok()
            .and_then(|id| in_use.array_of(id))
            .is_some_and(|array| array == request.name)
    };
    let slots =
        status.members.iter().filter_map(|member| member.slot).max().map_or(0, |slot| usize::from(slot) + 1);
    let same_chunk =
        request.chunk_bytes.is_none_or(|chunk| status.chunk_bytes == 0 || status.chunk_bytes == chunk);
    Ok(status.level == request.level
        && same_chunk
        && slots == request.disks.len()
        && request.disks.iter().chain(&request.spares).all(ours))
}

/// Stop an array cleanly. Its LUNs vanish from the targets and come back when it is started.
pub(crate) async fn stop(daemon: &Arc<Daemon>, name: &str) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let array = daemon.array(name)?;
    withdraw(daemon, name).await?;
    let writing = daemon.writing(array.uuid());
    let _writing = writing.lock().await;
    daemon.state().arrays.remove(name);
    array.stop().await?;
    Ok(Done::changed(format!("array {name} stopped; its disks are plain md members now")))
}

/// Destroy an array that has no volumes any more.
pub(crate) async fn delete(daemon: &Arc<Daemon>, name: &str) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let Ok(array) = daemon.array(name) else {
        return Ok(Done::already(format!("there is no running array {name}; nothing to delete")));
    };
    let volumes = array.volumes();
    if let Some(first) = volumes.first() {
        let first = VolumePath { array: name.to_owned(), volume: first.record().name };
        return Err(Failure::HasVolumes { array: name.to_owned(), count: volumes.len(), first });
    }
    withdraw(daemon, name).await?;
    let writing = daemon.writing(array.uuid());
    let _writing = writing.lock().await;
    daemon.state().arrays.remove(name);
    array.delete().await?;
    Ok(Done::changed(format!("array {name} deleted; its disks are free")))
}

/// Take an array's LUNs out of the live targets; the configuration keeps them.
pub(crate) async fn withdraw(daemon: &Daemon, name: &str) -> Result<(), Failure> {
    let array = daemon.array(name)?;
    let uuid = array.uuid();
    let document = daemon.document();
    let mut steps = Vec::new();
    for target in &document.targets {
        let of_array = target.all_luns().filter(|(_, lun)| lun.array_uuid == uuid);
        steps.extend(of_array.map(|(whose, lun)| Step::UnmapLun {
            iqn: target.iqn.clone(),
            initiator: whose.map(str::to_owned),
            lun: lun.lun,
        }));
    }
    change::follow(daemon, &steps).await?;
    let volumes: Vec<_> = array.volumes().iter().map(|volume| volume.uuid()).collect();
    daemon.targets.forget(&volumes);
    Ok(())
}
