//! Disks to arrays to volumes: RAID 0, 1, 5, 6 and 10 with Linux md's on-disk format.
//!
//! Pure rooms first: [`geometry`] (where a byte lies), [`parity`] (the arithmetic), [`plan`] (how a write is
//! carried out), [`format`] (what the bytes on a member mean). Then the engine that carries it all out:
//! [`array`] and [`volume`]. It knows nothing of iSCSI, HTTP or config files.

pub mod array;
pub mod format;
#[doc(hidden)]
pub mod fuzzing;
pub mod geometry;
mod journal;
pub mod limits;
pub mod parity;
pub mod plan;
pub mod sabotage;
pub mod volume;
