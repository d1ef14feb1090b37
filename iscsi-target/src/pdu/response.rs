//! Headers that a target sends. StatSN, ExpCmdSN and MaxCmdSN are filled in when a PDU is queued.

use zerocopy::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BHS_BYTES, FINAL, NO_TAG, opcode, three_bytes};

/// Where StatSN, ExpCmdSN and MaxCmdSN lie in every header of a target (RFC 7143 section 11.4 and on).
pub const STAT_SN_OFFSET: usize = 24;

/// Data-In: residual overflow, residual underflow, status included.
pub const DATA_IN_STATUS: u8 = 0x01;
/// U bit of Data-In and SCSI Response.
pub const UNDERFLOW: u8 = 0x02;
/// O bit of Data-In and SCSI Response.
pub const OVERFLOW: u8 = 0x04;
/// u bit of SCSI Response: the read part of a bidirectional command.
pub const READ_UNDERFLOW: u8 = 0x08;

/// SCSI Response (RFC 7143 section 11.4).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct ScsiResponse {
    pub opcode: u8,
    pub flags: u8,
    pub response: u8,
    pub status: u8,
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub reserved: [u8; 8],
    pub initiator_task_tag: U32,
    pub snack_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub exp_data_sn: U32,
    pub bidirectional_residual: U32,
    pub residual_count: U32,
}

/// SCSI Data-In (RFC 7143 section 11.7).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct DataIn {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: u8,
    pub status: u8,
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub data_sn: U32,
    pub buffer_offset: U32,
    pub residual_count: U32,
}

/// Ready To Transfer (RFC 7143 section 11.8).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct R2t {
    pub opcode: u8,
    pub flags: u8,
    pub reserved: [u8; 2],
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub r2t_sn: U32,
    pub buffer_offset: U32,
    pub desired_data_transfer_length: U32,
}

/// Every other PDU of a target, whose fields lie alike: NOP-In, Text, Logout, Task Management and Async.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Plain {
    pub opcode: u8,
    pub flags: u8,
    pub response: u8,
    pub reserved: u8,
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub lun: U64,
    pub initiator_task_tag: U32,
    pub target_transfer_tag: U32,
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub specific: [u8; 12],
}

/// Login Response (RFC 7143 section 11.13).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
#[allow(missing_docs)]
pub struct LoginResponse {
    pub opcode: u8,
    pub flags: u8,
    pub version_max: u8,
    pub version_active: u8,
    pub total_ahs_length: u8,
    pub data_segment_length: [u8; 3],
    pub isid: [u8; 6],
    pub tsih: U16,
    pub initiator_task_tag: U32,
    pub reserved: [u8; 4],
    pub stat_sn: U32,
    pub exp_cmd_sn: U32,
    pub max_cmd_sn: U32,
    pub status_class: u8,
    pub status_detail: u8,
    pub reserved2: [u8; 10],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<ScsiResponse>() == BHS_BYTES && offset_of!(ScsiResponse, stat_sn) == STAT_SN_OFFSET);
    assert!(size_of::<DataIn>() == BHS_BYTES && offset_of!(DataIn, stat_sn) == STAT_SN_OFFSET);
    assert!(size_of::<R2t>() == BHS_BYTES && offset_of!(R2t, stat_sn) == STAT_SN_OFFSET);
    assert!(size_of::<Plain>() == BHS_BYTES && offset_of!(Plain, stat_sn) == STAT_SN_OFFSET);
    assert!(size_of::<LoginResponse>() == BHS_BYTES && offset_of!(LoginResponse, status_class) == 36);
};

/// Why a PDU was rejected (RFC 7143 section 11.17.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum RejectReason {
    DataDigestError = 0x02,
    SnackReject = 0x03,
    ProtocolError = 0x04,
    CommandNotSupported = 0x05,
    TooManyImmediateCommands = 0x06,
    InvalidPduField = 0x09,
    OutOfResources = 0x0a,
}

/// Async events (RFC 7143 section 11.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum AsyncEvent {
    Scsi = 0,
    LogoutRequest = 1,
    ConnectionDropped = 2,
    AllConnectionsDropped = 3,
}

/// An empty header of a PDU that ends its exchange.
pub fn plain(opcode: u8, initiator_task_tag: u32) -> Plain {
    Plain {
        opcode,
        flags: FINAL,
        response: 0,
        reserved: 0,
        total_ahs_length: 0,
        data_segment_length: [0; 3],
        lun: U64::new(0),
        initiator_task_tag: U32::new(initiator_task_tag),
        target_transfer_tag: U32::new(NO_TAG),
        stat_sn: U32::new(0),
        exp_cmd_sn: U32::new(0),
        max_cmd_sn: U32::new(0),
        specific: [0; 12],
    }
}

/// A Reject whose data is the header that was rejected (RFC 7143 section 11.17).
pub fn reject(reason: RejectReason) -> Plain {
    let mut header = plain(opcode::REJECT, NO_TAG);
    header.response = reason as u8;
    header.data_segment_length = three_bytes(BHS_BYTES);
    // Reserved there.
    header.target_transfer_tag = U32::new(0);
    header
}

/// An asynchronous message about a LUN, with the length of its data (RFC 7143 section 11.9.1).
pub fn scsi_event(lun: u64, data_bytes: usize) -> Plain {
    let mut header = async_message(AsyncEvent::Scsi, [0; 3]);
    header.lun = U64::new(lun);
    header.data_segment_length = three_bytes(data_bytes);
    header
}

/// Sense data as it goes with an answer or an event: its length comes first (RFC 7143 section 11.4.7).
pub fn with_length(sense: &[u8]) -> Vec<u8> {
    let mut data = (sense.len() as u16).to_be_bytes().to_vec();
    data.extend_from_slice(sense);
    data
}

/// An asynchronous message (RFC 7143 section 11.9); the parameters are seconds where they are used.
pub fn async_message(event: AsyncEvent, parameters: [u16; 3]) -> Plain {
    let mut header = plain(opcode::ASYNC_MESSAGE, NO_TAG);
    header.target_transfer_tag = U32::new(0);
    header.specific[0] = event as u8;
    for (index, parameter) in parameters.into_iter().enumerate() {
        header.specific[2 + index * 2..4 + index * 2].copy_from_slice(&parameter.to_be_bytes());
    }
    header
}
