//! Sense data (SPC-4): why a command did not do what was asked.

use block_io::{IoError, IoErrorKind, IoOperation};

/// Sense key, additional sense code and qualifier, and where it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub asc: u8,
    /// Its qualifier.
    pub ascq: u8,
    /// INFORMATION: a block address, or an offset.
    pub information: Option<u64>,
    /// What the sense key specific bytes say.
    pub specific: Option<Specific>,
}

/// Sense key specific bytes (SPC-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specific {
    /// How far it is, in parts of 65,536.
    Progress(u16),
    /// The byte of the CDB that is wrong.
    CdbByte(u16),
}

impl Specific {
    fn encode(self) -> [u8; 3] {
        // SKSV: the bytes say something. C/D: the CDB is meant.
        let (flags, [high, low]) = match self {
            Self::Progress(parts) => (0x80, parts.to_be_bytes()),
            Self::CdbByte(byte) => (0xc0, byte.to_be_bytes()),
        };
        [flags, high, low]
    }
}

const NOT_READY: u8 = 0x02;
const MEDIUM_ERROR: u8 = 0x03;
const HARDWARE_ERROR: u8 = 0x04;
const ILLEGAL_REQUEST: u8 = 0x05;
const UNIT_ATTENTION: u8 = 0x06;
const DATA_PROTECT: u8 = 0x07;
const COPY_ABORTED: u8 = 0x0a;
const MISCOMPARE: u8 = 0x0e;

impl Sense {
    /// Sense without INFORMATION.
    pub const fn new(key: u8, asc: u8, ascq: u8) -> Self {
        Self { key, asc, ascq, information: None, specific: None }
    }

