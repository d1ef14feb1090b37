//! What can be asked of the daemon, one room per noun. All of it runs on the background worker.

pub(crate) mod arrays;
pub(crate) mod assembly;
pub(crate) mod disks;
pub(crate) mod members;
pub(crate) mod portals;
pub(crate) mod reservations;
pub(crate) mod status;
pub(crate) mod targets;
pub(crate) mod volumes;
