//! The parameter list of EXTENDED COPY(LID1) (SPC-4): who copies what from where to where.
//!
//! Pure: bytes in, a list out. Everything that does not depend on the units named is checked here; nothing is done unless
//! all of it is right.

use crate::scsi::Sense;
use crate::scsi::cdb::Cdb;

/// Bytes before the first descriptor.
const HEADER_BYTES: usize = 16;
/// An identification CSCD descriptor.
const TARGET_BYTES: usize = 32;
/// A block to block segment descriptor.
const SEGMENT_BYTES: usize = 28;
pub(super) const IDENTIFICATION: u8 = 0xe4;
pub(super) const BLOCK_TO_BLOCK: u8 = 0x02;

/// MAXIMUM CSCD DESCRIPTOR COUNT: two are the rule.
pub(super) const MAX_TARGETS: u16 = 16;
/// MAXIMUM SEGMENT DESCRIPTOR COUNT.
pub(super) const MAX_SEGMENTS: u16 = 64;
/// MAXIMUM DESCRIPTOR LIST LENGTH: both lists at their longest fit.
pub(super) const MAX_LIST_BYTES: u32 = 4096;
/// The longest parameter list: header and descriptors. Inline data is refused whatever its length.
pub(super) const MAX_PARAMETER_BYTES: u32 = HEADER_BYTES as u32 + MAX_LIST_BYTES;
const _: () = assert!(
    MAX_TARGETS as usize * TARGET_BYTES + MAX_SEGMENTS as usize * SEGMENT_BYTES <= MAX_LIST_BYTES as usize
);

/// How long the outcome of a copy is kept (LIST ID USAGE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// It can be asked for by this list identifier.
    Under(u8),
    /// The list identifier means nothing.
    No,
}

/// A unit to copy from or to, by its designator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) code_set: u8,
    pub(super) kind: u8,
    pub(super) designator: Vec<u8>,
    /// What the initiator takes its block to be.
    pub(super) block_bytes: u32,
}

/// Blocks to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) source: u16,
    pub(super) destination: u16,
    /// DC: `blocks` counts the destination's blocks, not the source's.
    pub(super) by_destination: bool,
    pub(super) blocks: u16,
    pub(super) source_block: u64,
    pub(super) destination_block: u64,
}

/// A parameter list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CopyList {
    pub(super) keep: Keep,
    pub(super) targets: Vec<Target>,
    pub(super) segments: Vec<Segment>,
}

/// Read a parameter list.
pub(crate) fn parse(list: &[u8]) -> Result<CopyList, Sense> {
    let header = Cdb(list.get(..HEADER_BYTES).ok_or(Sense::PARAMETER_LENGTH)?);
    let (targets_bytes, segments_bytes) = (u32::from(header.u16(2)), header.u32(8));
    let lists_bytes = targets_bytes.checked_add(segments_bytes).ok_or(Sense::PARAMETER_LENGTH)?;
    if lists_bytes > MAX_LIST_BYTES {
        return Err(Sense::PARAMETER_LENGTH);
    }
    if header.u32(12) > 0 {
        return Err(Sense::INLINE_DATA);
    }
    let keep = match header.byte(1) >> 3 & 3 {
        // Held until asked for, or at least until the copy has ended.
        0 | 2 => Keep::Under(header.byte(0)),
        3 if header.byte(0) == 0 => Keep::No,
        _ => return Err(Sense::INVALID_PARAMETER),
    };
    let lists = list[HEADER_BYTES..].get(..lists_bytes as usize).ok_or(Sense::PARAMETER_LENGTH)?;
    let (targets, segments) = lists.split_at(targets_bytes as usize);
    Ok(CopyList { keep, targets: parse_targets(targets)?, segments: parse_segments(segments)? })
}

/// Every kind of target descriptor has 32 bytes (SPC-4).
fn parse_targets(list: &[u8]) -> Result<Vec<Target>, Sense> {
    if !list.len().is_multiple_of(TARGET_BYTES) {
        return Err(Sense::PARAMETER_LENGTH);
    }
    if list.len() / TARGET_BYTES > usize::from(MAX_TARGETS) {
        return Err(Sense::TOO_MANY_TARGETS);
    }
    list.chunks_exact(TARGET_BYTES).map(parse_target).collect()
}

fn parse_target(descriptor: &[u8]) -> Result<Target, Sense> {
    let fields = Cdb(descriptor);
    if fields.byte(0) != IDENTIFICATION {
        return Err(Sense::TARGET_TYPE);
    }
    // Peripheral device type: direct access. LU ID TYPE is ignored, NUL is obsolete (SPC-4).
    if fields.byte(1) & 0x1f != 0 {
        return Err(Sense::INVALID_PARAMETER);
    }
    let association = fields.byte(5) >> 4 & 3;
    let designator = descriptor[8..28].get(..usize::from(fields.byte(7)));
    match designator {
        Some(designator) if association == 0 => Ok(Target {
            code_set: fields.byte(4) & 0x0f,
            kind: fields.byte(5) & 0x0f,
            designator: designator.to_vec(),
            block_bytes: fields.u32(28) & 0x00ff_ffff,
        }),
        _ => Err(Sense::INVALID_PARAMETER),
    }
}

