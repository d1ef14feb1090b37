//! Volumes of a running array, and the document they are kept in. A change is durable before it is in force.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use block_io::{Durability, IoError};
use uuid::Uuid;

use super::core::lock;
use super::metadata::DocumentError;
use super::{Array, ArrayState, ArrayStatus, MemberState, MemberStatus};
use crate::array::table::{MemberTable, Slot};
use crate::format::labsan::{ConfigDocument, Extent, VolumeRecord};
use crate::geometry::Level;
use crate::limits;
use crate::volume::{NoRoom, Volume, VolumeSpec, extents};

/// Why a volume could not be made, changed or deleted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is one of that name.
    #[error("volume {0} exists already, with another size, write cache or physical block")]
    Exists(String),
    /// There is none of that name.
    #[error("there is no volume {0}")]
    Unknown(String),
    /// A size that is no multiple of 4 KiB, or none at all.
    #[error("a volume's size is a multiple of 4096 bytes, at least one, not {0}")]
    BadSize(u64),
    /// A physical block that is none.
    #[error("a volume's physical block has 512 or 4096 bytes, not {0}")]
    BadPhysicalBlock(u32),
    /// A name that cannot be one.
    #[error(
        "{0:?} cannot be a volume's name: use 1 to 64 letters, digits, '.', '_' or '-', not starting with '.' or '-'"
    )]
    BadName(String),
    /// It does not fit.
    #[error("array {array} has no room: {room}")]
    NoRoom {
        /// The array.
        array: String,
        /// What was asked for and what there is.
        room: NoRoom,
    },
    /// Shrinking loses data.
    #[error(
        "volume {name} would shrink from {from_bytes} to {to_bytes} bytes and lose what lies beyond: use --yes if that is meant"
    )]
    Shrinks {
        /// The volume.
        name: String,
        /// Its size.
        from_bytes: u64,
        /// What was asked for.
        to_bytes: u64,
    },
    /// Too many for the document.
    #[error("an array holds at most {0} volumes")]
    TooMany(usize),
    /// The document could not be written.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Its space could not be zeroed.
    #[error(transparent)]
    Io(#[from] IoError),
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with(['.', '-'])
}

fn taken(document: &ConfigDocument) -> Vec<Extent> {
    document.volumes.iter().flat_map(|volume| volume.extents.iter().copied()).collect()
}

