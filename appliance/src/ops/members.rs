//! Failing, removing and adding disks of a running array.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use labsan_api::Done;
use labsan_api::array::MemberChange;
use raid_core::array::{Array, ArrayStatus, MemberError, MemberState};

use super::assembly;
use crate::disks;
use crate::error::Failure;
use crate::state::Daemon;

/// Take a disk out of use.
pub(crate) async fn fail(daemon: &Daemon, name: &str, change: &MemberChange) -> Result<Done, Failure> {
    let array = daemon.array(name)?;
    let status = array.status().await;
    let (path, state) = known(&status, &change.disk, |_| true);
    if state == Some(MemberState::Failed) {
        return Ok(Done::already(format!("{} has failed already", path.display())));
    }
    array.fail(&path, change.force).await?;
    Ok(Done::changed(format!("{} is failed; array {name} goes on without it", path.display())))
}

/// Take a failed disk or a spare off.
pub(crate) async fn remove(daemon: &Daemon, name: &str, change: &MemberChange) -> Result<Done, Failure> {
    let array = daemon.array(name)?;
    let (path, _) = known(&array.status().await, &change.disk, |_| true);
    array.remove(&path).await?;
    Ok(Done::changed(format!("{} is off array {name}", path.display())))
}

/// Give the array a disk.
pub(crate) async fn add(daemon: &Arc<Daemon>, name: &str, change: MemberChange) -> Result<Done, Failure> {
    let _turn = daemon.take_turn().await?;
    let array = daemon.array(name)?;
    let status = array.status().await;
    let is_used = |state| !matches!(state, MemberState::Failed | MemberState::Missing);
    if let (path, Some(_)) = known(&status, &change.disk, is_used) {
        return Ok(Done::already(format!("{} is in array {name} already", path.display())));
    }
    check_free(daemon, name, &change.disk).await?;
    release_former_self(&array, &status, &change.disk).await?;
    let mut opened = disks::open(std::slice::from_ref(&change.disk), None).await?;
    let device = opened.members.pop().ok_or_else(|| Failure::NoDisk(change.disk.clone()))?;
    array.add(device, change.force).await?;
    Ok(Done::changed(format!("{} was added to array {name}", change.disk.display())))
}

/// The path by which the array knows this disk, and its state; the path as given if it does not.
fn known(
    status: &ArrayStatus,
    wanted: &Path,
    accept: impl Fn(MemberState) -> bool,
) -> (PathBuf, Option<MemberState>) {
    let identity = disks::identity(wanted).ok();
    let is_it = |path: &Path| {
        path == wanted || identity.is_some_and(|wanted| disks::identity(path).ok() == Some(wanted))
    };
    let found = status.members.iter().find_map(|member| {
        let path = member.path.as_ref().filter(|path| is_it(path))?;
        accept(member.state).then(|| (path.clone(), Some(member.state)))
    });
    found.unwrap_or_else(|| (wanted.to_owned(), None))
}

/// The disk must exist and must not be another array's.
async fn check_free(daemon: &Daemon, name: &str, disk: &Path) -> Result<(), Failure> {
    let mut in_use = assembly::in_use(daemon).await;
    in_use.0.retain(|(_, array)| array != name);
    match disks::check(std::slice::from_ref(&disk.to_owned()), &in_use, false) {
        // `--create-size`, which the hint is about, is for new arrays.
        Err(Failure::NoDisk(path)) => Err(disks::missing(&path)),
        result => result,
    }
}

/// A failed disk is still held open by the array; its former self must go before it can come back.
async fn release_former_self(array: &Array, status: &ArrayStatus, disk: &Path) -> Result<(), Failure> {
    let (path, state) = known(status, disk, |state| state == MemberState::Failed);
    if state.is_none() {
        return Ok(());
    }
    match array.remove(&path).await {
        Ok(()) | Err(MemberError::Unknown { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
