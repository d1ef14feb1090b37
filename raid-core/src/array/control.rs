//! What people ask of a running array: fail, remove and add members, stop it, delete it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use block_io::{IoError, IoErrorKind, IoOperation};

use super::assemble::wipe_all;
use super::core::{Core, lock};
use super::create::{CreateError, check_is_free, lay_down_metadata, new_member, wipe_superblock};
use super::member::Member;
use super::metadata::now;
use super::status::ArrayEvent;
use super::table::{MemberTable, Slot};
use super::{Array, MemberDevice};
use crate::format::layout::MemberLayout;
use crate::limits;

/// Why a change of members was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The array has no such device.
    #[error("{} is not a member of array {array}", path.display())]
    Unknown {
        /// The path asked for.
        path: PathBuf,
        /// The array.
        array: String,
    },
    /// The data would be lost without it.
    #[error("array {array} cannot do without {}: its data would be lost", path.display())]
    Indispensable {
        /// The path asked for.
        path: PathBuf,
        /// The array.
        array: String,
    },
    /// A resync is not done: without this member the regions it has not reached cannot be known.
    #[error(
        "array {array} is resyncing: without {} the {regions} regions still out of sync could not be told right; \
         wait for it (raidctl array wait {array}) or use --force", path.display()
    )]
    Resyncing {
        /// The path asked for.
        path: PathBuf,
        /// The array.
        array: String,
        /// Regions still to go.
        regions: u64,
    },
    /// It still has a role.
    #[error("{} is in use by array {array}: fail it first (raidctl array fail {array} {})", path.display(), path.display())]
    InUse {
        /// The path asked for.
        path: PathBuf,
        /// The array.
        array: String,
    },
    /// Requests of before it was taken out have not ended.
    #[error(
        "{} hangs: requests from before it failed have not ended, and might undo what is written to it now; try again \
         later, or use another device", path.display()
    )]
    Hangs {
        /// The path asked for.
        path: PathBuf,
    },
    /// It is there already.
    #[error("{} is already in array {array}", path.display())]
    AlreadyThere {
        /// The path asked for.
        path: PathBuf,
        /// The array.
        array: String,
    },
    /// It is too small.
    #[error(
        "{} is too small: it has room for {room_bytes} bytes of data, members of array {array} need {needed_bytes}", path.display()
    )]
    TooSmall {
        /// The path asked for.
        path: PathBuf,
        /// The array.
        array: String,
        /// What it can hold.
        room_bytes: u64,
        /// What it must hold.
        needed_bytes: u64,
    },
    /// The array has been stopped or deleted.
    #[error("array {array} is stopped")]
    Stopped {
        /// The array.
        array: String,
    },
    /// It cannot be prepared: it is foreign, of another sector size, or fails.
    #[error(transparent)]
    Unsuitable(#[from] CreateError),
    /// All device numbers that md has were used up.
    #[error("array {array} has used up md's device numbers: back it up and make it anew")]
    NoNumber {
        /// The array.
        array: String,
    },
    /// The array failed on the way.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Why an array could not be stopped cleanly. It is stopped all the same; the next start will recover.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// It was stopped before.
    #[error("array {array} is stopped already")]
    Already {
        /// The array.
        array: String,
    },
    /// A member failed while the last state was written.
    #[error("array {array} could not be stopped cleanly: {error}; the next start will resync it")]
    Unclean {
        /// The array.
        array: String,
        /// What failed.
        error: IoError,
    },
}

impl Array {
    fn unknown(&self, path: &Path) -> MemberError {
        MemberError::Unknown { path: path.to_owned(), array: self.name().to_owned() }
    }

    fn member(&self, path: &Path) -> Result<Arc<Member>, MemberError> {
        if self.core.is_stopping() {
            return Err(MemberError::Stopped { array: self.name().to_owned() });
        }
        self.core.member_at(path).ok_or_else(|| self.unknown(path))
    }

    /// Take a member out, as if its disk had failed. Failing what has failed already is no error.
    pub async fn fail(&self, path: &Path, force: bool) -> Result<(), MemberError> {
        let member = self.member(path)?;
        let table = self.core.table();
        let array = self.name().to_owned();
        if let Some(slot) = table.slot_of(member.number) {
            if !self.core.can_do_without(&table, slot) {
                return Err(MemberError::Indispensable { path: path.to_owned(), array });
            }
            let regions = self.core.dirty.unsynced_count();
            let in_sync = matches!(table.slots[usize::from(slot)], Slot::InSync(_));
            if regions > 0 && in_sync && !force {
                return Err(MemberError::Resyncing { path: path.to_owned(), array, regions });
            }
        }
        match self.core.try_fail_member(member.number, "failed by command", IoOperation::Write).await {
            // Another one was failed meanwhile.
            Err(error) if error.kind == IoErrorKind::ArrayFailed => {
                Err(MemberError::Indispensable { path: path.to_owned(), array })
            }
            outcome => Ok(outcome?),
        }
    }

