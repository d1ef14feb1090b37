//! Making a new array. Everything is checked before the first byte is written.
//!
//! Order that crashes depend on: the old superblocks are wiped, then data areas are zeroed and bitmap, bad-block
//! log, header, config and written map are written, and the superblocks last. A crash on the way leaves disks that belong to no
//! array, or an array of which some members are missing, never one that is taken for whole.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use block_io::{Buffer, BufferPool, DeviceInfo, Durability, IoError, Zeroing};
use futures_util::future::try_join_all;
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

use super::core::{Core, combined_info, keeps_bitmap};
use super::dirty::DirtyMap;
use super::examine::{Examination, examine};
use super::in_flight::InFlight;
use super::journal::{ChunkTooLarge, Journal, Redo, shape_for, write_head};
use super::locks::UnitLocks;
use super::member::{Counters, Member};
use super::metadata::{Control, now, write_config, write_header};
use super::status::ArrayEvent;
use super::table::{MemberTable, Slot};
use super::tracked::Tracked;
use super::written::WrittenRegions;
use super::written_io::new_map;
use super::{Array, DocumentError, Environment, MemberDevice, Policy};
use crate::format::badblocks::{self, BadBlocksError};
use crate::format::bitmap::BitmapHeader;
use crate::format::labsan::config;
use crate::format::labsan::written::WrittenMap;
use crate::format::layout::{self, BITMAP_BYTES, LayoutError, MemberLayout};
use crate::format::superblock::{
    Features, MAX_SECTOR, SUPER_OFFSET_BYTES, SetName, SetNameError, Superblock,
};
use crate::format::{PAGE_BYTES, SECTOR_BYTES};
use crate::geometry::{Geometry, GeometryError, Level};
use crate::limits;
use crate::parity;

/// What a new array is to be.
#[derive(Clone, Debug)]
pub struct CreateSpec {
    /// Its name, without the host.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// Chunk size in bytes; ignored by RAID 1.
    pub chunk_bytes: u64,
    /// How it is kept consistent across crashes.
    pub policy: Policy,
    /// Its members, in the order of their slots.
    pub members: Vec<MemberDevice>,
    /// Devices that wait to take a failed member's place.
    pub spares: Vec<MemberDevice>,
    /// Take devices that carry somebody's data.
    pub force: bool,
}

/// Why an array could not be made. Unless it is `Io`, nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The shape is impossible.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// md cannot hold the name.
    #[error(transparent)]
    Name(#[from] SetNameError),
    /// A device is too small or too large.
    #[error("{path}: {error}")]
    Layout {
        /// The device.
        path: String,
        /// Why.
        error: LayoutError,
    },
    /// A device is a member of an array already.
    #[error("{path} is a member of array {array}: remove it there first, or use --force to take it anyway")]
    MemberOfArray {
        /// The device.
        path: String,
        /// The array's name.
        array: String,
    },
    /// A device carries somebody's data.
    #[error("{path} carries {found}: use --force to overwrite it")]
    Foreign {
        /// The device.
        path: String,
        /// What was recognised.
        found: String,
    },
    /// Devices with different logical blocks cannot make one array.
    #[error(
        "{path} has sectors of {sector_bytes} bytes, {first} has {first_bytes}: all members need the same"
    )]
    SectorSize {
        /// The device that differs.
        path: String,
        /// Its logical block.
        sector_bytes: u32,
        /// The first member.
        first: String,
        /// Its logical block.
        first_bytes: u32,
    },
    /// The policy does not go with the level, or is not there.
    #[error("policy {policy} is not available for {level}: use {instead}")]
    Policy {
        /// What was asked for.
        policy: &'static str,
        /// The level.
        level: Level,
        /// What can be used.
        instead: &'static str,
    },
    /// The members are too small for the journal of such chunks.
    #[error("{0}: use a smaller --chunk, or --policy bitmap")]
    Journal(#[from] ChunkTooLarge),
    /// The metadata does not fit.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl From<crate::format::labsan::LabsanError> for CreateError {
    fn from(error: crate::format::labsan::LabsanError) -> Self {
        Self::Document(error.into())
    }
}

impl From<BadBlocksError> for CreateError {
    fn from(_: BadBlocksError) -> Self {
        Self::Document(DocumentError::Unwritten)
    }
}

