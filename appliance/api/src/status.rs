//! How is it all? One reply that a screen can be made of.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ExitCode;
use crate::array::{Array, RefusedArray};
use crate::target::{Session, Target};
use crate::volume::Volume;

/// Reply of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// labsand's version.
    pub version: String,
    /// Which SAN this is; it travels with the disks.
    pub san_uuid: Uuid,
    /// Seconds since the daemon was started.
    pub uptime_seconds: u64,
    /// What carries disk I/O: `io_uring` or `threads`.
    pub engine: String,
    /// Addresses that serve iSCSI.
    pub portals: Vec<String>,
    /// Buffer memory in use.
    pub memory_used_bytes: u64,
    /// Its cap.
    pub memory_limit_bytes: u64,
    /// Running arrays by name.
    pub arrays: Vec<Array>,
    /// Arrays found but not started.
    pub refused: Vec<RefusedArray>,
    /// Volumes by array and name.
    pub volumes: Vec<Volume>,
    /// Targets by name.
    pub targets: Vec<Target>,
    /// Who is logged in.
    pub sessions: Vec<Session>,
    /// What else a person should know.
    pub notes: Vec<String>,
}

impl Status {
    /// The worst there is: 0 all well, 1 redundancy not whole, 2 something unusable.
    pub fn exit_code(&self) -> ExitCode {
        let arrays = self.arrays.iter().map(|array| array.state.exit_code());
        let refused = self.refused.iter().map(|_| ExitCode::Unusable);
        arrays.chain(refused).max().unwrap_or(ExitCode::Ok)
    }
}
