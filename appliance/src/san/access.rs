//! Who may use a target, as the document says it: names by themselves, and rules with further conditions.
//!
//! What cannot be understood lets nobody in: a rule with a condition of a newer labsan would be too wide without it.

use std::collections::BTreeMap;
use std::fmt;

use iscsi_target::access::{AccessPolicy, AccessRule, name_matches};
use labsan_api::target::{Access, Rule};
use serde::{Deserialize, Serialize};

/// Who may log in to a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccessRecord {
    /// Initiator names, or beginnings of them followed by `*`, that are let in without further conditions.
    #[serde(default)]
    pub(crate) initiators: Vec<String>,
    /// Whatever else is said: only connections from this machine.
    #[serde(default)]
    pub(crate) loopback_only: bool,
    /// Who is let in under conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<RuleRecord>,
}

/// Conditions of which all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RuleRecord {
    /// The initiator's name, or the beginning of names and `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) initiator: Option<String>,
    /// The CHAP account by which it has to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) account: Option<String>,
    /// The network it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<String>,
    /// The address of ours it comes in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) portal: Option<String>,
    /// Conditions of a newer labsan.
    #[serde(flatten)]
    pub(crate) other: BTreeMap<String, serde_json::Value>,
}

impl RuleRecord {
    /// A rule that names an initiator and asks for nothing else.
    pub(crate) fn name(initiator: &str) -> Self {
        Self { initiator: Some(initiator.to_owned()), ..Self::default() }
    }

    /// Does it ask for nothing but the name?
    pub(crate) fn is_name_only(&self) -> bool {
        *self == Self { initiator: self.initiator.clone(), ..Self::default() } && self.initiator.is_some()
    }

    /// Does it name all that `wanted` names?
    pub(crate) fn has_all_of(&self, wanted: &Self) -> bool {
        let same = |wanted: &Option<String>, own: &Option<String>| wanted.is_none() || wanted == own;
        same(&wanted.initiator, &self.initiator)
            && same(&wanted.account, &self.account)
            && same(&wanted.network, &self.network)
            && same(&wanted.portal, &self.portal)
    }

    /// Could an initiator of this name (or beginning of names) be let in by it?
    pub(crate) fn may_let_in(&self, name: &str) -> bool {
        self.initiator.as_ref().is_none_or(|pattern| name_matches(pattern, name))
    }

    /// Is whoever `other` lets in let in by this one as well, with fewer conditions or the same?
    pub(crate) fn is_as_wide_as(&self, other: &Self) -> bool {
        let fewer = |own: &Option<String>, other: &Option<String>| own.is_none() || own == other;
        let by_name = match (&self.initiator, &other.initiator) {
            (None, _) => true,
            (Some(pattern), Some(name)) => name_matches(pattern, name),
            (Some(_), None) => false,
        };
        by_name
            && fewer(&self.account, &other.account)
            && fewer(&self.network, &other.network)
            && fewer(&self.portal, &other.portal)
            && self.other.is_empty()
    }

    fn live(&self) -> Option<AccessRule> {
        if !self.other.is_empty() {
            return None;
        }
        Some(AccessRule {
            initiator: self.initiator.clone(),
            account: self.account.clone(),
            network: self.network.as_deref().map(str::parse).transpose().ok()?,
            portal: self.portal.as_deref().map(str::parse).transpose().ok()?,
        })
    }

    /// As the API tells it.
    pub(crate) fn shown(&self) -> Rule {
        let Self { initiator, account, network, portal, .. } = self.clone();
        Rule { initiator, account, network, portal }
    }
}

/// As a person reads it.
impl fmt::Display for RuleRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown().fmt(f)
    }
}

impl AccessRecord {
    /// Everything that lets somebody in, names as rules.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = RuleRecord> {
        self.initiators.iter().map(|name| RuleRecord::name(name)).chain(self.rules.iter().cloned())
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.initiators.len() + self.rules.len()
    }

    /// Is this said already?
    pub(crate) fn contains(&self, rule: &RuleRecord) -> bool {
        self.all_rules().any(|own| own == *rule)
    }

    /// Say this as well.
    pub(crate) fn add(&mut self, rule: RuleRecord) {
        if !rule.is_name_only() {
            return self.rules.push(rule);
        }
        self.initiators.extend(rule.initiator);
        self.initiators.sort();
    }

    /// Say no longer what names all that `wanted` names.
    pub(crate) fn remove(&mut self, wanted: &RuleRecord) {
        self.initiators.retain(|name| !RuleRecord::name(name).has_all_of(wanted));
        self.rules.retain(|rule| !rule.has_all_of(wanted));
    }

    /// What the live target is told.
    pub(crate) fn policy(&self, iqn: &str) -> AccessPolicy {
        let live = |rule: RuleRecord| {
            let live = rule.live();
            if live.is_none() {
                tracing::error!(
                    "an access rule of {iqn} makes no sense to this labsan and lets nobody in: {rule}"
                );
            }
            live
        };
        AccessPolicy { rules: self.all_rules().filter_map(live).collect(), loopback_only: self.loopback_only }
    }

    /// As the API tells it.
    pub(crate) fn shown(&self) -> Access {
        Access {
            initiators: self.initiators.clone(),
            loopback_only: self.loopback_only,
            rules: self.rules.iter().map(RuleRecord::shown).collect(),
        }
    }
}
