//! How does a LUN map change? Pure, and idempotent like all edits.
//!
//! A target has LUNs for all, and masks: what single initiators see instead. A number that was freed rests ([`Hold`])
//! before it means another volume to those who may remember it. That concerns the map it was in; to an initiator that was
//! given LUNs of its own, or sees the common ones again, also the numbers that it saw until then.

use labsan_api::names;
use uuid::Uuid;

use super::document::{FreedRecord, LunRecord, MaskRecord, SanDocument, TargetRecord};
use super::edit::{Edit, Edited, SanError, already, change_target, find};
use super::hold::Hold;
use crate::limits::MAX_MASKS;

/// A volume as one wants it mapped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// The array that holds it.
    pub(crate) array_uuid: Uuid,
    /// The volume.
    pub(crate) volume_uuid: Uuid,
    /// For this initiator alone; for all that have no LUNs of their own if none.
    pub(crate) initiator: Option<String>,
    /// The number; any if none.
    pub(crate) lun: Option<u16>,
    /// Refuse writes.
    pub(crate) read_only: bool,
    /// A number that still rests will do.
    pub(crate) force: bool,
    /// The initiator is logged in now.
    pub(crate) logged_in: bool,
}

/// One map of a target: the common one, or an initiator's own.
#[derive(Clone, Copy)]
struct Map<'a> {
    target: &'a TargetRecord,
    whose: Option<&'a str>,
}

impl<'a> Map<'a> {
    fn mask(self) -> Option<&'a MaskRecord> {
        self.whose.and_then(|initiator| self.target.mask(initiator))
    }

    fn luns(self) -> &'a [LunRecord] {
        match self.whose {
            None => &self.target.luns,
            Some(_) => self.mask().map_or(&[], |mask| &mask.luns),
        }
    }

    fn next(self) -> u16 {
        self.mask().map_or(if self.whose.is_none() { self.target.next_lun } else { 0 }, |mask| mask.next_lun)
    }

    /// Does somebody who sees this map remember that number?
    fn concerns(self, freed: &FreedRecord) -> bool {
        match (self.whose, freed.initiator.as_deref()) {
            (_, None) => true,
            (Some(initiator), Some(who)) => initiator == who,
            // It sees the common LUNs again.
            (None, Some(who)) => self.target.mask(who).is_none(),
        }
    }

    fn rests(self, hold: &Hold, lun: u16, volume: Uuid) -> u64 {
        hold.on(&self.target.freed, |freed| self.concerns(freed), lun, volume)
    }

    /// The first number from `next` on, and round again from 0, that is free and does not rest.
    fn free_number(self, hold: &Hold, volume: Uuid) -> Result<u16, SanError> {
        let iqn = || self.target.iqn.clone();
        let first = self.next().min(names::MAX_LUN);
        let is_free = |number: &u16| !self.luns().iter().any(|lun| lun.lun == *number);
        let free: Vec<u16> = (first..=names::MAX_LUN).chain(0..first).filter(is_free).collect();
        if let Some(lun) = free.iter().find(|lun| self.rests(hold, **lun, volume) == 0) {
            return Ok(*lun);
        }
        let soonest = free.into_iter().min_by_key(|lun| self.rests(hold, *lun, volume));
        match soonest {
            None => Err(SanError::NoFreeLun { iqn: iqn() }),
            Some(lun) => Err(self.held(hold, lun, volume)),
        }
    }

    fn held(self, hold: &Hold, lun: u16, volume: Uuid) -> SanError {
        let left_seconds = self.rests(hold, lun, volume);
        SanError::LunHeld { iqn: self.target.iqn.clone(), lun, left_seconds }
    }
}

fn of_whom(whose: Option<&str>) -> String {
    whose.map_or_else(String::new, |initiator| format!(" for {initiator}"))
}

