//! labsand, the daemon: arrays, volumes and targets wired together behind one control API.
//!
//! - Pure rooms: `san` (the SAN's configuration), `config`, `advice`, `engine` (conversions), `limits`.
//! - Edges: `daemon` (the process's life), `state` and `ops` (what can be asked of it), `change` (how a change comes
//!   into force), `replica` (what arrays carry), `host_copy` (what the host keeps), `targets` (live iSCSI), `redirects` (checks
//!   of where portals send initiators), `api` (HTTP), `disks`, `scan`, `space` (what thin members are still to be given),
//!   `lock`, `state_file` (the host's files).

mod advice;
mod api;
mod args;
mod change;
mod clock;
mod config;
mod daemon;
mod demo;
mod disks;
mod engine;
mod error;
mod events;
mod host_copy;
mod limits;
mod lock;
mod ops;
mod redirects;
mod replica;
mod reservations;
mod run;
mod san;
mod scan;
mod space;
mod state;
mod state_file;
mod targets;
#[cfg(test)]
mod world;

pub use run::run;
