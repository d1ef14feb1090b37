//! md's own structures: superblock, bitmap, bad-block log.

use raid_core::format::badblocks;
use raid_core::format::bitmap::{BitmapHeader, Bits, chunk_bytes_for};
use raid_core::format::layout::MemberLayout;
use raid_core::format::superblock::{Features, Superblock};
use raid_core::format::{PAGE_BYTES, SECTOR_BYTES};
use uuid::Uuid;

use crate::input::Input;

const ARRAY: Uuid = Uuid::from_u128(0x1ab5a);

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let how = input.u8();
    match how & 7 {
        0 => superblock(input.rest()),
        1..=3 => {
            let mut page = input.rest().to_vec();
            page.resize(page.len().clamp(256, PAGE_BYTES), 0);
            mend(&mut page, how);
            superblock(&page);
        }
        4 => bitmap(input.rest()),
        5 => {
            let mut head: [u8; 256] = input.array();
            head[..8].copy_from_slice(&[0x62, 0x69, 0x74, 0x6d, 4, 0, 0, 0]);
            head[8..24].copy_from_slice(ARRAY.as_bytes());
            head[68..72].fill(0);
            bitmap(&[&head[..], input.rest()].concat());
        }
        _ => bad_blocks(input.u8() & 0x1f, input.rest()),
    }
}

/// What a stranger would put right first: magic, version, place, padding, checksum.
pub(crate) fn mend(page: &mut [u8], how: u8) {
    page[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
    page[12..16].fill(0);
    page[144..152].copy_from_slice(&8u64.to_le_bytes());
    page[224..256].fill(0);
    if how & 8 != 0 {
        // Only features that are run.
        page[9..12].fill(0);
        page[8] &= 0x9b;
    }
    let most = ((page.len() - 256) / 2) as u32;
    let roles = u32::from_le_bytes(page[220..224].try_into().unwrap()) % (most + 1);
    page[220..224].copy_from_slice(&roles.to_le_bytes());
    let sum = checksum(page, roles as usize);
    page[216..220].copy_from_slice(&sum.to_le_bytes());
}

/// `calc_sb_1_csum`, once more.
fn checksum(page: &[u8], roles: usize) -> u32 {
    let mut summed = page[..256 + roles * 2].to_vec();
    summed[216..220].fill(0);
    summed.resize(summed.len().next_multiple_of(4), 0);
    let sum: u64 = summed.chunks(4).map(|word| u64::from(u32::from_le_bytes(word.try_into().unwrap()))).sum();
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

fn superblock(bytes: &[u8]) {
    let Ok(found) = Superblock::parse(bytes) else { return };
    let page = found.encode();
    assert_eq!(Superblock::parse(&page).as_ref(), Ok(&found));
    // The same bytes, but for places without the feature bit that gives them a meaning.
    let roles = found.roles.len();
    let mut kept = bytes[..256 + roles * 2].to_vec();
    if !found.feature_map().contains(Features::BITMAP_OFFSET) {
        kept[96..100].fill(0);
    }
    if !found.feature_map().contains(Features::RECOVERY_OFFSET) {
        kept[152..160].fill(0);
    }
    let sum = checksum(&kept, roles);
    kept[216..220].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(page[..kept.len()], kept);
    assert!(page[kept.len()..].iter().all(|byte| *byte == 0));

    let data_end = found.data_offset_bytes() + found.data_size * SECTOR_BYTES;
    assert!(i64::try_from(data_end).is_ok());
    assert!(found.size_sectors <= found.data_size);
    if let Some(offset) = found.bitmap_offset_bytes() {
        assert!(offset < found.data_offset_bytes());
    }
    if let Some(offset) = found.bad_block_log_offset_bytes() {
        let end = offset + u64::from(found.bad_block_log.size_sectors) * SECTOR_BYTES;
        assert!(end <= found.data_offset_bytes());
    }
    for size_bytes in [data_end, data_end.saturating_sub(1), u64::MAX] {
        let Ok(layout) = MemberLayout::adopt(&found, 4096, size_bytes) else { continue };
        assert_eq!(layout.check(size_bytes), Ok(()));
        assert!(data_end <= size_bytes && layout.journal.bytes().end <= found.data_offset_bytes());
    }
    let mut grown = found.clone();
    let _ = grown.set_role(found.dev_number, found.own_role());
    assert_eq!(grown.own_role(), found.own_role());
    let _ = (found.name.bare(), found.name.host(), format!("{found:?}"));
}

fn bitmap(image: &[u8]) {
    let Ok(header) = BitmapHeader::parse(image, ARRAY) else { return };
    let encoded = header.encode();
    assert_eq!(BitmapHeader::parse(&encoded, ARRAY).as_ref(), Ok(&header));
    assert_eq!(encoded[..68], image[..68]);
    let (bits, sectors) = (header.bits(), header.sync_size_sectors);
    assert!(bits > 0 && header.image_bytes() >= 256 + bits.div_ceil(8));
    assert_eq!(header.bits_of(0..sectors), 0..bits);
    assert_eq!(header.sectors_of(bits - 1).end, sectors);
    assert!(header.sectors_of(bits).is_empty() && header.bits_of(sectors..u64::MAX).is_empty());
    for bit in [0, bits / 2, bits - 1] {
        assert_eq!(header.bits_of(header.sectors_of(bit)), bit..bit + 1);
    }
    if let Some(chunk) = chunk_bytes_for(sectors, header.image_bytes()) {
        assert!(chunk.is_power_of_two());
        assert!(sectors.div_ceil(u64::from(chunk) / SECTOR_BYTES) <= header.image_bytes() * 8);
    }
    let mut image = image.to_vec();
    let held = (image.len() as u64 - 256) * 8;
    let some = held / 3..(held / 3 + 21).min(held);
    let mut changed = Bits::of_image(&mut image[..]);
    changed.put(some.clone(), true);
    assert_eq!(changed.set_in(some.clone()).count() as u64, some.end - some.start);
    changed.put(some.clone(), false);
    assert!(!changed.any(some));
    assert!(changed.get(held) && changed.get(u64::MAX), "what is not there reads as set");
}

fn bad_blocks(shift: u8, log: &[u8]) {
    let Ok(ranges) = badblocks::parse(log, shift) else { return };
    assert!(ranges.len() <= log.len() / 8);
    assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
    assert!(ranges.iter().all(|range| range.start < range.end));
    let room = 8 * (ranges.len() + ranges.iter().map(|r| ((r.end - r.start) / 512) as usize).sum::<usize>());
    if room > 1 << 20 {
        return;
    }
    if let Ok(encoded) = badblocks::encode(&ranges, room) {
        assert_eq!(badblocks::parse(&encoded, 0), Ok(ranges));
    }
}