    /// NO SENSE.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// INVALID COMMAND OPERATION CODE.
    pub const INVALID_OPCODE: Self = Self::new(ILLEGAL_REQUEST, 0x20, 0x00);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub const OUT_OF_RANGE: Self = Self::new(ILLEGAL_REQUEST, 0x21, 0x00);
    /// INVALID FIELD IN CDB.
    pub const INVALID_FIELD: Self = Self::new(ILLEGAL_REQUEST, 0x24, 0x00);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub const NO_UNIT: Self = Self::new(ILLEGAL_REQUEST, 0x25, 0x00);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const INVALID_PARAMETER: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x00);
    /// PARAMETER LIST LENGTH ERROR.
    pub const PARAMETER_LENGTH: Self = Self::new(ILLEGAL_REQUEST, 0x1a, 0x00);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const INVALID_RELEASE: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x04);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub const NO_ROOM_TO_REGISTER: Self = Self::new(ILLEGAL_REQUEST, 0x55, 0x04);
    /// INSUFFICIENT RESOURCES.
    pub const NO_RESOURCES: Self = Self::new(ILLEGAL_REQUEST, 0x55, 0x03);
    /// INTERNAL TARGET FAILURE.
    pub const INTERNAL_FAILURE: Self = Self::new(HARDWARE_ERROR, 0x44, 0x00);
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub const NO_SAVING: Self = Self::new(ILLEGAL_REQUEST, 0x39, 0x00);
    /// WRITE PROTECTED.
    pub const WRITE_PROTECTED: Self = Self::new(DATA_PROTECT, 0x27, 0x00);
    /// POWER ON, RESET, OR BUS DEVICE RESET OCCURRED.
    pub const POWER_ON: Self = Self::new(UNIT_ATTENTION, 0x29, 0x00);
    /// BUS DEVICE RESET FUNCTION OCCURRED.
    pub const RESET: Self = Self::new(UNIT_ATTENTION, 0x29, 0x03);
    /// MODE PARAMETERS CHANGED.
    pub const MODE_CHANGED: Self = Self::new(UNIT_ATTENTION, 0x2a, 0x01);
    /// RESERVATIONS PREEMPTED.
    pub const RESERVATIONS_PREEMPTED: Self = Self::new(UNIT_ATTENTION, 0x2a, 0x03);
    /// RESERVATIONS RELEASED.
    pub const RESERVATIONS_RELEASED: Self = Self::new(UNIT_ATTENTION, 0x2a, 0x04);
    /// REGISTRATIONS PREEMPTED.
    pub const REGISTRATIONS_PREEMPTED: Self = Self::new(UNIT_ATTENTION, 0x2a, 0x05);
    /// CAPACITY DATA HAS CHANGED.
    pub const CAPACITY_CHANGED: Self = Self::new(UNIT_ATTENTION, 0x2a, 0x09);
    /// INQUIRY DATA HAS CHANGED.
    pub const INQUIRY_CHANGED: Self = Self::new(UNIT_ATTENTION, 0x3f, 0x03);
    /// THIN PROVISIONING SOFT THRESHOLD REACHED.
    pub const SOFT_THRESHOLD: Self = Self::new(UNIT_ATTENTION, 0x38, 0x07);
    /// REPORTED LUNS DATA HAS CHANGED.
    pub const LUNS_CHANGED: Self = Self::new(UNIT_ATTENTION, 0x3f, 0x0e);

    /// LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION.
    pub const TRANSITIONING: Self = Self::new(NOT_READY, 0x04, 0x0a);
    /// LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE.
    pub const STANDBY: Self = Self::new(NOT_READY, 0x04, 0x0b);
    /// LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE.
    pub const UNAVAILABLE: Self = Self::new(NOT_READY, 0x04, 0x0c);
    /// LOGICAL UNIT NOT READY, OFFLINE.
    pub const OFFLINE: Self = Self::new(NOT_READY, 0x04, 0x12);
    /// ASYMMETRIC ACCESS STATE CHANGED.
    pub const ACCESS_CHANGED: Self = Self::new(UNIT_ATTENTION, 0x2a, 0x06);
    /// LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS.
    pub const SANITIZING: Self = Self::new(NOT_READY, 0x04, 0x1b);
    /// SANITIZE COMMAND FAILED.
    pub const SANITIZE_FAILED: Self = Self::new(MEDIUM_ERROR, 0x31, 0x03);
    /// OPERATION IN PROGRESS: a copy of this list identifier.
    pub const IN_PROGRESS: Self = Self::new(ILLEGAL_REQUEST, 0x00, 0x16);
    /// TOO MANY TARGET DESCRIPTORS.
    pub const TOO_MANY_TARGETS: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x06);
    /// UNSUPPORTED TARGET DESCRIPTOR TYPE CODE.
    pub const TARGET_TYPE: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x07);
    /// TOO MANY SEGMENT DESCRIPTORS.
    pub const TOO_MANY_SEGMENTS: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x08);
    /// UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE.
    pub const SEGMENT_TYPE: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x09);
    /// INLINE DATA LENGTH EXCEEDED.
    pub const INLINE_DATA: Self = Self::new(ILLEGAL_REQUEST, 0x26, 0x0b);
    /// UNEXPECTED INEXACT SEGMENT.
    pub const INEXACT_SEGMENT: Self = Self::new(COPY_ABORTED, 0x26, 0x0a);
    /// UNREACHABLE COPY TARGET.
    pub const UNREACHABLE: Self = Self::new(COPY_ABORTED, 0x08, 0x04);
    /// THIRD PARTY DEVICE FAILURE: a unit that the copy reads or writes refused.
    pub const THIRD_PARTY: Self = Self::new(COPY_ABORTED, 0x0d, 0x01);
    /// COPY ABORTED, without more.
    pub const COPY_ABORTED: Self = Self::new(COPY_ABORTED, 0x00, 0x00);

    /// INVALID FIELD IN CDB, at this byte.
    pub fn invalid_cdb_byte(at: u16) -> Self {
        Self { specific: Some(Specific::CdbByte(at)), ..Self::INVALID_FIELD }
    }

    /// MISCOMPARE DURING VERIFY OPERATION, at this byte of the data that was compared.
    pub fn miscompare(offset: u64) -> Self {
        Self { information: Some(offset), ..Self::new(MISCOMPARE, 0x1d, 0x00) }
    }

    /// What an I/O error means to an initiator. `block` is the first block of the command.
    pub fn from_io(error: &IoError, block: u64) -> Self {
        let reading = error.operation == IoOperation::Read;
        match error.kind {
            IoErrorKind::Medium if reading => {
                Self { information: Some(block), ..Self::new(MEDIUM_ERROR, 0x11, 0x00) }
            }
            IoErrorKind::Medium => Self { information: Some(block), ..Self::new(MEDIUM_ERROR, 0x0c, 0x00) },
            // SPACE ALLOCATION FAILED WRITE PROTECT.
            IoErrorKind::NoSpace => Self::new(DATA_PROTECT, 0x27, 0x07),
            IoErrorKind::OutOfRange | IoErrorKind::Misaligned => Self::OUT_OF_RANGE,
            IoErrorKind::ReadOnly => Self::WRITE_PROTECTED,
            // LOGICAL UNIT NOT READY, MANUAL INTERVENTION REQUIRED.
            IoErrorKind::Stopped => Self::new(NOT_READY, 0x04, 0x03),
            _ => Self::INTERNAL_FAILURE,
        }
    }

    /// The bytes, as current information in fixed (70h) or descriptor (72h) format.
    pub fn encode(&self, descriptor_format: bool) -> Vec<u8> {
        let specific = self.specific.map(Specific::encode);
        if descriptor_format {
            let mut bytes = vec![0x72, self.key, self.asc, self.ascq, 0, 0, 0, 0];
            if let Some(information) = self.information {
                bytes.extend_from_slice(&[0x00, 0x0a, 0x80, 0]);
                bytes.extend_from_slice(&information.to_be_bytes());
            }
            if let Some([flags, high, low]) = specific {
                bytes.extend_from_slice(&[0x02, 0x06, 0, 0, flags, high, low, 0]);
            }
            bytes[7] = (bytes.len() - 8) as u8;
            return bytes;
        }
        let mut bytes = vec![0; 18];
        bytes[0] = 0x70;
        bytes[2] = self.key;
        bytes[7] = 10;
        bytes[12] = self.asc;
        bytes[13] = self.ascq;
        // Fixed format has room for 32 bits only; more than that is left out (SPC-4).
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        if let Some(specific) = specific {
            bytes[15..18].copy_from_slice(&specific);
        }
        bytes
    }
}