fn parse_segments(mut list: &[u8]) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    while !list.is_empty() {
        let head = Cdb(list.get(..4).ok_or(Sense::PARAMETER_LENGTH)?);
        if segments.len() == usize::from(MAX_SEGMENTS) {
            return Err(Sense::TOO_MANY_SEGMENTS);
        }
        if head.byte(0) != BLOCK_TO_BLOCK {
            return Err(Sense::SEGMENT_TYPE);
        }
        if usize::from(head.u16(2)) + 4 != SEGMENT_BYTES {
            return Err(Sense::INVALID_PARAMETER);
        }
        let (segment, rest) = list.split_at_checked(SEGMENT_BYTES).ok_or(Sense::PARAMETER_LENGTH)?;
        let fields = Cdb(segment);
        segments.push(Segment {
            source: fields.u16(4),
            destination: fields.u16(6),
            by_destination: fields.byte(1) & 0x02 != 0,
            blocks: fields.u16(10),
            source_block: fields.u64(12),
            destination_block: fields.u64(20),
        });
        list = rest;
    }
    Ok(segments)
}

/// The bytes of a list; what `parse` is the reverse of.
pub(crate) fn encode(list: &CopyList) -> Vec<u8> {
    let (usage, id) = match list.keep {
        Keep::Under(id) => (0, id),
        Keep::No => (3, 0),
    };
    let mut bytes = vec![id, usage << 3];
    bytes.extend_from_slice(&((list.targets.len() * TARGET_BYTES) as u16).to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&((list.segments.len() * SEGMENT_BYTES) as u32).to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for target in &list.targets {
        let mut descriptor = [0; TARGET_BYTES];
        descriptor[0] = IDENTIFICATION;
        (descriptor[4], descriptor[5]) = (target.code_set, target.kind);
        descriptor[7] = target.designator.len() as u8;
        descriptor[8..8 + target.designator.len()].copy_from_slice(&target.designator);
        descriptor[28..].copy_from_slice(&target.block_bytes.to_be_bytes());
        bytes.extend_from_slice(&descriptor);
    }
    for segment in &list.segments {
        let mut descriptor = vec![BLOCK_TO_BLOCK, u8::from(segment.by_destination) << 1, 0, 24];
        descriptor.extend_from_slice(&segment.source.to_be_bytes());
        descriptor.extend_from_slice(&segment.destination.to_be_bytes());
        descriptor.extend_from_slice(&[0, 0]);
        descriptor.extend_from_slice(&segment.blocks.to_be_bytes());
        descriptor.extend_from_slice(&segment.source_block.to_be_bytes());
        descriptor.extend_from_slice(&segment.destination_block.to_be_bytes());
        bytes.extend_from_slice(&descriptor);
    }
    bytes
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn targets() -> impl Strategy<Value = Vec<Target>> {
        let target = (0u8..16, 0u8..16, prop::collection::vec(any::<u8>(), 0..=20), 0u32..1 << 24);
        let target = target.prop_map(|(code_set, kind, designator, block_bytes)| Target {
            code_set,
            kind,
            designator,
            block_bytes,
        });
        prop::collection::vec(target, 0..=usize::from(MAX_TARGETS))
    }

    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        let segment = any::<(u16, u16, bool, u16, u64, u64)>().prop_map(
            |(source, destination, by_destination, blocks, source_block, destination_block)| Segment {
                source,
                destination,
                by_destination,
                blocks,
                source_block,
                destination_block,
            },
        );
        prop::collection::vec(segment, 0..=usize::from(MAX_SEGMENTS))
    }

    proptest! {
        #[test]
        fn a_list_is_read_as_it_was_written(
            targets in targets(), segments in segments(),
            keep in prop_oneof![any::<u8>().prop_map(Keep::Under), Just(Keep::No)],
        ) {
            let list = CopyList { keep, targets, segments };
            let bytes = encode(&list);
            prop_assert_eq!(parse(&bytes), Ok(list));
            for cut in [0, 1, 16, bytes.len() - 1] {
                let shorter = parse(&bytes[..cut.min(bytes.len() - 1)]);
                prop_assert_eq!(shorter, Err(Sense::PARAMETER_LENGTH));
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn a_damaged_list_is_read_or_refused(
            targets in targets(), segments in segments(), at in any::<prop::sample::Index>(), to in any::<u8>(),
        ) {
            let mut bytes = encode(&CopyList { keep: Keep::No, targets, segments });
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn what_is_too_much_or_unknown_is_named() {
        let target = Target { code_set: 1, kind: 3, designator: vec![0x30; 8], block_bytes: 512 };
        let segment = Segment {
            source: 0,
            destination: 0,
            by_destination: false,
            blocks: 1,
            source_block: 0,
            destination_block: 1,
        };
        let list = |targets: usize, segments: usize| {
            encode(&CopyList {
                keep: Keep::Under(1),
                targets: vec![target.clone(); targets],
                segments: vec![segment; segments],
            })
        };
        assert_eq!(parse(&list(17, 1)), Err(Sense::TOO_MANY_TARGETS));
        assert_eq!(parse(&list(1, 65)), Err(Sense::TOO_MANY_SEGMENTS));
        assert_eq!(parse(&list(17, 128)), Err(Sense::PARAMETER_LENGTH));
        let damaged = |at: usize, to: u8| {
            let mut bytes = list(1, 1);
            bytes[at] = to;
            parse(&bytes)
        };
        assert_eq!(damaged(16, 0xe0), Err(Sense::TARGET_TYPE));
        assert_eq!(damaged(17, 0x01), Err(Sense::INVALID_PARAMETER), "not a disk");
        assert_eq!(damaged(23, 21), Err(Sense::INVALID_PARAMETER), "a designator longer than its field");
        assert_eq!(damaged(48, 0x03), Err(Sense::SEGMENT_TYPE));
        assert_eq!(damaged(51, 25), Err(Sense::INVALID_PARAMETER));
        assert_eq!(damaged(15, 1), Err(Sense::INLINE_DATA));
        assert_eq!(damaged(1, 3 << 3), Err(Sense::INVALID_PARAMETER), "no identifier without a list");
    }
}
