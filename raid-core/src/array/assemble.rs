//! Starting an array from its members.
//!
//! Order that crashes depend on: laggards first get the freshest superblock (`format::assembly`); then the
//! superblocks say that labsan runs the array and who is missing, durably, before anything is served.

use std::sync::Arc;

use block_io::{Buffer, Durability, IoError};
use futures_util::future::join_all;
use uuid::Uuid;

use super::core::{Core, keeps_bitmap, lock};
use super::create::{bitmap_shape, new_core, wipe_superblock};
use super::dirty::BitSet;
use super::examine::{candidate, read_at};
use super::journal::{JournalError, Redo, find_record, open_journal, recover_journal};
use super::lost::newest_lost;
use super::member::{Counters, Member};
use super::metadata::{Control, DocumentError};
use super::status::ArrayEvent;
use super::table::{MemberTable, RebuildPosition, Slot};
use super::tracked::Tracked;
use super::written_io::find_map;
use super::{Array, Environment, MemberDevice};
use crate::format::SECTOR_BYTES;
use crate::format::assembly::{self, AssemblyPlan, AssemblyRefusal, Candidate, Resync, SlotState};
use crate::format::bitmap::{BitmapHeader, Bits};
use crate::format::labsan::LabsanError;
use crate::format::labsan::config::{self, ConfigDocument};
use crate::format::layout::MemberLayout;
use crate::format::superblock::{Features, SUPER_OFFSET_BYTES, Superblock};
use crate::geometry::{Geometry, GeometryError, Level, MemberIndex};

/// How to start an array.
#[derive(Clone, Copy, Debug, Default)]
pub struct AssembleOptions {
    /// Accept what may cost data that cannot be known (a write hole, a lost journal).
    pub force: bool,
}

