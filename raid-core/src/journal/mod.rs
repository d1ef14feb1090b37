//! The journal's bookkeeping. Pure: no I/O, no tasks. [`crate::array`] carries out what it says.
//!
//! - [`ring`]: where on one member the next commit goes, and what is still in use there.
//! - [`ledger`]: sequence numbers, reservations, and the tail of all rings together.
//! - [`pieces`]: journalled data of a stripe, by place, the newest on top.
//! - [`overlay`]: all stripes that have any, in which state.
//! - [`found`]: which records of a ring count at a start.
//! - [`replay`]: what the records found at a start mean.

pub(crate) mod found;
pub(crate) mod ledger;
pub(crate) mod overlay;
pub(crate) mod pieces;
pub(crate) mod replay;
pub(crate) mod ring;

#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod tests;
