//! How does the SAN's configuration change? Pure: a document and a wish in, the next document or a refusal out.
//!
//! Every wish is idempotent: what is so already is no change and no error; what is there but different is refused.

use iscsi_target::chap::Secret;
use labsan_api::names::{self, NameError};
use labsan_api::target::PathState;
use uuid::Uuid;

use super::document::{Account, Chap, LunRecord, SanDocument, TargetRecord};
use crate::limits::{MAX_CHAP_ACCOUNTS, MAX_INITIATORS, MAX_TARGETS};

/// The outcome of a wish that was granted.
#[derive(Debug, PartialEq)]
pub(crate) struct Edit {
    /// The document as it shall be; none if nothing changes.
    pub(crate) next: Option<SanDocument>,
    /// One line for a person.
    pub(crate) message: String,
}

/// Why a wish is refused. Nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SanError {
    /// A name or secret that cannot be.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No such target.
    #[error("there is no target {iqn}")]
    NoTarget {
        /// The name asked for.
        iqn: String,
    },
    /// The target is there with another alias.
    #[error("target {iqn} exists already with the alias \"{alias}\"")]
    TargetDiffers {
        /// Its name.
        iqn: String,
        /// Its alias.
        alias: String,
    },
    /// The number is another volume's.
    #[error("LUN {lun} of {iqn} is already another volume")]
    LunTaken {
        /// The target.
        iqn: String,
        /// The number.
        lun: u16,
    },
    /// The volume is in this target under another number, or with other rights.
    #[error("the volume is already LUN {lun} of {iqn}{}", if *read_only { ", read-only" } else { "" })]
    AlreadyMapped {
        /// The target.
        iqn: String,
        /// The number it has.
        lun: u16,
        /// Its rights there.
        read_only: bool,
    },
    /// No such number.
    #[error("LUN {lun} is too high: initiators reach LUN 0 to {}", names::MAX_LUN)]
    LunTooHigh {
        /// The number asked for.
        lun: u16,
    },
    /// All numbers of the target are used.
    #[error("{iqn} has no free LUN left")]
    NoFreeLun {
        /// The target.
        iqn: String,
    },
    /// Denying a name that a pattern still lets in.
    #[error("{initiator} is let in to {iqn} by \"{pattern}\"")]
    LetInByPattern {
        /// The target.
        iqn: String,
        /// Who was to be shut out.
        initiator: String,
        /// What lets it in.
        pattern: String,
    },
    /// The same user twice.
    #[error("CHAP user \"{user}\" is given twice")]
    UserTwice {
        /// The name.
        user: String,
    },
    /// Both directions with one secret, which lets an attacker reflect the challenge.
    #[error("the mutual CHAP secret must differ from the initiators' (RFC 7143 section 9.2.1)")]
    SameSecret,
    /// A limit is reached.
    #[error("{what}: at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
}

type Edited = Result<Edit, SanError>;

fn already(message: String) -> Edited {
    Ok(Edit { next: None, message })
}

fn change(document: &SanDocument, message: String, apply: impl FnOnce(&mut SanDocument)) -> Edited {
    let mut next = document.clone();
    apply(&mut next);
    next.generation = document.generation.saturating_add(1);
    Ok(Edit { next: Some(next), message })
}

fn change_target(
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

fn find<'a>(document: &'a SanDocument, iqn: &str) -> Result<&'a TargetRecord, SanError> {
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
            access: labsan_api::target::Access::default(),
            chap: Chap::default(),
            state: PathState::default(),
            port: document.port_for(iqn),
            luns: Vec::new(),
            next_lun: 0,
            other: std::collections::BTreeMap::new(),
        });
        next.targets.sort_by(|a, b| a.iqn.cmp(&b.iqn));
    })
}

/// Away with a target and its LUN map. The volumes stay.
pub(crate) fn delete_target(document: &SanDocument, iqn: &str) -> Edited {
    if document.target(iqn).is_none() {
        return already(format!("there is no target {iqn}; nothing to delete"));
    }
    change(document, format!("target {iqn} deleted; its volumes are kept"), |next| {
        next.targets.retain(|target| target.iqn != iqn);
    })
}

