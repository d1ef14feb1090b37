//! How does the list of those who may log in change, and what they have to prove? Pure, and idempotent like all edits.

use iscsi_target::access::{Network, Portal};
use iscsi_target::chap::Secret;
use labsan_api::names;

use super::access::{AccessRecord, RuleRecord};
use super::document::{Account, Chap, SanDocument, TargetRecord};
use super::edit::{Edited, SanError, already, change_target, find};
use crate::limits::{MAX_CHAP_ACCOUNTS, MAX_RULES};

/// The rule as it is kept: checked, and addresses as they are always written.
fn checked(rule: RuleRecord) -> Result<RuleRecord, SanError> {
    let initiator = rule.initiator.as_deref().map(names::fold_iscsi);
    if let Some(pattern) = &initiator {
        names::check_initiator_pattern(pattern)?;
    }
    if let Some(user) = &rule.account {
        names::check_chap_user(user)?;
    }
    let network = rule.network.map(|text| text.parse::<Network>()).transpose()?;
    let portal = rule.portal.map(|text| text.parse::<Portal>()).transpose()?;
    let (network, portal) = (network.map(|n| n.to_string()), portal.map(|p| p.to_string()));
    Ok(RuleRecord { initiator, network, portal, ..rule })
}

/// Let in whoever the rule lets in.
pub(crate) fn allow(
    document: &SanDocument,
    iqn: &str,
    rule: RuleRecord,
    loopback_only: Option<bool>,
) -> Edited {
    let rule = checked(rule)?;
    let target = find(document, iqn)?;
    if rule.initiator.is_none() && rule.account.is_none() {
        return Err(SanError::RuleOfNobody { iqn: iqn.to_owned() });
    }
    if let Some(user) = &rule.account
        && !target.chap.accounts.iter().any(|account| account.user == *user)
    {
        return Err(SanError::NoAccount { iqn: iqn.to_owned(), user: user.clone() });
    }
    let is_listed = target.access.contains(&rule);
    let loopback_only = loopback_only.unwrap_or(target.access.loopback_only);
    let from = if loopback_only { " from this machine" } else { "" };
    if is_listed && loopback_only == target.access.loopback_only {
        return already(format!("{rule} is let in to {iqn}{from} already"));
    }
    if !is_listed && target.access.count() >= MAX_RULES {
        return Err(SanError::TooMany { what: "access rules of a target", limit: MAX_RULES });
    }
    // Not refused: whoever narrows a rule adds the narrow one before the wide one goes.
    let wider = target.access.all_rules().find(|own| *own != rule && own.is_as_wide_as(&rule));
    let note = wider.map_or_else(String::new, |wider| format!("; \"{wider}\" lets it in anyway"));
    change_target(document, iqn, format!("{rule} is let in to {iqn}{from}{note}"), |target| {
        target.access.loopback_only = loopback_only;
        if !is_listed {
            target.access.add(rule);
        }
    })
}

/// Take away every rule that has all these conditions.
pub(crate) fn deny(document: &SanDocument, iqn: &str, wanted: RuleRecord) -> Edited {
    let wanted = checked(wanted)?;
    if wanted == RuleRecord::default() {
        return Err(SanError::RuleOfNobody { iqn: iqn.to_owned() });
    }
    let target = find(document, iqn)?;
    let mut left = target.access.clone();
    left.remove(&wanted);
    if let Some(name) = wanted.initiator.as_ref().filter(|_| wanted.is_name_only()) {
        check_shut_out(iqn, name, &left)?;
    }
    match target.access.count() - left.count() {
        0 => already(format!("{wanted} is not let in to {iqn} anyway")),
        1 => change_target(document, iqn, format!("{wanted} is no longer let in to {iqn}"), |target| {
            target.access = left;
        }),
        n => change_target(
            document,
            iqn,
            format!("{wanted} is no longer let in to {iqn} ({n} rules)"),
            |target| {
                target.access = left;
            },
        ),
    }
}

/// Anything else that would still let it in makes the wish empty, and a wish to shut out must not be that.
fn check_shut_out(iqn: &str, name: &str, left: &AccessRecord) -> Result<(), SanError> {
    match left.all_rules().find(|rule| rule.may_let_in(name)) {
        None => Ok(()),
        Some(rule) => Err(SanError::LetInByPattern {
            iqn: iqn.to_owned(),
            initiator: name.to_owned(),
            rule: Box::new(rule.shown()),
        }),
    }
}

/// Replace a target's CHAP accounts. None at all turns CHAP off.
pub(crate) fn set_chap(document: &SanDocument, iqn: &str, chap: Chap) -> Edited {
    check_chap(&chap)?;
    let target = find(document, iqn)?;
    if target.chap == chap {
        return already(format!("CHAP of {iqn} is so already"));
    }
    check_rules_have_accounts(target, &chap)?;
    let message = match chap.accounts.len() {
        0 => format!("{iqn} no longer asks for CHAP"),
        1 => format!("{iqn} asks for CHAP as \"{}\"", chap.accounts[0].user),
        n => format!("{iqn} asks for CHAP as one of {n} users"),
    };
    change_target(document, iqn, message, |target| target.chap = chap)
}

/// Give a target one more CHAP account, or one of its accounts another secret.
pub(crate) fn add_account(document: &SanDocument, iqn: &str, account: Account) -> Edited {
    let mut chap = find(document, iqn)?.chap.clone();
    match chap.accounts.iter_mut().find(|own| own.user == account.user) {
        Some(own) => *own = account,
        None => chap.accounts.push(account),
    }
    set_chap(document, iqn, chap)
}

/// Take a CHAP account away.
pub(crate) fn remove_account(document: &SanDocument, iqn: &str, user: &str) -> Edited {
    let mut chap = find(document, iqn)?.chap.clone();
    let before = chap.accounts.len();
    chap.accounts.retain(|account| account.user != user);
    if chap.accounts.len() == before {
        return already(format!("{iqn} has no CHAP account \"{user}\"; nothing to remove"));
    }
    if chap.accounts.is_empty() {
        return Err(SanError::LastAccount { iqn: iqn.to_owned(), user: user.to_owned() });
    }
    set_chap(document, iqn, chap)
}

/// A rule whose account is gone would let nobody in, unnoticed.
fn check_rules_have_accounts(target: &TargetRecord, chap: &Chap) -> Result<(), SanError> {
    for rule in &target.access.rules {
        let Some(user) = &rule.account else { continue };
        let had = target.chap.accounts.iter().any(|account| account.user == *user);
        if had && !chap.accounts.iter().any(|account| account.user == *user) {
            let (iqn, user) = (target.iqn.clone(), user.clone());
            return Err(SanError::AccountInRule { iqn, user, rule: Box::new(rule.shown()) });
        }
    }
    Ok(())
}

fn check_chap(chap: &Chap) -> Result<(), SanError> {
    if chap.accounts.len() > MAX_CHAP_ACCOUNTS {
        return Err(SanError::TooMany { what: "CHAP accounts of a target", limit: MAX_CHAP_ACCOUNTS });
    }
    let check = |account: &Account| {
        names::check_chap_user(&account.user)?;
        names::check_chap_secret(account.secret.expose())?;
        // Written in hex or base64 it is shorter than it looks.
        let secret = Secret::from_text(account.secret.expose());
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
    match chap.accounts.iter().any(|account| Secret::from_text(account.secret.expose()).equals(&own)) {
        true => Err(SanError::SameSecret),
        false => Ok(()),
    }
}
