//! Which bytes does a write put where? Every sector names its write and its own place, so a wrong one tells where it is from.

use crate::disk::SECTOR;
use crate::model::Place;

/// The bytes that a write of this value puts into a range.
pub(crate) fn fill(place: Place, value: u64) -> Vec<u8> {
    let mut bytes = vec![0; (place.sectors * SECTOR) as usize];
    if value != 0 {
        for (sector, chunk) in (place.sector..).zip(bytes.chunks_exact_mut(SECTOR as usize)) {
            for (index, word) in (0_u64..).zip(chunk.chunks_exact_mut(8)) {
                word.copy_from_slice(&word_of(place.volume, sector, value, index).to_le_bytes());
            }
        }
    }
    bytes
}

fn word_of(volume: usize, sector: u64, value: u64, index: u64) -> u64 {
    if index.is_multiple_of(2) { value } else { sector << 8 | volume as u64 | index << 56 }
}

/// Whose bytes are these? `None` if no write puts such bytes there.
pub(crate) fn identify(bytes: &[u8], volume: usize, sector: u64) -> Option<u64> {
    let (first, _) = bytes.split_first_chunk()?;
    let value = u64::from_le_bytes(*first);
    if value == 0 {
        return bytes.iter().all(|&byte| byte == 0).then_some(0);
    }
    let same = (0_u64..)
        .zip(bytes.chunks_exact(8))
        .all(|(index, word)| word == word_of(volume, sector, value, index).to_le_bytes());
    same.then_some(value)
}

pub(crate) fn describe_garbage(bytes: &[u8]) -> String {
    let word =
        |at: usize| bytes.get(at..at + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    match (word(0), word(8)) {
        (Some(value), Some(place)) => {
            let (volume, sector) = (place & 0xff, place << 8 >> 16);
            format!(
                "beginning {value:#x} {place:#x}: perhaps write {value} of sector {sector} of volume {volume}"
            )
        }
        _ => "too short".to_owned(),
    }
}
