//! What do initiators see? Targets, who may log in, which volume is which LUN, and who is logged in.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::VolumePath;

/// Who may log in to a target. Both conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Initiator names, or beginnings of them followed by `*`. Empty: nobody.
    pub initiators: Vec<String>,
    /// Only connections from this machine.
    #[serde(default)]
    pub loopback_only: bool,
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
    /// Its LUNs by number.
    pub luns: Vec<Lun>,
}

/// A LUN: a volume under a number in a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lun {
    /// The target's iSCSI name.
    pub target: String,
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

/// Body of `allow` and `deny`. `allow` narrows `loopback_only` only if it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessChange {
    /// An initiator's name, the beginning of one followed by `*`, or `*`.
    pub initiator: String,
    /// `deny`: also end the sessions that this shuts out.
    #[serde(default)]
    pub drop_sessions: bool,
    /// `allow`: set or lift the limit to connections from this machine.
    #[serde(default)]
    pub loopback_only: Option<bool>,
}

/// A CHAP user with its secret, on its way to the daemon.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChapAccount {
    /// The user's name.
    pub user: String,
    /// At least 12 characters.
    pub secret: String,
}

impl std::fmt::Debug for ChapAccount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChapAccount").field("user", &self.user).finish_non_exhaustive()
    }
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
}

/// Body of `POST /v1/luns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MapLun {
    /// The target's iSCSI name.
    pub target: String,
    /// The volume.
    pub volume: VolumePath,
    /// The number; the next that was not used lately if absent.
    #[serde(default)]
    pub lun: Option<u16>,
    /// Refuse writes.
    #[serde(default)]
    pub read_only: bool,
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
    fn secrets_do_not_reach_logs() {
        let chap = SetChap {
            accounts: vec![ChapAccount { user: "node1".into(), secret: "a secret of mine".into() }],
            mutual: None,
        };
        let text = format!("{chap:?}");
        assert!(text.contains("node1") && !text.contains("secret of mine"), "{text}");
    }
}
