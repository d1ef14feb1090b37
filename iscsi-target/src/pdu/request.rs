//! Headers that an initiator sends.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::BHS_BYTES;

/// Flags of a SCSI command (RFC 7143 section 11.3.1).
pub const COMMAND_READ: u8 = 0x40;
/// W bit.
pub const COMMAND_WRITE: u8 = 0x20;
/// The task attribute in the low bits.
pub const COMMAND_ATTRIBUTE: u8 = 0x07;

/// SCSI Command (RFC 7143 section 11.3).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ScsiCommand {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub expected_data_transfer_length: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub cdb: [u8; 16],
}

/// Task Management Function Request (RFC 7143 section 11.5).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct TaskManagement {
    pub opcode: u8,
    pub function: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub referenced_task_tag: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub ref_cmd_sn: U32,
    pub exp_data_sn: U32,
    pub reserved2: [u8; 8],
}

/// SCSI Data-Out (RFC 7143 section 11.7).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DataOut {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub reserved2: [u8; 4],
    pub exp_stat_sn: U32,
    pub reserved3: [u8; 4],
    pub data_sn: U32,
    pub buffer_offset: U32,
    pub reserved4: [u8; 4],
}

/// Text Request (RFC 7143 section 11.10).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Text {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved2: [u8; 16],
}

/// Login Request (RFC 7143 section 11.12).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Login {
    pub opcode: u8,
    pub flags: u8,
    pub version_max: u8,
    pub version_min: u8,
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub isid: [u8; 6],
    pub tsih: U16,
    pub initiator_task_tag: U32,
    pub cid: U16,
    pub reserved: [u8; 2],
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved2: [u8; 16],
}

/// Logout Request (RFC 7143 section 11.14).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Logout {
    pub opcode: u8,
    pub reason: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub reserved2: [u8; 8],
    pub initiator_task_tag: U32,
    pub cid: U16,
    pub reserved3: [u8; 2],
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved4: [u8; 16],
}

/// NOP-Out (RFC 7143 section 11.18).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct NopOut {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub cmd_sn: U32,
    pub exp_stat_sn: U32,
    pub reserved2: [u8; 16],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<ScsiCommand>() == BHS_BYTES && offset_of!(ScsiCommand, cdb) == 32);
    assert!(size_of::<TaskManagement>() == BHS_BYTES && offset_of!(TaskManagement, ref_cmd_sn) == 32);
    assert!(size_of::<DataOut>() == BHS_BYTES && offset_of!(DataOut, buffer_offset) == 40);
    assert!(size_of::<Text>() == BHS_BYTES && offset_of!(Text, cmd_sn) == 24);
    assert!(size_of::<Login>() == BHS_BYTES && offset_of!(Login, cmd_sn) == 24);
    assert!(size_of::<Logout>() == BHS_BYTES && offset_of!(Logout, cmd_sn) == 24);
    assert!(size_of::<NopOut>() == BHS_BYTES && offset_of!(NopOut, cmd_sn) == 24);
};
