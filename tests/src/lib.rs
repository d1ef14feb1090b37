//! Whole-system tests: real clients against the real daemon.
//!
//! The tests are in `tests/`; this library is what they share. Every program that a test starts is bounded in
//! time and dies with the test; every answer is checked against something that labsan's own code did not compute.

pub mod conformance;
pub mod image;
pub mod initiator;
pub mod lab;
pub mod ledger;
pub mod load;
pub mod loop_device;
pub mod md;
pub mod nbd;
pub mod process;
pub mod qemu;
pub use fixtures::report;
pub mod seed;
pub mod tools;

pub use lab::{Daemon, IQN, Kind, Lab};
pub use process::{Background, Finished, run};
pub use seed::Seed;

/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