impl Array {
    /// Open volumes, in the order of their creation.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        lock(&self.volumes).clone()
    }

    /// An open volume by its name.
    pub fn volume(&self, name: &str) -> Option<Arc<Volume>> {
        lock(&self.volumes).iter().find(|volume| volume.record().name == name).cloned()
    }

    /// Make a volume of zeros. The same again gives the one that is there.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Arc<Volume>, VolumeError> {
        if !is_name(&spec.name) {
            return Err(VolumeError::BadName(spec.name));
        }
        check_size(spec.size_bytes)?;
        if let Some(bytes) = spec.physical_block_bytes.filter(|bytes| !matches!(bytes, 512 | 4096)) {
            return Err(VolumeError::BadPhysicalBlock(bytes));
        }
        let _turn = self.core.volume_turn.lock().await;
        if let Some(volume) = self.volume(&spec.name) {
            let record = volume.record();
            let same = record.size_bytes == spec.size_bytes
                && record.write_cache == spec.write_cache
                && record.physical_block_bytes == spec.physical_block_bytes;
            return if same { Ok(volume) } else { Err(VolumeError::Exists(spec.name)) };
        }
        let document = self.document().await;
        if document.volumes.len() >= limits::MAX_VOLUMES {
            return Err(VolumeError::TooMany(limits::MAX_VOLUMES));
        }
        let extents = self.allocate(&document, spec.size_bytes)?;
        self.zero_used(&extents).await?;
        let record = VolumeRecord {
            uuid: Uuid::new_v4(),
            name: spec.name,
            size_bytes: spec.size_bytes,
            write_cache: spec.write_cache,
            physical_block_bytes: spec.physical_block_bytes,
            extents,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            other: std::collections::BTreeMap::new(),
        };
        self.change_document(|document| {
            document.volumes.push(record.clone());
        })
        .await?;
        let volume = Volume::new(self.clone(), record);
        lock(&self.volumes).push(Arc::clone(&volume));
        Ok(volume)
    }

    async fn document(&self) -> ConfigDocument {
        self.core.control.lock().await.document.clone()
    }

    /// Change the document that is in force, durably.
    async fn change_document(&self, change: impl FnOnce(&mut ConfigDocument)) -> Result<(), DocumentError> {
        let mut control = self.core.control.lock().await;
        let mut document = control.document.clone();
        change(&mut document);
        self.core.commit_document(&mut control, document).await
    }

    /// In whole regions of the written map, so that a volume can give all its space back: a region that two volumes share is
    /// forgotten only when both gave up their parts at once, which never happens. Where there is no room for that, in stripes.
    fn allocate(&self, document: &ConfigDocument, bytes: u64) -> Result<Vec<Extent>, VolumeError> {
        let (size, taken) = (self.core.geometry.size_bytes(), taken(document));
        extents::allocate_coarsely(size, self.region_data_bytes(), self.stripe_data_bytes(), &taken, bytes)
            .map_err(|room| VolumeError::NoRoom { array: self.name().to_owned(), room })
    }

    fn stripe_data_bytes(&self) -> u64 {
        u64::from(self.core.geometry.stripe_data_bytes())
    }

    fn region_data_bytes(&self) -> u64 {
        self.core.info.discard_grain_bytes
    }

    /// Zero what earlier volumes may have left in these extents; what was never written costs nothing. Until the document says
    /// so nobody else is given them: `volume_turn` is held.
    async fn zero_used(&self, extents: &[Extent]) -> Result<(), IoError> {
        for extent in extents {
            self.core.zero(extent.start, extent.len, Durability::Durable, false).await?;
        }
        Ok(())
    }

    /// Grow a volume while it is in use; shrink it only if that is meant. Growth reads as zeros.
    pub async fn resize_volume(
        &self,
        name: &str,
        size_bytes: u64,
        allow_shrink: bool,
    ) -> Result<Arc<Volume>, VolumeError> {
        check_size(size_bytes)?;
        let _turn = self.core.volume_turn.lock().await;
        let volume = self.volume(name).ok_or_else(|| VolumeError::Unknown(name.to_owned()))?;
        let record = volume.record();
        if size_bytes < record.size_bytes && !allow_shrink {
            let name = name.to_owned();
            return Err(VolumeError::Shrinks { name, from_bytes: record.size_bytes, to_bytes: size_bytes });
        }
        let held: u64 = record.extents.iter().map(|extent| extent.len).sum();
        let needed = size_bytes.next_multiple_of(self.stripe_data_bytes());
        let shrunk = VolumeRecord { size_bytes, ..record.clone() };
        let extents = if needed > held {
            let document = self.document().await;
            let more = self.allocate(&document, needed - held)?;
            self.zero_used(&more).await?;
            extents::coalesce(record.extents.iter().copied().chain(more).collect())
        } else {
            let wanted = size_bytes.next_multiple_of(self.region_data_bytes()).min(held);
            // Clients see the end first, so that nobody writes beyond it while it is cut off; who is there already ends.
            volume.set_record(shrunk);
            volume.earlier_operations_ended().await;
            if let Err(error) = self.zero_tail(&record, size_bytes, wanted).await {
                volume.set_record(record);
                return Err(error.into());
            }
            extents::truncate(&record.extents, wanted)
        };
        let changed = VolumeRecord { size_bytes, extents, ..record };
        self.change_document(|document| {
            if let Some(slot) = document.volumes.iter_mut().find(|volume| volume.uuid == changed.uuid) {
                *slot = changed.clone();
            }
        })
        .await?;
        volume.set_record(changed);
        Ok(volume)
    }

    /// A shrunk volume keeps the rest of its last region: it must not show old data when it grows again.
    async fn zero_tail(&self, record: &VolumeRecord, size_bytes: u64, kept: u64) -> Result<(), IoError> {
        let end = kept.min(record.size_bytes);
        if size_bytes >= end {
            return Ok(());
        }
        for (offset, length) in extents::locate(&record.extents, size_bytes, end - size_bytes) {
            self.core.zero(offset, length, Durability::Durable, false).await?;
        }
        Ok(())
    }

    /// Delete a volume. Its space is zeroed when it is given away again.
    pub async fn delete_volume(&self, name: &str) -> Result<(), VolumeError> {
        let _turn = self.core.volume_turn.lock().await;
        let volume = self.volume(name).ok_or_else(|| VolumeError::Unknown(name.to_owned()))?;
        let uuid = volume.uuid();
        // Whoever still holds it finds an empty volume, and nobody is left where another one may come to lie.
        let record = volume.record();
        volume.set_record(VolumeRecord { size_bytes: 0, extents: Vec::new(), ..record.clone() });
        volume.earlier_operations_ended().await;
        let deleted =
            self.change_document(|document| document.volumes.retain(|record| record.uuid != uuid)).await;
        if let Err(error) = deleted {
            volume.set_record(record);
            return Err(error.into());
        }
        lock(&self.volumes).retain(|volume| volume.uuid() != uuid);
        Ok(())
    }

    /// What the layers above keep in the document, with its own generation.
    pub async fn attachment(&self) -> (u64, serde_json::Value) {
        let control = self.core.control.lock().await;
        (control.document.san_generation, control.document.san.clone())
    }

    /// Replace it, durably on every member.
    pub async fn set_attachment(
        &self,
        generation: u64,
        value: serde_json::Value,
    ) -> Result<(), DocumentError> {
        self.change_document(|document| {
            document.san = value;
            document.san_generation = generation;
        })
        .await
    }

    /// Everything `status` shows.
    pub async fn status(&self) -> ArrayStatus {
        let control = self.core.control.lock().await;
        let (events, document) = (control.template.events, control.document.clone());
        drop(control);
        let core = &self.core;
        let table = core.table();
        let chunk_bytes = if core.geometry.level() == Level::Raid1 { 0 } else { core.geometry.chunk_bytes() };
        ArrayStatus {
            name: core.name.to_string(),
            uuid: core.uuid,
            level: core.geometry.level().number(),
            state: self.state(&table),
            chunk_bytes,
            policy: policy_name(core.policy).to_owned(),
            size_bytes: core.geometry.size_bytes(),
            used_bytes: taken(&document).iter().map(|extent| extent.len).sum(),
            members: member_list(&table),
            activity: lock(&core.activity).clone(),
            events,
            dirty_regions: core.dirty.dirty_count(),
            unsynced_regions: core.dirty.unsynced_count(),
            journal_bytes: core.journal.as_ref().map_or(0, super::journal::Journal::used_bytes),
            lost_bytes: core.lost_bytes(),
            notes: lock(&core.notes).clone(),
        }
    }

    fn state(&self, table: &MemberTable) -> ArrayState {
        let core = &self.core;
        let missing = table.not_in_sync();
        if core.is_stopping() {
            ArrayState::Stopped
        } else if core.has_failed() || !core.geometry.tolerates(&missing) {
            ArrayState::Failed
        } else if table.rebuilding().is_some() {
            ArrayState::Rebuilding
        } else if !missing.is_empty() {
            ArrayState::Degraded
        } else if core.dirty.unsynced_count() > 0 {
            ArrayState::Resyncing
        } else {
            ArrayState::Optimal
        }
    }
}