/// Make a volume a LUN of a target. Also gives the number.
pub(crate) fn map_lun(
    document: &SanDocument,
    iqn: &str,
    wanted: &Wanted,
    hold: &Hold,
) -> Result<(Edit, u16), SanError> {
    let target = find(document, iqn)?;
    if let Some(lun) = wanted.lun.filter(|lun| *lun > names::MAX_LUN) {
        return Err(SanError::LunTooHigh { lun });
    }
    let Some(initiator) = &wanted.initiator else {
        return map_in(document, target, None, wanted, hold);
    };
    names::check_iscsi(initiator)?;
    // As if it had been masked before: an own LUN takes the common ones away.
    let masked = masked(target, initiator, wanted.logged_in, hold)?;
    let (mut edit, lun) = map_in(document, masked.as_ref().unwrap_or(target), Some(initiator), wanted, hold)?;
    if masked.is_some() {
        edit.message.push_str("; it sees only LUNs of its own there now");
    }
    Ok((edit, lun))
}

fn map_in(
    document: &SanDocument,
    target: &TargetRecord,
    whose: Option<&str>,
    wanted: &Wanted,
    hold: &Hold,
) -> Result<(Edit, u16), SanError> {
    let (map, iqn) = (Map { target, whose }, target.iqn.as_str());
    if let Some(there) = map.luns().iter().find(|lun| lun.volume_uuid == wanted.volume_uuid) {
        let same_number = wanted.lun.is_none_or(|lun| lun == there.lun);
        if same_number && there.read_only == wanted.read_only {
            let message = format!("it is LUN {} of {iqn}{} already", there.lun, of_whom(whose));
            return Ok((Edit { next: None, message }, there.lun));
        }
        let (lun, read_only, initiator) = (there.lun, there.read_only, whose.map(str::to_owned));
        return Err(SanError::AlreadyMapped { iqn: iqn.to_owned(), initiator, lun, read_only });
    }
    let lun = match wanted.lun {
        Some(lun) if map.luns().iter().any(|there| there.lun == lun) => {
            return Err(SanError::LunTaken { iqn: iqn.to_owned(), lun });
        }
        Some(lun) if !wanted.force && map.rests(hold, lun, wanted.volume_uuid) > 0 => {
            return Err(map.held(hold, lun, wanted.volume_uuid));
        }
        Some(lun) => lun,
        None => map.free_number(hold, wanted.volume_uuid)?,
    };
    let record = LunRecord {
        lun,
        array_uuid: wanted.array_uuid,
        volume_uuid: wanted.volume_uuid,
        read_only: wanted.read_only,
        other: std::collections::BTreeMap::new(),
    };
    let message = format!("mapped as LUN {lun} of {iqn}{}", of_whom(whose));
    let mut next = target.clone();
    put_in(&mut next, whose, record);
    next.freed.retain(|freed| hold.left(freed) > 0);
    Ok((change_target(document, iqn, message, |target| *target = next)?, lun))
}

fn put_in(target: &mut TargetRecord, whose: Option<&str>, record: LunRecord) {
    let mask = target.masks.iter_mut().find(|mask| Some(mask.initiator.as_str()) == whose);
    let (luns, next_lun) = match mask {
        Some(mask) => (&mut mask.luns, &mut mask.next_lun),
        None => (&mut target.luns, &mut target.next_lun),
    };
    let lun = record.lun;
    luns.push(record);
    luns.sort_by_key(|lun| lun.lun);
    if lun >= *next_lun || lun == names::MAX_LUN {
        *next_lun = if lun >= names::MAX_LUN { 0 } else { lun + 1 };
    }
}

fn freed(lun: &LunRecord, whose: Option<&str>, hold: &Hold) -> FreedRecord {
    FreedRecord {
        lun: lun.lun,
        volume_uuid: lun.volume_uuid,
        initiator: whose.map(str::to_owned),
        at: hold.now.clone(),
        other: std::collections::BTreeMap::new(),
    }
}

