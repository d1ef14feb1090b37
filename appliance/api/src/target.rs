//! What do initiators see? Targets, who may log in, which volume is which LUN, and who is logged in.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Secret, VolumePath};

/// Who may log in to a target: whom `initiators` or one of the `rules` lets in. Nobody if there is neither.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Initiator names, or beginnings of them followed by `*`, that are let in without further conditions.
    pub initiators: Vec<String>,
    /// Whatever else is said: only connections from this machine.
    #[serde(default)]
    pub loopback_only: bool,
    /// Who is let in under conditions.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Conditions of which all that are given must hold. At least an initiator or an account is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// An initiator's name, the beginning of names followed by `*`, or `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// The CHAP account by which it has to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The network it comes from: `192.0.2.0/24`, `2001:db8::/32`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The target's address that it connects to, with or without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub portal: Option<String>,
}

impl Rule {
    /// As options of `raidctl target allow` and `deny`.
    pub fn options(&self) -> String {
        let all = [
            ("initiator", &self.initiator),
            ("account", &self.account),
            ("network", &self.network),
            ("portal", &self.portal),
        ];
        let given = all.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        // A shell would look for files that a `*` stands for.
        given.map(|(name, value)| format!("--{name} '{value}'")).collect::<Vec<_>>().join(" ")
    }
}

/// As a person reads it.
impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.initiator.as_deref().unwrap_or("*"))?;
        for (word, value) in [("as", &self.account), ("from", &self.network), ("at", &self.portal)] {
            if let Some(value) = value {
                write!(f, " {word} {value}")?;
            }
        }
        Ok(())
    }
}

/// What initiators may do through a target (asymmetric logical unit access, SPC-4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Everything; the best way to its volumes.
    #[default]
    Optimized,
    /// Everything, but another target is a better way.
    NonOptimized,
    /// Nothing that needs the medium.
    Standby,
    /// Hardly more than asking who it is.
    Unavailable,
    /// The same, and initiators cannot change it.
    Offline,
    /// On the way to another state: initiators wait.
    Transitioning,
}

impl PathState {
    /// All of them, and how they are written.
    pub const ALL: [(Self, &str); 6] = [
        (Self::Optimized, "optimized"),
        (Self::NonOptimized, "non-optimized"),
        (Self::Standby, "standby"),
        (Self::Unavailable, "unavailable"),
        (Self::Offline, "offline"),
        (Self::Transitioning, "transitioning"),
    ];
}

impl std::fmt::Display for PathState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Self::ALL.iter().find(|(state, _)| state == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// Body of `PUT .../state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetPathState {
    /// The state as it shall be.
    pub state: PathState,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its iSCSI name.
    pub iqn: String,
    /// Its alias, for people.
    pub alias: String,
    /// Who may log in.
    pub access: Access,
    /// Users that must prove themselves by CHAP; empty: CHAP is not asked for. Secrets are never told.
    pub chap_users: Vec<String>,
    /// The user by which the target proves itself to initiators.
    pub mutual_chap_user: Option<String>,
    /// What initiators may do through it now.
    #[serde(default)]
    pub state: PathState,
    /// Its LUNs by number, as initiators see them that have none of their own.
    pub luns: Vec<Lun>,
    /// Initiators that see LUNs of their own instead.
    #[serde(default)]
    pub masks: Vec<Mask>,
}

/// What one initiator sees of a target; nothing at all while it has no LUN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// Its name.
    pub initiator: String,
    /// By number.
    pub luns: Vec<Lun>,
}

/// A LUN: a volume under a number in a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lun {
    /// The target's iSCSI name.
    pub target: String,
    /// The initiator that alone sees it; absent: all that have no LUNs of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// Its number.
    pub lun: u16,
    /// The volume; none if its array is not here.
    pub volume: Option<VolumePath>,
    /// The volume's identity.
    pub volume_uuid: Uuid,
    /// Writes are refused.
    pub read_only: bool,
    /// Its size; none if its array is not here.
    pub size_bytes: Option<u64>,
    /// Why it is not served, if it is not.
    #[serde(default)]
    pub unavailable: Option<String>,
}

/// One login session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The name by which it can be dropped.
    pub id: String,
    /// The target's iSCSI name; empty for a discovery session.
    pub target: String,
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// The initiator's alias, for people.
    #[serde(default)]
    pub alias: String,
    /// Addresses of its connections.
    pub addresses: Vec<String>,
    /// The CHAP account by which it logged in.
    #[serde(default)]
    pub account: Option<String>,
    /// Initiator session id, in hex.
    pub isid: String,
    /// CRC32C on headers.
    pub header_digest: bool,
    /// CRC32C on data.
    pub data_digest: bool,
}

