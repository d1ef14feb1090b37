//! Keeping superblocks, headers and the config document of all members current.
//!
//! Order that crashes depend on, in every commit of roles:
//! 1. the bitmap, with the new `events` (md takes a bitmap that lags behind its superblock for stale);
//! 2. the superblocks, with the new roles, durable on every member of the new table;
//! 3. the table is published.
//!
//! A crash in step 2 leaves members at `events` and `events + 1`; the freshest one's role table decides, and
//! nothing was acknowledged yet that depends on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use block_io::{Buffer, Durability, IoError, IoErrorKind, IoOperation};
use futures_util::future::join_all;

use super::core::{Core, keeps_bitmap};
use super::journal::Redo;
use super::member::{Counters, Member};
use super::table::{MemberTable, Slot};
use crate::format::SECTOR_BYTES;
use crate::format::labsan::config::{self, ConfigDocument};
use crate::format::labsan::header::REDO_RECORDS;
use crate::format::labsan::{Header, LabsanError, Side};
use crate::format::superblock::{
    Features, MAX_DEVICES, MAX_SECTOR, MdTime, Role, SUPER_OFFSET_BYTES, Superblock,
};
use crate::geometry::{Level, MemberIndex};

/// The metadata's state, changed by one task at a time.
#[derive(Debug)]
pub(crate) struct Control {
    /// What all superblocks have in common; `events` is the last one written. Its role table remembers
    /// device numbers that were failed.
    pub(crate) template: Superblock,
    pub(crate) document: ConfigDocument,
    pub(crate) config_generation: u64,
    /// The header's own update count, the same on all members.
    pub(crate) header_generation: u64,
    /// False once the superblocks are to say that the array is at rest.
    pub(crate) running: bool,
}

impl Control {
    /// Nothing is written yet.
    pub(crate) fn of_new_array(template: Superblock) -> Self {
        let document = ConfigDocument::default();
        Self { template, document, config_generation: 0, header_generation: 0, running: true }
    }

    /// A device number no member of this array ever had, so that a stale member is never taken for its heir.
    pub(crate) fn next_number(&self, table: &MemberTable) -> Option<u16> {
        let used = table.current().chain(table.failed.iter().map(|f| &f.member)).map(|m| m.number + 1).max();
        let next = usize::from(used.unwrap_or(0)).max(self.template.roles.len());
        u16::try_from(next).ok().filter(|_| next < MAX_DEVICES)
    }
}

/// Now, as md stamps it.
pub(crate) fn now() -> MdTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    MdTime::of_labsan(since.as_secs(), since.subsec_micros())
}

/// An error of one member's metadata.
pub(crate) type MemberFailure = (Arc<Member>, IoError);

impl Core {
    /// Make a new table durable, then publish it. Members that cannot be written are taken out on the way.
    pub(crate) async fn commit_roles(
        &self,
        control: &mut Control,
        mut table: MemberTable,
    ) -> Result<(), IoError> {
        self.check_running(control)?;
        loop {
            let failures = self.write_roles(control, &table, now()).await;
            if failures.is_empty() {
                self.publish(table);
                return Ok(());
            }
            for (member, error) in failures {
                table = self.without(table, &member, &error)?;
            }
        }
    }

    fn publish(&self, table: MemberTable) {
        let table = Arc::new(table);
        self.table.store(Arc::clone(&table));
        for failed in &table.failed {
            failed.member.device.take_out();
        }
    }

    /// Once the superblocks say that the array is at rest they are not written any more.
    fn check_running(&self, control: &Control) -> Result<(), IoError> {
        if control.running {
            return Ok(());
        }
        Err(self.error(IoErrorKind::Stopped, IoOperation::Write, 0, 0))
    }

    fn without(&self, table: MemberTable, member: &Member, error: &IoError) -> Result<MemberTable, IoError> {
        Counters::count(&member.counters.write_errors);
        if table.slot_of(member.number).is_some_and(|slot| !self.can_do_without(&table, slot)) {
            self.give_up_for_loss(&error.to_string());
            return Err(self.error(IoErrorKind::ArrayFailed, IoOperation::Write, 0, 0));
        }
        Ok(table.with_failed(member.number, &error.to_string()).unwrap_or(table))
    }

