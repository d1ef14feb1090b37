//! Which superblock does a fresh member get?

use uuid::Uuid;

use super::{Features, MAX_SECTOR, MdTime, Role, SetName, Superblock};
use crate::format::SECTOR_BYTES;
use crate::format::layout::{BAD_BLOCK_LOG, BITMAP_OFFSET_FROM_SUPER, MemberLayout};

/// Entries that mdadm gives a fresh role table; the kernel lets it grow.
const ROLES: usize = 128;

/// What the superblocks of a new array's members have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewArray {
    /// The array's UUID.
    pub uuid: Uuid,
    /// "host:name".
    pub name: SetName,
    /// Now.
    pub created: MdTime,
    /// md's level number.
    pub level: i32,
    /// md's layout number.
    pub layout: u32,
    /// Chunk in sectors; 0 at RAID 1.
    pub chunk_sectors: u32,
    /// Slots.
    pub raid_disks: u32,
    /// Bytes of each member that the array uses ([`crate::format::layout::component_bytes`]).
    pub component_bytes: u64,
    /// The members carry md's bitmap.
    pub bitmap: bool,
    /// The members are known to be in sync (all zeros): no resync.
    pub in_sync: bool,
    /// The first `events`.
    pub events: u64,
}

impl NewArray {
    /// The superblock of device `dev_number`, whose role `roles` gives with all the others.
    ///
    /// At RAID 0 md takes the length of the component from each member's `data_size`, so all get the same
    /// one there (else md would lay out several zones), and `size` is 0, as mdadm writes it.
    #[must_use]
    pub fn superblock(
        &self,
        layout: &MemberLayout,
        dev_number: u32,
        device_uuid: Uuid,
        roles: &[Role],
    ) -> Superblock {
        let component = self.component_bytes / SECTOR_BYTES;
        let striped = self.level == 0;
        let mut table = roles.to_vec();
        table.resize(table.len().max(ROLES), Role::Spare);
        Superblock {
            array_uuid: self.uuid,
            name: self.name,
            ctime: self.created,
            level: self.level,
            layout: self.layout,
            size_sectors: if striped { 0 } else { component },
            chunk_sectors: self.chunk_sectors,
            raid_disks: self.raid_disks,
            bitmap_offset: self.bitmap.then_some(BITMAP_OFFSET_FROM_SUPER),
            data_offset: layout.data_offset / SECTOR_BYTES,
            data_size: if striped { component } else { layout.data_size / SECTOR_BYTES },
            recovery_offset: None,
            dev_number,
            corrected_reads: 0,
            device_uuid,
            device_flags: 0,
            bad_block_log: BAD_BLOCK_LOG,
            utime: self.created,
            events: self.events,
            resync_offset: if self.in_sync || striped { MAX_SECTOR } else { 0 },
            features: Features::default(),
            roles: table,
            reshape_fields: [0; 28],
        }
    }
}
