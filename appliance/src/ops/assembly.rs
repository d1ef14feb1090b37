//! Starting arrays: find disks, group them by array, start each, take its configuration along.
//!
//! - A disk that cannot be opened alone makes its array refused, never degraded.
//! - An array that is refused is remembered with the reason and what to type; the others run.
//! - Two arrays of one name can run: the second is known by its name and the beginning of its UUID.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use block_io::IoError;
use block_io::file::{DeviceIdentity, FileDevice, OpenOptions};
use labsan_api::array::{RefusedArray, StartArrays, Started, Step};
use labsan_api::names;
use raid_core::array::{Array, AssembleError, AssembleOptions, Examination, JournalError, assemble, examine};
use raid_core::format::assembly::AssemblyRefusal;
use uuid::Uuid;

use crate::disks::{self, InUse};
use crate::error::Failure;
use crate::san::merge::{Copy, merge};
use crate::san::records;
use crate::san::{SanDocument, TargetRecord};
use crate::state::Daemon;
use crate::{change, engine, host_copy, replica, scan};

/// One path, looked at.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The path.
    pub(crate) path: PathBuf,
    /// Its size, where it can be known.
    pub(crate) size_bytes: Option<u64>,
    /// What is on it.
    pub(crate) found: Result<Examination, IoError>,
}

/// Disks of one array.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    uuid: Uuid,
    name: String,
    disks: Vec<PathBuf>,
}

/// Look at disks that no running array uses, each once.
pub(crate) async fn look(paths: &[PathBuf], in_use: &InUse) -> Vec<Looked> {
    let mut seen: Vec<DeviceIdentity> = Vec::new();
    let mut looked = Vec::new();
    for path in paths {
        if let Ok(identity) = disks::identity(path) {
            if seen.contains(&identity) || in_use.array_of(identity).is_some() {
                continue;
            }
            seen.push(identity);
        }
        looked.push(look_at(path.clone()).await);
    }
    looked
}

async fn look_at(path: PathBuf) -> Looked {
    let name: Arc<str> = path.to_string_lossy().into();
    let open = {
        let path = path.clone();
        tokio::task::spawn_blocking(move || FileDevice::open(path, OpenOptions::EXAMINE))
    };
    let device = open.await.unwrap_or_else(|_| {
        Err(IoError::new(block_io::IoErrorKind::Other, block_io::IoOperation::Open, &name, 0, 0))
    });
    match device {
        Ok(device) => {
            let size_bytes = Some(block_io::BlockDevice::info(&device).size_bytes);
            Looked { path, size_bytes, found: examine(&device).await }
        }
        Err(error) => Looked { path, size_bytes: None, found: Err(error) },
    }
}

fn group(looked: &[Looked]) -> Vec<Group> {
    let mut groups: BTreeMap<Uuid, Group> = BTreeMap::new();
    for disk in looked {
        if let Ok(Examination::Member(member)) = &disk.found {
            let uuid = member.superblock.array_uuid;
            let name = || member.superblock.name.bare();
            let group = groups.entry(uuid).or_insert_with(|| Group { uuid, name: name(), disks: Vec::new() });
            group.disks.push(disk.path.clone());
        }
    }
    groups.into_values().collect()
}

/// Disks of running arrays.
pub(crate) async fn in_use(daemon: &Daemon) -> InUse {
    let mut used = Vec::new();
    for (name, array) in daemon.arrays() {
        for member in array.status().await.members {
            let identity = member.path.and_then(|path| disks::identity(&path).ok());
            used.extend(identity.map(|identity| (identity, name.clone())));
        }
    }
    InUse(used)
}

/// Start what is asked for. The caller does not have the turn.
pub(crate) async fn start(daemon: &Arc<Daemon>, request: StartArrays) -> Result<Started, Failure> {
    let _turn = daemon.take_turn().await?;
    if request.scan { scan_all(daemon, request.force).await } else { start_disks(daemon, &request).await }
}

/// Start everything that the configuration's `scan` finds. The caller has the turn.
pub(crate) async fn scan_all(daemon: &Arc<Daemon>, force: bool) -> Result<Started, Failure> {
    let found = scan::expand(&daemon.config.scan);
    let looked = look(&found.paths, &in_use(daemon).await).await;
    let mut notes = found.notes;
    for disk in &looked {
        if let Err(error) = &disk.found {
            notes.push(format!("scan: {error}"));
        }
    }
    let mut started =
        Started { running: daemon.state().arrays.keys().cloned().collect(), ..Started::default() };
    let mut new = Vec::new();
    // A disk that a running array left out is no array of its own; the array's own notes tell of it.
    let waiting = group(&looked).into_iter().filter(|group| running_as(daemon, group.uuid).is_none());
    for group in waiting.collect::<Vec<_>>() {
        match start_group(daemon, &group, force).await {
            Ok((name, array)) => {
                started.started.push(name);
                new.push(array);
            }
            Err(error) => started.refused.push(refusal(&group, &error)),
        }
    }
    {
        let mut state = daemon.state();
        state.refused = started.refused.clone();
        state.notes = notes;
    }
    take_along(daemon, &new).await?;
    Ok(started)
}

