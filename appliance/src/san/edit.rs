//! How does the SAN's configuration change? Pure: a document and a wish in, the next document or a refusal out.
//!
//! Every wish is idempotent: what is so already is no change and no error; what is there but different is refused.

use labsan_api::names;
use labsan_api::target::PathState;

use super::access::AccessRecord;
use super::document::{Chap, SanDocument, TargetRecord};
use super::hold::Hold;
use super::luns::remembered;
pub(crate) use super::refusal::SanError;
use crate::limits::MAX_TARGETS;

/// The outcome of a wish that was granted.
#[derive(Debug, PartialEq)]
pub(crate) struct Edit {
    /// The document as it shall be; none if nothing changes.
    pub(crate) next: Option<SanDocument>,
    /// One line for a person.
    pub(crate) message: String,
}

pub(super) type Edited = Result<Edit, SanError>;

pub(super) fn already(message: String) -> Edited {
    Ok(Edit { next: None, message })
}

pub(super) fn change(
    document: &SanDocument,
    message: String,
    apply: impl FnOnce(&mut SanDocument),
) -> Edited {
    let mut next = document.clone();
    apply(&mut next);
    next.generation = document.generation.saturating_add(1);
    next.schema = next.needed_schema();
    Ok(Edit { next: Some(next), message })
}

pub(super) fn change_target(
    document: &SanDocument,
    iqn: &str,
    message: String,
    apply: impl FnOnce(&mut TargetRecord),
) -> Edited {
    change(document, message, |next| {
        if let Some(target) = next.targets.iter_mut().find(|target| target.iqn == iqn) {
            apply(target);
        }
    })
}

pub(super) fn find<'a>(document: &'a SanDocument, iqn: &str) -> Result<&'a TargetRecord, SanError> {
    document.target(iqn).ok_or_else(|| SanError::NoTarget { iqn: iqn.to_owned() })
}

/// A target that lets nobody in yet.
pub(crate) fn create_target(document: &SanDocument, iqn: &str, alias: Option<&str>) -> Edited {
    let iqn = &*names::fold_iscsi(iqn);
    names::check_iscsi(iqn)?;
    if let Some(there) = document.target(iqn) {
        return match alias {
            Some(alias) if alias != there.alias => {
                Err(SanError::TargetDiffers { iqn: iqn.to_owned(), alias: there.alias.clone() })
            }
            _ => already(format!("target {iqn} exists already")),
        };
    }
    if document.targets.len() >= MAX_TARGETS {
        return Err(SanError::TooMany { what: "targets", limit: MAX_TARGETS });
    }
    change(document, format!("target {iqn} created; nobody is let in yet"), |next| {
        next.targets.push(TargetRecord {
            iqn: iqn.to_owned(),
            alias: alias.unwrap_or_default().to_owned(),
            access: AccessRecord::default(),
            chap: Chap::default(),
            state: PathState::default(),
            port: document.port_for(iqn),
            luns: Vec::new(),
            next_lun: 0,
            masks: Vec::new(),
            freed: next.departed.remove(iqn).unwrap_or_default(),
            other: std::collections::BTreeMap::new(),
        });
        next.targets.sort_by(|a, b| a.iqn.cmp(&b.iqn));
    })
}

/// Away with a target and its LUN map. The volumes stay.
pub(crate) fn delete_target(document: &SanDocument, iqn: &str, hold: &Hold) -> Edited {
    let Some(target) = document.target(iqn) else {
        return already(format!("there is no target {iqn}; nothing to delete"));
    };
    let remembered = remembered(target, hold);
    change(document, format!("target {iqn} deleted; its volumes are kept"), |next| {
        next.targets.retain(|target| target.iqn != iqn);
        next.departed.retain(|_, numbers| numbers.iter().any(|freed| hold.left(freed) > 0));
        // More than that are deleted by nothing but a program that has gone astray.
        if !remembered.is_empty() && next.departed.len() < MAX_TARGETS {
            next.departed.insert(iqn.to_owned(), remembered);
        }
    })
}

/// Change what initiators may do through a target.
pub(crate) fn set_state(document: &SanDocument, iqn: &str, state: PathState) -> Edited {
    if find(document, iqn)?.state == state {
        return already(format!("{iqn} is {state} already"));
    }
    change_target(document, iqn, format!("{iqn} is {state}"), |target| target.state = state)
}