/// Take a LUN out of a target. The volume stays.
pub(crate) fn unmap_lun(
    document: &SanDocument,
    iqn: &str,
    whose: Option<&str>,
    lun: u16,
    hold: &Hold,
) -> Edited {
    let target = document.target(iqn);
    let there = target.and_then(|target| Map { target, whose }.luns().iter().find(|there| there.lun == lun));
    let Some(there) = there else {
        return already(format!("{iqn} has no LUN {lun}{}; nothing to unmap", of_whom(whose)));
    };
    let freed = freed(there, whose, hold);
    let message = format!("LUN {lun} of {iqn}{} unmapped; its volume is kept", of_whom(whose));
    change_target(document, iqn, message, |target| {
        let mask = target.masks.iter_mut().find(|mask| Some(mask.initiator.as_str()) == whose);
        mask.map_or(&mut target.luns, |mask| &mut mask.luns).retain(|there| there.lun != lun);
        target.freed.retain(|former| hold.left(former) > 0 && !same_number(former, &freed));
        target.freed.push(freed);
    })
}

fn same_number(one: &FreedRecord, other: &FreedRecord) -> bool {
    (one.lun, &one.initiator, one.volume_uuid) == (other.lun, &other.initiator, other.volume_uuid)
}

/// The target with an empty map for this initiator; `None` if it has a map of its own already.
fn masked(
    target: &TargetRecord,
    initiator: &str,
    logged_in: bool,
    hold: &Hold,
) -> Result<Option<TargetRecord>, SanError> {
    if target.mask(initiator).is_some() {
        return Ok(None);
    }
    if target.masks.len() >= MAX_MASKS {
        return Err(SanError::TooMany {
            what: "initiators with LUNs of their own in a target",
            limit: MAX_MASKS,
        });
    }
    let mut next = target.clone();
    next.masks.push(MaskRecord {
        initiator: initiator.to_owned(),
        luns: Vec::new(),
        next_lun: 0,
        other: std::collections::BTreeMap::new(),
    });
    next.masks.sort_by(|a, b| a.initiator.cmp(&b.initiator));
    // Who could not get in so far remembers nothing.
    if logged_in || target.access.all_rules().any(|rule| rule.may_let_in(initiator)) {
        next.freed.extend(target.luns.iter().map(|lun| freed(lun, Some(initiator), hold)));
    }
    Ok(Some(next))
}

/// Let an initiator see only LUNs of its own, of which there are none yet.
pub(crate) fn mask(
    document: &SanDocument,
    iqn: &str,
    initiator: &str,
    logged_in: bool,
    hold: &Hold,
) -> Edited {
    names::check_iscsi(initiator)?;
    match masked(find(document, iqn)?, initiator, logged_in, hold)? {
        None => already(format!("{initiator} sees only LUNs of its own in {iqn} already")),
        Some(next) => {
            let message = format!("{initiator} sees no LUN of {iqn} until it is given its own");
            change_target(document, iqn, message, |target| *target = next)
        }
    }
}

/// Let an initiator that has no LUN of its own any more see the common ones again.
pub(crate) fn unmask(document: &SanDocument, iqn: &str, initiator: &str, force: bool, hold: &Hold) -> Edited {
    let target = find(document, iqn)?;
    let Some(own) = target.mask(initiator) else {
        return already(format!("{initiator} sees the LUNs of {iqn} that all see already"));
    };
    if let Some(first) = own.luns.first() {
        let (iqn, initiator, lun) = (iqn.to_owned(), initiator.to_owned(), first.lun);
        return Err(SanError::HasOwnLuns { iqn, initiator, lun });
    }
    let map = Map { target, whose: Some(initiator) };
    let rests = |lun: &&LunRecord| map.rests(hold, lun.lun, lun.volume_uuid) > 0;
    if let Some(lun) = target.luns.iter().find(rests).filter(|_| !force) {
        return Err(map.held(hold, lun.lun, lun.volume_uuid));
    }
    change_target(document, iqn, format!("{initiator} sees the LUNs of {iqn} that all see"), |target| {
        target.masks.retain(|mask| mask.initiator != initiator);
    })
}

/// What nodes may remember of a target that goes.
pub(crate) fn remembered(target: &TargetRecord, hold: &Hold) -> Vec<FreedRecord> {
    let rest = target.freed.iter().filter(|freed| hold.left(freed) > 0).cloned();
    rest.chain(target.all_luns().map(|(whose, lun)| freed(lun, whose, hold))).collect()
}