async fn start_disks(daemon: &Arc<Daemon>, request: &StartArrays) -> Result<Started, Failure> {
    let in_use = in_use(daemon).await;
    let mut started = Started::default();
    let running: Vec<String> = request
        .disks
        .iter()
        .filter_map(|path| in_use.array_of(disks::identity(path).ok()?).map(str::to_owned))
        .collect();
    if running.is_empty() || running.len() < request.disks.len() {
        disks::check(&request.disks, &in_use, false)?;
        let group = the_one_group(&look(&request.disks, &in_use).await)?;
        if let (Some(array), Some(disk)) = (running_as(daemon, group.uuid), group.disks.first()) {
            return Err(Failure::OldDisk { disk: disk.clone(), array });
        }
        match start_group(daemon, &group, request.force).await {
            Ok((name, array)) => {
                daemon.state().refused.retain(|refused| refused.uuid != group.uuid);
                started.started.push(name);
                take_along(daemon, &[array]).await?;
            }
            Err(error) => started.refused.push(refusal(&group, &error)),
        }
    }
    started.running = running;
    started.running.sort();
    started.running.dedup();
    Ok(started)
}

/// The name of the running array with this UUID.
fn running_as(daemon: &Daemon, uuid: Uuid) -> Option<String> {
    daemon.state().arrays.iter().find(|(_, array)| array.uuid() == uuid).map(|(name, _)| name.clone())
}

