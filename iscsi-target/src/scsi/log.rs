//! LOG SENSE (SPC-4): the list of pages, and, where a unit is thin, how much can still be mapped (SBC-3, page 0Ch).
//!
//! All parameters are lists, for which PC means nothing (SPC-4), and none is saved.

use super::cdb::Cdb;
use super::thin::MappingResources;
use super::{ScsiResponse, Sense};

const SUPPORTED_PAGES: u8 = 0x00;
const PROVISIONING: u8 = 0x0c;
/// DS: a page is not saved.
const NOT_SAVED: u8 = 0x80;
/// TSD, and a list of binary values.
const BINARY_LIST: u8 = 0x23;

/// What the resource count of a parameter is about (SBC-3, SCOPE).
const OF_THIS_UNIT: u8 = 1;
const OF_NO_UNIT: u8 = 2;

/// LOG SENSE. `thin`: what a thin unit can still map, and the bytes of a threshold set.
pub(crate) fn sense(cdb: Cdb<'_>, thin: Option<(MappingResources, u64)>) -> Result<ScsiResponse, Sense> {
    // SP: there is no saving; subpages are not there either.
    if cdb.byte(1) & 1 != 0 || cdb.byte(3) != 0 {
        return Err(Sense::INVALID_FIELD);
    }
    let first = cdb.u16(5);
    let page = match (cdb.byte(2) & 0x3f, thin) {
        // It has no parameters.
        (SUPPORTED_PAGES, _) if first != 0 => return Err(Sense::INVALID_FIELD),
        (SUPPORTED_PAGES, None) => vec![0, 0, 0, 1, SUPPORTED_PAGES],
        (SUPPORTED_PAGES, Some(_)) => vec![0, 0, 0, 2, SUPPORTED_PAGES, PROVISIONING],
        (PROVISIONING, Some((resources, set_bytes))) => provisioning(resources, set_bytes, first)?,
        _ => return Err(Sense::INVALID_FIELD),
    };
    Ok(ScsiResponse::parameters(page, usize::from(cdb.u16(7))))
}

/// Logical Block Provisioning, from parameter `first` on. A pointer beyond the last parameter is an error (SPC-4).
fn provisioning(resources: MappingResources, set_bytes: u64, first: u16) -> Result<Vec<u8>, Sense> {
    let set_bytes = set_bytes.max(1);
    let parameters = [
        // What was begun of a set cannot be counted on.
        (1u16, resources.available_bytes / set_bytes, OF_NO_UNIT),
        (2, resources.used_bytes.div_ceil(set_bytes), OF_THIS_UNIT),
    ];
    let mut page = vec![NOT_SAVED | PROVISIONING, 0, 0, 0];
    for (code, sets, scope) in parameters.into_iter().filter(|(code, ..)| *code >= first) {
        page.extend_from_slice(&code.to_be_bytes());
        page.extend_from_slice(&[BINARY_LIST, 8]);
        page.extend_from_slice(&u32::try_from(sets).unwrap_or(u32::MAX).to_be_bytes());
        page.extend_from_slice(&[scope, 0, 0, 0]);
    }
    let length = page.len() - 4;
    if length == 0 {
        return Err(Sense::INVALID_FIELD);
    }
    page[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    Ok(page)
}
