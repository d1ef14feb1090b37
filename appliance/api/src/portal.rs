//! Addresses that serve iSCSI, and where those of them that redirect send initiators.

use serde::{Deserialize, Serialize};

/// How a portal that redirects chooses an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The first healthy one in the order written.
    Fixed,
    /// One after the other.
    RoundRobin,
    /// Each by its weight.
    Weighted,
    /// By the initiator's name: it goes where it was as long as that is healthy.
    InitiatorHash,
    /// Where the fewest sessions are.
    LeastSessions,
}

impl Policy {
    /// All of them, with the names that they have in JSON and in `labsan.toml`.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Fixed, "fixed"),
        (Self::RoundRobin, "round-robin"),
        (Self::Weighted, "weighted"),
        (Self::InitiatorHash, "initiator-hash"),
        (Self::LeastSessions, "least-sessions"),
    ];
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Self::ALL.into_iter().find(|(policy, _)| policy == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

/// What an address is taken for by its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// No check has ended yet; nobody is sent there.
    Unknown,
    /// Initiators are sent there.
    Healthy,
    /// Nobody is sent there.
    Failing,
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Failing => "failing",
        })
    }
}

/// An address that initiators may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As they are told it.
    pub address: String,
    /// Its share, beside those of the others; counts for `weighted`.
    pub weight: u16,
    /// What it is taken for.
    pub health: Health,
    /// Since when.
    pub since_unix: u64,
    /// Why its last check failed, if it did.
    #[serde(default)]
    pub reason: Option<String>,
    /// Logins sent there since the daemon's start; of the portal's own address those that were to stay.
    pub sent: u64,
    /// Sessions there; none if nobody here knows.
    #[serde(default)]
    pub sessions: Option<u64>,
}

/// Where a portal sends initiators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// How an address is chosen.
    pub policy: Policy,
    /// The health check, as it is written in `labsan.toml`.
    pub check: String,
    /// Seconds from one check to the next.
    pub interval_seconds: u64,
    /// Seconds that a check may take.
    pub timeout_seconds: u64,
    /// Checks in a row that a failing address must pass to be healthy again.
    pub rise: u16,
    /// Checks in a row that a healthy address must fail to be failing.
    pub fall: u16,
    /// Logins that the portal served because they could be sent nowhere, since the daemon's start.
    pub served_here: u64,
    /// In the order written.
    pub addresses: Vec<Place>,
}

/// An address that serves iSCSI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portal {
    /// Address and port.
    pub address: String,
    /// TargetPortalGroupTag.
    pub group: u16,
    /// Where it sends initiators; none if it serves them all.
    #[serde(default)]
    pub redirect: Option<Redirect>,
}

/// Reply of `GET /v1/portals`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portals {
    /// In the order written.
    pub portals: Vec<Portal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_written_as_they_are_read() {
        for (policy, name) in Policy::ALL {
            assert_eq!(policy.to_string(), name);
            assert_eq!(serde_json::to_value(policy).unwrap(), name);
        }
    }
}