/// Disks that a person names are meant to be one array; anything else is a mistake to be told.
fn the_one_group(looked: &[Looked]) -> Result<Group, Failure> {
    if let Some(Err(error)) = looked.iter().map(|disk| &disk.found).find(|found| found.is_err()) {
        return Err(error.clone().into());
    }
    let mut groups = group(looked);
    let list = |paths: &[PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    let members: usize = groups.iter().map(|group| group.disks.len()).sum();
    if members < looked.len() {
        let others: Vec<PathBuf> = looked
            .iter()
            .filter(|disk| !matches!(disk.found, Ok(Examination::Member(_))))
            .map(|disk| disk.path.clone())
            .collect();
        return Err(Failure::NoMembers(list(&others)));
    }
    if groups.len() > 1 {
        let all: Vec<String> =
            groups.iter().map(|group| format!("{} ({})", group.name, list(&group.disks))).collect();
        return Err(Failure::MixedArrays(all.join("; ")));
    }
    groups.pop().ok_or_else(|| Failure::NoMembers("no disk at all".into()))
}

async fn start_group(daemon: &Arc<Daemon>, group: &Group, force: bool) -> Result<(String, Array), Failure> {
    let opened = disks::open(&group.disks, None).await?;
    let array = assemble(opened.members, AssembleOptions { force }, &daemon.environment).await?;
    if let Err(error) = replica::carried(&array).await {
        // Serving it would overwrite what a newer labsan wrote there.
        array.stop().await?;
        return Err(error);
    }
    let name = register(daemon, &array);
    Ok((name, array))
}

/// Put a running array among the others and listen to it.
pub(crate) fn register(daemon: &Arc<Daemon>, array: &Array) -> String {
    let name = {
        let mut state = daemon.state();
        let name = name_here(array.name(), array.uuid(), |name| state.arrays.contains_key(name));
        state.arrays.insert(name.clone(), array.clone());
        name
    };
    let (mut events, log, known_as) = (array.events(), Arc::clone(daemon), name.clone());
    // Its own first words were before anybody could listen.
    daemon.events.note(engine::news(&name, raid_core::array::ArrayEvent::NewArray));
    tokio::task::spawn_local(async move {
        use tokio::sync::broadcast::error::RecvError;
        loop {
            match events.recv().await {
                Ok(event) => log.events.note(engine::news(&known_as, event)),
                Err(RecvError::Lagged(lost)) => tracing::warn!("{lost} events of array {known_as} were lost"),
                Err(RecvError::Closed) => break,
            }
        }
    });
    name
}

/// The array's own name if it is free and can be typed; else made so.
fn name_here(bare: &str, uuid: Uuid, taken: impl Fn(&str) -> bool) -> String {
    let plain: String =
        bare.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let plain = if names::check_array(&plain).is_ok() { plain } else { "array".to_owned() };
    if !taken(&plain) {
        return plain;
    }
    let id = uuid.simple().to_string();
    let longest = names::MAX_ARRAY_NAME - 9;
    let short: String = plain.chars().take(longest).collect();
    format!("{short}-{}", &id[..8])
}

/// Let the SAN's configuration that new arrays carry count, and serve their LUNs. Until then nobody has written to them:
/// orders of nodes go to the arrays of their own volumes, and whoever changes the configuration waits for the turn.
pub(crate) async fn take_along(daemon: &Arc<Daemon>, new: &[Array]) -> Result<(), Failure> {
    let mut copies = Vec::new();
    for (_, array) in daemon.arrays() {
        copies.push(Copy { array: Some(array.uuid()), document: replica::carried(&array).await? });
    }
    adopt_reservations(daemon, new, &copies);
    let old = daemon.document();
    copies.insert(0, Copy { array: None, document: Some(old.clone()) });
    let mut merged = merge(&copies, old.san_uuid);
    merged.document.settle_times(&crate::clock::now());
    let is_behind = |array: &Array| merged.behind.contains(&Some(array.uuid()));
    let behind: Vec<Array> = daemon.arrays().into_iter().map(|(_, array)| array).filter(is_behind).collect();
    let mut notes = change::refresh(daemon, &behind, &merged.document).await;
    notes.extend(merged.notes);
    let mut steps = crate::san::plan::plan(Some(&old), &merged.document);
    steps.extend(serve_again(&old, &merged.document, new));
    let unwritten = host_copy::bring_into_force_anyway(daemon, merged.document).await;
    notes.extend(unwritten.map(|error| error.to_string()));
    daemon.state().notes.extend(notes);
    change::follow(daemon, &steps).await
}

/// Before any of their volumes is served: who may write to them is known by the arrays alone.
fn adopt_reservations(daemon: &Daemon, new: &[Array], copies: &[Copy]) {
    let known = &mut daemon.state().document;
    for array in new {
        let copy = copies.iter().find(|copy| copy.array == Some(array.uuid()));
        let carried = copy.and_then(|copy| copy.document.as_ref()).map(|there| there.reservations.clone());
        // One that is mapped but was deleted elsewhere has left no other trace.
        let mapped = known.targets.iter().flat_map(TargetRecord::all_luns).map(|(_, lun)| lun);
        let mapped = mapped.filter(|lun| lun.array_uuid == array.uuid()).map(|lun| lun.volume_uuid);
        let volumes: Vec<Uuid> = replica::volumes(array).into_iter().chain(mapped).collect();
        records::adopt(&mut known.reservations, &carried.unwrap_or_default(), &volumes);
    }
}

/// LUNs that were in the configuration already, whose arrays came only now.
fn serve_again(old: &SanDocument, next: &SanDocument, new: &[Array]) -> Vec<crate::san::plan::Step> {
    let is_new = |uuid: Uuid| new.iter().any(|array| array.uuid() == uuid);
    let mut steps = Vec::new();
    for target in &next.targets {
        let had =
            |place| old.target(&target.iqn).is_some_and(|old| old.all_luns().any(|there| there == place));
        for (whose, lun) in
            target.all_luns().filter(|(whose, lun)| is_new(lun.array_uuid) && had((*whose, lun)))
        {
            steps.push(crate::san::plan::map_step(target, whose, lun));
        }
    }
    steps
}

fn refusal(group: &Group, error: &Failure) -> RefusedArray {
    let step = |why: &str, command: String| Step { why: why.to_owned(), command };
    let disks: Vec<String> = group.disks.iter().map(|disk| disk.display().to_string()).collect();
    let forced = matches!(
        error,
        Failure::Assemble(AssembleError::Refused(
            AssemblyRefusal::UncleanDegraded { .. } | AssemblyRefusal::JournalLost { .. }
        )) | Failure::Assemble(AssembleError::Journal(
            JournalError::Damaged { .. }
                | JournalError::Missing { .. }
                | JournalError::Unread { .. }
                | JournalError::NoSpace { .. }
                | JournalError::NotErased { .. }
        ))
    );
    let mut next = vec![step("once that is put right, start it", "raidctl array start --scan".into())];
    if forced {
        next.push(step(
            "or start it all the same, at that price",
            format!("raidctl array start --force --yes {}", disks.join(" ")),
        ));
    }
    next.push(step("look at its disks", format!("raidctl disk examine {}", disks.join(" "))));
    let name = Some(group.name.clone()).filter(|name| !name.is_empty());
    RefusedArray { name, uuid: group.uuid, disks: group.disks.clone(), reason: error.to_string(), next }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_typeable_and_unique() {
        let id = Uuid::from_u128(0x1234_5678_0000_0000_0000_0000_0000_0000);
        let free = |_: &str| false;
        assert_eq!(name_here("demo", id, free), "demo");
        assert_eq!(name_here("my array", id, free), "my_array");
        assert_eq!(name_here("", id, free), "array");
        assert_eq!(name_here("-x", id, free), "array");
        assert_eq!(name_here("demo", id, |name| name == "demo"), "demo-12345678");
        let long = "x".repeat(31);
        let other = name_here(&long, id, |name| name == long);
        assert!(names::check_array(&other).is_ok() && other.ends_with("-12345678"), "{other}");
    }
}