/// Let an initiator, or all that match a pattern, in.
pub(crate) fn allow(
    document: &SanDocument,
    iqn: &str,
    initiator: &str,
    loopback_only: Option<bool>,
) -> Edited {
    let initiator = &*names::fold_iscsi(initiator);
    names::check_initiator_pattern(initiator)?;
    let target = find(document, iqn)?;
    let listed = target.access.initiators.iter().any(|known| known == initiator);
    let loopback_only = loopback_only.unwrap_or(target.access.loopback_only);
    let from = if loopback_only { " from this machine" } else { "" };
    if listed && loopback_only == target.access.loopback_only {
        return already(format!("{initiator} is let in to {iqn}{from} already"));
    }
    if !listed && target.access.initiators.len() >= MAX_INITIATORS {
        return Err(SanError::TooMany { what: "initiators of a target", limit: MAX_INITIATORS });
    }
    change_target(document, iqn, format!("{initiator} is let in to {iqn}{from}"), |target| {
        target.access.loopback_only = loopback_only;
        if !listed {
            target.access.initiators.push(initiator.to_owned());
            target.access.initiators.sort();
        }
    })
}

/// Take an initiator, or a pattern, off the list.
pub(crate) fn deny(document: &SanDocument, iqn: &str, initiator: &str) -> Edited {
    let initiator = &*names::fold_iscsi(initiator);
    names::check_initiator_pattern(initiator)?;
    let target = find(document, iqn)?;
    let others = || target.access.initiators.iter().filter(|known| *known != initiator);
    // Anything else that would still let it in makes the wish empty, and a wish to shut out must not be that.
    if let Some(pattern) = others().find(|pattern| matches(pattern, initiator)) {
        let (iqn, initiator, pattern) = (iqn.to_owned(), initiator.to_owned(), pattern.clone());
        return Err(SanError::LetInByPattern { iqn, initiator, pattern });
    }
    if others().count() == target.access.initiators.len() {
        return already(format!("{initiator} is not let in to {iqn} anyway"));
    }
    change_target(document, iqn, format!("{initiator} is no longer let in to {iqn}"), |target| {
        target.access.initiators.retain(|known| known != initiator);
    })
}

/// True if the pattern (a name, or a beginning and `*`) covers the name.
pub(crate) fn matches(pattern: &str, initiator: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => initiator.starts_with(start),
        None => pattern == initiator,
    }
}

/// Replace a target's CHAP accounts. None at all turns CHAP off.
pub(crate) fn set_chap(document: &SanDocument, iqn: &str, chap: Chap) -> Edited {
    check_chap(&chap)?;
    let target = find(document, iqn)?;
    if target.chap == chap {
        return already(format!("CHAP of {iqn} is so already"));
    }
    let message = match chap.accounts.len() {
        0 => format!("{iqn} no longer asks for CHAP"),
        1 => format!("{iqn} asks for CHAP as \"{}\"", chap.accounts[0].user),
        n => format!("{iqn} asks for CHAP as one of {n} users"),
    };
    change_target(document, iqn, message, |target| target.chap = chap)
}

/// Change what initiators may do through a target.
pub(crate) fn set_state(document: &SanDocument, iqn: &str, state: PathState) -> Edited {
    if find(document, iqn)?.state == state {
        return already(format!("{iqn} is {state} already"));
    }
    change_target(document, iqn, format!("{iqn} is {state}"), |target| target.state = state)
}

fn check_chap(chap: &Chap) -> Result<(), SanError> {
    if chap.accounts.len() > MAX_CHAP_ACCOUNTS {
        return Err(SanError::TooMany { what: "CHAP accounts of a target", limit: MAX_CHAP_ACCOUNTS });
    }
    let check = |account: &Account| {
        names::check_chap_user(&account.user)?;
        names::check_chap_secret(&account.secret)?;
        // Written in hex or base64 it is shorter than it looks.
        let secret = Secret::from_text(&account.secret);
        if secret.len() < names::MIN_CHAP_SECRET { Err(names::too_short()) } else { Ok(secret) }
    };
    for (index, account) in chap.accounts.iter().enumerate() {
        check(account)?;
        if chap.accounts[..index].iter().any(|other| other.user == account.user) {
            return Err(SanError::UserTwice { user: account.user.clone() });
        }
    }
    let Some(mutual) = &chap.mutual else { return Ok(()) };
    let own = check(mutual)?;
    match chap.accounts.iter().any(|account| Secret::from_text(&account.secret).equals(&own)) {
        true => Err(SanError::SameSecret),
        false => Ok(()),
    }
}

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
