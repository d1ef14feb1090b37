//! What must be done to the live targets so that they are as the document says? Pure.
//!
//! The same plan serves at start (from nothing), for a change, and, with the documents swapped, to take it back.
//! Order: what goes, goes first, access before LUNs before the target; what comes is complete before it lets
//! anybody in.

use labsan_api::target::PathState;

use super::access::AccessRecord;
use super::document::{Chap, LunRecord, SanDocument, TargetRecord};

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
    /// Put a LUN in.
    MapLun {
        /// The target.
        iqn: String,
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

fn add(target: &TargetRecord, port: u16, steps: &mut Vec<Step>) {
    let iqn = || target.iqn.clone();
    steps.push(Step::CreateTarget { iqn: iqn(), alias: target.alias.clone(), port });
    if target.state != PathState::default() {
        steps.push(Step::SetState { iqn: iqn(), state: target.state });
    }
    if target.chap != Chap::default() {
        steps.push(Step::SetChap { iqn: iqn(), chap: target.chap.clone() });
    }
    steps.extend(target.luns.iter().map(|lun| Step::MapLun { iqn: iqn(), lun: lun.clone() }));
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
    let gone = old.luns.iter().filter(|lun| !new.luns.contains(lun));
    steps.extend(gone.map(|lun| Step::UnmapLun { iqn: iqn(), lun: lun.lun }));
    let come = new.luns.iter().filter(|lun| !old.luns.contains(lun));
    steps.extend(come.map(|lun| Step::MapLun { iqn: iqn(), lun: lun.clone() }));
}
