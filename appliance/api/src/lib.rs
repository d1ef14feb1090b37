//! The types of labsand's control API, shared by the daemon and raidctl.
//!
//! JSON over HTTP on a Unix socket. Every reply to a read is a [`Reply`]: its fields beside a `schema_version`.
//! Fields may be added within a version, so readers ignore what they do not know; requests are strict.
//! Sizes and positions are bytes and end in `_bytes`; times are seconds since 1970 and end in `_unix`.

pub mod array;
pub mod disk;
pub mod error;
pub mod event;
pub mod names;
pub mod paths;
pub mod portal;
pub mod reservation;
pub mod secret;
pub mod size;
pub mod status;
pub mod target;
pub mod volume;

use serde::{Deserialize, Serialize};

pub use error::{ErrorBody, ErrorCode, ExitCode};
pub use names::{NameError, VolumePath};
pub use secret::Secret;
pub use size::{Size, SizeError};

/// The version of the replies' meaning. It changes only when a field changes its meaning or goes away.
pub const SCHEMA_VERSION: u32 = 1;

/// Where raidctl looks for the daemon if nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/labsan/labsand.sock";

/// A reply to a read: the body's fields, and the version of their meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply<T> {
    /// [`SCHEMA_VERSION`] of the daemon that answered.
    pub schema_version: u32,
    /// The fields.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Reply<T> {
    /// The body under the version of this labsan.
    pub fn new(body: T) -> Self {
        Self { schema_version: SCHEMA_VERSION, body }
    }
}

/// The answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// False if things were already as asked, so that nothing was done.
    pub changed: bool,
    /// One line for a person: what is now so.
    pub message: String,
}

impl Done {
    /// Something was changed.
    pub fn changed(message: impl Into<String>) -> Self {
        Self { changed: true, message: message.into() }
    }

    /// It was so already.
    pub fn already(message: impl Into<String>) -> Self {
        Self { changed: false, message: message.into() }
    }
}

/// A duration as people say it: the two largest units.
pub fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let said: Vec<String> = [0, 59, 60, 3599, 3600, 90_061].map(duration).to_vec();
        assert_eq!(said, ["0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "1 d 1 h"]);
    }

    #[test]
    fn a_reply_is_its_fields_and_the_version() {
        let json = serde_json::to_value(Reply::new(Done::changed("made"))).unwrap();
        assert_eq!(json, serde_json::json!({"schema_version": 1, "changed": true, "message": "made"}));
    }
}
