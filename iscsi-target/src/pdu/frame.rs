//! Where does a PDU begin and end? (RFC 7143 sections 11.2 and 13.1.) No I/O.
//!
//! ```text
//! header, additional headers | header digest | data | padding | data digest
//! ```
//!
//! What additional headers say is another question (`ahs`).

use zerocopy::FromBytes;

use super::digest::crc32c;
use super::{BHS_BYTES, Bhs, padding};

const DIGEST_BYTES: usize = 4;
/// A target's header, which has no additional ones, and its digest.
pub const HEAD_ROOM: usize = BHS_BYTES + DIGEST_BYTES;
/// Padding and data digest.
pub const TAIL_ROOM: usize = 3 + DIGEST_BYTES;

/// Which digests were agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// HeaderDigest=CRC32C.
    pub header_digest: bool,
    /// DataDigest=CRC32C.
    pub data_digest: bool,
}

/// There is no telling where the next PDU begins, or no room for this one: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The lengths may be wrong too (RFC 7143 section 7.8).
    #[error("header digest")]
    HeaderDigest,
    /// More than was agreed to.
    #[error("a data segment longer than MaxRecvDataSegmentLength")]
    TooLong,
}

impl Framing {
    /// The header that `bytes` begin with, and how many of them come before its data. `None`: they are not all there.
    pub fn head(self, bytes: &[u8], max_data_bytes: u32) -> Result<Option<(Bhs, usize)>, FrameError> {
        let Ok((header, _)) = Bhs::read_from_prefix(bytes) else { return Ok(None) };
        let whole = BHS_BYTES + header.ahs_bytes();
        let end = whole + if self.header_digest { DIGEST_BYTES } else { 0 };
        let Some(head) = bytes.get(..end) else { return Ok(None) };
        let (summed, digest) = head.split_at(whole);
        if self.header_digest && crc32c(&[summed]).to_le_bytes() != *digest {
            return Err(FrameError::HeaderDigest);
        }
        if header.data_bytes() > max_data_bytes as usize {
            return Err(FrameError::TooLong);
        }
        Ok(Some((header, end)))
    }

    /// Bytes that follow so many bytes of data: padding and digest.
    pub fn tail_bytes(self, data_bytes: usize) -> usize {
        let digest = if self.data_digest && data_bytes > 0 { DIGEST_BYTES } else { 0 };
        padding(data_bytes) + digest
    }

    /// Whether the digest is the data's. `tail` is what follows the data, all of it.
    pub fn is_intact(self, data: &[u8], tail: &[u8]) -> bool {
        if data.is_empty() || !self.data_digest {
            return true;
        }
        let (pad, digest) = tail.split_at(padding(data.len()).min(tail.len()));
        digest.get(..DIGEST_BYTES).is_some_and(|digest| crc32c(&[data, pad]).to_le_bytes() == *digest)
    }

    /// A header without additional ones as it is sent, and how many bytes of it count.
    pub fn encode_head(self, header: &[u8; BHS_BYTES]) -> ([u8; HEAD_ROOM], usize) {
        let mut head = [0; HEAD_ROOM];
        head[..BHS_BYTES].copy_from_slice(header);
        if !self.header_digest {
            return (head, BHS_BYTES);
        }
        head[BHS_BYTES..].copy_from_slice(&crc32c(&[header]).to_le_bytes());
        (head, HEAD_ROOM)
    }

    /// What follows the data as it is sent, and how many bytes of it count.
    pub fn encode_tail(self, data: &[u8]) -> ([u8; TAIL_ROOM], usize) {
        let mut tail = [0; TAIL_ROOM];
        let pad = padding(data.len());
        let bytes = self.tail_bytes(data.len());
        if bytes > pad {
            let sum = crc32c(&[data, &tail[..pad]]);
            tail[pad..bytes].copy_from_slice(&sum.to_le_bytes());
        }
        (tail, bytes)
    }
}