/// Make a new array and take it into service on this thread.
pub async fn create(spec: CreateSpec, environment: &Environment) -> Result<Array, CreateError> {
    let name = SetName::with_host(&environment.hostname, &spec.name)?;
    let policy = check_policy(&spec)?;
    check_devices(&spec).await?;
    let layouts = lay_out(&spec)?;
    let members_only = &layouts[..spec.members.len()];
    let chunk_bytes = if spec.level == Level::Raid1 { 0 } else { spec.chunk_bytes };
    let component = layout::component_bytes(members_only, chunk_bytes);
    let geometry = Geometry::new(spec.level, spec.members.len(), spec.chunk_bytes, component)?;
    check_spares(&spec, &layouts, &geometry)?;
    let template = template(&spec, name, &geometry);
    let bitmap = bitmap_shape(&template, &geometry, BITMAP_BYTES)?;
    let journal = (policy == Policy::Journal).then(|| new_journal(&geometry, &layouts)).transpose()?;
    let map = new_map(template.array_uuid, &geometry, layout::WRITTEN_MAP_BYTES, false);
    let (members, spares) = number_members(&spec, layouts);
    let table = MemberTable {
        slots: members.into_iter().map(Slot::InSync).collect(),
        spares,
        ..MemberTable::default()
    };
    let mut core =
        new_core(&spec.name, policy, geometry, bitmap, map, table, Control::of_new_array(template));
    core.journal = journal;
    core.redo = Redo::new(&geometry);
    let core = Arc::new(core);
    let zeroed = lay_down(&core).await?;
    if !zeroed {
        core.written.set_all();
    }
    if !zeroed && geometry.level() != Level::Raid0 {
        core.dirty.mark_all_unsynced();
    }
    let mut control = core.control.lock().await;
    write_everything(&core, &mut control).await?;
    let document = control.document.clone();
    drop(control);
    core.emit(ArrayEvent::NewArray);
    Ok(Array::start(core, &document))
}

/// An empty journal in the rings of all members, spares too: they are to take any slot.
fn new_journal(geometry: &Geometry, layouts: &[MemberLayout]) -> Result<Journal, CreateError> {
    let ring_bytes = layouts.iter().map(|layout| layout.journal.len).min().unwrap_or(0);
    let shape = shape_for(geometry, ring_bytes)?;
    let head = Journal::first_head(&shape);
    Ok(Journal::new(shape, head, 1, 0..geometry.members()))
}

fn check_policy(spec: &CreateSpec) -> Result<Policy, CreateError> {
    match (spec.policy, spec.level) {
        (_, Level::Raid0) => Ok(Policy::None),
        (Policy::Journal, level @ (Level::Raid1 | Level::Raid10)) => {
            Err(CreateError::Policy { policy: "journal", level, instead: "bitmap" })
        }
        (policy, _) => Ok(policy),
    }
}

fn all_devices(spec: &CreateSpec) -> impl Iterator<Item = &MemberDevice> {
    spec.members.iter().chain(&spec.spares)
}

async fn check_devices(spec: &CreateSpec) -> Result<(), CreateError> {
    let mut first: Option<(String, u32)> = None;
    for member in all_devices(spec) {
        let path = member.path.display().to_string();
        let sector_bytes = member.device.info().logical_block_bytes;
        match &first {
            Some((first, first_bytes)) if *first_bytes != sector_bytes => {
                return Err(CreateError::SectorSize {
                    path,
                    sector_bytes,
                    first: first.clone(),
                    first_bytes: *first_bytes,
                });
            }
            Some(_) => {}
            None => first = Some((path.clone(), sector_bytes)),
        }
        if !spec.force {
            check_is_free(&path, &*member.device).await?;
        }
    }
    Ok(())
}

/// Refuse a device that carries anything.
pub(super) async fn check_is_free(path: &str, device: &dyn block_io::BlockDevice) -> Result<(), CreateError> {
    match examine(device).await? {
        Examination::Blank => Ok(()),
        Examination::Member(member) => {
            let array = member.superblock.name.bare();
            Err(CreateError::MemberOfArray { path: path.to_owned(), array })
        }
        Examination::Foreign(signatures) => {
            let found: Vec<String> = signatures.iter().map(ToString::to_string).collect();
            Err(CreateError::Foreign { path: path.to_owned(), found: found.join(", ") })
        }
    }
}

fn lay_out(spec: &CreateSpec) -> Result<Vec<MemberLayout>, CreateError> {
    all_devices(spec)
        .map(|member| {
            MemberLayout::for_member(member.device.info().size_bytes)
                .map_err(|error| CreateError::Layout { path: member.path.display().to_string(), error })
        })
        .collect()
}