    /// One round of bitmap and superblocks. `events` only moves on once the bitmap is out: a member in sync is
    /// never more than one behind.
    pub(crate) async fn write_roles(
        &self,
        control: &mut Control,
        table: &MemberTable,
        utime: MdTime,
    ) -> Vec<MemberFailure> {
        let events = control.template.events + 1;
        let active: Vec<Arc<Member>> = table.active().map(|(_, member)| Arc::clone(member)).collect();
        let bitmap_failures = {
            let _turn = self.bitmap_turn.lock().await;
            self.bitmap_events.store(events, Ordering::Release);
            self.write_bitmap(&self.dirty.image(&[]), &active).await
        };
        if !bitmap_failures.is_empty() {
            return bitmap_failures;
        }
        control.template.events = events;
        control.template.utime = utime;
        control.template.roles = self.role_table(&control.template, table);
        let writes = table.current().map(|member| {
            let page = self.superblock_of(control, table, member).encode();
            async move {
                let data = Buffer::copy_of(&page).freeze();
                let result = member.device.write(SUPER_OFFSET_BYTES, data, Durability::Durable).await;
                result.err().map(|error| (Arc::clone(member), error))
            }
        });
        join_all(writes).await.into_iter().flatten().collect()
    }

    /// Every device number's role. Numbers that once had one and are not in the table any more are faulty.
    fn role_table(&self, template: &Superblock, table: &MemberTable) -> Vec<Role> {
        let mut roles: Vec<Role> = template
            .roles
            .iter()
            .map(|role| if role.slot().is_some() { Role::Faulty } else { *role })
            .collect();
        let mut set = |number: u16, role| {
            let index = usize::from(number);
            if index >= roles.len() {
                roles.resize(index + 1, Role::Spare);
            }
            roles[index] = role;
        };
        for failed in &table.failed {
            set(failed.member.number, Role::Faulty);
        }
        for spare in &table.spares {
            set(spare.number, Role::Spare);
        }
        for (slot, member) in table.active() {
            set(member.number, Role::Active(slot));
        }
        roles
    }