    /// Forget a failed device, or give a spare back. Its superblock is wiped where it can still be written, so
    /// that it never comes back by itself.
    pub async fn remove(&self, path: &Path) -> Result<(), MemberError> {
        let member = self.member(path)?;
        let in_use = || MemberError::InUse { path: path.to_owned(), array: self.name().to_owned() };
        if self.core.table().slot_of(member.number).is_some() {
            return Err(in_use());
        }
        wait_idle(&member).await?;
        let mut control = self.core.control.lock().await;
        let mut table = MemberTable::clone(&self.core.table());
        if table.slot_of(member.number).is_some() {
            return Err(in_use());
        }
        table.spares.retain(|spare| spare.number != member.number);
        table.failed.retain(|failed| failed.member.number != member.number);
        self.core.commit_roles(&mut control, table).await?;
        // Still under `control`: it may be added again at once, and what it is given then must stay.
        if let Err(error) = wipe_superblock(&member).await {
            self.core.note(format!("{}: its superblock could not be wiped: {error}", member.label()));
        }
        drop(control);
        self.core.emit(ArrayEvent::DeviceRemoved { path: path.to_owned() });
        Ok(())
    }

    /// Add a device as a spare; a missing slot takes it at once. A device that is an old member of this very
    /// array is taken without `force` and rebuilt from scratch.
    pub async fn add(&self, device: MemberDevice, force: bool) -> Result<(), MemberError> {
        let path = device.path.clone();
        let array = self.name().to_owned();
        if self.core.is_stopping() {
            return Err(MemberError::Stopped { array });
        }
        self.check_addition(&device, force).await?;
        let layout = MemberLayout::for_member(device.device.info().size_bytes)
            .map_err(|error| CreateError::Layout { path: path.display().to_string(), error })?;
        let needed_bytes = self.core.geometry.member_bytes();
        let ring_bytes = self.core.ring_bytes();
        if layout.data_size < needed_bytes || layout.journal.len < ring_bytes {
            return Err(MemberError::TooSmall { path, array, room_bytes: layout.data_size, needed_bytes });
        }
        let former = self.former_selves(&device).await?;
        for member in &former {
            wait_idle(member).await?;
        }
        let mut control = self.core.control.lock().await;
        let mut table = MemberTable::clone(&self.core.table());
        self.check_is_new(&table, &path)?;
        table.failed.retain(|failed| !former.iter().any(|member| member.number == failed.member.number));
        table.stale.retain(|(_, stale, _)| *stale != path);
        let number = control.next_number(&table).ok_or(MemberError::NoNumber { array })?;
        let member = Arc::new(new_member(number, &device, layout));
        wipe_superblock(&member).await?;
        lay_down_metadata(&self.core, &control, &table, &member).await?;
        table.spares.push(member);
        self.core.commit_roles(&mut control, table).await?;
        drop(control);
        self.core.emit(ArrayEvent::DeviceAdded { path });
        self.core.keeper.notify_one();
        Ok(())
    }

    fn check_is_new(&self, table: &MemberTable, path: &Path) -> Result<(), MemberError> {
        if table.current().any(|member| member.path == path) {
            return Err(MemberError::AlreadyThere { path: path.to_owned(), array: self.name().to_owned() });
        }
        Ok(())
    }

    /// Failed members that give way to this device, because it is they: by its path, or by its superblock.
    async fn former_selves(&self, device: &MemberDevice) -> Result<Vec<Arc<Member>>, MemberError> {
        let uuid = match super::examine(&*device.device).await? {
            super::Examination::Member(found) => Some(found.superblock.device_uuid),
            _ => None,
        };
        let table = self.core.table();
        if table.current().any(|member| Some(member.device_uuid) == uuid) {
            return Err(MemberError::AlreadyThere {
                path: device.path.clone(),
                array: self.name().to_owned(),
            });
        }
        let members = table.failed.iter().map(|failed| Arc::clone(&failed.member));
        let is_it = |member: &Arc<Member>| member.path == device.path || Some(member.device_uuid) == uuid;
        Ok(members.filter(is_it).collect())
    }

