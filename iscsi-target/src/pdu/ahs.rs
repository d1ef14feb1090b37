//! What do additional header segments say? (RFC 7143 section 11.2.2.) Only SCSI commands have any.

use super::padding;

/// AHSLength and AHSType.
const PREFIX: usize = 3;
const EXTENDED_CDB: u8 = 1;
const BIDIRECTIONAL_READ: u8 = 2;

/// The segments of one PDU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahs<'a> {
    /// What follows the CDB's first 16 bytes, with padding.
    pub extended_cdb: Option<&'a [u8]>,
    /// Bidirectional Read Expected Data Transfer Length.
    pub read_length: Option<u32>,
}

/// The segments are no segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the additional header segments are malformed")]
pub struct BadAhs;

impl<'a> Ahs<'a> {
    /// Read all of them. Lengths must fill the bytes exactly, and no type may come twice.
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, BadAhs> {
        let mut segments = Self::default();
        while !bytes.is_empty() {
            let &[high, low, kind, ..] = bytes else { return Err(BadAhs) };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let end = PREFIX + length;
            let content = bytes.get(PREFIX..end).ok_or(BadAhs)?;
            // The first byte of both known types is reserved.
            let content = content.get(1..).ok_or(BadAhs)?;
            let fresh = match kind & 0x3f {
                EXTENDED_CDB if !content.is_empty() => segments.extended_cdb.replace(content).is_none(),
                BIDIRECTIONAL_READ => {
                    let length = content.try_into().map(u32::from_be_bytes).map_err(|_| BadAhs)?;
                    segments.read_length.replace(length).is_none()
                }
                _ => false,
            };
            bytes = bytes.get(end + padding(end)..).filter(|_| fresh).ok_or(BadAhs)?;
        }
        Ok(segments)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG_CDB: [u8; 20] = [0, 17, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
    const READ: [u8; 8] = [0, 5, 2, 0, 0, 0, 2, 0];

    #[test]
    fn both_types_in_any_order() {
        let expected = Ahs { extended_cdb: Some(&LONG_CDB[4..]), read_length: Some(512) };
        assert_eq!(Ahs::parse(&[&LONG_CDB[..], &READ].concat()), Ok(expected));
        assert_eq!(Ahs::parse(&[&READ[..], &LONG_CDB].concat()), Ok(expected));
        assert_eq!(Ahs::parse(&[]), Ok(Ahs::default()));
        // One byte more than 16, with padding.
        assert_eq!(Ahs::parse(&[0, 2, 1, 0, 9, 0, 0, 0]).unwrap().extended_cdb, Some(&[9][..]));
    }

    #[test]
    fn malformed_segments_are_refused() {
        for bad in [
            &[0, 5, 2][..],
            &[0, 0, 1, 0],
            &[0, 1, 1, 0],
            &[0, 4, 2, 0, 0, 0, 0, 0],
            &[0, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 17, 1, 0, 1, 2, 3, 4],
            &[0xff, 0xff, 1, 0],
            &[0, 5, 0, 0, 0, 0, 0, 0],
            &[0, 5, 3, 0, 0, 0, 0, 0],
            &[READ, READ].concat(),
            &[&READ[..], &[0, 0, 0, 0]].concat(),
        ] {
            assert_eq!(Ahs::parse(bad), Err(BadAhs), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1021)) {
            let _ = Ahs::parse(&bytes);
        }
    }
}
