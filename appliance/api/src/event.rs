//! What happened? Events under mdadm's names (mdadm(8), MONITOR MODE), numbered, kept in memory, followed by
//! long polling: ask again with the last number seen, and the answer waits until there is more.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Longest time one poll is kept waiting.
pub const MAX_WAIT_SECONDS: u64 = 55;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counts up by one from the daemon's start.
    pub number: u64,
    /// When, in seconds since 1970.
    pub time_unix: u64,
    /// `Fail`, `SpareActive`, `RebuildStarted`, `RebuildFinished`, `DegradedArray`, `DeviceDisappeared`,
    /// `NewArray` and more.
    pub event: String,
    /// The array it happened to.
    #[serde(default)]
    pub array: Option<String>,
    /// The disk it happened to.
    #[serde(default)]
    pub disk: Option<PathBuf>,
    /// One sentence for a person.
    pub message: String,
}

/// Query of `GET /v1/events`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events with a higher number.
    #[serde(default)]
    pub after: u64,
    /// Wait this long for the first of them (at most [`MAX_WAIT_SECONDS`]).
    #[serde(default)]
    pub wait_seconds: u64,
}

/// Reply of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// The number to ask on from.
    pub last: u64,
    /// Differs after a restart of the daemon, when numbers begin again.
    pub daemon: uuid::Uuid,
}
