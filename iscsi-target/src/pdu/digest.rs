//! CRC32C, the digest of iSCSI (RFC 7143 section 13.1).

use crc_fast::{CrcAlgorithm, Digest};

/// The digest over several pieces; on the wire its bytes are little-endian.
pub(crate) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_examples() {
        // RFC 7143 appendix A.4 (as RFC 3720 B.4): 32 bytes of zeros, of ones, and counting up.
        assert_eq!(crc32c(&[&[0; 32]]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[&[0xff; 16], &[0xff; 16]]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
        let counting: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[&counting]).to_le_bytes(), [0x4e, 0x79, 0xdd, 0x46]);
    }
}
