//! How does a LUN map change? Pure, and idempotent like all edits.

use labsan_api::names;
use uuid::Uuid;

use super::document::{LunRecord, SanDocument, TargetRecord};
use super::edit::{Edit, Edited, SanError, already, change_target, find};

/// A volume as one wants it mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// The array that holds it.
    pub(crate) array_uuid: Uuid,
    /// The volume.
    pub(crate) volume_uuid: Uuid,
    /// The number; any if none.
    pub(crate) lun: Option<u16>,
    /// Refuse writes.
    pub(crate) read_only: bool,
}

/// Make a volume a LUN of a target. Also gives the number.
pub(crate) fn map_lun(document: &SanDocument, iqn: &str, wanted: Wanted) -> Result<(Edit, u16), SanError> {
    let target = find(document, iqn)?;
    if let Some(lun) = wanted.lun.filter(|lun| *lun > names::MAX_LUN) {
        return Err(SanError::LunTooHigh { lun });
    }
    if let Some(there) = target.luns.iter().find(|lun| lun.volume_uuid == wanted.volume_uuid) {
        let same_number = wanted.lun.is_none_or(|lun| lun == there.lun);
        if same_number && there.read_only == wanted.read_only {
            let message = format!("it is LUN {} of {iqn} already", there.lun);
            return Ok((Edit { next: None, message }, there.lun));
        }
        let (lun, read_only) = (there.lun, there.read_only);
        return Err(SanError::AlreadyMapped { iqn: iqn.to_owned(), lun, read_only });
    }
    let taken = |number: u16| target.luns.iter().any(|lun| lun.lun == number);
    let lun = match wanted.lun {
        Some(lun) if taken(lun) => return Err(SanError::LunTaken { iqn: iqn.to_owned(), lun }),
        Some(lun) => lun,
        None => free_lun(target).ok_or_else(|| SanError::NoFreeLun { iqn: iqn.to_owned() })?,
    };
    let edit = change_target(document, iqn, format!("mapped as LUN {lun} of {iqn}"), |target| {
        target.luns.push(LunRecord {
            lun,
            array_uuid: wanted.array_uuid,
            volume_uuid: wanted.volume_uuid,
            read_only: wanted.read_only,
            other: std::collections::BTreeMap::new(),
        });
        target.luns.sort_by_key(|lun| lun.lun);
        if lun >= target.next_lun || lun == names::MAX_LUN {
            target.next_lun = if lun >= names::MAX_LUN { 0 } else { lun + 1 };
        }
    })?;
    Ok((edit, lun))
}

/// The first free number from `next_lun` on, and round again from 0.
fn free_lun(target: &TargetRecord) -> Option<u16> {
    let first = target.next_lun.min(names::MAX_LUN);
    let free = |number: &u16| !target.luns.iter().any(|lun| lun.lun == *number);
    (first..=names::MAX_LUN).chain(0..first).find(free)
}

/// Take a LUN out of a target. The volume stays.
pub(crate) fn unmap_lun(document: &SanDocument, iqn: &str, lun: u16) -> Edited {
    let mapped = document.target(iqn).is_some_and(|target| target.luns.iter().any(|l| l.lun == lun));
    if !mapped {
        return already(format!("{iqn} has no LUN {lun}; nothing to unmap"));
    }
    change_target(document, iqn, format!("LUN {lun} of {iqn} unmapped; its volume is kept"), |target| {
        target.luns.retain(|l| l.lun != lun);
    })
}
