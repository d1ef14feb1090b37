//! Which disks does the daemon see, and what is on them?

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::array::MemberState;

/// What a disk is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "use", rename_all = "snake_case")]
pub enum DiskUse {
    /// Part of an array that runs here.
    Member {
        /// The array's name.
        array: String,
        /// Its number in it.
        slot: Option<u32>,
        /// How it fares.
        state: MemberState,
    },
    /// Carries an array that does not run here.
    Idle {
        /// The array's name on the disk.
        array: String,
        /// md's array UUID.
        array_uuid: Uuid,
    },
    /// Carries something else.
    Foreign {
        /// What it is.
        what: String,
    },
    /// Carries nothing we know.
    Blank,
    /// Cannot be read.
    Unreadable {
        /// Why.
        why: String,
    },
}

/// One disk or file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its path.
    pub path: PathBuf,
    /// Its size, where it can be known.
    pub size_bytes: Option<u64>,
    /// What it is used for.
    #[serde(flatten)]
    pub usage: DiskUse,
}

/// Reply of `GET /v1/disks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disks {
    /// By path.
    pub disks: Vec<Disk>,
}