fn check_spares(spec: &CreateSpec, layouts: &[MemberLayout], geometry: &Geometry) -> Result<(), CreateError> {
    let spares = spec.spares.iter().zip(&layouts[spec.members.len()..]);
    for (spare, layout) in spares {
        if layout.data_size < geometry.member_bytes() {
            let path = spare.path.display().to_string();
            let size_bytes = spare.device.info().size_bytes;
            return Err(CreateError::Layout { path, error: LayoutError::TooSmall { size_bytes } });
        }
    }
    Ok(())
}

/// What all superblocks of the array have in common.
fn template(spec: &CreateSpec, name: SetName, geometry: &Geometry) -> Superblock {
    let chunk_bytes = if spec.level == Level::Raid1 { 0 } else { geometry.chunk_bytes() };
    let features = if spec.level == Level::Raid0 { Features::RAID0_LAYOUT } else { Features::default() };
    Superblock {
        array_uuid: Uuid::new_v4(),
        name,
        ctime: now(),
        level: spec.level.number() as i32,
        layout: if spec.level == Level::Raid0 { RAID0_ALTERNATE_LAYOUT } else { spec.level.layout_number() },
        size_sectors: if spec.level == Level::Raid0 { 0 } else { geometry.member_bytes() / SECTOR_BYTES },
        chunk_sectors: (u64::from(chunk_bytes) / SECTOR_BYTES) as u32,
        raid_disks: geometry.members().into(),
        bitmap_offset: None,
        data_offset: 0,
        data_size: 0,
        recovery_offset: None,
        dev_number: 0,
        corrected_reads: 0,
        device_uuid: Uuid::nil(),
        device_flags: 0,
        bad_block_log: layout::BAD_BLOCK_LOG,
        utime: now(),
        events: 0,
        resync_offset: MAX_SECTOR,
        features,
        roles: Vec::new(),
        reshape_fields: [0; 28],
    }
}

/// md's `RAID0_ALT_MULTIZONE_LAYOUT`; with members of one size all layouts are the same, but md wants it said.
const RAID0_ALTERNATE_LAYOUT: u32 = 2;

/// The bitmap an array with this superblock has (or would have, where the policy keeps none).
pub(super) fn bitmap_shape(
    template: &Superblock,
    geometry: &Geometry,
    space_bytes: u64,
) -> Result<BitmapHeader, CreateError> {
    let sectors = geometry.bitmap_space_bytes() / SECTOR_BYTES;
    BitmapHeader::new(template.array_uuid, template.events, sectors, space_bytes).ok_or_else(|| {
        let member_bytes = geometry.member_bytes();
        CreateError::Geometry(GeometryError::MembersTooLarge { member_bytes })
    })
}

fn number_members(spec: &CreateSpec, layouts: Vec<MemberLayout>) -> (Vec<Arc<Member>>, Vec<Arc<Member>>) {
    let mut all: Vec<Arc<Member>> = all_devices(spec)
        .zip(layouts)
        .enumerate()
        .map(|(number, (device, layout))| Arc::new(new_member(number as u16, device, layout)))
        .collect();
    let spares = all.split_off(spec.members.len());
    (all, spares)
}

pub(super) fn new_member(number: u16, device: &MemberDevice, layout: MemberLayout) -> Member {
    Member {
        number,
        device_uuid: Uuid::new_v4(),
        path: device.path.clone(),
        device: Tracked::new(Arc::clone(&device.device)),
        layout,
        counters: Counters::default(),
    }
}

/// The state of an array that is about to run.
pub(super) fn new_core(
    name: &str,
    policy: Policy,
    geometry: Geometry,
    bitmap: BitmapHeader,
    map: WrittenMap,
    table: MemberTable,
    control: Control,
) -> Core {
    let infos: Vec<DeviceInfo> = table.active().map(|(_, member)| member.device.info()).collect();
    let stripe_bytes = u64::from(geometry.chunk_bytes()) * (u64::from(geometry.members()) + 2);
    let scratch = limits::SCRATCH_BYTES.max(stripe_bytes * limits::SCRATCH_STRIPES) as usize;
    Core {
        name: name.into(),
        uuid: control.template.array_uuid,
        geometry,
        policy,
        info: combined_info(&geometry, map.region_bytes(), &infos),
        kernel: parity::best(),
        table: ArcSwap::from_pointee(table),
        locks: UnitLocks::new(),
        dirty: DirtyMap::new(bitmap.bits(), keeps_bitmap(policy)),
        bitmap_events: AtomicU64::new(control.template.events),
        events_cleared: AtomicU64::new(bitmap.events_cleared),
        bitmap,
        bitmap_turn: tokio::sync::Mutex::default(),
        written: WrittenRegions::new(map),
        written_turn: tokio::sync::Mutex::default(),
        control: tokio::sync::Mutex::new(control),
        volume_turn: tokio::sync::Mutex::default(),
        scratch: BufferPool::new(scratch),
        gate: Arc::new(InFlight::default()),
        failed: AtomicBool::new(false),
        keeper: Notify::new(),
        keeper_turn: tokio::sync::Mutex::default(),
        stopping: AtomicBool::new(false),
        events: broadcast::channel(limits::EVENT_BACKLOG).0,
        journal: None,
        redo: None,
        destage_turn: tokio::sync::Mutex::default(),
        lost: Mutex::default(),
        lost_turn: tokio::sync::Mutex::default(),
        lost_changes: AtomicU64::default(),
        settled: Mutex::default(),
        activity: Mutex::default(),
        notes: Mutex::default(),
    }
}

