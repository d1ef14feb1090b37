//! An iSCSI target (RFC 7143) that serves any [`block_io::BlockDevice`] as a SCSI logical unit.
//!
//! What is pure: [`pdu`], [`text`], [`login`], [`chap`], [`access`], [`names`], [`redirect`], [`session`], and most of [`scsi`]. What
//! does I/O: [`server`]. [`registry`] is what an administrator changes while it serves. It knows nothing of RAID.

pub mod access;
pub mod chap;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod login;
pub mod names;
pub mod pdu;
pub mod redirect;
pub mod registry;
pub mod scsi;
pub mod server;
pub mod session;
pub mod text;
