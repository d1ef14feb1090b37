//! What must be done to the live targets so that they are as the document says? Pure.
//!
//! The same plan serves at start (from nothing), for a change, and, with the documents swapped, to take it back.
//! Order: what goes, goes first, access before LUNs before the target; what comes is complete before it lets
//! anybody in.

use labsan_api::target::PathState;
use uuid::Uuid;

use super::access::AccessRecord;
use super::document::{Chap, LunRecord, MaskRecord, SanDocument, TargetRecord};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Take the target away and end its sessions.
    RemoveTarget {
        /// Its name.
        iqn: String,
    },
    /// Take a LUN out.
    UnmapLun {
        /// The target.
        iqn: String,
        /// Of this initiator's own.
        initiator: Option<String>,
        /// The number.
        lun: u16,
    },
    /// Make a target that lets nobody in.
    CreateTarget {
        /// Its name.
        iqn: String,
        /// Its alias.
        alias: String,
        /// The number of its port.
        port: u16,
    },
    /// Change what initiators may do through it.
    SetState {
        /// The target.
        iqn: String,
        /// The state.
        state: PathState,
    },
    /// Replace the CHAP accounts.
    SetChap {
        /// The target.
        iqn: String,
        /// The accounts.
        chap: Chap,
    },
    /// From now on an initiator sees only LUNs of its own.
    Mask {
        /// The target.
        iqn: String,
        /// Its name.
        initiator: String,
    },
    /// An initiator sees what all see.
    Unmask {
        /// The target.
        iqn: String,
        /// Its name.
        initiator: String,
    },
    /// Put a LUN in.
    MapLun {
        /// The target.
        iqn: String,
        /// For this initiator alone.
        initiator: Option<String>,
        /// What is where.
        lun: LunRecord,
    },
    /// Replace the access list.
    SetAccess {
        /// The target.
        iqn: String,
        /// The list.
        access: AccessRecord,
    },
}

/// The steps from one document to another. `from` is `None` at start.
pub(crate) fn plan(from: Option<&SanDocument>, to: &SanDocument) -> Vec<Step> {
    let old = |iqn: &str| from.and_then(|document| document.target(iqn));
    let mut steps = Vec::new();
    for gone in from.iter().flat_map(|d| &d.targets).filter(|target| to.target(&target.iqn).is_none()) {
        steps.push(Step::SetAccess { iqn: gone.iqn.clone(), access: AccessRecord::default() });
        steps.push(Step::RemoveTarget { iqn: gone.iqn.clone() });
    }
    for target in &to.targets {
        match old(&target.iqn) {
            None => add(target, to.port(target), &mut steps),
            Some(old) => alter(old, target, &mut steps),
        }
    }
    steps
}

/// A volume that was not served where it is mapped may be served now.
pub(crate) fn mapped_again(document: &SanDocument, volume: Uuid) -> Vec<Step> {
    document.mappings(volume).map(|(target, whose, lun)| map_step(target, whose, lun)).collect()
}

fn add(target: &TargetRecord, port: u16, steps: &mut Vec<Step>) {
    let iqn = || target.iqn.clone();
    steps.push(Step::CreateTarget { iqn: iqn(), alias: target.alias.clone(), port });
    if target.state != PathState::default() {
        steps.push(Step::SetState { iqn: iqn(), state: target.state });
    }
    if target.chap != Chap::default() {
        steps.push(Step::SetChap { iqn: iqn(), chap: target.chap.clone() });
    }
    steps.extend(target.masks.iter().map(|mask| mask_step(target, mask)));
    steps.extend(target.all_luns().map(|(whose, lun)| map_step(target, whose, lun)));
    if target.access != AccessRecord::default() {
        steps.push(Step::SetAccess { iqn: iqn(), access: target.access.clone() });
    }
}

fn alter(old: &TargetRecord, new: &TargetRecord, steps: &mut Vec<Step>) {
    let iqn = || new.iqn.clone();
    if old.chap != new.chap {
        steps.push(Step::SetChap { iqn: iqn(), chap: new.chap.clone() });
    }
    if old.state != new.state {
        steps.push(Step::SetState { iqn: iqn(), state: new.state });
    }
    if old.access != new.access {
        steps.push(Step::SetAccess { iqn: iqn(), access: new.access.clone() });
    }
    // Who is to see less sees less first, and nobody sees a LUN while its number means two.
    steps.extend(
        new.masks.iter().filter(|mask| old.mask(&mask.initiator).is_none()).map(|m| mask_step(new, m)),
    );
    let gone = old.all_luns().filter(|(whose, lun)| !has(new, *whose, lun));
    steps.extend(gone.map(|(whose, lun)| Step::UnmapLun {
        iqn: iqn(),
        initiator: whose.map(str::to_owned),
        lun: lun.lun,
    }));
    let unmasked = old.masks.iter().filter(|mask| new.mask(&mask.initiator).is_none());
    steps.extend(unmasked.map(|mask| Step::Unmask { iqn: iqn(), initiator: mask.initiator.clone() }));
    let come = new.all_luns().filter(|(whose, lun)| !has(old, *whose, lun));
    steps.extend(come.map(|(whose, lun)| map_step(new, whose, lun)));
}

fn has(target: &TargetRecord, whose: Option<&str>, lun: &LunRecord) -> bool {
    target.all_luns().any(|there| there == (whose, lun))
}

fn mask_step(target: &TargetRecord, mask: &MaskRecord) -> Step {
    Step::Mask { iqn: target.iqn.clone(), initiator: mask.initiator.clone() }
}

/// Put a LUN in, for whom it is.
pub(crate) fn map_step(target: &TargetRecord, whose: Option<&str>, lun: &LunRecord) -> Step {
    Step::MapLun { iqn: target.iqn.clone(), initiator: whose.map(str::to_owned), lun: lun.clone() }
}