/// Wipe what was there and zero the data areas, where that is cheap. True if they are zero now.
async fn lay_down(core: &Core) -> Result<bool, IoError> {
    let table = core.table();
    try_join_all(table.current().map(|member| wipe_superblock(member))).await?;
    let cheap = table.active().all(|(_, member)| member.device.info().zeroing == Zeroing::Cheap);
    if !cheap {
        return Ok(false);
    }
    let length = core.geometry.member_bytes();
    try_join_all(table.active().map(|(_, member)| member.zero(0, length, Durability::Durable))).await?;
    Ok(true)
}

/// Make a device belong to no array: first md's superblock goes, then labsan's header.
pub(super) async fn wipe_superblock(member: &Member) -> Result<(), IoError> {
    let zeros = Buffer::zeroed(PAGE_BYTES).freeze();
    member.device.write(SUPER_OFFSET_BYTES, zeros, Durability::Durable).await?;
    let headers = member.layout.headers;
    let zeros = Buffer::zeroed(headers.len as usize).freeze();
    member.device.write(headers.offset, zeros, Durability::Durable).await
}

async fn write_everything(core: &Core, control: &mut Control) -> Result<(), CreateError> {
    let table = MemberTable::clone(&core.table());
    control.header_generation = 1;
    control.config_generation = 1;
    for member in table.current() {
        lay_down_metadata(core, control, &table, member).await?;
    }
    Ok(core.commit_roles(control, table).await?)
}

/// Bitmap, bad-block log, header, config and written map of one member: all but its superblock.
pub(super) async fn lay_down_metadata(
    core: &Core,
    control: &Control,
    table: &MemberTable,
    member: &Arc<Member>,
) -> Result<(), CreateError> {
    let superblock = core.superblock_of(control, table, member);
    let log = badblocks::encode(&[], member.layout.bad_block_log.len as usize)?;
    let log = Buffer::copy_of(&log).freeze();
    member.device.write(member.layout.bad_block_log.offset, log, Durability::Durable).await?;
    lay_down_journal(core, member).await?;
    // Nothing of an earlier array may ever be taken for ours: the copies not written are wiped.
    let layout = &member.layout;
    for region in [layout.headers, layout.config[0], layout.config[1], layout.lost[0], layout.lost[1]] {
        let zeros = Buffer::zeroed(region.len.min(2 * PAGE_BYTES as u64) as usize).freeze();
        member.device.write(region.offset, zeros, Durability::Durable).await?;
    }
    write_header(member, &core.header_of(control, &superblock, member)).await?;
    let bytes = config::encode(core.uuid, control.config_generation, &control.document.to_json()?)?;
    write_config(member, control.config_generation, &bytes).await?;
    core.write_lost_to(member).await?;
    core.give_written_map(member).await?;
    let failures = core.write_bitmap(&core.dirty.image(&[]), std::slice::from_ref(member)).await;
    match failures.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(()),
    }
}

/// An empty ring, all of its space allocated, and the head in force of a journal.
async fn lay_down_journal(core: &Core, member: &Arc<Member>) -> Result<(), IoError> {
    let (ring, head) = (member.layout.journal, member.layout.journal_head);
    let length = ring.len.min(core.ring_bytes());
    if length == 0 {
        return Ok(());
    }
    let zeros = Buffer::zeroed(2 * PAGE_BYTES).freeze();
    member.device.write(head.offset, zeros, Durability::Durable).await?;
    member.device.zero(ring.offset, length, Durability::Durable).await?;
    match member.device.provision(ring.offset, length).await {
        Err(error) if error.kind != block_io::IoErrorKind::Unsupported => return Err(error),
        _ => {}
    }
    let Some(journal) = &core.journal else { return Ok(()) };
    let head = journal.head();
    let page = Buffer::copy_of(&head.encode(core.uuid)).freeze();
    write_head(member, &head, page).await
}