    async fn check_addition(&self, device: &MemberDevice, force: bool) -> Result<(), MemberError> {
        let path = device.path.display().to_string();
        self.check_is_new(&self.core.table(), &device.path)?;
        let sector_bytes = device.device.info().logical_block_bytes;
        if sector_bytes != self.core.info.logical_block_bytes {
            let first_bytes = self.core.info.logical_block_bytes;
            let first = self.name().to_owned();
            return Err(CreateError::SectorSize { path, sector_bytes, first, first_bytes }.into());
        }
        if force || self.is_old_member(device).await? {
            return Ok(());
        }
        Ok(check_is_free(&path, &*device.device).await?)
    }

    async fn is_old_member(&self, device: &MemberDevice) -> Result<bool, IoError> {
        let examination = super::examine(&*device.device).await?;
        Ok(matches!(examination, super::Examination::Member(member)
            if member.superblock.array_uuid == self.uuid()))
    }

    /// Wait for clients to end, and leave a plain md array: bitmap clean, superblocks at rest, bit 31 off.
    pub async fn stop(&self) -> Result<(), StopError> {
        if self.core.stopping.swap(true, Ordering::AcqRel) {
            return Err(StopError::Already { array: self.name().to_owned() });
        }
        self.core.keeper.notify_one();
        self.core.gate.close().await;
        // Nor may the keeper write anything once the superblocks say that the array is at rest.
        let _keeper_ended = self.core.keeper_turn.lock().await;
        // Nor may a volume that is just being made be put into a list that was emptied already.
        let _no_new_volume = self.core.volume_turn.lock().await;
        // The volumes and the array hold each other: without this its members would stay open for good.
        lock(&self.volumes).clear();
        let unclean = |error| StopError::Unclean { array: self.name().to_owned(), error };
        let left = if self.core.has_failed() { Ok(()) } else { self.core.leave_at_rest().await };
        self.core.end_journal().await;
        left.map_err(unclean)?;
        self.core.emit(ArrayEvent::DeviceDisappeared);
        Ok(())
    }

    /// Stop the array and wipe its members' superblocks. There is no way back.
    pub async fn delete(&self) -> Result<(), StopError> {
        self.stop().await?;
        let table = self.core.table();
        let members: Vec<Arc<Member>> =
            table.current().chain(table.failed.iter().map(|failed| &failed.member)).cloned().collect();
        wipe_all(&members).await.map_err(|error| StopError::Unclean { array: self.name().to_owned(), error })
    }
}

async fn wait_idle(member: &Member) -> Result<(), MemberError> {
    let limit = Duration::from_millis(limits::HANGING_REQUEST_MS);
    if member.device.wait_idle(limit).await {
        return Ok(());
    }
    Err(MemberError::Hangs { path: member.path.clone() })
}

impl Core {
    /// The last writes of a clean stop. The headers come first and name the superblocks that follow: until those
    /// are written, bit 31 says that labsan was here last.
    async fn leave_at_rest(&self) -> Result<(), IoError> {
        if let Some(journal) = &self.journal {
            self.drain_journal(journal).await?;
        }
        let mut control = self.control.lock().await;
        self.flush_active().await?;
        if self.md_must_stay_off() {
            // Bit 31 stays: the next start of ours finds an empty journal, and md keeps off what it would make up.
            self.note(
                "md is kept off this array: it would make up blocks that are lost; replace the missing member, or rewrite \
                 those blocks"
                    .to_owned(),
            );
            return Ok(());
        }
        if self.dirty.unsynced_count() == 0 {
            self.dirty.forget_all();
            self.events_cleared.store(control.template.events, Ordering::Release);
        }
        control.running = false;
        let utime = now();
        let events = control.template.events + 1;
        let failures = self.write_headers(&mut control, events, utime).await;
        if let Some((_, error)) = failures.into_iter().next() {
            return Err(error);
        }
        let failures = self.write_roles(&mut control, &self.table(), utime).await;
        failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Let the journal's tasks end, and wait for them.
    async fn end_journal(&self) {
        let Some(journal) = &self.journal else { return };
        journal.begin_draining();
        let _destager_ended = self.destage_turn.lock().await;
    }

    /// Flush without failing anyone: at a stop an error is told, not acted upon.
    async fn flush_active(&self) -> Result<(), IoError> {
        for member in self.active_members() {
            member.flush().await?;
        }
        Ok(())
    }
}