/// Why an array could not be started. Nothing was written unless it is `Io`, `Config`, or one of recovery: `Journal` with `Io`,
/// `NoSpace`, `NotErased` or `NotVoid`. Then the superblocks may say that labsan runs the array, and what a record names may be in
/// place, in part; the next start finds the record and does the rest.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The members do not make an array that can be trusted.
    #[error(transparent)]
    Refused(#[from] AssemblyRefusal),
    /// The superblock describes a shape labsan does not run.
    #[error("array {array} cannot be run by labsan: {reason}")]
    Unsupported {
        /// The array's name.
        array: String,
        /// What about it.
        reason: String,
    },
    /// Shapes that no array has.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// The configuration document cannot be read.
    #[error("array {array}: the configuration on its members cannot be read: {error}")]
    Document {
        /// The array's name.
        array: String,
        /// Why.
        error: LabsanError,
    },
    /// The list of lost blocks is of a newer labsan.
    #[error("array {array}: the list of lost blocks on {member} cannot be read: {error}")]
    Lost {
        /// The array's name.
        array: String,
        /// The member.
        member: String,
        /// Why.
        error: LabsanError,
    },
    /// The configuration document could not be made current on all members.
    #[error(transparent)]
    Config(#[from] DocumentError),
    /// The journal cannot be recovered as it is.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A device failed.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Start the array that these devices are members of, on this thread. They must all be of one array; their
/// order and their paths do not matter.
pub async fn assemble(
    devices: Vec<MemberDevice>,
    options: AssembleOptions,
    _environment: &Environment,
) -> Result<Array, AssembleError> {
    let mut candidates = Vec::with_capacity(devices.len());
    for device in &devices {
        candidates.push(candidate(device).await?);
    }
    let uuid = array_uuid(&candidates)?;
    let plan = choose(uuid, &devices, &candidates, options.force).await?;
    let Ok(freshest) = candidates[plan.freshest].superblock.clone() else {
        return Err(AssemblyRefusal::NoMembers { array: uuid }.into());
    };
    let geometry = geometry_of(&freshest)?;
    let array = freshest.name.bare();
    let members = build_members(&devices, &candidates, &plan, &array)?;
    let current: Vec<Arc<Member>> = plan.in_sync().filter_map(|index| members[index].clone()).collect();
    let lost = newest_lost(&current, uuid, &array).await?;
    if plan.md_ran || lost.ranges().is_empty() {
        refuse_bad_blocks(&plan, &candidates, &array)?;
    }
    let table = build_table(&geometry, &plan, &candidates, &members);
    let (config_generation, document) = newest_document(&plan, &members, uuid, &array).await?;
    let header_generation =
        candidates.iter().filter_map(|c| c.labsan.as_ref().ok()).map(|h| h.generation).max().unwrap_or(0);
    let (bitmap, dirty) = read_bitmap(&freshest, &geometry, &plan, &candidates, &members).await?;
    // What it says of its own device is not said of the others.
    let template =
        Superblock { features: freshest.features.without(assembly::OF_THE_DEVICE), ..freshest.clone() };
    let control = Control { template, document, config_generation, header_generation, running: true };
    let opened = open_journal(&plan, &geometry, &current, uuid, &array, options.force).await?;
    let record = find_record(&plan, &geometry, &current, uuid, &array, options.force).await?;
    let (map, map_copies) = find_map(&plan, &candidates, &members, &geometry, uuid).await;
    let mut core = new_core(&array, plan.policy, geometry, bitmap, map, table, control);
    core.journal = opened.journal;
    core.redo = Redo::new(&geometry);
    *lock(&core.lost) = lost;
    let core = Arc::new(core);
    let resync = if opened.gave_up { Resync::From(0) } else { plan.needs.resync };
    load_sync_state(&core, resync, &dirty, options.force && plan.is_degraded());
    write_laggards(&plan, &candidates, &members).await?;
    // Before bit 31: while that is clear, a start that follows sees that md ran, and forgets the map too.
    core.spread_written_map(&map_copies).await?;
    take_over(&core, &plan, &candidates).await?;
    if plan.md_ran {
        // md has struck off its own log what was rewritten; what was not would have been refused above.
        core.forget_lost().await?;
    } else {
        core.spread_lost().await?;
    }
    // The roles are durable: from here on nothing is written that a member left out could be missed for.
    recover_journal(&core, opened.found.as_ref()).await?;
    core.recover_redo(record.as_ref(), options.force).await?;
    let document = core.control.lock().await.document.clone();
    core.emit(ArrayEvent::NewArray);
    if plan.is_degraded() {
        core.emit(ArrayEvent::DegradedArray);
    }
    Ok(Array::start(core, &document))
}

/// The array that most candidates with a superblock belong to is the first one's: mixing is refused later.
fn array_uuid(candidates: &[Candidate]) -> Result<Uuid, AssemblyRefusal> {
    candidates
        .iter()
        .find_map(|candidate| candidate.superblock.as_ref().ok())
        .map(|superblock| superblock.array_uuid)
        .ok_or(AssemblyRefusal::NoMembers { array: Uuid::nil() })
}

/// As the pure chooser says; but "unclean and degraded" means that stripes may be half-written, and where the
/// bitmap marks none, none are.
async fn choose(
    uuid: Uuid,
    devices: &[MemberDevice],
    candidates: &[Candidate],
    force: bool,
) -> Result<AssemblyPlan, AssembleError> {
    let refusal = match assembly::choose(uuid, candidates, force) {
        Ok(plan) => return Ok(plan),
        Err(refusal @ AssemblyRefusal::UncleanDegraded { .. }) => refusal,
        Err(refusal) => return Err(refusal.into()),
    };
    let plan = assembly::choose(uuid, candidates, true)?;
    if plan.needs.resync != Resync::Bitmap {
        return Err(refusal.into());
    }
    for index in plan.in_sync() {
        let (Ok(superblock), Some(header)) = (&candidates[index].superblock, &candidates[index].bitmap)
        else {
            continue;
        };
        let bits = read_bits(&devices[index], superblock, header).await.unwrap_or(None);
        if bits.is_none_or(|bits| bits.count() != 0) {
            return Err(refusal.into());
        }
    }
    Ok(plan)
}

/// Where md lists a block as bad it has not written what it acknowledged: nobody may read the old data there. What labsan itself
/// put into those lists, as long as md has not run, is on its own list of lost blocks.
fn refuse_bad_blocks(
    plan: &AssemblyPlan,
    candidates: &[Candidate],
    array: &str,
) -> Result<(), AssembleError> {
    let used = plan.slots.iter().filter_map(|slot| match *slot {
        SlotState::InSync(candidate) | SlotState::Rebuilding { candidate, .. } => Some(candidate),
        SlotState::Stale(_) | SlotState::Missing => None,
    });
    for candidate in used.map(|index| &candidates[index]) {
        let Ok(superblock) = &candidate.superblock else { continue };
        if superblock.features.contains(Features::BAD_BLOCKS) {
            return Err(AssembleError::Unsupported {
                array: array.to_owned(),
                reason: format!(
                    "md lists blocks of {} as bad: let md mend them (a repair, or a new disk), or leave the disk out",
                    candidate.id
                ),
            });
        }
    }
    Ok(())
}

/// The bits of one member's bitmap; `None` if it has none.
async fn read_bits(
    device: &MemberDevice,
    superblock: &Superblock,
    header: &BitmapHeader,
) -> Result<Option<BitSet>, IoError> {
    let Some(offset) = superblock.bitmap_offset_bytes() else { return Ok(None) };
    let image = read_at(&*device.device, offset, header.image_bytes() as usize).await?;
    let mut set = BitSet::new(header.bits());
    for bit in Bits::of_image(&image[..]).set_in(0..header.bits()) {
        set.insert(bit);
    }
    Ok(Some(set))
}

fn geometry_of(superblock: &Superblock) -> Result<Geometry, AssembleError> {
    let unsupported = |reason: String| AssembleError::Unsupported { array: superblock.name.bare(), reason };
    let level = u32::try_from(superblock.level)
        .ok()
        .and_then(Level::from_number)
        .ok_or_else(|| unsupported(format!("level {} is not supported", superblock.level)))?;
    if level != Level::Raid0 && level != Level::Raid1 && superblock.layout != level.layout_number() {
        return Err(unsupported(format!("layout {:#x} of {level} is not supported", superblock.layout)));
    }
    let component = if level == Level::Raid0 { superblock.data_size } else { superblock.size_sectors };
    let members = superblock.raid_disks as usize;
    let chunk_bytes = u64::from(superblock.chunk_sectors) * SECTOR_BYTES;
    Ok(Geometry::new(level, members, chunk_bytes, component.saturating_mul(SECTOR_BYTES))?)
}

/// Every candidate that may play a part, at its index; `None` for those that are left out.
fn build_members(
    devices: &[MemberDevice],
    candidates: &[Candidate],
    plan: &AssemblyPlan,
    array: &str,
) -> Result<Vec<Option<Arc<Member>>>, AssembleError> {
    let left_out =
        |index: &usize| plan.left_out.contains(index) || plan.slots.contains(&SlotState::Stale(*index));
    (0..candidates.len())
        .map(|index| {
            let candidate = &candidates[index];
            let Ok(superblock) = &candidate.superblock else { return Ok(None) };
            if left_out(&index) {
                return Ok(None);
            }
            let layout = layout_of(candidate, superblock).map_err(|error| AssembleError::Unsupported {
                array: array.to_owned(),
                reason: format!("{}: {error}", candidate.id),
            })?;
            Ok(Some(Arc::new(Member {
                number: superblock.dev_number as u16,
                device_uuid: superblock.device_uuid,
                path: devices[index].path.clone(),
                device: Tracked::new(Arc::clone(&devices[index].device)),
                layout,
                counters: Counters::default(),
            })))
        })
        .collect()
}

/// Where things lie: as the header says, or as an array that mdadm made leaves room.
fn layout_of(
    candidate: &Candidate,
    superblock: &Superblock,
) -> Result<MemberLayout, crate::format::layout::LayoutError> {
    match &candidate.labsan {
        Ok(header) => Ok(header.layout.clone()),
        Err(_) => {
            let image = candidate.bitmap.as_ref().map_or(0, BitmapHeader::image_bytes);
            MemberLayout::adopt(superblock, image, candidate.size_bytes)
        }
    }
}

fn build_table(
    geometry: &Geometry,
    plan: &AssemblyPlan,
    candidates: &[Candidate],
    members: &[Option<Arc<Member>>],
) -> MemberTable {
    let slots = plan
        .slots
        .iter()
        .enumerate()
        .map(|(slot, state)| match *state {
            SlotState::InSync(index) => members[index].clone().map_or(Slot::Missing, Slot::InSync),
            SlotState::Rebuilding { candidate, recovery_offset, .. } => {
                let done = recovery_offset.saturating_mul(SECTOR_BYTES);
                let unit = geometry.first_unit_at(MemberIndex(slot as u16), done);
                members[candidate]
                    .clone()
                    .map_or(Slot::Missing, |member| Slot::Rebuilding(member, RebuildPosition::new(unit)))
            }
            SlotState::Stale(_) | SlotState::Missing => Slot::Missing,
        })
        .collect();
    let stale = plan
        .notes
        .iter()
        .filter(|note| plan.left_out.contains(&note.candidate) || is_stale(plan, note.candidate))
        .map(|note| {
            (
                stale_slot(plan, note.candidate),
                candidates[note.candidate].id.clone().into(),
                note.kind.to_string(),
            )
        })
        .collect();
    let spares = plan.spares.iter().filter_map(|&index| members[index].clone()).collect();
    MemberTable { slots, spares, failed: Vec::new(), stale }
}

fn is_stale(plan: &AssemblyPlan, candidate: usize) -> bool {
    stale_slot(plan, candidate).is_some()
}

fn stale_slot(plan: &AssemblyPlan, candidate: usize) -> Option<u16> {
    let slot = plan.slots.iter().position(|slot| *slot == SlotState::Stale(candidate))?;
    u16::try_from(slot).ok()
}

/// The newest document that any trusted member holds. An array that mdadm made has none.
async fn newest_document(
    plan: &AssemblyPlan,
    members: &[Option<Arc<Member>>],
    uuid: Uuid,
    array: &str,
) -> Result<(u64, ConfigDocument), AssembleError> {
    let document = |error| AssembleError::Document { array: array.to_owned(), error };
    let mut newest: Option<config::ConfigSlot> = None;
    let mut torn: Option<LabsanError> = None;
    let (mut whole, mut unreadable) = (false, None);
    for index in plan.in_sync() {
        let Some(member) = &members[index] else { continue };
        let mut slots = [Buffer::zeroed(0), Buffer::zeroed(0)];
        let mut all = true;
        for (slot, region) in slots.iter_mut().zip(member.layout.config) {
            match read_at(&**member.device.device(), region.offset, region.len as usize).await {
                Ok(bytes) => *slot = bytes,
                Err(error) => (all, unreadable) = (false, Some(error)),
            }
        }
        whole |= all;
        let [a, b] = slots;
        match config::choose(&a, &b, uuid) {
            Ok((_, slot)) if newest.as_ref().is_none_or(|best| slot.generation > best.generation) => {
                newest = Some(slot);
            }
            Ok(_) | Err(LabsanError::NoMagic) => {}
            Err(error @ LabsanError::NewerVersion { .. }) => return Err(document(error)),
            Err(error) => torn = Some(error),
        }
    }
    // What cannot be read on any member may be the newest.
    if let (false, Some(error)) = (whole, unreadable) {
        return Err(error.into());
    }
    match (newest, torn) {
        (Some(slot), _) => Ok((slot.generation, ConfigDocument::parse(&slot.payload).map_err(document)?)),
        // Volumes were there and no copy of them can be read: starting without would give their space away.
        (None, Some(error)) => Err(document(error)),
        (None, None) => Ok((0, ConfigDocument::default())),
    }
}

/// The shape of the bitmap, and every bit that any member in sync has set.
async fn read_bitmap(
    freshest: &Superblock,
    geometry: &Geometry,
    plan: &AssemblyPlan,
    candidates: &[Candidate],
    members: &[Option<Arc<Member>>],
) -> Result<(BitmapHeader, BitSet), AssembleError> {
    let shape = plan.in_sync().find_map(|index| candidates[index].bitmap.clone());
    let header = match shape {
        Some(header) => header,
        None => bitmap_shape(freshest, geometry, crate::format::layout::BITMAP_BYTES)
            .map_err(|_| GeometryError::MembersTooLarge { member_bytes: geometry.member_bytes() })?,
    };
    let mut dirty = BitSet::new(header.bits());
    let (mut read_one, mut unreadable) = (false, false);
    for index in plan.in_sync() {
        let (Some(member), Ok(superblock), Some(own)) =
            (&members[index], &candidates[index].superblock, &candidates[index].bitmap)
        else {
            continue;
        };
        let device = MemberDevice { path: member.path.clone(), device: Arc::clone(member.device.device()) };
        match read_bits(&device, superblock, own).await {
            Ok(Some(bits)) => {
                read_one = true;
                for bit in bits.iter().filter(|&bit| bit < header.bits()) {
                    dirty.insert(bit);
                }
            }
            Ok(None) => {}
            Err(_) => unreadable = true,
        }
    }
    // A bit is durable on every member in sync before it counts: any one that can be read says it all.
    if unreadable && !read_one {
        dirty = BitSet::full(header.bits());
    }
    Ok((header, dirty))
}

/// `accept`: members are missing, and what parity gives for them is to be taken, whatever it is.
fn load_sync_state(core: &Core, resync: Resync, dirty: &BitSet, accept: bool) {
    match resync {
        Resync::None => core.dirty.load(dirty, false),
        Resync::Bitmap => core.dirty.load(dirty, true),
        // What lies before it was in sync when the array came to rest, or is by the journal.
        Resync::From(sector) if !keeps_bitmap(core.policy) => {
            core.dirty.mark_unsynced(core.bitmap.bits_of(sector..u64::MAX));
        }
        Resync::From(_) => core.dirty.mark_all_unsynced(),
    }
    if accept && core.geometry.level().has_parity() && core.dirty.unsynced_count() > 0 {
        core.note(format!(
            "started by force: {} regions may hold stripes that were half-written; what parity gives there was accepted",
            core.dirty.unsynced_count()
        ));
        core.dirty.accept_all();
    }
}

/// Before the first update of our own, everyone has the last one.
async fn write_laggards(
    plan: &AssemblyPlan,
    candidates: &[Candidate],
    members: &[Option<Arc<Member>>],
) -> Result<(), IoError> {
    for &index in &plan.laggards {
        let (Some(member), Some(superblock)) = (&members[index], plan.superblock_for(candidates, index))
        else {
            continue;
        };
        let data = Buffer::copy_of(&superblock.encode()).freeze();
        member.device.write(SUPER_OFFSET_BYTES, data, Durability::Durable).await?;
    }
    Ok(())
}

/// Say durably that labsan runs the array, with these members.
async fn take_over(core: &Core, plan: &AssemblyPlan, candidates: &[Candidate]) -> Result<(), AssembleError> {
    for note in &plan.notes {
        core.note(format!("{}: {}", candidates[note.candidate].id, note.kind));
    }
    let table = MemberTable::clone(&core.table());
    core.commit_roles(&mut *core.control.lock().await, table).await?;
    if !plan.needs.replay_journal {
        // Whatever lies there: before the headers say that it may be a record.
        core.erase_leftovers().await?;
    }
    core.renew_headers().await?;
    let mut control = core.control.lock().await;
    // A crash may have left the newest document on some members only, and a spare that was away has an old one:
    // nothing that it describes is served before it is on all of them, whichever of them are here next time.
    let document = control.document.clone();
    core.commit_document(&mut control, document).await?;
    Ok(())
}

/// Make members belong to no array any more.
pub(super) async fn wipe_all(members: &[Arc<Member>]) -> Result<(), IoError> {
    join_all(members.iter().map(|member| wipe_superblock(member))).await.into_iter().collect()
}