/// Reply of `GET /v1/targets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// By name.
    pub targets: Vec<Target>,
}

/// Reply of `GET /v1/luns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luns {
    /// By target and number.
    pub luns: Vec<Lun>,
}

/// Reply of `GET /v1/sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// By target and initiator.
    pub sessions: Vec<Session>,
}

/// Body of `POST /v1/targets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTarget {
    /// A name no other target has.
    pub iqn: String,
    /// For people.
    #[serde(default)]
    pub alias: Option<String>,
}

/// Body of `allow` and `deny`. `allow` adds a rule of the conditions that are given, an initiator or an account among them, and
/// narrows `loopback_only` only if it is given. `deny` takes away every rule that has all conditions that are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessChange {
    /// An initiator's name, the beginning of one followed by `*`, or `*`.
    #[serde(default)]
    pub initiator: Option<String>,
    /// A CHAP account of the target.
    #[serde(default)]
    pub account: Option<String>,
    /// The network it comes from.
    #[serde(default)]
    pub network: Option<String>,
    /// The target's address that it connects to.
    #[serde(default)]
    pub portal: Option<String>,
    /// `deny`: also end the sessions that this shuts out.
    #[serde(default)]
    pub drop_sessions: bool,
    /// `allow`: set or lift the limit to connections from this machine.
    #[serde(default)]
    pub loopback_only: Option<bool>,
}

/// A CHAP user with its secret, on its way to the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChapAccount {
    /// The user's name.
    pub user: String,
    /// At least 12 characters.
    pub secret: Secret,
}

/// Body of `PUT .../chap`: replaces what was set. Nothing given turns CHAP off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetChap {
    /// Who logs in must be one of these.
    #[serde(default)]
    pub accounts: Vec<ChapAccount>,
    /// How the target proves itself in return.
    #[serde(default)]
    pub mutual: Option<ChapAccount>,
    /// Also end the sessions that would not be let in any more.
    #[serde(default)]
    pub drop_sessions: bool,
}

/// Query of `DELETE .../chap/{user}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveAccount {
    /// Also end the sessions that logged in by it.
    #[serde(default)]
    pub drop_sessions: bool,
}

/// Body of `POST /v1/luns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapLun {
    /// The target's iSCSI name.
    pub target: String,
    /// The volume.
    pub volume: VolumePath,
    /// For this initiator alone, which then sees only LUNs of its own; else for all that have none of their own.
    #[serde(default)]
    pub initiator: Option<String>,
    /// The number; the next that was not used lately if absent.
    #[serde(default)]
    pub lun: Option<u16>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
    /// Take the number though it was another disk until lately.
    #[serde(default)]
    pub force: bool,
}

/// Query of `DELETE .../luns/{lun}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LunPlace {
    /// One of this initiator's own LUNs.
    #[serde(default)]
    pub initiator: Option<String>,
}

/// Query of `DELETE .../masks/{initiator}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unmask {
    /// Though numbers of common LUNs were other disks to it until lately.
    #[serde(default)]
    pub force: bool,
}

/// Reply of `POST /v1/luns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// The number it has now.
    pub lun: u16,
    /// False if it was so already.
    pub changed: bool,
    /// One line for a person.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_they_are_read() {
        for (state, name) in PathState::ALL {
            assert_eq!(state.to_string(), name);
            assert_eq!(serde_json::to_value(state).unwrap(), name);
        }
    }

    #[test]
    fn a_rule_is_shown_and_typed_with_what_it_asks_for() {
        let mut rule = Rule { account: Some("node1".into()), ..Rule::default() };
        assert_eq!((rule.to_string(), rule.options()), ("* as node1".into(), "--account 'node1'".into()));
        rule.initiator = Some("iqn.2026-11.org.example:*".into());
        rule.network = Some("10.0.0.0/8".into());
        rule.portal = Some("10.0.0.9".into());
        assert_eq!(rule.to_string(), "iqn.2026-11.org.example:* as node1 from 10.0.0.0/8 at 10.0.0.9");
        assert!(rule.options().ends_with("--network '10.0.0.0/8' --portal '10.0.0.9'"), "{}", rule.options());
    }

    #[test]
    fn secrets_do_not_reach_logs() {
        let chap = SetChap {
            accounts: vec![ChapAccount { user: "node1".into(), secret: "a secret of mine".into() }],
            ..SetChap::default()
        };
        let text = format!("{chap:?}");
        assert!(text.contains("node1") && !text.contains("secret of mine"), "{text}");
    }
}
