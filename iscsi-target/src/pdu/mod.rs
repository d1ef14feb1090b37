//! What are the bytes of a PDU? RFC 7143 section 11, as structs; no I/O.
//!
//! Every PDU begins with a basic header segment (BHS) of 48 bytes. `request` has those an initiator sends,
//! `response` those a target sends. Offsets are asserted; numbers are big-endian.
//!
//! Invariant: nothing here trusts a length. Whoever receives checks it against a limit first.

pub mod ahs;
mod digest;
pub mod frame;
pub mod request;
pub mod response;

use zerocopy::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a basic header segment.
pub const BHS_BYTES: usize = 48;

/// "No tag" (RFC 7143 section 11.2.2.3).
pub const NO_TAG: u32 = 0xffff_ffff;

/// The F bit of the flags byte: last PDU of a sequence.
pub const FINAL: u8 = 0x80;

/// The I bit of the opcode's byte: deliver without waiting for its turn.
pub const IMMEDIATE: u8 = 0x40;

/// Opcodes (RFC 7143 section 11.2.1.2), without the I bit.
pub mod opcode {
    #![allow(missing_docs)]
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
    pub const NOP_IN: u8 = 0x20;
    pub const SCSI_RESPONSE: u8 = 0x21;
    pub const TASK_MANAGEMENT_RESPONSE: u8 = 0x22;
    pub const LOGIN_RESPONSE: u8 = 0x23;
    pub const TEXT_RESPONSE: u8 = 0x24;
    pub const DATA_IN: u8 = 0x25;
    pub const LOGOUT_RESPONSE: u8 = 0x26;
    pub const R2T: u8 = 0x31;
    pub const ASYNC_MESSAGE: u8 = 0x32;
    pub const REJECT: u8 = 0x3f;
}

/// What all headers have in common (RFC 7143 section 11.2.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Bhs {
    /// I bit (0x40) and opcode.
    pub opcode: u8,
    /// F bit and flags of the opcode's own.
    pub flags: u8,
    /// Of the opcode's own.
    pub specific: [u8; 2],
    /// TotalAHSLength, in four-byte words.
    pub total_ahs_length: u8,
    /// DataSegmentLength, in bytes without padding.
    pub data_segment_length: [u8; 3],
    /// LUN, or of the opcode's own.
    pub lun: U64,
    /// Initiator task tag.
    pub initiator_task_tag: U32,
    /// Of the opcode's own.
    pub rest: [u8; 28],
}

const _: () = assert!(size_of::<Bhs>() == BHS_BYTES);

impl Bhs {
    /// The opcode without the I bit.
    pub fn opcode(&self) -> u8 {
        self.opcode & 0x3f
    }

    /// The I bit: deliver without waiting for its turn.
    pub fn is_immediate(&self) -> bool {
        self.opcode & IMMEDIATE != 0
    }

    /// The F bit.
    pub fn is_final(&self) -> bool {
        self.flags & FINAL != 0
    }

    /// Bytes of additional header segments.
    pub fn ahs_bytes(&self) -> usize {
        usize::from(self.total_ahs_length) * 4
    }

    /// Bytes of data, without padding.
    pub fn data_bytes(&self) -> usize {
        let [high, middle, low] = self.data_segment_length;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    /// The header as one opcode's own struct.
    pub fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self) -> T {
        const { assert!(size_of::<T>() == BHS_BYTES) };
        // The sizes are equal, so there is nothing to fail.
        T::read_from_bytes(self.as_bytes()).unwrap_or_else(|_| unreachable!("a header of {BHS_BYTES} bytes"))
    }
}

/// A length as the three bytes of DataSegmentLength. Callers keep data segments below 16 MiB.
pub fn three_bytes(length: usize) -> [u8; 3] {
    let [high, middle, low] = [length >> 16, length >> 8, length].map(|part| part as u8);
    [high, middle, low]
}

/// Bytes of padding after `length` bytes (RFC 7143 section 11.2.3: segments are padded to four).
pub fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Serial number arithmetic (RFC 1982, 32 bits): is `a` before `b`?
pub fn serial_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_padding() {
        assert_eq!(three_bytes(0x01_02_03), [1, 2, 3]);
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }

    #[test]
    fn serial_numbers_wrap() {
        assert!(serial_before(1, 2) && !serial_before(2, 1) && !serial_before(5, 5));
        assert!(serial_before(u32::MAX, 0) && !serial_before(0, u32::MAX));
    }
}