fn check_size(size_bytes: u64) -> Result<(), VolumeError> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(limits::VOLUME_GRAIN_BYTES) {
        return Err(VolumeError::BadSize(size_bytes));
    }
    Ok(())
}

fn policy_name(policy: super::Policy) -> &'static str {
    match policy {
        super::Policy::None => "none",
        super::Policy::Bitmap => "bitmap",
        super::Policy::Journal => "journal",
    }
}

fn member_list(table: &MemberTable) -> Vec<MemberStatus> {
    let slots = table.slots.iter().enumerate().map(|(index, slot)| {
        let index = index as u16;
        let state = match slot {
            Slot::InSync(_) => MemberState::InSync,
            Slot::Rebuilding(..) => MemberState::Rebuilding,
            Slot::Missing => MemberState::Missing,
        };
        match slot.member() {
            Some(member) => member_line(Some(index), member, state, None),
            None => missing_line(table, index),
        }
    });
    let spares = table.spares.iter().map(|spare| member_line(None, spare, MemberState::Spare, None));
    let failed = table.failed.iter().map(|failed| {
        member_line(failed.slot, &failed.member, MemberState::Failed, Some(failed.reason.clone()))
    });
    slots.chain(spares).chain(failed).collect()
}

fn member_line(
    slot: Option<u16>,
    member: &super::member::Member,
    state: MemberState,
    reason: Option<String>,
) -> MemberStatus {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
    MemberStatus {
        slot,
        path: Some(member.path.clone()),
        state,
        read_errors: count(&member.counters.read_errors),
        write_errors: count(&member.counters.write_errors),
        corrected_errors: count(&member.counters.corrected),
        reason,
    }
}

/// An empty slot, and what was found that used to be in it.
fn missing_line(table: &MemberTable, slot: u16) -> MemberStatus {
    let stale = table.stale.iter().find(|(stale, ..)| *stale == Some(slot));
    MemberStatus {
        slot: Some(slot),
        path: stale.map(|(_, path, _)| Path::to_owned(path)),
        state: MemberState::Missing,
        read_errors: 0,
        write_errors: 0,
        corrected_errors: 0,
        reason: stale.map(|(_, _, reason)| reason.clone()),
    }
}