    /// This member's superblock.
    pub(crate) fn superblock_of(
        &self,
        control: &Control,
        table: &MemberTable,
        member: &Member,
    ) -> Superblock {
        let mut superblock = control.template.clone();
        superblock.data_offset = member.layout.data_offset / SECTOR_BYTES;
        // RAID 0 has no component size: md stripes over all of every member, so all must claim the same.
        superblock.data_size = match self.geometry.level() {
            Level::Raid0 => self.geometry.member_bytes() / SECTOR_BYTES,
            _ => member.layout.data_size / SECTOR_BYTES,
        };
        superblock.dev_number = u32::from(member.number);
        superblock.device_uuid = member.device_uuid;
        // Where they are on this member: mdadm has its own ideas.
        superblock.bad_block_log = member.layout.bad_block_log_fields();
        let bitmap = member.layout.bitmap;
        superblock.bitmap_offset = (keeps_bitmap(self.policy) && bitmap.len > 0).then(|| bitmap.from_super());
        superblock.corrected_reads =
            u32::try_from(member.counters.corrected.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        superblock.recovery_offset = self.recovery_offset(table, member);
        superblock.resync_offset = self.resync_offset(control);
        superblock.features = if control.running {
            superblock.features.with(Features::LABSAN_RUNNING)
        } else {
            superblock.features.without(Features::LABSAN_RUNNING)
        };
        if !control.running && self.has_md_log(member) {
            superblock.features = superblock.features.with(Features::BAD_BLOCKS);
        }
        superblock
    }

    fn recovery_offset(&self, table: &MemberTable, member: &Member) -> Option<u64> {
        let slot = table.slot_of(member.number)?;
        let Slot::Rebuilding(_, position) = &table.slots[usize::from(slot)] else { return None };
        let bytes = self.geometry.member_offset_before(MemberIndex(slot), position.flushed());
        Some(bytes / SECTOR_BYTES)
    }

    /// From where on the array may be out of sync. Under the journal that is how far resync has come, whatever else is under
    /// way: the journal knows of that, and bit 31 keeps md off. With a bitmap 0 sends everyone to it.
    fn resync_offset(&self, control: &Control) -> u64 {
        let at_rest = !control.running || self.journal.is_some();
        let behind = self.dirty.next_unsynced(0).map(|bit| self.bitmap.sectors_of(bit).start);
        match behind {
            _ if self.geometry.level() == Level::Raid0 => MAX_SECTOR,
            None if at_rest => MAX_SECTOR,
            Some(sector) if at_rest && !keeps_bitmap(self.policy) => sector,
            _ => 0,
        }
    }

    /// Write the labsan header of every current member, saying which superblock we leave behind: `md_events`
    /// and `md_utime` tell the next start whether md ran the array in between.
    pub(crate) async fn write_headers(
        &self,
        control: &mut Control,
        md_events: u64,
        md_utime: MdTime,
    ) -> Vec<MemberFailure> {
        control.header_generation += 1;
        let table = self.table();
        let writes = table.current().map(|member| {
            let superblock = self.superblock_of(control, &table, member);
            let mut header = self.header_of(control, &superblock, member);
            header.md_events = md_events;
            header.md_utime = md_utime;
            async move {
                let result = write_header(member, &header).await;
                result.err().map(|error| (Arc::clone(member), error))
            }
        });
        join_all(writes).await.into_iter().flatten().collect()
    }

    /// The same while the array runs. Members that do not take theirs are out.
    pub(crate) async fn renew_headers(&self) -> Result<(), IoError> {
        let failures = {
            let mut control = self.control.lock().await;
            let (events, utime) = (control.template.events, control.template.utime);
            self.write_headers(&mut control, events, utime).await
        };
        for (member, error) in failures {
            self.write_failed(&member, &error).await?;
        }
        Ok(())
    }

    pub(crate) fn header_of(&self, control: &Control, superblock: &Superblock, member: &Member) -> Header {
        let mut header =
            Header::new(superblock, member.layout.clone(), member.device.info().size_bytes, self.policy);
        header.generation = control.header_generation;
        // After a clean stop there is no record: a labsan that does not know of them may have the array again.
        let has_records = control.running && self.redo.as_ref().is_some_and(Redo::is_on);
        header.incompatible = if has_records { REDO_RECORDS } else { 0 };
        header.map_generation = self.written.generation();
        header.map_region_bytes = self.written.region_bytes();
        header
    }

    /// Make a changed document durable on every current member, then the one in force. On failure the old one
    /// stays in force.
    pub(crate) async fn commit_document(
        &self,
        control: &mut Control,
        document: ConfigDocument,
    ) -> Result<(), DocumentError> {
        self.check_running(control)?;
        document.check()?;
        let generation = control.config_generation + 1;
        let bytes = config::encode(self.uuid, generation, &document.to_json()?)?;
        let table = self.table();
        let results = join_all(table.current().map(|member| {
            let bytes = &bytes;
            async move { (Arc::clone(member), write_config(member, generation, bytes).await) }
        }))
        .await;
        let written = results.iter().filter(|(_, result)| result.is_ok()).count();
        if written == 0 {
            return Err(DocumentError::Unwritten);
        }
        control.config_generation = generation;
        control.document = document;
        for (member, result) in results {
            let Err(error) = result else { continue };
            let table = self.without(MemberTable::clone(&self.table()), &member, &error)?;
            self.commit_roles(control, table).await?;
        }
        Ok(())
    }
}

/// Why the config document could not be changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DocumentError {
    /// It does not fit, or contradicts itself.
    #[error(transparent)]
    Format(#[from] LabsanError),
    /// No member took it.
    #[error("the configuration could not be written to any member")]
    Unwritten,
    /// The array failed on the way.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Write a header into the copy that its generation chooses.
pub(crate) async fn write_header(member: &Member, header: &Header) -> Result<(), IoError> {
    let copy = if header.generation.is_multiple_of(2) { Side::A } else { Side::B };
    let data = Buffer::copy_of(&header.encode()).freeze();
    member.device.write(header.offset(copy), data, Durability::Durable).await
}

/// Write an encoded config document into the slot that its generation chooses.
pub(crate) async fn write_config(member: &Member, generation: u64, bytes: &[u8]) -> Result<(), IoError> {
    let region = member.layout.config[(generation % 2) as usize];
    let data = Buffer::copy_of(bytes).freeze();
    member.device.write(region.offset, data, Durability::Durable).await
}
